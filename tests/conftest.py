"""Settings of the whole suite; they must stand before jax is imported."""

import os

# Most of the suite's time is compilation of programs that run once: the quick kind halves it.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

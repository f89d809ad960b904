"""`python -m flashvtg_jax`: the same as `flashvtg`."""

import sys

from flashvtg_jax.cli.main import start

sys.exit(start())

"""The version of flashvtg-jax: written here once, read by setup.py and by checkpoints."""

__version__ = "0.1.0"

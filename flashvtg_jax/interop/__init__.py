"""Doors to other frameworks: PyTorch parameters in."""

from flashvtg_jax.interop.pytorch import params_from_torch as params_from_torch

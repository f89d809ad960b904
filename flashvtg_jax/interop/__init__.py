"""Exchange with other programs: PyTorch parameters in and out, StableHLO out."""

from flashvtg_jax.interop.pytorch import params_from_torch as params_from_torch
from flashvtg_jax.interop.pytorch import params_to_torch as params_to_torch

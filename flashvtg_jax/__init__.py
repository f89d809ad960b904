"""FlashVTG in JAX: the moments and highlights of a video that answer a sentence."""

from flashvtg_jax.decoding import decode_moments as decode_moments
from flashvtg_jax.interop.pytorch import params_from_torch as params_from_torch
from flashvtg_jax.models.flashvtg import FlashVTG as FlashVTG
from flashvtg_jax.models.output import FlashVTGOutput as FlashVTGOutput

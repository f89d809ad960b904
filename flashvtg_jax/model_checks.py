"""The rules for the values of a configuration's `model` section."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from flashvtg_jax.errors import ConfigError

_MAY_BE_ZERO = ("num_conv_layers", "num_dummies")
_ONE_OF = {
    "score_refinement": ("learned", "fixed", "intra", "inter"),
    "moment_head": ("pyramid", "queries"),
    "dtype": ("float32", "bfloat16"),
    "attention_kernel": ("xla", "cudnn"),
}


def check_model(section: Mapping[str, Any]) -> None:
    """Raises ConfigError if a value of a complete `model` section is invalid."""
    for name, value in section.items():
        if "drop" in name:
            if not 0 <= value < 1:
                raise ConfigError(f"config.model.{name}={value}; a rate is at least 0 and below 1")
        elif isinstance(value, int) and value < (0 if name in _MAY_BE_ZERO else 1):
            raise ConfigError(f"config.model.{name}={value} is too small")
    for name, known in _ONE_OF.items():
        if section[name] not in known:
            raise ConfigError(
                f"config.model.{name}={section[name]!r} is not one of {', '.join(known)}"
            )
    strides = section["strides"]
    if not strides or any(s <= 0 or not math.log2(s).is_integer() for s in strides):
        raise ConfigError(f"config.model.strides={strides}; they must be powers of two")
    if any(low >= high for low, high in itertools.pairwise(strides)):
        raise ConfigError(f"config.model.strides={strides}; they must ascend")
    hidden_dim, num_heads = section["hidden_dim"], section["num_heads"]
    if hidden_dim % (2 * num_heads):
        raise ConfigError(
            f"config.model.hidden_dim={hidden_dim} is not a multiple of twice "
            f"config.model.num_heads={num_heads}"
        )
    if section["kernel_size"] % 2 == 0:
        raise ConfigError(
            f"config.model.kernel_size={section['kernel_size']} is even; use an odd one"
        )
    if section["moment_head"] == "queries":
        _check_queries(section)
    if section["attention_kernel"] == "cudnn":
        _check_cudnn(section)


def _check_queries(section: Mapping[str, Any]) -> None:
    """Raises ConfigError for settings that have no meaning with moment queries."""
    window, mix = section["attention_window"], section["score_refinement"]
    if window is not None:
        raise ConfigError(
            f"config.model.attention_window={window} makes no sense with "
            "config.model.moment_head='queries', which attend to the whole video; leave the window "
            "out, or use config.model.moment_head='pyramid'"
        )
    if mix != "learned":
        raise ConfigError(
            f"config.model.score_refinement={mix!r} mixes the scores of a pyramid, which "
            "config.model.moment_head='queries' replaces; change one of the two"
        )


def _check_cudnn(section: Mapping[str, Any]) -> None:
    """Raises ConfigError for attention that cuDNN cannot compute."""
    dtype, window = section["dtype"], section["attention_window"]
    head_dim = section["hidden_dim"] // section["num_heads"]
    problem = None
    if dtype != "bfloat16":
        problem = f"it needs config.model.dtype=bfloat16, not {dtype}"
    elif window is not None:
        problem = f"it has no windows, and config.model.attention_window={window}"
    elif head_dim % 8 or head_dim > 128:
        problem = (
            f"it needs heads (hidden_dim / num_heads) of a multiple of 8 up to 128, not {head_dim}"
        )
    if problem is not None:
        raise ConfigError(
            f"config.model.attention_kernel=cudnn: {problem}; change that, or use 'xla'"
        )

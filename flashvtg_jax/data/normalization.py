"""The L2 normalisation of features, on the host and on devices.

Every row of features is divided by its norm plus `EPSILON`, in float32. A row of zeros, as of an
unknown word, stays zero.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

EPSILON = 1e-5  # the value that the released checkpoints were trained with


def normalize(
    features: Float[np.ndarray, "*rows width"],
    *,
    out: Float[np.ndarray, "*rows width"] | None = None,
) -> Float[np.ndarray, "*rows width"]:
    """Normalises each row of numpy arrays.

    Args:
      features: [..., width] of any float type.
      out: float32 array of the same shape to write into; None: a new one.

    Returns:
      `out`.
    """
    features = np.asarray(features)
    if out is None:
        out = np.empty(features.shape, np.float32)
    half = features.dtype == np.float16
    if half:
        _widen(features, out)
    else:
        out[...] = features
    norms = np.sqrt(np.einsum("...d,...d->...", out, out))
    if half and np.max(norms, initial=0.0) >= 2.0**16:  # some may not be finite
        out[...] = features
        norms = np.sqrt(np.einsum("...d,...d->...", out, out))
    norms += np.float32(EPSILON)
    return np.divide(out, norms[..., None], out=out)


def normalize_tokens(
    features: Float[np.ndarray, "L row_width"], out: Float[np.ndarray, "L *tokens width"]
) -> Float[np.ndarray, "L *tokens width"]:
    """Normalises the clips of a video, each of their tokens by its own norm.

    Args:
      features: [L, S * width] of any float type, the tokens of a clip side by side; or [L, width],
        a single token, which is repeated.
      out: float32 array to write into: [L, S, width], or [L, width] for clips without tokens.

    Returns:
      `out`.
    """
    if out.ndim == 2:
        return normalize(features, out=out)
    if features.shape[1] == out.shape[2]:
        out[...] = normalize(features)[:, None]
        return out
    return normalize(features.reshape(out.shape), out=out)


def normalize_on_device(features: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """Normalises each row of jax arrays [..., width], within compiled programs."""
    features = features.astype(jnp.float32)
    norms = jnp.sqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True))
    return features / (norms + EPSILON)


def _widen(features: np.ndarray, out: np.ndarray) -> None:
    """Writes float16 numbers as float32, in a third of the time that numpy takes.

    Infinity and NaN become numbers from 2^16 on, which are above every float16.
    """
    # Fraction and exponent move to where float32 has them, and the sign, of which the wider integer
    # has copies, to the top. The exponents count from 15 and from 127.
    bits = out.view(np.int32)
    np.left_shift(features.view(np.int16), 13, out=bits, dtype=np.int32)
    bits &= np.int32(-0x70000001)
    out *= np.float32(2.0**112)

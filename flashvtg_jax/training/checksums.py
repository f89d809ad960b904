"""A checksum of a tree of arrays, the same however the arrays are spread over devices.

The format of checkpoints has none of its own: a flipped bit, or a page that a disk lost, would be
read as other numbers.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksum(tree: Any) -> int:
    """A number below 2^32 of the paths, shapes, types and bits of the arrays of a tree.

    Computed where the arrays are. Every change of a single bit changes it, and other changes but
    one in 2^32.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_sums([leaf for _, leaf in leaves]))
    about = sorted(
        f"{jax.tree_util.keystr(path, simple=True, separator='/')}:{leaf.dtype}{leaf.shape}:{total}"
        for (path, leaf), total in zip(leaves, sums, strict=True)
    )
    return zlib.crc32("\n".join(about).encode())


@jax.jit
def _sums(arrays: list[Any]) -> list[jax.Array]:
    return [_sum(jnp.asarray(array)) for array in arrays]


def _sum(array: jax.Array) -> jax.Array:
    """The bits of an array as whole numbers, each times an odd one of its place, modulo 2^32.

    Whole numbers add up to the same in any order; an odd factor loses no bit.
    """
    if array.dtype == bool:
        array = array.astype(np.uint8)
    kind = np.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}")  # 8 bytes become two of 4
    bits = jax.lax.bitcast_convert_type(array, kind).astype(np.uint32)
    place = jnp.zeros((), np.uint32)
    for axis, size in enumerate(bits.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(np.uint32, bits.shape, axis)
    return (bits * (2 * place + 1)).sum(dtype=np.uint32)

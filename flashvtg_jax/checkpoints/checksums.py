"""A checksum of a tree of arrays, the same however they are sharded.

Orbax checkpoints have none: a flipped bit, or a page that a disk lost, would be read as other
values.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksum(tree: Any) -> int:
    """A number below 2^32 of the paths, shapes, types and bits of the arrays of a tree.

    All changes but about one in 2^32 change it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = [_sum_on_host(leaf) if _is_here(leaf) else int(_sum(leaf)) for _, leaf in leaves]
    about = sorted(
        f"{jax.tree_util.keystr(path, simple=True, separator='/')}:{leaf.dtype}{leaf.shape}:{total}"
        for (path, leaf), total in zip(leaves, sums, strict=True)
    )
    return zlib.crc32("\n".join(about).encode())


def _is_here(array: Any) -> bool:
    """Whether this process has all of an array: only where a state is split it may not."""
    if not isinstance(array, jax.Array):
        return True
    return array.is_fully_addressable or array.is_fully_replicated


# The bits of an array as integers, each times an odd factor of its position, modulo 2^32: a sum of
# integers does not depend on their order, and an odd factor loses no bit.


def _sum_on_host(array: Any) -> int:
    flat = np.ascontiguousarray(array).reshape(-1)
    bits = flat.view(f"u{min(flat.itemsize, 4)}").astype(np.uint32)  # 8 bytes become two of 4
    positions = np.arange(bits.size, dtype=np.uint32)
    return int((bits * (2 * positions + 1)).sum(dtype=np.uint32))


@jax.jit
def _sum(array: jax.Array) -> jax.Array:
    if array.dtype == bool:
        array = array.astype(np.uint8)
    kind = np.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}")
    bits = jax.lax.bitcast_convert_type(array, kind).astype(np.uint32)
    position = jnp.zeros((), np.uint32)
    for axis, size in enumerate(bits.shape):
        position = position * np.uint32(size) + jax.lax.broadcasted_iota(
            np.uint32, bits.shape, axis
        )
    return (bits * (2 * position + 1)).sum(dtype=np.uint32)

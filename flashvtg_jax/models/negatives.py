"""The negative query of each video, and both passes in one batch.

Written so that a batch that is sharded over devices is not gathered: at most one row moves from a
device to the next.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flashvtg_jax.typing import Array, Bool, Int, Shaped


def negative_rows(row_mask: Bool[Array, " B"]) -> Int[Array, " B"]:
    """The index of the negative query of each row: the next valid row, cyclically.

    row_mask [B] bool -> [B] int32. Padding rows have their own index.
    """
    order = jnp.argsort(~row_mask, stable=True)  # valid rows first, in their order
    rank = jnp.cumsum(row_mask) - 1
    following = order[(rank + 1) % jnp.maximum(row_mask.sum(), 1)]
    return jnp.where(row_mask, following, jnp.arange(row_mask.shape[0])).astype(jnp.int32)


def take_rows(
    arrays: Sequence[Shaped[Array, "B ..."]], index: Int[Array, " B"], row_mask: Bool[Array, " B"]
) -> list[Shaped[Array, "B ..."]]:
    """`array[index]` of each [B, ...], `index` being `negative_rows(row_mask)`.

    If all padding rows are last, as in every batch of the pipelines, each row takes the one after
    it. Each device then receives a single row from its neighbour, where a gather would bring the
    rows of all devices to each of them. (Under `vmap` both are computed.)
    """
    B = row_mask.shape[0]
    last = row_mask.sum() - 1  # of the valid rows; its follower is the first one

    def follow(arrays):
        taken = []
        for array in arrays:
            rows = (B,) + (1,) * (array.ndim - 1)
            following = jnp.where(
                (jnp.arange(B) == last).reshape(rows), array[:1], jnp.roll(array, -1, axis=0)
            )
            taken.append(jnp.where(row_mask.reshape(rows), following, array))
        return taken

    def gather(arrays):
        return [array[index] for array in arrays]

    padding_is_last = jnp.all(row_mask == (jnp.arange(B) <= last))
    return jax.lax.cond(padding_is_last, follow, gather, list(arrays))


def stack_rows(
    first: Shaped[Array, "B ..."], second: Shaped[Array, "B ..."]
) -> Shaped[Array, "_ ..."]:
    """[B, ...] twice -> [2 B, ...], row by row, so that a sharded batch does not move."""
    # Not reshape(-1, ...): without dummies an array of them has no elements to count.
    return jnp.stack([first, second], axis=1).reshape(2 * first.shape[0], *first.shape[1:])


def unstack_rows(
    stacked: Shaped[Array, "_ ..."],
) -> tuple[Shaped[Array, "B ..."], Shaped[Array, "B ..."]]:
    """The inverse of `stack_rows`."""
    pairs = stacked.reshape(stacked.shape[0] // 2, 2, *stacked.shape[1:])
    return pairs[:, 0], pairs[:, 1]

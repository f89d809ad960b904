"""Each video against another query of the batch: rows that lend, and both passes as one.

Written so that a batch whose rows are spread over devices stays where it is: nothing here moves
more than a row from one device to the next.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp


def negative_rows(row_mask: chex.Array) -> chex.Array:
    """The row that lends each row its query as a negative: the next valid one, cyclically.

    row_mask [B] bool -> [B] int32. Padding rows point at themselves, so that they change nothing.
    """
    order = jnp.argsort(~row_mask, stable=True)  # valid rows first, in their order
    rank = jnp.cumsum(row_mask) - 1
    following = order[(rank + 1) % jnp.maximum(row_mask.sum(), 1)]
    return jnp.where(row_mask, following, jnp.arange(row_mask.shape[0])).astype(jnp.int32)


def take_rows(
    arrays: Sequence[chex.Array], index: chex.Array, row_mask: chex.Array
) -> list[chex.Array]:
    """`array[index]` of each [B, ...], `index` being `negative_rows(row_mask)`.

    Where all padding rows come last, as in every batch of the pipelines, each row takes the one
    after it. Spread over devices, each then receives a single row from its neighbour, where a
    gather would bring the rows of all devices to each of them. (Under `vmap` both are computed.)
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


def stack_rows(first: chex.Array, second: chex.Array) -> chex.Array:
    """[B, ...] twice -> [2 B, ...], row by row: a batch spread over devices stays where it is."""
    # Not reshape(-1, ...): without dummies an array of them has no elements to count.
    return jnp.stack([first, second], axis=1).reshape(2 * first.shape[0], *first.shape[1:])


def unstack_rows(stacked: chex.Array) -> tuple[chex.Array, chex.Array]:
    """The two arrays that `stack_rows` made one of."""
    pairs = stacked.reshape(stacked.shape[0] // 2, 2, *stacked.shape[1:])
    return pairs[:, 0], pairs[:, 1]

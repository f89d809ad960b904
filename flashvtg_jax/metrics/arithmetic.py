"""Float arithmetic shared by the metrics.

Published metrics have two decimals and come from float64 sums; a sum taken in another order can
differ in its last bit and so, at a tie, in its last printed digit. These helpers keep the order.
"""

import numpy as np
from jaxtyping import Bool, Float, Num


def percent(fraction: float | Float[np.ndarray, ""]) -> float:
    """A fraction as a percentage with two decimals, as results are published."""
    return float(f"{100 * fraction:.2f}")


def sum_selected(
    values: Float[np.ndarray, "*shape N"], selected: Bool[np.ndarray, "*shape N"]
) -> Float[np.ndarray, " *shape"]:
    """Sums the selected values of each row, bit for bit as `np.sum(row[selected])`.

    Args:
      values: [..., N] float.
      selected: [..., N] bool.

    Returns:
      [...] float, 0 where nothing is selected.
    """
    # np.sum starts from 0 and adds in pairwise blocks, `np.add.reduceat` starts from the first
    # value of each segment: a 0 put in front of each row makes both do the same. It also keeps
    # every segment from being empty, which reduceat cannot express.
    rows = np.zeros((*values.shape[:-1], values.shape[-1] + 1), values.dtype)
    rows[..., 1:] = values
    kept = np.ones(rows.shape, bool)
    kept[..., 1:] = selected
    counts = kept.sum(axis=-1).reshape(-1)
    starts = np.cumsum(counts) - counts
    return np.add.reduceat(rows[kept], starts).reshape(values.shape[:-1])


def ranks(values: Num[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Ranks from 1, [N]; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]

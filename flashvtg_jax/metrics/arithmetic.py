"""Float arithmetic shared by the metrics.

Published numbers have two decimals and come from float64 sums; a sum taken in another order can
differ in its last bit and so, at a tie, in its last printed digit. These helpers keep the order.
"""

import numpy as np


def percent(fraction: float) -> float:
    """A fraction as a percentage with two decimals, the form in which results are published."""
    return float(f"{100 * fraction:.2f}")


def sum_selected(values: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Sums the selected values of each row, to the bit what `np.sum(row[selected])` gives.

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


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, [N]; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]

"""Rounding and sums."""

import numpy as np
import pytest

from flashvtg_jax.metrics.arithmetic import percent, sum_selected


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(1 / 3, 33.33), (2 / 3, 66.67), (0.28125, 28.12), (0.0, 0.0), (1, 100.0)],
)
def test_percent_has_two_decimals(fraction, expected):
    assert percent(fraction) == expected


@pytest.mark.parametrize("size", [1, 7, 8, 11, 75, 300])
def test_sums_are_to_the_bit_those_of_numpy(size):
    rng = np.random.default_rng(size)
    values = rng.random((40, 3, size))
    selected = rng.random((40, 3, size)) < rng.random((40, 1, 1))
    selected[0] = False
    selected[1] = True
    expected = [
        [np.sum(row[kept]) for row, kept in zip(*pair, strict=True)]
        for pair in zip(values, selected, strict=True)
    ]
    np.testing.assert_array_equal(sum_selected(values, selected), expected)
    np.testing.assert_array_equal(sum_selected(values, selected)[0], 0.0)

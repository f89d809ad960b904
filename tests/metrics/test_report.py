"""The table for the terminal."""

import numpy as np
import pytest

from flashvtg_jax.errors import DataError
from flashvtg_jax.metrics import format_table, mean_and_std


def test_table_is_aligned_and_shows_two_decimals():
    table = format_table(
        {
            "without NMS": {
                "MR-full-mAP": 41.2,
                "MR-full-R1@0.5": 100.0,
                "HL-min-VeryGood-mAP": 3.28,
            },
            "with NMS": {"MR-full-mAP": 7.0, "MR-full-R1@0.5": 66.67},
        }
    )
    assert table.splitlines() == [
        "                      without NMS   with NMS",
        "--------------------------------------------",
        "MR-full-mAP                 41.20       7.00",
        "--------------------------------------------",
        "MR-full-R1@0.5             100.00      66.67",
        "--------------------------------------------",
        "HL-min-VeryGood-mAP          3.28          -",
    ]


def test_numbers_that_are_not_quoted_are_left_out():
    table = format_table({"val": {"MR-short-R1@0.95": 1.0, "MR-full-mIoU": 2.0}})
    assert "MR-full-mIoU     2.00" in table
    assert "MR-short" not in table


def test_domains_stand_below_their_mean_in_the_order_of_the_columns():
    table = format_table(
        {
            "BK": {"HD-mAP-BK": 91.5, "HD-mAP": 91.5},
            "all": {"HD-mAP": 80.25, "HD-mAP-VT": 69.0, "HD-mAP-BK": 91.5},
        }
    )
    assert table.splitlines() == [
        "                BK      all",
        "---------------------------",
        "HD-mAP       91.50    80.25",
        "HD-mAP-BK    91.50    91.50",
        "HD-mAP-VT        -    69.00",
    ]


def test_mean_and_deviation_by_hand():
    # Deviations -1, 0 and 1 (sum of squares 2, by n - 1: 1), and -2, 1 and 1 (6 / 2 = 3).
    assert mean_and_std([52.0, 53.0, 54.0]) == (53.0, 1.0)
    assert mean_and_std([8, 11, 11]) == pytest.approx((10.0, 3**0.5), abs=1e-15)
    assert mean_and_std([61.37] * 3) == (61.37, 0.0)


def test_one_seed_has_no_deviation_and_no_seed_no_mean():
    assert mean_and_std(np.array([61.5])) == (61.5, None)
    mean, std = mean_and_std([1.0, np.nan])
    assert np.isnan(mean) and std is None
    with pytest.raises(DataError, match="no seeds"):
        mean_and_std([])


def test_means_and_deviations_are_aligned():
    table = format_table(
        {
            "3 seeds": {"HD-mAP": (53.214, 0.419), "HD-mAP-BK": (100.0, 12.5), "HD-mAP-VT": 7.0},
            "published": {"HD-mAP": 88.0},
            "one": {"HD-mAP": [9.0, 0.0], "HD-mAP-VT": (1.0, 0.25)},
        }
    )
    assert table.splitlines() == [
        "                   3 seeds   published           one",
        "----------------------------------------------------",
        "HD-mAP       53.21 ±  0.42       88.00   9.00 ± 0.00",
        "HD-mAP-BK   100.00 ± 12.50           -      -",
        "HD-mAP-VT     7.00                   -   1.00 ± 0.25",
    ]


def test_a_table_of_nothing_has_no_rows():
    assert format_table({}) == ""
    assert format_table({"val": {}}).split() == ["val"]

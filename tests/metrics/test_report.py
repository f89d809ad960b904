"""The table for the terminal."""

from flashvtg_jax.metrics import format_table


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

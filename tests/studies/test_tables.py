"""Entries of a study, their CSV file and their Markdown table."""

import dataclasses

import numpy as np
import pytest

from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.figures.entries import Entry
from flashvtg_jax.studies.statistics import paired_bootstrap
from flashvtg_jax.studies.tables import markdown_table, summarise, write_csv
from tests.studies.conftest import read_entries

COMMAND = "flashvtg study ablation --config=demo --seeds=2"


def entry(variant="full model", metric="MR-full-mAP", mean=36.0, **fields):
    values = {
        "condition": "",
        "level": None,
        "std": 0.5,
        "difference": None,
        "low": None,
        "high": None,
        "seeds": 2,
        "queries": 1550,
    }
    return Entry(variant=variant, metric=metric, mean=mean, **(values | fields))


def compared(difference, low, high, **fields):
    return entry("no layering", difference=difference, low=low, high=high, **fields)


def table(entries, metrics=("MR-full-mAP",), **fields):
    page = markdown_table(entries, metrics, title="Ablation", command=COMMAND, **fields)
    # No-break spaces and minus signs, as they are read.
    return page.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def rows(page):
    return [line for line in page.splitlines() if line.startswith("|")]


def test_an_entry_of_queries_by_hand():
    values = np.array([[10.0, 20.0, np.nan], [30.0, 60.0, np.nan]])
    result = summarise("full model", "K = 3", 3.0, "MR-full-mAP", values)
    assert result == Entry(
        variant="full model",
        condition="K = 3",
        level=3.0,
        metric="MR-full-mAP",
        mean=30.0,  # of 15 and 45
        std=pytest.approx(450**0.5),
        difference=None,
        low=None,
        high=None,
        seeds=2,
        queries=2,
    )


def test_an_entry_beside_its_reference_has_the_bootstrap_interval():
    rng = np.random.default_rng(0)
    values, reference = rng.uniform(0, 100, (2, 3, 30))
    groups = np.repeat(["a", "b"], 15)
    result = summarise("no layering", "", None, "HD-mAP", values, reference, groups=groups)
    expected = paired_bootstrap(values, reference, groups=groups)
    assert (result.difference, result.low, result.high) == dataclasses.astuple(expected)
    assert result.difference == pytest.approx(values.mean() - reference.mean())
    clusters = np.repeat(np.arange(6), 5)
    of_videos = summarise("no layering", "", None, "HD-mAP", values, reference, clusters=clusters)
    expected = paired_bootstrap(values, reference, clusters=clusters)
    assert (
        (of_videos.low, of_videos.high)
        == (expected.low, expected.high)
        != (
            result.low,
            result.high,
        )
    )
    with pytest.raises(ConfigError, match="--seeds=2 or more"):
        summarise("no layering", "", None, "HD-mAP", values[:1], reference[:1])


def test_an_entry_of_seconds_has_no_queries_and_no_interval():
    result = summarise("windowed", "10 min", 10.0, "seconds", [2.0, 4.0], [5.0, 6.0])
    assert (result.mean, result.std, result.queries) == (3.0, 2**0.5, 0)
    assert (result.difference, result.low, result.high) == (-2.5, None, None)
    alone = summarise("windowed", "10 min", 10.0, "seconds", [2.0])
    assert (alone.mean, alone.std, alone.difference, alone.seeds) == (2.0, None, None, 1)


def test_a_csv_file_is_read_back_equal(tmp_path):
    entries = [
        entry(mean=1 / 3, std=1e-17),
        entry('a "label", with\na line | and more', condition="noise", level=0.1),
        compared(-2.0, -3.1, np.float64(-0.9), std=None, seeds=np.int64(3)),
    ]
    path = tmp_path / "studies" / "ablation.csv"
    write_csv(path, entries)
    assert read_entries(path) == entries
    assert path.read_text().splitlines()[:2] == [
        "variant,condition,level,metric,mean,std,difference,low,high,seeds,queries",
        "full model,,,MR-full-mAP,0.3333333333333333,1e-17,,,,2,1550",
    ]
    assert [file.name for file in path.parent.iterdir()] == ["ablation.csv"]
    write_csv(path, [])
    assert read_entries(path) == []


def test_a_number_of_no_query_is_kept(tmp_path):
    values = np.full((2, 3), np.nan)
    write_csv(tmp_path / "a.csv", [summarise("a", "", None, "MR-long-mAP", values, values)])
    (result,) = read_entries(tmp_path / "a.csv")
    assert np.isnan([result.mean, result.difference]).all()
    assert (result.std, result.low, result.high, result.queries) == (None, None, None, 0)


def test_a_row_for_each_variant_and_a_column_for_each_metric():
    entries = [
        entry(mean=36.2249),
        entry(metric="MR-short-mAP", mean=9.0, queries=313),
        compared(-2.1, -3.3, -0.9, mean=34.12),
        compared(0.4, -0.2, 1.0, mean=9.4, metric="MR-short-mAP", queries=313),
        entry(metric="MR-long-mAP"),
    ]
    page = table(entries, ["MR-full-mAP", "MR-short-mAP"])
    assert page.startswith("# Ablation\n\n| | MR-full-mAP | MR-short-mAP |\n")
    assert rows(page) == [
        "| | MR-full-mAP | MR-short-mAP |",
        "|---|---:|---:|",
        "| full model (reference) | 36.22 ± 0.50 | 9.00 ± 0.50 |",
        "| no layering | 34.12 ± 0.50<br>**-2.10 [-3.30, -0.90]** "
        "| 9.40 ± 0.50<br>+0.40 [-0.20, +1.00] |",
    ]


def test_below_the_table_stands_how_it_was_made():
    page = table([entry(), compared(1, 0.5, 2)], notes="Features are synthesised.")
    below = page.split(rows(page)[-1])[1].strip().split("\n\n")
    assert below[0] == f"```sh\n{COMMAND}\n```"
    assert below[1] == ("Mean ± sample standard deviation over seeds. Seeds: 2. Queries: 1550.")
    assert "95 % of 2000 bootstrap samples" in below[2]
    assert "2 seeds show little of the spread between seeds" in below[2]
    assert below[3] == "Features are synthesised."
    assert len(below) == 4


def test_what_is_drawn_whole_is_told():
    entries = [entry(), compared(1, 0.5, 2)]
    assert "draw seeds and queries in pairs" in table(entries)
    page = table(entries, drawn="source videos")
    assert "draw seeds and whole source videos in pairs" in page
    assert "read the intervals as ones over source videos" in page
    assert "queries in pairs" not in page and "Where fewer" not in page


def test_a_difference_without_interval_is_told_to_be_of_few_videos():
    few = compared(-1, None, None, condition="10 min")
    assert rows(table([entry(), few]))[-1].endswith("| 36.00 ± 0.50<br>-1.00 |")
    for others in ([], [compared(1, 0.5, 2)]):
        page = table([entry(), few, *others], drawn="source videos")
        assert "Where fewer than 5 source videos count, there is no interval." in page
        assert ("bootstrap" in page) == bool(others)
    # One seed has none, however many there are, nor have seconds.
    alone = [entry(seeds=1), compared(-1, None, None, seeds=1)]
    seconds = [entry(metric="s", queries=0), compared(1, None, None, metric="s", queries=0)]
    for entries, metric in ((alone, "MR-full-mAP"), (seconds, "s")):
        page = table(entries, [metric])
        assert "Below a number: its difference to the reference.\n" in page
        assert "interval" not in page


def test_intervals_that_were_not_asked_for_are_not_told_to_be_of_few_videos():
    entries = [entry(), compared(-1, None, None), compared(1, None, None, condition="10 min")]
    page = table(entries, drawn=None)
    told = "Below a number: its difference to the reference. Intervals were not asked for."
    assert page.endswith(f"\n\n{told}\n")
    assert "Where fewer" not in page and "None" not in page
    assert "Intervals" not in table(entries[:1], drawn=None)  # nor are there differences


def test_numbers_of_seeds_and_queries_may_differ():
    entries = [
        entry(seeds=5),
        entry(metric="MR-short-mAP", queries=313, seeds=5),
        entry(metric="MR-long-mAP", queries=570),
        entry(metric="MR-long-mAP", queries=500, condition="10 min"),
        entry(metric="MR-full-mIoU"),
        entry(metric="seconds", queries=0),
    ]
    metrics = ["MR-full-mAP", "MR-short-mAP", "MR-long-mAP", "MR-full-mIoU", "seconds"]
    page = table(entries, metrics)
    assert "Seeds: 2 to 5. Queries: 1550 (MR-short-mAP 313, MR-long-mAP 500 to 570)." in page
    assert "bootstrap" not in page


def test_many_seeds_need_no_caution():
    page = table([entry(seeds=5), compared(1, 0.5, 2, seeds=5)])
    assert "bootstrap samples" in page
    assert "little of the spread" not in page


def test_bold_is_what_excludes_zero():
    cells = {
        (1.0, 0.5, 1.5): "**+1.00 [+0.50, +1.50]**",
        (-1.0, -1.5, -0.5): "**-1.00 [-1.50, -0.50]**",
        (1.0, -0.5, 2.5): "+1.00 [-0.50, +2.50]",
        (0.0, 0.0, 0.0): "0.00 [0.00, 0.00]",
        (-0.001, -0.002, 0.001): "0.00 [0.00, 0.00]",
    }
    for numbers, cell in cells.items():
        assert rows(table([entry(), compared(*numbers)]))[-1].endswith(f"<br>{cell} |")


def test_conditions_have_a_column_and_empty_cells_a_dash():
    entries = [
        entry(condition="2.5 min"),
        entry(condition="10 min", metric="seconds", mean=1.5, std=None, queries=0),
        compared(-1, -2, 1, condition="10 min"),
    ]
    assert rows(table(entries, ["MR-full-mAP", "seconds"])) == [
        "| | | MR-full-mAP | seconds |",
        "|---|---|---:|---:|",
        "| full model (reference) | 2.5 min | 36.00 ± 0.50 | - |",
        "| full model (reference) | 10 min | - | 1.50 |",
        "| no layering | 10 min | 36.00 ± 0.50<br>-1.00 [-2.00, +1.00] | - |",
    ]


def test_without_differences_there_is_no_reference():
    page = table([entry(), entry("other|wise", mean=np.nan, std=None)])
    assert rows(page)[2:] == ["| full model | 36.00 ± 0.50 |", r"| other\|wise | - |"]
    assert "reference" not in page


def test_only_the_reference_is_marked():
    # Without a difference is also what had nothing to be compared with.
    entries = [
        entry(condition="10 min"),
        compared(-1, -2, 1, condition="10 min"),
        entry(condition="60 min", mean=np.nan, std=None),
        entry("no layering", condition="60 min"),
    ]
    names = ["full model", "no layering"] * 2
    marked = ["full model (reference)", "no layering"] * 2

    def shown(**fields):
        return [row.split("|")[1].strip() for row in rows(table(entries, **fields))[2:]]

    assert shown() == names  # two of them could be it
    assert shown(reference="full model") == marked
    assert rows(table(entries))[4] == "| full model | 60 min | - |"
    entries.pop()
    assert shown() == marked[:3]


def test_a_difference_to_nothing_is_not_shown():
    entries = [
        entry(mean=np.nan, std=None),
        compared(np.nan, None, None),
        compared(np.nan, None, None, condition="b", mean=np.nan),
    ]
    assert [row.split("|")[3].strip() for row in rows(table(entries))[2:]] == [
        "-",
        "36.00 ± 0.50",
        "-",
    ]


def test_other_numbers_than_percentages_show_their_digits():
    for mean, shown in [(0.43121, "0.431"), (0.00314, "0.0031"), (12.345, "12.3"), (4567, "4567")]:
        entries = [entry(metric="seconds", mean=mean, std=None, queries=0)]
        assert rows(table(entries, ["seconds"]))[-1] == f"| full model | {shown} |"


def test_columns_that_are_no_metrics_take_as_many_decimals_as_they_are_told():
    # The robustness table: a column for each strength, of one percentage.
    entries = [entry(metric="0", mean=36.2), entry(metric="0.8", mean=4.315)]
    entries += [compared(0.125, -0.1, 0.35, metric="0.8", mean=4.44)]
    assert rows(table(entries, ["0", "0.8"], decimals=2))[2:] == [
        "| full model (reference) | 36.20 ± 0.50 | 4.32 ± 0.50 |",
        "| no layering | - | 4.44 ± 0.50<br>+0.12 [-0.10, +0.35] |",
    ]
    assert "36.2 ± 0.5 | 4.32" in table(entries, ["0", "0.8"])


def test_cells_do_not_break_within_a_line():
    page = markdown_table(
        [entry(), compared(-1, -2, 1)], ["MR-full-mAP"], title="Ablation", command=COMMAND
    )
    cell = page.splitlines()[5].split("|")[2].strip(" ")
    assert " " not in cell
    assert "-" not in cell


def test_a_table_of_something_else_is_an_error():
    with pytest.raises(DataError, match="Ablation: no entries of MR-short-mAP"):
        table([entry()], ["MR-full-mAP", "MR-short-mAP"])
    with pytest.raises(DataError, match="two entries of MR-full-mAP for 'full model', '10 min'"):
        table([entry(condition="10 min")] * 2)

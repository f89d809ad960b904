"""How labels relate to moments: numbers worked out by hand, and what is written."""

import csv
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from flashvtg_jax.config import load_config
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.figures import drawing
from flashvtg_jax.json_lines import write_json_lines
from flashvtg_jax.metrics import label_measures as measures
from flashvtg_jax.metrics import label_sums
from flashvtg_jax.metrics.arithmetic import ranks
from flashvtg_jax.studies.label_correlation import annotation_files, label_correlation
from tests.figures.test_figures import check_layout

COMMAND = "flashvtg study label_correlation"


def row(qid, windows, ratings, *, vid=None, duration=12, **fields):
    """A line of QVHighlights; `ratings` are by clip."""
    return {
        "qid": qid,
        "query": "A query.",
        "vid": vid or f"video{qid}",
        "duration": duration,
        "relevant_windows": windows,
        "relevant_clip_ids": list(ratings),
        "saliency_scores": list(ratings.values()),
        **fields,
    }


def rated(qid, label, **fields):
    """A line of TVSum or YouTube Highlights."""
    return {
        "qid": qid,
        "query": "A title.",
        "vid": f"video{qid}",
        "duration": len(label),
        "relevant_windows": None,
        "relevant_clip_ids": None,
        "label": label,
        **fields,
    }


# Two videos of 6 clips, 2 annotators. Mean labels: 1, 3, 1 in a moment of 3 clips; 2, 2 in one of
# 2 clips; 0 for the 7 other clips.
BY_HAND = [
    row(1, [[2, 8]], {1: [1, 1], 2: [4, 2], 3: [1, 1]}),
    row(2, [[0, 4]], {0: [2, 2], 1: [2, 2]}),
]


def measured(rows, clip_length=2.0, category=measures.ALL):
    queries = [label_sums.read_query(row, clip_length) for row in rows]
    return measures.by_category(measures.measure("file", queries))["file", category]


def study(rows, folder, **settings):
    path = folder / "annotations.jsonl"
    write_json_lines(path, rows)
    return label_correlation([path], folder / "out", command=COMMAND, **settings)


def random_rows(count, seed=0, clips=12, annotators=3, **fields):
    """Queries with two moments each, of 4 and 5 clips."""
    random = np.random.default_rng(seed)
    rows = []
    for qid in range(count):
        ids = [1, 2, 3, 4, 6, 7, 8, 9, 10]
        ratings = random.integers(0, 5, (len(ids), annotators)).tolist()
        windows = [[2, 10], [12, 22]]
        rows.append(row(qid, windows, dict(zip(ids, ratings, strict=True)), duration=2 * clips))
        rows[-1] |= {name: values[qid % len(values)] for name, values in fields.items()}
    return rows


# --- values


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        ("mean label inside moments", 9 / 5),
        ("standard deviation of labels inside moments", (19 / 5 - 1.8**2) ** 0.5),
        ("mean label outside moments", 0),
        # The sum of squares about the mean of all clips is 19 - 9 * 9 / 12.
        ("share of variance: inside or outside", (81 / 5 - 81 / 12) / 12.25),
        ("share of variance: among queries, inside", (25 / 3 + 16 / 2 - 81 / 5) / 12.25),
        ("share of variance: among moments of a query", 0),
        ("share of variance: among clips of a moment", (19 - 25 / 3 - 16 / 2) / 12.25),
        ("share of variance: left inside moments", (19 - 81 / 5) / 12.25),
        ("share of variance: among clips outside", 0),
        # 3 of 5 clips inside, none of 7 outside: 0.6 ** 2 * 5 * 7 / 12 of 3 * 9 / 12.
        ("share of variance: inside or outside, ratings of 2 or more", 1.05 / 2.25),
        # 1 of 10 ratings inside, none of 14 outside.
        ("share of variance: inside or outside, ratings of 4 or more", 0.01 * 140 / 24 / (23 / 24)),
        ("Pearson correlation, centre, relative", -1),
        ("Pearson correlation, centre, seconds", -1),
        ("Pearson correlation, edge, seconds", 1),
        ("Pearson correlation, start to end", 0),
        ("Spearman correlation, centre, relative", -1),
        ("Spearman correlation, start to end", 0),
        ("share of variance among clips of a moment: their place", 1),
        ("mean label at 0 to 10 % of a moment", 1),
        ("mean label at 30 to 40 % of a moment", (1 + 2 * 3) / 3),  # the clips meet at a third
        ("mean label at 40 to 50 % of a moment", 3),
        ("mean label at 90 to 100 % of a moment", 1),
        ("share of label sums of 2 inside moments", 2 / 5),
        ("share of label sums of 6 inside moments", 1 / 5),
        ("share of ratings of 4 inside moments", 1 / 10),
        ("share of ratings of 0 outside moments", 1),
        # Differences 8 / 10 ratings, of 2 * (10 * 40 - 18 ** 2) / 90 between any two.
        ("Krippendorff's alpha", 1 - 0.8 / (152 / 90)),
        ("mean Pearson correlation of two annotators", 1),  # of the first query alone
        ("share of clips that all annotators rate alike", 4 / 5),
        ("clips", 12),
        ("rated clips inside", 5),
        ("unrated clips outside, counted as 0", 7),
        ("moments", 2),
        ("moments of 3 clips and more", 1),
        ("annotators", 2),
        ("source videos", 2),
    ],
)
def test_values_worked_out_by_hand(measure, value):
    assert measured(BY_HAND)[measure].value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("measure", "clips", "queries"),
    [
        ("share of variance: inside or outside", 12, 2),
        ("Krippendorff's alpha", 5, 2),
        ("Pearson correlation, centre, relative", 3, 1),
        ("mean Pearson correlation of two annotators", 3, 1),
    ],
)
def test_numbers_say_how_many_clips_and_queries_took_part(measure, clips, queries):
    entry = measured(BY_HAND)[measure]
    assert (entry.clips, entry.queries) == (clips, queries)


def test_alpha_of_the_textbook():
    """Krippendorff (2011), Computing Krippendorff's alpha-reliability: 4 observers, 12 units."""
    observers = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    units = zip(*(line.split() for line in observers), strict=True)
    ratings = [[float(value) for value in unit if value != "."] for unit in units]
    assert label_sums.krippendorff_alpha(ratings) == pytest.approx(0.849, abs=5e-4)


def test_alpha_of_perfect_agreement_and_of_one_value():
    assert label_sums.krippendorff_alpha([[1, 1], [4, 4, 4]]) == 1
    assert np.isnan(label_sums.krippendorff_alpha([[2, 2], [2, 2]]))


def test_ranks_are_those_of_scipy():
    values = np.random.default_rng(0).integers(0, 6, 40) / 3
    np.testing.assert_array_equal(ranks(values), scipy.stats.rankdata(values))


def test_correlations_of_annotators_are_those_of_scipy():
    rows = random_rows(5)
    found = measured(rows)
    for name, oracle in (
        (measures.PAIRS_PEARSON, scipy.stats.pearsonr),
        (measures.PAIRS_SPEARMAN, scipy.stats.spearmanr),
    ):
        tables = [np.array(row["saliency_scores"]) for row in rows]
        values = [
            oracle(table[:, a], table[:, b]).statistic
            for table in tables
            for a, b in itertools.combinations(range(3), 2)
        ]
        assert found[name].value == pytest.approx(np.mean(values))


def test_parts_of_the_variance_add_up_when_clips_outside_are_rated():
    rows = random_rows(6)
    for index, line in enumerate(rows):
        line["relevant_clip_ids"].append(0)
        line["saliency_scores"].append([index % 3, 1, 0])
    found = measured(rows)
    parts = (measures.MEMBERSHIP, measures.LEFT_INSIDE, measures.AMONG_OUTSIDE)
    assert sum(found[name].value for name in parts) == pytest.approx(1)
    assert found[measures.AMONG_OUTSIDE].value > 0
    assert found[measures.RATED_OUTSIDE].value == 6
    assert found[measures.UNRATED_OUTSIDE].value == 6 * 2


def test_moments_of_a_query_are_told_apart_from_their_clips():
    flat = row(1, [[0, 4], [6, 12]], {0: [1], 1: [1], 3: [3], 4: [3], 5: [3]})
    found = measured([flat])
    # Labels 1, 1, 3, 3, 3 inside: 29 - 11 * 11 / 5 about their mean, all of it between moments.
    whole = 29 - 121 / 6
    assert found[measures.AMONG_MOMENTS].value == pytest.approx((29 - 121 / 5) / whole)
    assert found[measures.AMONG_CLIPS].value == 0
    assert found[measures.PLACE].value is None  # nothing varies within a moment
    assert found[measures.PEARSON + "start to end"].value is None


def test_a_slope_is_seen_from_start_to_end_and_not_from_the_centre():
    slope = [row(1, [[0, 10]], {clip: [clip] for clip in range(5)})]
    found = measured(slope)
    assert found[measures.PEARSON + "start to end"].value == pytest.approx(1)
    assert found[measures.SPEARMAN + "start to end"].value == pytest.approx(1)
    assert found[measures.PEARSON + "centre, seconds"].value == pytest.approx(0, abs=1e-12)
    assert found[measures.PLACE].value == pytest.approx(1)


def test_heights_of_queries_do_not_enter_correlations():
    plain = random_rows(4)
    raised = random_rows(4)
    for index, line in enumerate(raised):
        line["saliency_scores"] = [
            [value + 10 * index for value in clip] for clip in line["saliency_scores"]
        ]
    first, second = measured(plain), measured(raised)
    for name in label_sums.DISTANCES:
        for kind in (measures.PEARSON, measures.SPEARMAN):
            assert first[kind + name].value == pytest.approx(second[kind + name].value)


def test_clips_inside_without_a_rating_are_counted_and_left_out():
    rows = [row(1, [[2, 8]], {1: [1, 1], 2: [4, 2]}), BY_HAND[1]]
    found = measured(rows)
    assert found[measures.UNRATED_INSIDE].value == 1
    assert found[measures.MEMBERSHIP].clips == 11
    assert found[measures.LONG_MOMENTS].value == 0
    assert found[measures.PEARSON + "edge, seconds"].value is None
    assert found[measures.course_name(0)].value is None


def test_clip_id_beyond_the_video_stands_for_its_last_clip():
    rows = [row(1, [[8, 12]], {4: [1], 5: [2], 6: [3]})]
    assert measured(rows)["mean label inside moments"].value == 2
    rows = [row(1, [[8, 12]], {4: [1], 5: [3], 6: [2]})]  # the highest counts
    assert measured(rows)["mean label inside moments"].value == 2


def test_a_moment_holds_the_clips_whose_midpoints_it_holds():
    found = measured([row(1, [[2.9, 7.1]], {1: [1], 2: [2], 3: [3]})])
    assert found[measures.RATED_INSIDE].value == 3
    found = measured([row(1, [[3.1, 7]], {1: [1], 2: [2], 3: [3]})])
    assert found[measures.RATED_INSIDE].value == 1


def test_queries_without_moments_are_clips_outside():
    found = measured([*BY_HAND, row(3, [], {})])
    assert found[measures.CLIPS].value == 18
    assert found[measures.UNRATED_OUTSIDE].value == 13
    assert found[measures.ALPHA].queries == 2


def test_one_annotator_has_no_agreement():
    found = measured([rated(1, [[0], [1], [1]], domain="dog")])
    assert measures.ALPHA not in found and measures.MEMBERSHIP not in found
    assert found["mean label"].value == pytest.approx(2 / 3)
    assert found["share of ratings of 1"].value == pytest.approx(2 / 3)


def test_categories_are_measured_by_themselves():
    rows = [rated(i, [[i], [i + 1]], domain="dog" if i < 2 else "cat") for i in range(4)]
    entries = measures.measure("file", [label_sums.read_query(row, 2.0) for row in rows])
    table = measures.by_category(entries)
    assert [category for _, category in table] == ["all", "cat", "dog"]
    assert table["file", "dog"]["mean label"].value == 1
    assert table["file", "cat"]["mean label"].value == 3
    assert table["file", "cat"]["mean label"].queries == 2


# --- intervals


def test_intervals_are_over_videos():
    """Eta squared, resampled the long way: video by video, all its queries at once."""
    rows = random_rows(30)
    for index, line in enumerate(rows):
        line["vid"] = f"source{index // 3}_{index % 3}.0_150.0"
        line["saliency_scores"] = [
            [max(rating - index // 3 % 4, 0) for rating in clip] for clip in line["saliency_scores"]
        ]
    entry = measured(rows)[measures.MEMBERSHIP]
    labels = np.zeros((10, 3, 12))
    inside = np.zeros((10, 3, 12))
    for index, line in enumerate(rows):
        where = np.divmod(index, 3)
        labels[where][line["relevant_clip_ids"]] = np.mean(line["saliency_scores"], axis=1)
        inside[where][line["relevant_clip_ids"]] = 1
    random = np.random.default_rng(7)
    samples = []
    for _ in range(2000):
        drawn = random.integers(10, size=10)
        samples.append(np.corrcoef(labels[drawn].ravel(), inside[drawn].ravel())[0, 1] ** 2)
    low, high = np.percentile(samples, [2.5, 97.5])
    assert entry.low == pytest.approx(low, abs=0.15 * (high - low))
    assert entry.high == pytest.approx(high, abs=0.15 * (high - low))


def test_one_video_has_no_interval():
    rows = [row(qid, [[2, 8]], {1: [1], 2: [4], 3: [1]}, vid="same") for qid in (1, 2)]
    entry = measured(rows)[measures.MEMBERSHIP]
    assert entry.value is not None and entry.low is None and entry.high is None


# --- what is written


@pytest.fixture
def no_figure(monkeypatch):
    """For tests that are about numbers: drawing takes most of a study's time."""
    monkeypatch.setattr(
        "flashvtg_jax.studies.label_correlation.draw_label_correlation", lambda *_: None
    )


def read_csv(folder):
    with open(folder / "out" / "label_correlation.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_table_numbers_and_figure_are_written(tmp_path):
    path = study(BY_HAND, tmp_path)
    assert path == tmp_path / "out" / "label_correlation.md"
    assert sorted(path.name for path in path.parent.iterdir()) == [
        "label_correlation.csv",
        "label_correlation.md",
        "label_correlation.png",
    ]
    text = path.read_text(encoding="utf-8")
    assert f"```bash\n{COMMAND}\n```" in text
    assert "| annotations | 77.1 %" in text  # 9.45 / 12.25
    assert "categories; no line has the field `domain`" in text
    rows = {entry["measure"]: entry for entry in read_csv(tmp_path)}
    assert float(rows["Krippendorff's alpha"]["value"]) == pytest.approx(1 - 0.8 / (152 / 90))
    assert rows["Krippendorff's alpha"]["dataset"] == "annotations"
    assert rows["clips"]["low"] == ""
    assert (path.parent / "label_correlation.png").read_bytes().startswith(b"\x89PNG")


def test_everything_comes_out_alike_every_time(tmp_path):
    contents = []
    for _ in range(2):
        folder = study(random_rows(8, domain=("a", "b")), tmp_path).parent
        contents.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert contents[0] == contents[1]


def test_what_is_left_out_is_said(tmp_path, no_figure):
    text = study([rated(i, [[0], [1]], domain="dog") for i in range(3)], tmp_path).read_text()
    assert "everything about moments" in text and "one annotator" in text
    assert "## Place within the moment" not in text and "| annotations, dog |" in text


def test_clip_length_is_that_of_the_data(tmp_path, no_figure):
    rows = [row(1, [[1, 4]], {1: [1], 2: [4], 3: [1]}, duration=6)]
    study(rows, tmp_path, clip_length=1.0)
    found = {entry["measure"]: entry["value"] for entry in read_csv(tmp_path)}
    assert float(found["rated clips inside"]) == 3


def test_released_files_bear_the_names_of_their_data_sets(tmp_path, no_figure):
    paths = []
    for folder, stem in (("a", "highlight_val_release"), ("a", "mine"), ("b", "mine")):
        paths.append(tmp_path / folder / f"{stem}.jsonl")
        write_json_lines(paths[-1], BY_HAND)
    label_correlation(paths[:2], tmp_path / "out", command=COMMAND)
    assert {entry["dataset"] for entry in read_csv(tmp_path)} == {"QVHighlights val", "mine"}
    label_correlation(paths[1:], tmp_path / "out", command=COMMAND)
    assert {entry["dataset"] for entry in read_csv(tmp_path)} == {"a/mine", "b/mine"}


def test_files_of_different_kinds_stand_beside_each_other(tmp_path):
    files = {
        "three": random_rows(4),
        "two": random_rows(4, annotators=2),
        "ratings": [rated(i, [[1, 5], [2, 3]], domain="BK") for i in range(3)],
    }
    for name, rows in files.items():
        write_json_lines(tmp_path / f"{name}.jsonl", rows)
    paths = [tmp_path / f"{name}.jsonl" for name in files]
    text = label_correlation(paths, tmp_path / "out", command=COMMAND).read_text()
    assert "| ratings, BK |" in text and "everything about moments" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"qid": 1, "query": "q", "vid": "v", "duration": 9, "relevant_windows": [[0, 3]]}],
            "has moments but no saliency labels; this study needs QVHighlights, TVSum or YouTube",
        ),
        (
            [{"qid": 1, "query": "q", "vid": "v", "duration": 9}],
            "has neither moments nor saliency labels",
        ),
        ([row(1, [[0, 4]], {})], "no clip has a saliency label"),
        (
            [{key: value for key, value in BY_HAND[0].items() if key != "relevant_windows"}],
            "no relevant_windows",
        ),
        ([BY_HAND[0] | {"saliency_scores": [[1]]}], r"annotations\.jsonl:1"),
    ],
)
def test_files_that_cannot_be_measured_are_named(rows, message, tmp_path):
    with pytest.raises(DataError, match=message):
        study(rows, tmp_path)
    assert not (tmp_path / "out").exists()


def test_settings_that_make_no_sense_are_told(tmp_path):
    with pytest.raises(ConfigError, match="one annotation file or more"):
        label_correlation([], tmp_path, command=COMMAND)
    with pytest.raises(ConfigError, match="clip_length is 0"):
        study(BY_HAND, tmp_path, clip_length=0.0)
    path = tmp_path / "annotations.jsonl"
    with pytest.raises(ConfigError, match="given twice"):
        label_correlation([path, path], tmp_path, command=COMMAND)


def test_files_of_a_configuration_are_those_with_labels(tmp_path):
    config = load_config("qvhighlights_slowfast_clip")
    with pytest.raises(ConfigError, match="manual_dir=DIR"):
        annotation_files(config)
    config.data.manual_dir = str(tmp_path)
    with pytest.raises(DataError, match="no annotation file"):
        annotation_files(config)
    unlabelled = {"qid": 1, "query": "q", "vid": "v", "duration": 9}
    for name, rows in (("val_release", BY_HAND), ("test_release", [unlabelled])):
        write_json_lines(tmp_path / "annotations" / f"highlight_{name}.jsonl", rows)
    assert [path.name for path in annotation_files(config)] == ["highlight_val_release.jsonl"]
    write_json_lines(tmp_path / "highlight_test_with_gt.jsonl", BY_HAND)
    assert [path.name for path in annotation_files(config)] == [
        "highlight_val_release.jsonl",
        "highlight_test_with_gt.jsonl",
    ]


# --- the figure


FIGURES = {
    "one small file": {"small": BY_HAND},
    "several files": {f"file {index}": random_rows(3, seed=index) for index in range(7)},
    "long names": {"w" * 120: random_rows(3), "Chinese 日本語": random_rows(3, domain=("x" * 90,))},
    "clips outside are rated": {"file": [row(1, [[0, 4]], {0: [3], 1: [2], 4: [1], 5: [0]})]},
    "no labels that differ": {"file": [row(i, [[2, 8]], {1: [0], 2: [0], 3: [0]}) for i in (1, 2)]},
    "short moments": {"file": [row(i, [[2, 4]], {1: [i, 2]}) for i in (1, 2)]},
    "fractions": {"file": [row(1, [[0, 12]], {i: [i / 7, i / 9] for i in range(6)}, duration=90),
                           row(2, [[0, 40]], {i: [i / 5, i / 3] for i in range(20)}, duration=90)]},
    "ratings": {"file": [rated(i, [[1, 5], [2, 3]], domain="BK") for i in range(3)]},
    "binary": {"file": [rated(i, [[0], [1]], domain=f"domain {i % 2}") for i in range(4)]},
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("ignore:Glyph .* missing from:UserWarning")  # checked without fonts
def test_labels_of_the_figure_keep_apart(name, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(drawing, "save_figure", lambda figure, _: figures.append(figure))
    paths = []
    for stem, rows in FIGURES[name].items():
        paths.append(tmp_path / f"{stem}.jsonl")
        write_json_lines(paths[-1], rows)
    label_correlation(paths, tmp_path / "out", command=COMMAND)
    check_layout(figures[0])


# --- the real files


@pytest.mark.skipif("FLASHVTG_ANNOTATIONS" not in os.environ, reason="needs the real files")
def test_numbers_of_the_released_validation_split():
    """Against a script of its own, which goes clip by clip and calls scipy."""
    from flashvtg_jax.data.annotations import load_annotations

    path = "qvhighlights/highlight_val_release.jsonl"
    found = measured(load_annotations(Path(os.environ["FLASHVTG_ANNOTATIONS"]) / path))
    expected = {
        measures.MEMBERSHIP: 0.918522,
        measures.AMONG_CLIPS: 0.031884,
        measures.LEVELS["VeryGood"]: 0.317787,
        measures.ALPHA: 0.166528,
        measures.PAIRS_SPEARMAN: 0.246911,
        measures.PEARSON + "centre, relative": -0.113840,
        measures.SPEARMAN + "edge, seconds": 0.108142,
        measures.PLACE: 0.018319,
        measures.course_name(0): 2.783545,
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-6), name
        assert found[name].low < value < found[name].high

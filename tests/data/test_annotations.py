import json
import os
from pathlib import Path

import pytest

from flashvtg_jax.clips import mean_ratings, num_video_clips
from flashvtg_jax.data.annotations import check_lines_agree, load_annotations, placed
from flashvtg_jax.errors import DataError

ROW = {
    "qid": 7,
    "query": "A dog runs on the beach",
    "vid": "NUsG9BgSes0_210.0_360.0",
    "duration": 20,
    "relevant_windows": [[4, 8], [16, 20]],
    "relevant_clip_ids": [2, 3, 8, 9],
    "saliency_scores": [[1, 2, 3], [4, 4, 4], [0, 0, 1], [2, 3, 2]],
}
RATINGS = {**ROW, "relevant_windows": None, "relevant_clip_ids": None, "saliency_scores": None}
RATINGS["label"] = [[1.0, 5.0], [2.0, 3.0]]
BINARY = {**RATINGS, "label": [[0], [1]]}


def row(**changes):
    return {key: value for key, value in {**ROW, **changes}.items() if value != "absent"}


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        path = tmp_path / "annotations.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def problems(path, **options):
    with pytest.raises(DataError) as info:
        load_annotations(path, **options)
    return str(info.value).splitlines()


def test_rows_come_as_they_are_and_in_order(write):
    rows = [row(), row(qid="s17-d69_0", query=" He took out a pan", relevant_windows=[])]
    assert load_annotations(write(*rows)) == rows


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"qid": "absent"}, "no field 'qid'"),
        ({"query": "absent"}, "no field 'query'"),
        ({"vid": "absent"}, "no field 'vid'"),
        ({"duration": "absent"}, "no field 'duration'"),
        ({"qid": None}, "qid None"),
        ({"qid": True}, "qid True"),
        ({"qid": 1.5}, "qid 1.5"),
        ({"qid": "../7"}, "qid '../7'"),
        ({"vid": 12}, "vid 12"),
        ({"vid": ""}, "vid ''"),
        ({"vid": "a/b"}, "vid 'a/b'"),
        ({"query": " "}, "query ' '"),
        ({"query": ["a"]}, "query ['a']"),
        ({"duration": 0}, "duration 0"),
        ({"duration": "20"}, "duration '20'"),
        ({"duration": float("nan")}, "duration nan"),
        ({"duration": float("inf")}, "duration inf"),
        ({"duration": 10**400}, "duration 1000"),
        ({"relevant_windows": "4-8"}, "relevant_windows '4-8'"),
        ({"relevant_windows": [[4]]}, "window [4]"),
        ({"relevant_windows": [[4, "8"]]}, "window [4, '8']"),
        ({"relevant_windows": [[4, float("nan")]]}, "window [4, nan]"),
        ({"relevant_windows": [[8, 4]]}, "window [8, 4] is reversed"),
        ({"relevant_windows": [[8, 8]]}, "window [8, 8] is empty"),
        ({"relevant_windows": [[-2, 4]]}, "window [-2, 4] is outside its video of 20 seconds"),
        ({"relevant_windows": [[16, 22]]}, "window [16, 22] is outside"),
        ({"relevant_windows": [[40, 44]]}, "window [40, 44] is outside"),
        ({"saliency_scores": [[1, 2, 3]]}, "1 saliency_scores for 4 relevant_clip_ids"),
        ({"saliency_scores": None}, "no field 'saliency_scores'"),
        ({"saliency_scores": [[1], [2, 3], [1], [1]]}, "1 ratings for one clip and 2 for another"),
        ({"saliency_scores": [1, 2, 3, 4]}, "saliency_scores holds 1"),
        ({"saliency_scores": [[1, 2], [3, 4], [0, -1], [0, 0]]}, "holds [0, -1]"),
        ({"saliency_scores": [[1, float("nan")]] * 4}, "holds [1, nan]"),
        ({"relevant_clip_ids": [-1, 3, 8, 9]}, "relevant_clip_ids holds -1"),
        ({"relevant_clip_ids": [2, 3, 8, 11]}, "holds 11, but the video has 10 clips"),
        ({"relevant_clip_ids": [2, 3, 8, 8]}, "a clip twice"),
        ({"relevant_clip_ids": [2, 3, 8, "9"]}, "relevant_clip_ids holds '9'"),
        ({"relevant_clip_ids": {"2": 1}}, "expected two lists"),
    ],
)
def test_each_mistake_is_named_with_file_and_line(write, changes, problem):
    path = write(row(qid="good"), row(**changes))
    (line,) = problems(path, labels="qvhighlights")
    assert line.startswith(f"{path}:2: ")
    assert problem in line


@pytest.mark.parametrize(
    "changes",
    [
        {"duration": 19.3},  # ten clips, the last one not full
        {"relevant_clip_ids": [2, 3, 8, 10]},  # one beyond the last, cut later
        {"relevant_windows": [[4, 20.0005]]},
        {"saliency_scores": [[0.5]] * 4},
        {"relevant_clip_ids": [], "saliency_scores": []},
        {"relevant_windows": []},
    ],
)
def test_what_rounding_explains_and_what_is_not_there_is_accepted(write, changes):
    assert load_annotations(write(row(**changes)), labels="qvhighlights")


@pytest.mark.parametrize(("first", "second"), [(7, 7), ("a", "a"), (7, "7")])
def test_a_query_id_used_twice_names_both_lines(write, first, second):
    path = write(row(qid=first), row(qid="other"), row(qid=second))
    assert problems(path) == [
        f"{path}:3: qid {second} is already used in {path}:1; give every query an id of its own"
    ]


def test_at_most_ten_mistakes_are_listed(write):
    path = write(*(row(qid=i, relevant_windows=[[8, 4]]) for i in range(30)))
    lines = problems(path)
    assert [line.split(":")[1] for line in lines[:10]] == [str(i + 1) for i in range(10)]
    assert lines[10:] == [f"{path}: ... and more; correct these first"]


def test_ten_mistakes_are_not_followed_by_more(write):
    assert len(problems(write(*(row(qid=i, vid="") for i in range(10))))) == 10


def test_malformed_json_names_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW)[:-1] + "\n")
    assert problems(path)[0].startswith(f"{path}:2: ")


def test_a_missing_or_empty_file_is_an_error_that_names_it(tmp_path):
    assert str(tmp_path / "a.jsonl") in problems(tmp_path / "a.jsonl")[0]
    (tmp_path / "b.jsonl").write_text("\n")
    assert str(tmp_path / "b.jsonl") in problems(tmp_path / "b.jsonl")[0]


def test_clips_without_ratings_are_an_error(write):
    (line,) = problems(write(row(saliency_scores="absent"), row(qid=8, saliency_scores=None)))
    assert ":1: no field 'saliency_scores'" in line
    assert line.endswith(" (2 of 2 lines)")


@pytest.mark.parametrize("labels", [None, "qvhighlights"])
def test_every_line_is_rated_by_as_many_annotators(write, labels):
    lines = [row(qid=i) for i in range(4)]
    lines[1] |= {"relevant_clip_ids": [], "saliency_scores": []}  # nothing to rate
    assert load_annotations(write(*lines), labels=labels)
    lines[2] |= {"saliency_scores": [[1, 2]] * 4}
    path = write(*lines)
    assert problems(path, labels=labels) == [
        f"{path}:3: saliency_scores of 2 annotators, but of 3 in {path}:1; every line needs as many"
    ]


def test_every_clip_of_a_file_is_rated_by_as_many_annotators(write):
    path = write(RATINGS, {**RATINGS, "qid": 8, "label": [[1.0], [2.0]]})
    assert problems(path, labels="ratings") == [
        f"{path}:2: label of 1 annotators, but of 2 in {path}:1; every line needs as many"
    ]


def test_a_file_of_another_data_set_is_told_once_with_the_number_of_lines(write):
    lines = [{**ROW, "qid": i} for i in range(30)]
    bare = {key: ROW[key] for key in ("query", "vid", "duration", "relevant_windows")}
    path = write(*lines, {**bare, "qid": 30})
    assert problems(path, labels="windows") == [
        f"{path}:1: relevant_clip_ids and saliency_scores, but this data set has moments alone; is "
        "this the annotation file of another data set? (30 of 31 lines)"
    ]
    assert [line.split(":")[1] for line in problems(path, labels="ratings")] == ["1"]
    path = write(*({**RATINGS, "qid": i, "label": [[i + 6]]} for i in range(3)))
    assert problems(path, labels="ratings") == [
        f"{path}:1: label holds [6]; expected numbers from 1 to 5 for each clip; is this the "
        "annotation file of another data set? (3 of 3 lines)"
    ]


def test_a_video_has_one_duration_in_all_files():
    first, same, other = row(), row(qid=8, duration=20.00001), row(qid=9, duration=30)
    check_lines_agree([*placed("a", [first, same]), *placed("b", [row(qid=10)])])
    for files in ({"a": [first], "b": [other]}, {"b": [first, same, other]}):
        with pytest.raises(DataError, match=r"b:\d: vid .* lasts 30 seconds, but 20 in [ab]:1"):
            check_lines_agree(x for name, rows in files.items() for x in placed(name, rows))


def test_labels_are_on_every_line_or_on_none(write):
    bare = row(relevant_windows="absent", relevant_clip_ids="absent", saliency_scores="absent")
    assert load_annotations(write(bare, {**bare, "qid": 8}))
    lines = problems(write(row(), {**bare, "qid": 8}))
    assert len(lines) == 3
    assert all(":2: no field" in line for line in lines)


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        (ROW, {"qvhighlights"}),
        (row(relevant_clip_ids="absent", saliency_scores="absent"), {"windows"}),
        (RATINGS, {"ratings"}),
        (BINARY, {"binary"}),
    ],
)
def test_another_data_sets_format_is_an_error_that_says_so(write, annotation, kinds):
    path = write(annotation)
    for labels in ("qvhighlights", "windows", "ratings", "binary"):
        if labels in kinds:
            assert load_annotations(path, labels=labels) == [annotation]
        else:
            assert "another data set" in problems(path, labels=labels)[0]


@pytest.mark.parametrize(
    ("label", "problem"),
    [([], "label"), ("good", "label"), ([[1], [1, 2]], "1 ratings for one clip and 2"), ([1], "1")],
)
def test_ratings_are_one_list_a_clip(write, label, problem):
    assert problem in problems(write({**RATINGS, "label": label}), labels="ratings")[0]


@pytest.mark.parametrize(
    ("labels", "label", "found"),
    [
        ("ratings", [[1, 5], [0, 3]], "[0, 3]"),
        ("ratings", [[1, 5], [5.5, 3]], "[5.5, 3]"),
        ("ratings", [[1] * 20, [6] * 20], "[6, 6, 6, 6, 6, ...]"),
        ("binary", [[0], [2]], "[2]"),
        ("binary", [[0], [0.5]], "[0.5]"),
        ("binary", [[0, 1], [1, 1]], "[0, 1]"),
    ],
)
def test_labels_hold_what_their_kind_may_hold(write, labels, label, found):
    path = write({**RATINGS, "label": label})
    expected = "one number, 0 or 1," if labels == "binary" else "numbers from 1 to 5"
    assert problems(path, labels=labels) == [
        f"{path}:1: label holds {found}; expected {expected} for each clip; is this the annotation "
        "file of another data set?"
    ]
    assert load_annotations(path)  # any numbers, where the kind is not known


def test_a_domain_is_one_of_those_there_are(write):
    path = write({**BINARY, "domain": "dog"}, {**BINARY, "qid": 8, "domain": "cat"})
    assert problems(path, domains=("dog", "surfing")) == [
        f"{path}:2: domain 'cat'; known: dog, surfing"
    ]
    lines = problems(write({**BINARY, "domain": "dog"}, BINARY | {"qid": 8}), domains=("dog",))
    assert lines == [
        f"{path}:2: no field 'domain', one of dog; is this the annotation file of another data set?"
    ]
    assert load_annotations(write({**BINARY, "domain": "cat"}, {**BINARY, "qid": 8}))


@pytest.mark.parametrize("domain", ["", " ", 3, ["dog"]])
def test_a_domain_is_a_name(write, domain):
    path = write({**BINARY, "domain": domain})
    assert problems(path) == [f"{path}:1: domain {domain!r}; expected a name"]


@pytest.mark.parametrize(
    ("duration", "clip_length", "clips"),
    [(150, 2.0, 75), (149.3, 2.0, 75), (148.0, 2.0, 74), (0.3, 1.0, 1), (30.0, 0.166666, 181)],
)
def test_the_last_clip_may_be_a_part(duration, clip_length, clips):
    assert num_video_clips(duration, clip_length) == clips


def test_the_mean_rating_of_a_clip_is_that_of_its_highest_sum():
    scores = [[1, 2], [4, 3], [0, 1]]
    # Of 3 clips the second is not rated, and id 3 is one beyond the last.
    assert mean_ratings([0, 2, 3], scores, 6, 2.0).tolist() == [1.5, 0, 3.5]
    assert mean_ratings([0, 3, 2], scores, 6, 2.0).tolist() == [1.5, 0, 3.5]
    assert mean_ratings([0, 2, 3], scores, 8, 2.0).tolist() == [1.5, 0, 3.5, 0.5]


@pytest.mark.skipif("FLASHVTG_ANNOTATIONS" not in os.environ, reason="needs the real files")
@pytest.mark.parametrize(
    ("path", "clip_length", "labels", "rows"),
    [
        ("qvhighlights/highlight_train_release.jsonl", 2.0, "qvhighlights", 7218),
        ("qvhighlights/highlight_val_release.jsonl", 2.0, "qvhighlights", 1550),
        ("qvhighlights/highlight_test_with_gt.jsonl", 2.0, "qvhighlights", 1542),
        ("charades_sta/charades_sta_train_tvr_format.jsonl", 1.0, "windows", 12404),
        ("charades_sta/charades_sta_test_tvr_format.jsonl", 1.0, "windows", 3720),
        ("tacos/train.jsonl", 2.0, "windows", 9790),
        ("tacos/val.jsonl", 2.0, "windows", 4436),
        ("tacos/test.jsonl", 2.0, "windows", 4001),
        ("tvsum/tvsum_train.jsonl", 2.0, "ratings", 40),
        ("tvsum/tvsum_val.jsonl", 2.0, "ratings", 10),
        ("youtube_highlights/youtube_train.jsonl", 1.0, "binary", 233),
        ("youtube_highlights/youtube_valid.jsonl", 1.0, "binary", 152),
        ("charades_sta/charades_sta_train_tvr_format.jsonl", 0.166666, "windows", 12404),
    ],
)
def test_the_real_files_load(path, clip_length, labels, rows):
    path = Path(os.environ["FLASHVTG_ANNOTATIONS"]) / path
    assert len(load_annotations(path, clip_length=clip_length, labels=labels)) == rows


@pytest.mark.parametrize(
    ("windows", "ids", "clip_length", "cause"),
    [
        # Clips of 2 s with features of 1 s: 60 to 80 s would be rated at 30 to 40 s.
        ([[60, 80]], range(30, 40), 1.0, "like clips of 2 s, not of 1 s: set clip_length=2 if"),
        ([[60, 80]], range(60, 80), 2.0, "like clips of 1 s, not of 2 s"),
        ([[60, 70]], [3, 4], 2.0, "correct the ids"),
    ],
)
def test_ids_that_contradict_the_windows_are_told_with_the_likely_cause(
    write, windows, ids, clip_length, cause
):
    ratings = {"relevant_clip_ids": list(ids), "saliency_scores": [[1]] * len(ids)}
    path = write(row(duration=90, relevant_windows=windows, **ratings))
    (line,) = problems(path, clip_length=clip_length)
    assert line.startswith(f"{path}:1: relevant_clip_ids ")
    assert cause in line


def test_ids_may_count_other_clips_than_the_features(write):
    ratings = {"relevant_clip_ids": list(range(30, 40)), "saliency_scores": [[1]] * 10}
    path = write(row(duration=90, relevant_windows=[[60, 80]], **ratings))
    assert load_annotations(path, clip_length=1.0, label_clip_length=2.0)


@pytest.mark.parametrize(
    ("windows", "ids"),
    [
        ([[4, 20]], [3, 8]),  # some clips of the moment were rated
        ([[4.1, 7.9]], [2, 3]),
        ([[5, 5.5]], [2]),
        ([[4, 8]], [2, 3, 4]),  # the last one begins where the moment ends
        ([[4, 8], [14, 20]], [2, 3]),
        ([[0, 20]], range(5)),  # which would be all of its clips of 4 s
        ([[4, 8]], [2, 3, 7]),  # a clip outside is rated besides
    ],
)
def test_ids_that_agree_with_the_windows_more_or_less_are_accepted(write, windows, ids):
    assert load_annotations(
        write(
            row(
                relevant_windows=windows,
                relevant_clip_ids=list(ids),
                saliency_scores=[[1]] * len(ids),
            )
        )
    )


def test_ids_of_other_clips_within_their_windows_show_in_the_whole_file(write):
    # Moments at the beginning: half of each would not be relevant.
    lines = [
        row(
            qid=i,
            duration=90,
            relevant_windows=[[0, 12 + i]],
            relevant_clip_ids=list(range((12 + i) // 2)),
            saliency_scores=[[1]] * ((12 + i) // 2),
        )
        for i in range(0, 8, 2)
    ]
    path = write(*lines)
    (problem,) = problems(path, clip_length=1.0)
    assert problem.startswith(f"{path}: in 4 of 4 lines relevant_clip_ids are less than half")
    assert "look like clips of 2 s, not of 1 s: set clip_length=2 if" in problem
    assert load_annotations(path, clip_length=2.0)
    # Of a few lines it may be chance, or some clips only that were rated.
    assert load_annotations(write(*lines[:2]), clip_length=1.0)

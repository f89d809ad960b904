"""Predictions and annotations to the official numbers, and what is wrong with bad ones."""

import copy
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest

import flashvtg_jax.metrics as metrics
from flashvtg_jax.clips import num_video_clips
from flashvtg_jax.data.annotations import load_annotations
from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from flashvtg_jax.metrics import brief, evaluate_predictions, nested, score_files

# Made-up rows, and what the evaluator of the QVHighlights authors gives for them. They hold lists
# of 1, 4, 10 and 14 moments, some not sorted, moments of length zero, equal scores, up to six
# windows a query, videos of three lengths, a query without highlights, and score lists that are
# shorter and longer than the video.
OFFICIAL_CASE = Path(__file__).parent / "official_case"


OFFICIAL = pytest.mark.filterwarnings("ignore:.*as the official evaluator does")


def predictions_of(*qids):
    return [
        {
            "qid": qid,
            "pred_relevant_windows": [[0, 8, 0.9]],
            "pred_saliency_scores": [1, 0, 0, 0, 0],
        }
        for qid in qids
    ]


def annotations_of(*qids):
    return [
        {
            "qid": qid,
            "duration": 10,
            "relevant_windows": [[0, 10]],
            "relevant_clip_ids": [0, 1],
            "saliency_scores": [[4, 3, 2], [1, 1, 1]],
        }
        for qid in qids
    ]


def without(rows, *fields):
    return [{key: value for key, value in row.items() if key not in fields} for row in rows]


def changed(rows, index, **fields):
    rows = copy.deepcopy(rows)
    rows[index].update(fields)
    return rows


def assert_holds(numbers, expected):
    """Every number of the nested dict `expected` is in `numbers`."""
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_holds(numbers[key], value)
        else:
            assert numbers[key] == value, key


@OFFICIAL
def test_numbers_and_layout_are_those_of_the_official_evaluator():
    expected = json.loads((OFFICIAL_CASE / "numbers.json").read_text())
    numbers = score_files(OFFICIAL_CASE / "predictions.jsonl", OFFICIAL_CASE / "annotations.jsonl")
    assert nested(numbers) == expected
    assert list(nested(numbers)) == list(expected)
    assert list(nested(numbers)["brief"]) == list(expected["brief"])
    assert brief(numbers) == expected["brief"]


def test_real_predictions_give_the_published_numbers():
    folder = os.environ.get("FLASHVTG_ANNOTATIONS")
    if not folder:
        pytest.skip("FLASHVTG_ANNOTATIONS does not name a folder of annotation files")
    folder = Path(folder)
    sample = folder / "sample_predictions"
    start = time.perf_counter()
    numbers = score_files(
        sample / "sample_val_preds.jsonl", folder / "qvhighlights" / "highlight_val_release.jsonl"
    )
    assert time.perf_counter() - start < 2.0
    published = json.loads((sample / "sample_val_preds_metrics_raw.json").read_text())
    assert_holds(nested(numbers), published)


def test_numbers_by_hand():
    numbers = evaluate_predictions(predictions_of(1), annotations_of(1))
    assert numbers["MR-full-mIoU"] == 80.0
    assert numbers["MR-full-R1@0.8"] == 100.0
    assert numbers["MR-full-R1@0.85"] == 0.0
    assert numbers["MR-full-mAP"] == 70.0  # a hit at 0.5 ... 0.8, seven of ten thresholds
    assert numbers["MR-short-mAP"] == 70.0
    assert numbers["MR-long-mAP"] == 0.0
    assert numbers["HL-min-Fair-mAP"] == 100.0
    assert numbers["HL-min-Good-mAP"] == 66.67
    assert numbers["HL-min-VeryGood-mAP"] == 33.33
    assert numbers["HL-min-VeryGood-Hit1"] == 100.0


def test_every_key_is_there_in_a_fixed_order():
    keys = list(evaluate_predictions(predictions_of(1), annotations_of(1)))
    assert len(keys) == 4 * (1 + 10 + 14 + 1) + 3 * 2
    assert keys[:3] == ["MR-full-mAP", "MR-full-mAP@0.5", "MR-full-mAP@0.55"]
    assert {"MR-short-mAP@0.95", "MR-middle-R1@0.3", "MR-long-R1@0.7", "MR-long-mIoU"} < set(keys)
    assert keys[-2:] == ["HL-min-VeryGood-mAP", "HL-min-VeryGood-Hit1"]


@OFFICIAL
def test_the_order_of_the_annotations_does_not_matter():
    predictions = read_json_lines(OFFICIAL_CASE / "predictions.jsonl")
    annotations = read_json_lines(OFFICIAL_CASE / "annotations.jsonl")
    before = copy.deepcopy((predictions, annotations))
    numbers = evaluate_predictions(predictions, annotations)
    assert evaluate_predictions(predictions, annotations[::-1]) == numbers
    assert (predictions, annotations) == before


def test_what_is_scored_follows_from_the_fields():
    both, windows_only = annotations_of(1), without(annotations_of(1), "saliency_scores")
    whole = evaluate_predictions(predictions_of(1), both)
    moments = {key: value for key, value in whole.items() if key.startswith("MR")}
    highlights = {key: value for key, value in whole.items() if key.startswith("HL")}
    assert evaluate_predictions(predictions_of(1), windows_only) == moments
    no_saliency = without(predictions_of(1), "pred_saliency_scores")
    assert evaluate_predictions(no_saliency, both) == moments
    no_windows = without(predictions_of(1), "pred_relevant_windows")
    assert evaluate_predictions(no_windows, both) == highlights
    no_truth = changed(both, 0, relevant_windows=None)
    assert evaluate_predictions(predictions_of(1), no_truth) == highlights
    assert set(nested(moments)) == {"brief", "full", "short", "middle", "long"}
    assert set(nested(highlights)) == {
        "brief",
        *(f"HL-min-{x}" for x in ("Fair", "Good", "VeryGood")),
    }
    with pytest.raises(DataError, match="nothing to compare"):
        evaluate_predictions(no_windows, windows_only)


def test_clips_may_have_another_length():
    annotations = changed(annotations_of(1), 0, relevant_clip_ids=[8, 9])
    with pytest.raises(DataError, match=r"holds 8; the video of 10 s has clips 0 to 4 of 2 s"):
        evaluate_predictions(predictions_of(1), annotations)
    predictions = changed(predictions_of(1), 0, pred_saliency_scores=[1.0] + 9 * [0.0])
    numbers = evaluate_predictions(predictions, annotations, clip_length=1.0)
    assert numbers["HL-min-VeryGood-Hit1"] == 0.0


def test_qids_may_be_integers_or_strings():
    assert evaluate_predictions(predictions_of(1, "a"), annotations_of("a", 1))


def test_every_disagreement_of_the_qids_is_listed():
    predictions = predictions_of(1, 2, 2, "x")
    annotations = annotations_of(*range(10, 17), 1, 2, 1)
    with pytest.raises(DataError) as error:
        evaluate_predictions(predictions, annotations)
    message = str(error.value)
    assert "(4 and 10 rows)" in message
    assert "7 annotated but not predicted: 10, 11, 12, 13, 14, ..." in message
    assert "1 predicted but not annotated: 'x'" in message
    assert "1 predicted more than once: 2" in message
    assert "1 annotated more than once: 1" in message


def test_an_integer_is_not_the_string_of_its_digits():
    with pytest.raises(DataError, match="an integer is not the string of its digits"):
        evaluate_predictions(predictions_of("1", "2"), annotations_of(1, 2))


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([[]], "'pred_relevant_windows' is empty"),
        (None, "has no 'pred_relevant_windows'"),
        ([[0, 8]], r"must hold rows \[start, end, score\]"),
        ([[0, 8, 0.5, 1]], r"must hold rows \[start, end, score\]"),
        ([[0, 8, 0.5], [0, 8]], r"must hold rows \[start, end, score\]"),
        ([0, 8, 0.5], r"must hold rows \[start, end, score\]"),
        ([[0, 8, "0.5"]], r"must hold rows \[start, end, score\]"),
        ([[0, 8, None]], r"must hold rows \[start, end, score\]"),
        ({"start": 0}, r"must hold rows \[start, end, score\]"),
        ([[0, math.nan, 0.5]], "holds NaN or infinity"),
        ([[0, 8, 0.5]] * 12 + [[0, 8, math.inf]], "holds NaN or infinity"),
    ],
)
def test_malformed_moments_are_an_error_that_names_the_query_and_line(tmp_path, windows, message):
    predictions = changed(predictions_of(1, "q 2"), 1, pred_relevant_windows=windows)
    with pytest.raises(DataError, match=f"prediction of qid 'q 2' .row 2.: .*{message}"):
        evaluate_predictions(predictions, annotations_of("q 2", 1))
    lines = "".join(json.dumps(row) + "\n" for row in predictions)
    (tmp_path / "predictions.jsonl").write_text(lines)
    write_json_lines(tmp_path / "annotations.jsonl", annotations_of("q 2", 1))
    with pytest.raises(
        DataError, match=rf"predictions\.jsonl:2: prediction of qid 'q 2': .*{message}"
    ):
        score_files(tmp_path / "predictions.jsonl", tmp_path / "annotations.jsonl")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "'pred_saliency_scores' is empty"),
        (0.5, "must hold numbers"),
        ([[0.5]], "must hold numbers"),
        ([0.5, math.nan], "holds NaN or infinity"),
    ],
)
def test_malformed_saliency_is_an_error_that_names_the_query(scores, message):
    predictions = changed(predictions_of(1, 2), 1, pred_saliency_scores=scores)
    with pytest.raises(DataError, match=f"prediction of qid 2 .row 2.: .*{message}"):
        evaluate_predictions(predictions, annotations_of(1, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"relevant_windows": [[]]}, "'relevant_windows' is empty"),
        ({"relevant_windows": [[8, 2]]}, r"window \[8, 2\] does not end after it starts"),
        ({"relevant_windows": [[2, 8], [5, 5]]}, r"window \[5, 5\] does not end after it starts"),
        ({"relevant_windows": [[0, 8, 1]]}, r"must hold rows \[start, end\]"),
        ({"relevant_windows": None}, "has no 'relevant_windows', unlike other rows"),
        ({"saliency_scores": [[4, 3, 2]]}, "1 'saliency_scores' for 2 'relevant_clip_ids'"),
        ({"saliency_scores": [[4, 3], [1, 1]]}, "2 ratings a clip in .* 3 in other rows"),
        ({"saliency_scores": [[4, 3, 2], [1]]}, "must hold lists of ratings"),
        ({"relevant_clip_ids": [0, 6]}, "holds 6; the video of 10 s has clips 0 to 4 of 2 s"),
        ({"relevant_clip_ids": []}, "2 'saliency_scores' for 0 'relevant_clip_ids'"),
        ({"saliency_scores": []}, "0 'saliency_scores' for 2 'relevant_clip_ids'"),
        ({"saliency_scores": [[], []]}, "'saliency_scores' is empty"),
        ({"relevant_clip_ids": [-1, 0]}, "holds -1"),
        ({"relevant_clip_ids": [0, 0.5]}, "holds 0.5"),
        ({"relevant_clip_ids": None}, "'relevant_clip_ids' must hold clip numbers"),
        ({"duration": None}, "'duration' is None"),
        ({"duration": 0}, "'duration' is 0; expected seconds above 0"),
        ({"duration": math.inf}, "'duration' is inf"),
    ],
)
def test_malformed_annotations_are_an_error_that_names_the_query(fields, message):
    annotations = changed(annotations_of(1, 2), 1, **fields)
    with pytest.raises(DataError, match=f"annotation of qid 2 .row 2.: .*{message}"):
        evaluate_predictions(predictions_of(2, 1), annotations)


def test_clips_beyond_the_last_count_as_the_last():
    # 9.3 seconds are four whole clips; a file may speak of the fifth, or of one after it.
    at_the_end = changed(
        annotations_of(1),
        0,
        duration=9.3,
        relevant_clip_ids=[0, 3],
        saliency_scores=[[1, 1, 1], [4, 3, 2]],
    )
    expected = evaluate_predictions(predictions_of(1), at_the_end)
    assert expected["HL-min-Fair-mAP"] == 25.0  # found with all four clips
    for clip in (4, 5):
        beyond = changed(at_the_end, 0, relevant_clip_ids=[0, clip])
        assert evaluate_predictions(predictions_of(1), beyond) == expected
    with pytest.raises(DataError, match="holds 6"):
        beyond = changed(at_the_end, 0, relevant_clip_ids=[0, 6])
        evaluate_predictions(predictions_of(1), beyond)


def test_several_ratings_of_the_last_clip_count_as_the_highest():
    fields = {"relevant_clip_ids": [4, 5], "duration": 10}
    low_last = changed(annotations_of(1), 0, **fields)
    high_last = changed(low_last, 0, saliency_scores=[[1, 1, 1], [4, 3, 2]])
    predictions = changed(predictions_of(1), 0, pred_saliency_scores=[0, 0, 0, 0, 1])
    for annotations in (low_last, high_last):
        numbers = evaluate_predictions(predictions, annotations)
        assert numbers["HL-min-VeryGood-Hit1"] == 100.0
        assert numbers["HL-min-Good-mAP"] == 66.67


def test_a_query_without_relevant_clips_is_one_without_highlights():
    empty = {"relevant_clip_ids": [], "saliency_scores": []}
    rated_zero = {"relevant_clip_ids": [2], "saliency_scores": [[0, 0, 0]]}
    for index in (0, 1):
        numbers, expected = (
            evaluate_predictions(predictions_of(1, 2), changed(annotations_of(1, 2), index, **row))
            for row in (empty, rated_zero)
        )
        assert numbers == expected
        assert numbers["HL-min-Fair-Hit1"] == 50.0
    nothing = evaluate_predictions(predictions_of(1), changed(annotations_of(1), 0, **empty))
    assert nothing["HL-min-Fair-mAP"] == nothing["HL-min-Fair-Hit1"] == 0.0


def test_a_query_without_windows_counts_in_no_number_of_moments():
    one = evaluate_predictions(predictions_of(1), annotations_of(1))
    both = changed(annotations_of(1, 2), 1, relevant_windows=[])
    numbers = evaluate_predictions(predictions_of(1, 2), both)
    assert {key: value for key, value in numbers.items() if key.startswith("MR")} == {
        key: value for key, value in one.items() if key.startswith("MR")
    }
    none = evaluate_predictions(
        predictions_of(1), changed(annotations_of(1), 0, relevant_windows=[])
    )
    assert not any(value for key, value in none.items() if key.startswith("MR"))


def odd_annotations(rng, count):
    """Lines at the edges of what annotation files hold, and a little beyond them."""
    for qid in range(count):
        duration = float(rng.choice([0.3, 1.9, 2, 2.1, 9.3, 10, 149.3, 150]))
        latest = duration + 2 * rng.random()
        clips = np.arange(int(np.ceil(duration / 2)) + 2)
        ids = rng.choice(clips, rng.integers(0, min(4, len(clips)) + 1), replace=False)
        windows = np.sort(rng.uniform(0, latest, (rng.integers(0, 3), 2)), axis=1)
        yield {
            "qid": qid,
            "query": "A query",
            "vid": f"v{qid}",
            "duration": duration,
            "relevant_windows": windows.tolist(),
            "relevant_clip_ids": ids.tolist(),
            "saliency_scores": rng.integers(0, 5, (len(ids), rng.choice([2, 3]))).tolist(),
        }


def test_whatever_the_loader_accepts_is_scored(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "annotations.jsonl"
    accepted, scored = [], []
    for row in odd_annotations(rng, 400):
        write_json_lines(path, [*accepted, row])
        try:
            accepted = load_annotations(path, labels="qvhighlights")
        except DataError:
            continue
        clips = num_video_clips(row["duration"], 2.0)
        predictions = predictions_of(row["qid"])
        predictions[0]["pred_saliency_scores"] = rng.random(clips + rng.integers(0, 2)).tolist()
        evaluate_predictions(predictions, [row])
        scored += predictions
    assert 100 < len(accepted) < 300
    for kind in ("relevant_windows", "relevant_clip_ids"):
        assert any(not row[kind] for row in accepted)
    assert any(max(row["relevant_clip_ids"], default=0) > row["duration"] / 2 for row in accepted)
    numbers = evaluate_predictions(scored, accepted)
    assert all(math.isfinite(value) for value in numbers.values())


@pytest.mark.parametrize("qid", [None, 1.5, True, [1]])
def test_a_qid_is_an_integer_or_a_string(qid):
    with pytest.raises(DataError, match=r"row 1.*expected a 'qid', an integer or a string"):
        evaluate_predictions(predictions_of(qid), annotations_of(1))


def test_no_rows_and_rows_that_are_no_dicts_are_errors():
    with pytest.raises(DataError, match="no predictions"):
        evaluate_predictions([], annotations_of(1))
    with pytest.raises(DataError, match="no annotations"):
        evaluate_predictions(predictions_of(1), [])
    with pytest.raises(DataError, match="expected a dict, got str"):
        evaluate_predictions(["qid"], annotations_of(1))
    with pytest.raises(DataError, match="without qid"):
        evaluate_predictions(without(predictions_of(1), "qid"), annotations_of(1))


@pytest.mark.parametrize("clip_length", [0, -2.0, math.nan])
def test_a_clip_has_a_length(clip_length):
    with pytest.raises(DataError, match="clip_length"):
        evaluate_predictions(predictions_of(1), annotations_of(1), clip_length)


def test_files_that_hold_different_queries_are_both_named(tmp_path):
    write_json_lines(tmp_path / "mine.jsonl", predictions_of(1))
    write_json_lines(tmp_path / "truth.jsonl", annotations_of(1, 2))
    with pytest.raises(DataError, match=r"mine\.jsonl against .*truth\.jsonl: .* not predicted: 2"):
        score_files(tmp_path / "mine.jsonl", tmp_path / "truth.jsonl")


def test_public_names_are_there():
    assert all(hasattr(metrics, name) for name in metrics.__all__)

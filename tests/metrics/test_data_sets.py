"""Scores of the other four data sets, from rows as their annotation files hold them."""

import copy
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from flashvtg_jax.metrics import evaluate_predictions, score_files

needs_real_files = pytest.mark.skipif(
    "FLASHVTG_ANNOTATIONS" not in os.environ, reason="needs the real annotation files"
)


def real_rows(path):
    return read_json_lines(Path(os.environ["FLASHVTG_ANNOTATIONS"]) / path)


def window_row(qid, *windows):
    """A line as Charades-STA and TACoS have it."""
    return {
        "qid": qid,
        "query": "The person gets out a knife.",
        "duration": 1402.5,
        "vid": "s34-d28",
        "relevant_windows": [list(window) for window in windows],
    }


def rated_row(qid, label, domain="BK"):
    """A line as TVSum and YouTube Highlights have it."""
    return {
        "qid": qid,
        "query": "How to fold a paper bird",
        "duration": float(len(label)),
        "vid": qid,
        "relevant_clip_ids": None,
        "relevant_windows": None,
        "label": label,
        "domain": domain,
    }


def predicted(qid, windows=None, saliency=None):
    fields = {"pred_relevant_windows": windows, "pred_saliency_scores": saliency}
    return {"qid": qid} | {key: value for key, value in fields.items() if value is not None}


def changed(rows, index, **fields):
    rows = copy.deepcopy(rows)
    rows[index].update(fields)
    return rows


def perfect_moments(rows):
    return [
        predicted(row["qid"], [[*window, 1.0] for window in row["relevant_windows"]])
        for row in rows
    ]


def highlight_numbers(numbers):
    return {key: value for key, value in numbers.items() if key.startswith("HD")}


def test_charades_sta_and_tacos_by_hand():
    annotations = [
        window_row("s34-d28_0", (24.3, 30.4)),
        window_row("s34-d28_1", (0, 10)),
        window_row("s34-d28_2", (1000, 1300)),
        window_row("s34-d28_3", (0, 20)),
    ]
    predictions = [
        predicted("s34-d28_0", [[24.3, 30.4, 0.9], [0, 2, 0.8]], [0.5]),
        predicted("s34-d28_1", [[5, 15, 0.9]], [0.5]),  # 5 of 15 s
        predicted("s34-d28_2", [[1000, 1180, 0.9]], [0.5]),  # 180 of 300 s
        predicted("s34-d28_3", [[30, 40, 0.9], [0, 20, 0.1]], [0.5]),  # right, but second
    ]
    numbers = evaluate_predictions(predictions, annotations)
    assert numbers["MR-full-R1@0.3"] == 75.0
    assert numbers["MR-full-R1@0.5"] == 50.0
    assert numbers["MR-full-R1@0.7"] == 25.0
    assert numbers["MR-full-mIoU"] == 48.33  # (1 + 1/3 + 3/5 + 0) / 4
    assert numbers["MR-full-mAP@0.5"] == 62.5  # (1 + 0 + 1 + 1/2) / 4
    assert numbers["MR-short-R1@0.5"] == 50.0  # the first two: 6.1 and 10 s
    assert numbers["MR-middle-R1@0.3"] == 0.0  # the last: 20 s
    assert all(name.startswith("MR-") for name in numbers)


def test_windows_beyond_150_seconds_are_of_the_full_range_only():
    # 150 s are long, 150.5 s and 1400 s are neither short nor middle nor long.
    annotations = [
        window_row(0, (0, 150)),
        window_row(1, (0, 150.5)),
        window_row(2, (2.5, 1402.5)),
    ]
    perfect = perfect_moments(annotations)
    numbers = evaluate_predictions(perfect, annotations)
    assert numbers["MR-full-mAP"] == numbers["MR-full-mIoU"] == numbers["MR-long-mAP"] == 100.0
    assert numbers["MR-short-mIoU"] == numbers["MR-middle-mIoU"] == 0.0
    wrong_on_the_longest = changed(perfect, 2, pred_relevant_windows=[[0, 2, 1.0]])
    numbers = evaluate_predictions(wrong_on_the_longest, annotations)
    assert numbers["MR-full-R1@0.7"] == 66.67
    assert numbers["MR-long-R1@0.7"] == 100.0


def test_tvsum_by_hand():
    # Above the median: clips 0, 3 and 5 for the first annotator, none for the second. Ranked
    # 5, 4, 3, 2, 1, hits 1 0 1 0 0: 1/2 x (1 + 1)/2 + 1/2 x (1/2 + 2/3)/2 = 19/24, and 0.
    label = [[5.0, 1.0], [1.0, 1.0], [1.0, 1.0], [5.0, 1.0], [1.0, 1.0], [5.0, 1.0]]
    prediction = predicted("sTEELN-vY30", saliency=[0, 1, 2, 3, 4, 5])
    numbers = evaluate_predictions([prediction], [rated_row("sTEELN-vY30", label)])
    assert numbers == {"HD-mAP": 39.58, "HD-mAP-BK": 39.58}


def test_youtube_highlights_by_hand():
    # 1/4 (the highlight comes second), 1 and 0 (no highlight) in one domain, 1/4 in the other.
    annotations = [
        rated_row("a", [[0], [1]], "surfing"),
        rated_row("b", [[1], [0]], "surfing"),
        rated_row("c", [[0], [0]], "surfing"),
        rated_row("d", [[0], [1]], "dog"),
    ]
    predictions = [predicted(qid, saliency=[0.9, -0.1]) for qid in "cadb"]
    numbers = evaluate_predictions(predictions, annotations)
    assert numbers == {"HD-mAP": 33.33, "HD-mAP-dog": 25.0, "HD-mAP-surfing": 41.67}
    assert evaluate_predictions(predictions[::-1], annotations[::-1]) == numbers
    undivided = [{**row, "domain": None} for row in annotations]
    assert evaluate_predictions(predictions, undivided) == {"HD-mAP": 37.5}
    for row in undivided:
        del row["domain"]
    assert evaluate_predictions(predictions, undivided) == {"HD-mAP": 37.5}


def test_predicted_moments_are_no_obstacle_where_there_are_no_windows():
    annotations = [rated_row("a", [[0], [1]]), rated_row("b", [[1], [0]])]
    scored = [predicted(qid, saliency=[0.9, 0.1]) for qid in "ab"]
    with_moments = [predicted(qid, [[0, 1, 0.5]], [0.9, 0.1]) for qid in "ab"]
    expected = {"HD-mAP": 62.5, "HD-mAP-BK": 62.5}
    assert evaluate_predictions(scored, annotations) == expected
    assert evaluate_predictions(with_moments, annotations) == expected


def test_rows_may_carry_moments_and_ratings():
    both = [{**rated_row("a", [[0], [1]]), "relevant_windows": [[1, 2]]}]
    numbers = evaluate_predictions([predicted("a", [[1, 2, 0.5]], [0.1, 0.9])], both)
    assert numbers["MR-full-mAP"] == numbers["HD-mAP"] == 100.0


def test_longer_score_lists_are_cut_and_shorter_ones_go_on_with_the_worst():
    annotations = [rated_row("a", [[0], [1], [0], [1]])]
    numbers = [
        evaluate_predictions([predicted("a", saliency=saliency)], annotations)["HD-mAP"]
        for saliency in ([0.1, 0.9, -5, 0.8], [0.1, 0.9, -5, 0.8, 9.0], [0.1, 0.9])
    ]
    # Ranked 1 3 0 2; the same; ranked 1 0 2 3: 1/2 + 1/2 x (1/3 + 2/4)/2.
    assert numbers == [100.0, 100.0, 70.83]


RATED = [rated_row("a", [[1.0, 2.0], [3.0, 1.0]]), rated_row("b", [[2.0, 2.0], [1.0, 5.0]])]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": []}, "'label' is empty; expected lists of ratings, one a clip"),
        ({"label": [[], []]}, "'label' is empty"),
        ({"label": [[1, 2], [1]]}, "'label' must hold lists of ratings, one a clip"),
        ({"label": [1, 2]}, "'label' must hold lists of ratings, one a clip"),
        ({"label": [["1", "2"]]}, "'label' must hold lists of ratings, one a clip"),
        ({"label": [[None, 2]]}, "'label' must hold lists of ratings, one a clip"),
        ({"label": [[True, False]]}, "'label' must hold lists of ratings, one a clip"),
        ({"label": "good"}, "'label' must hold lists of ratings, one a clip"),
        ({"label": {"BK": 1}}, "'label' must hold lists of ratings, one a clip"),
        ({"label": [[1, math.nan]]}, "'label' holds NaN or infinity"),
        ({"label": [[1, math.inf]]}, "'label' holds NaN or infinity"),
        ({"label": None}, "has no 'label', unlike other rows"),
        ({"label": [[1], [0]]}, "1 ratings a clip in 'label', 2 in the rows before; TVSum has"),
        ({"label": [[1, 2, 3]]}, "3 ratings a clip in 'label', 2 in the rows before"),
        ({"domain": 7}, "'domain' is 7; expected a name"),
        ({"domain": ["BK"]}, r"'domain' is \['BK'\]; expected a name"),
        ({"domain": ""}, "'domain' is ''; expected a name"),
        ({"domain": None}, "has no 'domain', unlike other rows"),
    ],
)
def test_malformed_ratings_are_an_error_that_names_the_query_and_line(tmp_path, fields, message):
    annotations = changed(RATED, 1, **fields)
    predictions = [predicted(qid, saliency=[0.1, 0.9]) for qid in "ba"]
    with pytest.raises(DataError, match=f"annotation of qid 'b' .row 2.: .*{message}"):
        evaluate_predictions(predictions, annotations)
    write_json_lines(tmp_path / "predictions.jsonl", predictions)
    lines = "".join(json.dumps(row) + "\n" for row in annotations)
    (tmp_path / "annotations.jsonl").write_text(lines)
    with pytest.raises(
        DataError, match=rf"annotations\.jsonl:2: annotation of qid 'b': .*{message}"
    ):
        score_files(tmp_path / "predictions.jsonl", tmp_path / "annotations.jsonl")


@pytest.mark.parametrize("rating", [2, -1, 0.5])
def test_one_rating_a_clip_is_0_or_1(rating):
    annotations = [rated_row("a", [[0], [1]]), rated_row("b", [[1], [rating]])]
    predictions = [predicted(qid, saliency=[0.1, 0.9]) for qid in "ab"]
    message = rf"annotation of qid 'b' .row 2.: 'label' holds {rating}; one rating a clip .* 0 or 1"
    with pytest.raises(DataError, match=message):
        evaluate_predictions(predictions, annotations)


def test_the_predictions_of_some_domains_are_scored_against_theirs():
    annotations = [rated_row("a", [[0], [1]], "dog"), rated_row("b", [[1], [0]], "surfing")]
    mine = [predicted("b", saliency=[0.9, 0.1])]
    with pytest.raises(DataError, match=r"not predicted: 'a'; .* of domain surfing only: keep"):
        evaluate_predictions(mine, annotations)
    assert evaluate_predictions(mine, annotations[1:])["HD-mAP-surfing"] == 100.0
    with pytest.raises(DataError, match=r"not predicted: 'a'$"):  # of a domain that is predicted
        evaluate_predictions(mine, changed(annotations, 0, domain="surfing"))


@needs_real_files
@pytest.mark.parametrize(
    ("path", "queries", "beyond_150"),
    [
        ("charades_sta/charades_sta_test_tvr_format.jsonl", 3720, 0),
        ("tacos/val.jsonl", 4436, 159),
        ("tacos/test.jsonl", 4001, 143),
    ],
)
def test_perfect_moments_of_the_real_files_score_100(path, queries, beyond_150):
    rows = real_rows(path)
    lengths = [end - start for row in rows for start, end in row["relevant_windows"]]
    assert len(rows) == queries
    assert sum(length > 150 for length in lengths) == beyond_150
    numbers = evaluate_predictions(perfect_moments(rows), rows)
    assert {value for key, value in numbers.items() if key.startswith("MR-full")} == {100.0}
    # Those beyond 150 s predicted wrongly: it shows in the full range and there only.
    wrong = [
        predicted(row["qid"], [[0, 0.01, 1.0]]) if length > 150 else prediction
        for row, prediction, length in zip(rows, perfect_moments(rows), lengths, strict=True)
    ]
    numbers = evaluate_predictions(wrong, rows)
    assert numbers["MR-full-R1@0.7"] == round(100 - 100 * beyond_150 / queries, 2)
    for name in ("short", "middle", "long"):
        has_some = name != "long" or beyond_150 > 0
        assert numbers[f"MR-{name}-R1@0.7"] == (100.0 if has_some else 0.0)


@needs_real_files
@pytest.mark.parametrize(
    ("path", "domains"),
    [
        ("tvsum/tvsum_val.jsonl", "BK BT DS FM GA MS PK PR VT VU"),
        (
            "youtube_highlights/youtube_valid.jsonl",
            "dog gymnastics parkour skating skiing surfing",
        ),
    ],
)
def test_the_ratings_of_the_real_files_score_high(path, domains):
    rows = real_rows(path)
    ratings = [np.mean(row["label"], axis=1) for row in rows]

    def numbers_of(saliency):
        predictions = [
            predicted(row["qid"], [[0, 1, 0.5]], scores.tolist())
            for row, scores in zip(rows, saliency, strict=True)
        ]
        return evaluate_predictions(predictions, rows)

    best = numbers_of(ratings)
    assert list(best) == ["HD-mAP", *(f"HD-mAP-{domain}" for domain in domains.split())]
    if path.startswith("youtube"):
        assert set(best.values()) == {100.0}
    else:  # the annotators do not agree with each other
        assert 80.0 < best["HD-mAP"] < 95.0
    rng = np.random.default_rng(0)
    chance = numbers_of([rng.random(len(scores)) for scores in ratings])
    worst = numbers_of([-scores for scores in ratings])
    assert worst["HD-mAP"] + 10.0 < chance["HD-mAP"] < best["HD-mAP"] - 10.0

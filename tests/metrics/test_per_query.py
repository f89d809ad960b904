"""What each query has in the numbers, against the numbers, scipy and values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import read_json_lines
from flashvtg_jax.metrics import (
    evaluate_predictions,
    metric_groups,
    per_query_metrics,
    score_iou_correlation,
)
from flashvtg_jax.metrics.moment_retrieval import temporal_iou

OFFICIAL_CASE = Path(__file__).parent / "official_case"
HALF_A_LAST_DIGIT = 0.005 + 1e-9

# One query of the case has fewer scores than its video has clips.
OFFICIAL = pytest.mark.filterwarnings("ignore:.*as the official evaluator does")


def official_case():
    return [read_json_lines(OFFICIAL_CASE / f"{x}.jsonl") for x in ("predictions", "annotations")]


def moments(qid, *windows):
    return {"qid": qid, "pred_relevant_windows": [list(window) for window in windows]}


def truth(qid, *windows):
    return {"qid": qid, "relevant_windows": [list(window) for window in windows]}


def rated(qid, label, domain=None):
    return {"qid": qid, "label": label} | ({} if domain is None else {"domain": domain})


YOUTUBE = [
    rated("a", [[0], [1]], "surfing"),
    rated("b", [[1], [0]], "surfing"),
    rated("c", [[0], [0]], "surfing"),
    rated("d", [[0], [1]], "dog"),
]
# Average precisions 1/4 (the highlight comes second), 1, 0 (no highlight) and 1/4.
YOUTUBE_PREDICTIONS = [{"qid": qid, "pred_saliency_scores": [0.9, -0.1]} for qid in "cadb"]


@OFFICIAL
def test_means_over_queries_are_the_numbers():
    predictions, annotations = official_case()
    numbers = evaluate_predictions(predictions, annotations)
    of_queries = per_query_metrics(predictions, annotations)
    assert list(of_queries) == list(numbers)
    for name, values in of_queries.items():
        assert values.dtype == np.float64
        assert values.shape == (len(annotations),)
        assert np.nanmean(values) == pytest.approx(numbers[name], abs=HALF_A_LAST_DIGIT), name


@OFFICIAL
def test_a_query_has_what_it_has_alone(monkeypatch):
    # Alone, a query whose scores are too few is an error.
    monkeypatch.setattr("flashvtg_jax.metrics.evaluate._raise_or_warn", lambda *_: None)
    predictions, annotations = official_case()
    prediction_of = {row["qid"]: row for row in predictions}
    of_queries = per_query_metrics(predictions, annotations)
    for index, row in enumerate(annotations):
        prediction = prediction_of[row["qid"]]
        alone = evaluate_predictions([prediction], [row])
        for name, number in alone.items():
            value = of_queries[name][index]
            assert np.nan_to_num(value) == pytest.approx(number, abs=HALF_A_LAST_DIGIT), name


@OFFICIAL
def test_values_stand_in_the_order_of_the_annotations():
    predictions, annotations = official_case()
    whole = per_query_metrics(predictions, annotations)
    shuffled = per_query_metrics(predictions[::-1], annotations[3:] + annotations[:3])
    for name, values in whole.items():
        np.testing.assert_array_equal(shuffled[name], np.roll(values, -3), err_msg=name)


def test_queries_that_do_not_count_are_nan():
    annotations = [truth("none"), truth("short", [0, 10]), truth("both", [0, 10], [20, 50])]
    predictions = [moments(row["qid"], [0, 8, 0.5]) for row in annotations]
    of_queries = per_query_metrics(predictions, annotations)
    np.testing.assert_allclose(of_queries["MR-full-mIoU"], [np.nan, 80.0, 80.0])
    np.testing.assert_allclose(of_queries["MR-short-mAP"], [np.nan, 70.0, 70.0])  # 0.5 ... 0.8
    np.testing.assert_allclose(of_queries["MR-full-mAP@0.8"], [np.nan, 100.0, 50.0])
    np.testing.assert_allclose(of_queries["MR-middle-R1@0.3"], [np.nan, np.nan, 0.0])
    assert np.isnan(of_queries["MR-long-mAP"]).all()


@OFFICIAL
def test_numbers_can_be_chosen():
    predictions, annotations = official_case()
    whole = per_query_metrics(predictions, annotations)
    chosen = per_query_metrics(predictions, annotations, metrics=["HL-min-Good-mAP", "MR-full-mAP"])
    assert list(chosen) == ["HL-min-Good-mAP", "MR-full-mAP"]
    np.testing.assert_array_equal(chosen["MR-full-mAP"], whole["MR-full-mAP"])
    with pytest.raises(DataError, match=r"HD-mAP: no such metric .*there are MR-full-mAP, "):
        per_query_metrics(predictions, annotations, metrics=["MR-full-mAP", "HD-mAP"])


def test_videos_of_domains_by_hand():
    of_videos = per_query_metrics(YOUTUBE_PREDICTIONS, YOUTUBE)
    assert list(of_videos) == ["HD-mAP", "HD-mAP-dog", "HD-mAP-surfing"]
    np.testing.assert_allclose(of_videos["HD-mAP"], [25, 100, 0, 25])
    np.testing.assert_allclose(of_videos["HD-mAP-dog"], [np.nan, np.nan, np.nan, 25])
    np.testing.assert_allclose(of_videos["HD-mAP-surfing"], [25, 100, 0, np.nan])


def test_the_mean_over_groups_of_their_means_is_the_number_of_domains():
    numbers = evaluate_predictions(YOUTUBE_PREDICTIONS, YOUTUBE)
    of_videos = per_query_metrics(YOUTUBE_PREDICTIONS, YOUTUBE)["HD-mAP"]
    groups = metric_groups("HD-mAP", YOUTUBE)
    means = [of_videos[groups == name].mean() for name in ("dog", "surfing")]
    assert np.mean(means) == pytest.approx(numbers["HD-mAP"], abs=HALF_A_LAST_DIGIT)


def test_only_the_mean_over_domains_has_groups():
    assert metric_groups("HD-mAP-dog", YOUTUBE) is None
    assert metric_groups("MR-full-mAP", YOUTUBE) is None
    assert metric_groups("HD-mAP", [rated("a", [[1]])]) is None


def test_wrong_rows_are_the_errors_of_the_numbers():
    with pytest.raises(DataError, match="annotated but not predicted"):
        per_query_metrics([moments(1, [0, 1, 0.5])], [truth(1, [0, 1]), truth(2, [0, 1])])


def test_rank_correlation_by_hand():
    # IoUs with [0, 10]: 1, 0.5, 0.2 and 0, against scores in this, the opposite and another order.
    windows = [[0, 10], [0, 5], [0, 2], [20, 30]]
    orders = [[4, 3, 2, 1], [1, 2, 3, 4], [4, 2, 3, 1]]
    predictions = [
        moments(qid, *([*window, score] for window, score in zip(windows, scores, strict=True)))
        for qid, scores in enumerate(orders)
    ]
    correlations = score_iou_correlation(predictions, [truth(qid, [0, 10]) for qid in range(3)])
    # 1 - 6 x (1 + 1) / (4 x 15)
    np.testing.assert_allclose(correlations, [1.0, -1.0, 0.8], atol=1e-15)


def test_rank_correlation_equals_scipys_with_ties_and_many_candidates():
    rng = np.random.default_rng(0)
    predictions, annotations, expected = [], [], []
    for qid in range(20):
        start = rng.integers(0, 60, 40)
        candidates = np.stack([start, start + rng.integers(1, 9, 40), rng.integers(0, 12, 40)], 1)
        windows = np.array([[8.0, 16.0], [30.0, 44.0]])[: 1 + qid % 2]
        predictions.append(moments(qid, *candidates.tolist()))
        annotations.append(truth(qid, *windows.tolist()))
        iou = temporal_iou(candidates[:, :2].astype(float), windows).max(axis=1)
        expected.append(spearmanr(candidates[:, 2], iou).statistic)
    correlations = score_iou_correlation(predictions[::-1], annotations)
    np.testing.assert_allclose(correlations, expected, atol=1e-12)


def test_rank_correlation_is_nan_where_nothing_can_be_ranked():
    annotations = [truth(0, [0, 10]), truth(1, [0, 10]), truth(2), truth(3, [0, 10])]
    predictions = [
        moments(0, [0, 10, 0.5], [0, 5, 0.5]),  # equal scores
        moments(1, [20, 30, 0.5], [40, 50, 0.4]),  # equal IoUs
        moments(2, [0, 10, 0.5], [0, 5, 0.4]),  # no ground truth
        moments(3, [0, 10, 0.5]),  # one candidate
    ]
    assert np.isnan(score_iou_correlation(predictions, annotations)).all()


def test_rank_correlation_needs_windows():
    with pytest.raises(DataError, match=r"prediction of qid 'c' .*has no 'pred_relevant_windows'"):
        score_iou_correlation(YOUTUBE_PREDICTIONS, YOUTUBE)
    with pytest.raises(DataError, match=r"annotation of qid 'a' .*has no 'relevant_windows'"):
        score_iou_correlation([moments("a", [0, 1, 0.5])], YOUTUBE[:1])

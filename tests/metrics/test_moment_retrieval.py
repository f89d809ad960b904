"""Moment retrieval against values worked out by hand and against a plain-Python version."""

import numpy as np
import pytest

from flashvtg_jax.metrics.moment_retrieval import (
    AP_THRESHOLDS,
    LENGTH_RANGES,
    RECALL_THRESHOLDS,
    moment_retrieval_metrics,
    temporal_iou,
)

RANGE_KEYS = 1 + len(AP_THRESHOLDS) + len(RECALL_THRESHOLDS) + 1


def numbers_of(*queries):
    """Numbers of queries given as (predicted [start, end, score], ground truth [start, end])."""
    predicted = np.zeros((len(queries), max(len(p) for p, _ in queries), 3))
    predicted[..., 2] = -np.inf
    windows = np.zeros((len(queries), max(len(w) for _, w in queries), 2))
    mask = np.zeros(windows.shape[:2], bool)
    for row, (moments, truth) in enumerate(queries):
        predicted[row, : len(moments)] = moments
        windows[row, : len(truth)] = truth
        mask[row, : len(truth)] = True
    return moment_retrieval_metrics(predicted, windows, mask)


# Plain Python, written from the definition: one query, one threshold, one window at a time.
def naive_iou(a, b, hull=False):
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    outside = max(a[1], b[1]) - min(a[0], b[0])
    union = outside if hull else (a[1] - a[0]) + (b[1] - b[0]) - inside
    return inside / union if union else 0.0


def naive_average_precision(moments, truth, threshold):
    free, hits = list(range(len(truth))), []
    for moment in sorted(moments[:10], key=lambda m: m[2], reverse=True):
        reached = [i for i in free if naive_iou(moment, truth[i]) >= threshold]
        if reached:
            free.remove(max(reached, key=lambda i: (naive_iou(moment, truth[i]), i)))
        hits.append(bool(reached))
    # Area under the interpolated curve: each window retrieved adds 1 / count at the best
    # precision that any longer list still has.
    precision = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precision[k:]) for k, hit in enumerate(hits) if hit) / len(truth)


def naive_numbers(queries):
    numbers = {}
    for name, (low, high) in LENGTH_RANGES.items():
        kept = [(p, [w for w in truth if low < w[1] - w[0] <= high]) for p, truth in queries]
        kept = [(p, truth) for p, truth in kept if truth]
        first = []
        for moments, truth in kept:
            best = max(truth, key=lambda w: naive_iou(moments[0], w))
            first.append(naive_iou(moments[0], best, hull=True))
        table = [
            np.mean([naive_average_precision(p, w, t) for p, w in kept] or [0])
            for t in AP_THRESHOLDS
        ]
        numbers[f"MR-{name}-mAP"] = 100 * np.mean(table)
        for threshold, value in zip(AP_THRESHOLDS, table, strict=True):
            numbers[f"MR-{name}-mAP@{threshold}"] = 100 * value
        for threshold in RECALL_THRESHOLDS:
            share = np.mean([iou >= threshold for iou in first] or [0])
            numbers[f"MR-{name}-R1@{threshold}"] = 100 * share
        numbers[f"MR-{name}-mIoU"] = 100 * np.mean(first or [0])
    return numbers


def test_iou_by_hand():
    first = np.array([[0.0, 1.0], [3.0, 3.0]])
    second = np.array([[0.2, 1.1], [2.0, 4.0], [3.0, 3.0], [0.0, 1.0]])
    expected = [[0.8 / 1.1, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(temporal_iou(first, second), expected)


def test_hull_iou_divides_by_the_whole_span():
    first, second = np.array([[0.0, 4.0]]), np.array([[2.0, 10.0], [6.0, 10.0]])
    np.testing.assert_allclose(temporal_iou(first, second, hull=True), [[2 / 10, 0.0]])
    # A window of length zero overlaps nothing.
    assert temporal_iou(np.array([[5.0, 5.0]]), np.array([[0.0, 10.0]]), hull=True) == 0.0


def test_predictions_equal_to_the_ground_truth_score_100():
    numbers = numbers_of(
        ([[0, 8, 0.9], [20, 26, 0.8]], [[0, 8], [20, 26]]),
        ([[10, 30, 0.9]], [[10, 30]]),
        ([[0, 150, 0.9]], [[0, 150]]),
    )
    assert len(numbers) == 4 * RANGE_KEYS
    assert set(numbers.values()) == {100.0}


def test_average_precision_by_hand():
    # Hit, miss, hit of two windows: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    moments = [[0, 20, 0.9], [60, 80, 0.5], [40, 60, 0.3]]
    numbers = numbers_of((moments, [[0, 20], [40, 60]]))
    assert numbers["MR-full-mAP@0.5"] == 83.33  # (1 + 2/3) / 2
    assert numbers["MR-full-mAP"] == 83.33
    assert numbers["MR-full-R1@0.95"] == 100.0


def test_precision_is_the_best_of_longer_lists():
    # Miss, hit, hit: precision 0, 1/2, 2/3; the first step counts 2/3, not 1/2.
    moments = [[100, 120, 0.9], [0, 20, 0.5], [40, 60, 0.3]]
    assert numbers_of((moments, [[0, 20], [40, 60]]))["MR-full-mAP@0.5"] == 66.67


def test_a_window_is_retrieved_once():
    # [0, 20] and [1, 20] both fit the one window: the second is a false positive, and the other
    # window comes at rank 3.
    moments = [[0, 20, 0.9], [1, 20, 0.5], [40, 60, 0.3]]
    assert numbers_of((moments, [[0, 20], [40, 60]]))["MR-full-mAP@0.5"] == 83.33


def test_a_prediction_falls_back_on_the_next_window_that_reaches_the_threshold():
    # Overlapping windows: both predictions fit [0, 20] best (IoU 1 and 0.9); the second has
    # IoU 18/22 with [0, 22], so it is a hit up to 0.8 and a miss from 0.85.
    moments = [[0, 20, 0.9], [0, 18, 0.5]]
    numbers = numbers_of((moments, [[0, 20], [0, 22]]))
    assert numbers["MR-full-mAP@0.8"] == 100.0
    assert numbers["MR-full-mAP@0.85"] == 50.0


def test_of_two_windows_that_fit_equally_the_later_is_taken():
    # [0, 20] has IoU 1/2 with both halves. It takes the second, which leaves the first for
    # [0, 10]; taking the first would leave [0, 10] with nothing.
    moments = [[0, 20, 0.9], [0, 10, 0.5]]
    assert numbers_of((moments, [[0, 10], [10, 20]]))["MR-full-mAP@0.5"] == 100.0
    assert numbers_of((moments, [[10, 20], [0, 10]]))["MR-full-mAP@0.5"] == 50.0


def test_the_threshold_itself_is_reached():
    # IoU 0.5, 0.7 and 0.95 exactly.
    for end, threshold, above in [(10, "0.5", "0.55"), (14, "0.7", "0.75"), (19, "0.95", None)]:
        numbers = numbers_of(([[0, end, 1.0]], [[0, 20]]))
        for metric in ("mAP", "R1"):
            assert numbers[f"MR-full-{metric}@{threshold}"] == 100.0
            assert above is None or numbers[f"MR-full-{metric}@{above}"] == 0.0


def test_ten_predictions_count_and_are_sorted_by_score_afterwards():
    wrong = [[100, 110, 0.5]] * 9
    # The eleventh is out although its score is the highest.
    assert numbers_of(([*wrong, wrong[0], [0, 20, 0.9]], [[0, 20]]))["MR-full-mAP"] == 0.0
    # The tenth is in and, by its score, first for mAP; R1 takes the first of the list.
    numbers = numbers_of(([*wrong, [0, 20, 0.9]], [[0, 20]]))
    assert numbers["MR-full-mAP"] == 100.0
    assert numbers["MR-full-R1@0.3"] == 0.0
    # Equal scores keep their order: the tenth is the tenth.
    assert numbers_of(([*wrong, [0, 20, 0.5]], [[0, 20]]))["MR-full-mAP"] == 10.0


def test_first_prediction_is_scored_against_the_window_it_overlaps_best():
    assert numbers_of(([[0, 8, 1.0]], [[20, 40], [6, 10]]))["MR-full-mIoU"] == 20.0  # 2 / 10
    assert numbers_of(([[0, 5, 1.0]], [[20, 40], [6, 10]]))["MR-full-mIoU"] == 0.0
    numbers = numbers_of(([[30, 50, 1.0]], [[0, 20], [32, 60]]))
    assert numbers["MR-full-mIoU"] == 60.0  # 18 / 30
    assert numbers["MR-full-R1@0.6"] == 100.0
    assert numbers["MR-full-R1@0.65"] == 0.0


def test_lengths_have_their_lower_end_excluded_and_their_upper_end_included():
    by_length = {10: "short", 10.5: "middle", 30: "middle", 30.5: "long", 150: "long"}
    for length, expected in by_length.items():
        numbers = numbers_of(([[0, length, 1.0]], [[0, length]]))
        for name in LENGTH_RANGES:
            assert numbers[f"MR-{name}-mAP"] == (100.0 if name in ("full", expected) else 0.0)


def test_a_range_counts_its_windows_and_its_queries_only():
    numbers = numbers_of(
        ([[0, 8, 0.9], [50, 70, 0.8]], [[0, 8], [50, 70]]),
        ([[200, 210, 0.9]], [[0, 100]]),
    )
    assert numbers["MR-short-mAP"] == 100.0  # [50, 70] comes later and costs nothing
    assert numbers["MR-middle-mAP"] == 50.0  # the first prediction is wrong in this range
    assert numbers["MR-middle-R1@0.5"] == 0.0
    assert numbers["MR-long-mAP"] == 0.0
    assert numbers["MR-full-mAP"] == 50.0


def test_a_range_without_queries_is_zero():
    numbers = numbers_of(([[0, 8, 1.0]], [[0, 8]]))
    long = {key: value for key, value in numbers.items() if key.startswith("MR-long")}
    assert len(long) == RANGE_KEYS
    assert set(long.values()) == {0.0}


def test_windows_longer_than_150_seconds_count_in_full():
    numbers = numbers_of(([[0, 200, 1.0]], [[0, 200]]))
    assert numbers["MR-full-mAP"] == 100.0
    assert numbers["MR-long-mAP"] == 0.0


def test_predictions_of_length_zero_are_misses():
    numbers = numbers_of(([[5, 5, 0.9], [0, 10, 0.1]], [[0, 10]]))
    assert numbers["MR-full-mAP"] == 50.0
    assert numbers["MR-full-mIoU"] == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_numbers_equal_those_of_the_plain_version(seed):
    rng = np.random.default_rng(seed)
    queries = []
    for _ in range(25):
        starts = 2.0 * rng.integers(0, 60, rng.integers(1, 9))
        truth = [[s, s + 2.0 * rng.integers(1, rng.choice([5, 15, 60]))] for s in starts]
        moments = []
        for _ in range(rng.integers(1, 14)):
            start, end = np.array(truth[rng.integers(len(truth))]) + 2.0 * rng.integers(-3, 4, 2)
            moments.append([start, max(start, end), round(rng.random(), 1)])
        queries.append((moments, truth))
    expected = naive_numbers(queries)
    numbers = numbers_of(*queries)
    assert list(numbers) == list(expected)
    for key, value in expected.items():
        assert numbers[key] == pytest.approx(value, abs=0.00501), key

"""Highlight detection against values worked out by hand and against plain-Python versions."""

import numpy as np
import pytest

from flashvtg_jax.metrics.highlight_detection import (
    highlight_detection_numbers,
    interpolated_average_precision,
    tvsum_top5_average_precision,
    youtube_average_precision,
)


def average_precision_of(scores, labels):
    scores, labels = np.array(scores, float), np.array(labels, bool)
    order = np.argsort(-scores, kind="stable")
    return interpolated_average_precision(scores[None, order], labels[None, order])[0]


# Plain Python, written from the definitions.
def naive_average_precision(scores, labels):
    positives = sum(labels)
    points = []
    for threshold in set(scores):
        kept = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        points.append((sum(kept), sum(kept) / len(kept)))
    best = [
        max(precision for found, precision in points if found >= recall)
        for recall in {found for found, _ in points if found > 0}
    ]
    return sum(best) / len(best) if positives else 0.0


def naive_numbers(saliency, ratings):
    numbers = {}
    for level, lowest in (("Fair", 2), ("Good", 3), ("VeryGood", 4)):
        precisions, hits = [], []
        for scores, video in zip(saliency, ratings, strict=True):
            top = list(scores).index(max(scores))
            hits.append(top < len(video) and max(video[top]) >= lowest)
            fitted = (list(scores) + [0.0] * len(video))[: len(video)]
            for annotator in range(len(video[0])):
                labels = [int(clip[annotator] >= lowest) for clip in video]
                precisions.append(naive_average_precision(fitted, labels))
        numbers[f"HL-min-{level}-mAP"] = 100 * np.mean(precisions)
        numbers[f"HL-min-{level}-Hit1"] = 100 * np.mean(hits)
    return numbers


def naive_walk(ranked):
    if not any(ranked):
        return 0.0
    total, area, recall, precision = sum(ranked), 0.0, 0.0, 1.0
    for rank in range(1, len(ranked) + 1):
        found = sum(ranked[:rank])
        area += (found / total - recall) * (precision + found / rank) / 2
        recall, precision = found / total, found / rank
    return area


def naive_tvsum(saliency, ratings):
    top = sorted(range(len(ratings)), key=lambda clip: -saliency[clip])[:5]
    values = []
    for annotator in range(len(ratings[0])):
        column = [clip[annotator] for clip in ratings]
        middle = sorted(column)[(len(column) - 1) // 2]
        values.append(naive_walk([column[clip] > middle for clip in top]))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([4, 3, 2, 1], [0, 1, 1, 0], 2 / 3),  # 1/2 at the first hit, but 2/3 is still to come
        ([2, 2, 1, 1], [1, 0, 1, 0], 1 / 2),  # equal scores enter together: 1/2, then 2/4
        ([3, 2, 2, 1], [0, 1, 1, 0], 2 / 3),  # two positives in one step count as one recall
        ([3, 2, 1], [0, 0, 0], 0.0),
        ([1, 2, 3], [1, 1, 1], 1.0),
        ([0.5], [1], 1.0),
        ([0.5], [0], 0.0),
    ],
)
def test_average_precision_by_hand(scores, labels, expected):
    assert average_precision_of(scores, labels) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_average_precision_equals_the_plain_version(decimals):
    rng = np.random.default_rng(decimals)
    for _ in range(200):
        size = rng.integers(1, 40)
        scores = rng.normal(size=size).round(decimals)
        labels = rng.random(size) < rng.random()
        expected = naive_average_precision(scores.tolist(), labels.tolist())
        assert average_precision_of(scores, labels) == pytest.approx(expected, abs=1e-14)


def test_hit_counts_when_any_annotator_agrees():
    ratings = [np.array([[4, 2, 1], [0, 0, 0]]), np.array([[1, 1, 1], [0, 3, 0]])]
    saliency = [np.array([0.9, 0.1]), np.array([0.1, 0.2])]
    numbers = highlight_detection_numbers(saliency, ratings)
    assert numbers["HL-min-Fair-Hit1"] == 100.0
    assert numbers["HL-min-Good-Hit1"] == 100.0
    assert numbers["HL-min-VeryGood-Hit1"] == 50.0
    # Fair: annotators 1, 1, 0 (nothing rated 2 or more) and 0, 1, 0.
    assert numbers["HL-min-Fair-mAP"] == 50.0
    assert numbers["HL-min-VeryGood-mAP"] == 16.67


def test_longer_score_lists_are_cut_and_their_top_clip_is_no_hit():
    ratings = [np.array([[4], [0]])]
    numbers = highlight_detection_numbers([np.array([0.5, 0.1, 0.9])], ratings)
    assert numbers["HL-min-Fair-mAP"] == 100.0
    assert numbers["HL-min-Fair-Hit1"] == 0.0


def test_shorter_score_lists_are_filled_with_zeros():
    # Clip 1 gets score 0, above the -0.5 of clip 0: precision 1 where it would be 1/2.
    ratings = [np.array([[0], [4], [0]])]
    numbers = highlight_detection_numbers([np.array([-0.5, 0.0])], ratings)
    assert numbers["HL-min-Fair-mAP"] == 50.0  # clips 1 and 2 tie at 0
    # The top clip is sought among the scores given.
    numbers = highlight_detection_numbers([np.array([-0.5])], ratings)
    assert numbers["HL-min-Fair-Hit1"] == 0.0


def test_numbers_equal_the_plain_version_for_videos_of_different_lengths():
    rng = np.random.default_rng(0)
    saliency, ratings = [], []
    for _ in range(40):
        clips = rng.integers(1, 30)
        video = rng.integers(0, 5, (clips, 3))
        video[rng.random(clips) < 0.5] = 0
        ratings.append(video)
        saliency.append(rng.normal(size=max(1, clips + rng.integers(-3, 4))).round(1))
    numbers = highlight_detection_numbers(saliency, ratings)
    expected = naive_numbers([row.tolist() for row in saliency], [row.tolist() for row in ratings])
    assert list(numbers) == list(expected)
    for key, value in expected.items():
        assert numbers[key] == pytest.approx(value, abs=0.00501), key


def test_tvsum_by_hand():
    # Above the median: clips 0, 3 and 5 for the first annotator, none for the second. Ranked
    # 5, 4, 3, 2, 1: hits 1 0 1 0 0, two positives in the top five (clip 0 is out):
    # 1/2 x (1 + 1)/2 + 1/2 x (1/2 + 2/3)/2.
    ratings = np.array([[5, 1], [1, 1], [1, 1], [5, 1], [1, 1], [5, 1]])
    value = tvsum_top5_average_precision(np.arange(6), ratings)
    assert value == pytest.approx((1 / 2 + 7 / 24) / 2)


def test_tvsum_takes_the_lower_of_two_middle_ratings():
    # Sorted 1 2 3 4: the median is 2, so the clips rated 3 and 4 are highlights, ranked 2, 3.
    value = tvsum_top5_average_precision(np.array([4, 3, 2, 1]), np.array([[1], [3], [4], [2]]))
    # 1/2 x (0 + 1/2)/2 + 1/2 x (1/2 + 2/3)/2
    assert value == pytest.approx(1 / 8 + 7 / 24)


def test_youtube_by_hand():
    # Hits 1 0 1: 1/2 x (1 + 1)/2 + 1/2 x (1/2 + 2/3)/2; labels may stand in a column.
    for labels in ([1, 0, 1], [[1], [0], [1]]):
        value = youtube_average_precision(np.array([0.9, 0.5, 0.1]), np.array(labels))
        assert value == pytest.approx(1 / 2 + 7 / 24)


def test_videos_without_highlights_score_zero():
    assert youtube_average_precision(np.arange(4.0), np.zeros(4)) == 0.0
    assert tvsum_top5_average_precision(np.arange(8.0), np.full((8, 20), 3)) == 0.0


def test_scores_beyond_the_labelled_clips_do_not_count():
    saliency, labels = np.array([0.1, 0.2, 9.0, 9.0]), np.array([1, 0])
    assert youtube_average_precision(saliency, labels) == pytest.approx(1 / 4)
    assert tvsum_top5_average_precision(saliency, labels[:, None]) == pytest.approx(1 / 4)


def test_tvsum_and_youtube_equal_the_plain_versions():
    rng = np.random.default_rng(0)
    for trial in range(200):
        clips = rng.integers(1, 40)
        saliency = rng.normal(size=clips).round(trial % 3)
        ratings = rng.integers(1, 6, (clips, 20))
        labels = (rng.random(clips) < rng.random()).astype(int)
        assert tvsum_top5_average_precision(saliency, ratings) == pytest.approx(
            naive_tvsum(saliency.tolist(), ratings.tolist()), abs=1e-14
        )
        ranked = [labels[clip] for clip in sorted(range(clips), key=lambda clip: -saliency[clip])]
        assert youtube_average_precision(saliency, labels) == pytest.approx(
            naive_walk(ranked), abs=1e-14
        )

"""Highlight detection against values worked out by hand and against plain-Python versions."""

import numpy as np
import pytest

from flashvtg_jax.metrics.highlight_detection import (
    domain_metrics,
    highlight_detection_metrics,
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


def naive_ranking(saliency, clips):
    """The best clip, the best of those left, and so on; the earlier first, the unscored last."""
    scored, ranking = list(range(min(clips, len(saliency)))), []
    while scored:
        best = scored[0]
        for clip in scored:
            if saliency[clip] > saliency[best]:
                best = clip
        scored.remove(best)
        ranking.append(best)
    return ranking + list(range(len(ranking), clips))


def naive_walk(ranked):
    if not any(ranked):
        return 0.0
    total, area, recall, precision = sum(ranked), 0.0, 0.0, 1.0
    for rank in range(1, len(ranked) + 1):
        found = sum(ranked[:rank])
        area += (found / total - recall) * (precision + found / rank) / 2
        recall, precision = found / total, found / rank
    return area


def naive_lower_median(values):
    """The smallest value that at least half of the values do not exceed."""
    return min(
        value for value in values if 2 * sum(other <= value for other in values) >= len(values)
    )


def naive_tvsum(saliency, ratings):
    top, values = naive_ranking(saliency, len(ratings))[:5], []
    for annotator in range(len(ratings[0])):
        middle = naive_lower_median([clip[annotator] for clip in ratings])
        values.append(naive_walk([ratings[clip][annotator] > middle for clip in top]))
    return sum(values) / len(values)


def naive_youtube(saliency, labels):
    return naive_walk([labels[clip] == 1 for clip in naive_ranking(saliency, len(labels))])


def naive_domain_metrics(precisions, domains):
    by_domain = {}
    for precision, domain in zip(precisions, domains, strict=True):
        by_domain.setdefault(domain, []).append(precision)
    means = {domain: sum(some) / len(some) for domain, some in by_domain.items()}
    numbers = {"HD-mAP": 100 * sum(means.values()) / len(means)}
    for domain, mean in means.items():
        numbers[f"HD-mAP-{domain}"] = 100 * mean
    return numbers


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
    numbers = highlight_detection_metrics(saliency, ratings)
    assert numbers["HL-min-Fair-Hit1"] == 100.0
    assert numbers["HL-min-Good-Hit1"] == 100.0
    assert numbers["HL-min-VeryGood-Hit1"] == 50.0
    # Fair: annotators 1, 1, 0 (nothing rated 2 or more) and 0, 1, 0.
    assert numbers["HL-min-Fair-mAP"] == 50.0
    assert numbers["HL-min-VeryGood-mAP"] == 16.67


def test_longer_score_lists_are_cut_and_their_top_clip_is_no_hit():
    ratings = [np.array([[4], [0]])]
    numbers = highlight_detection_metrics([np.array([0.5, 0.1, 0.9])], ratings)
    assert numbers["HL-min-Fair-mAP"] == 100.0
    assert numbers["HL-min-Fair-Hit1"] == 0.0


def test_shorter_score_lists_are_filled_with_zeros():
    # Clip 1 gets score 0, above the -0.5 of clip 0: precision 1 where it would be 1/2.
    ratings = [np.array([[0], [4], [0]])]
    numbers = highlight_detection_metrics([np.array([-0.5, 0.0])], ratings)
    assert numbers["HL-min-Fair-mAP"] == 50.0  # clips 1 and 2 tie at 0
    # The top clip is sought among the scores given.
    numbers = highlight_detection_metrics([np.array([-0.5])], ratings)
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
    numbers = highlight_detection_metrics(saliency, ratings)
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


def test_clips_without_a_score_come_last():
    # Ranked 1, 0, then the unscored 2 and 3: hits 0 1 0 1. Leaving them out would give 1/4.
    value = youtube_average_precision(np.array([0.1, 0.2]), np.array([1, 0, 0, 1]))
    assert value == pytest.approx(1 / 2 * (0 + 1 / 2) / 2 + 1 / 2 * (1 / 3 + 2 / 4) / 2)
    # Negative scores are scores: no zero stands for what is missing.
    below = youtube_average_precision(np.array([-0.2, -0.1]), np.array([1, 0, 0, 1]))
    assert below == pytest.approx(value)
    ratings = np.array([[1], [1], [1], [1], [5], [5]])
    # The five clips ranked first are 2, 1, 0 and the unscored 3 and 4.
    value = tvsum_top5_average_precision(np.array([1.0, 2.0, 3.0]), ratings)
    assert value == pytest.approx((0 + 1 / 5) / 2)


def test_clips_of_equal_score_keep_their_order():
    assert youtube_average_precision(np.zeros(2), np.array([1, 0])) == 1.0
    assert youtube_average_precision(np.zeros(2), np.array([0, 1])) == pytest.approx(1 / 4)
    ratings = np.array([[1]] * 5 + [[5]])
    assert tvsum_top5_average_precision(np.zeros(6), ratings) == 0.0
    assert tvsum_top5_average_precision(np.zeros(6), ratings[::-1]) == 1.0


def test_videos_of_few_clips():
    for saliency in ([0.0], [-3.0]):
        assert youtube_average_precision(np.array(saliency), np.array([1])) == 1.0
        assert youtube_average_precision(np.array(saliency), np.array([0])) == 0.0
        # No rating of one clip is above the median of one clip.
        assert tvsum_top5_average_precision(np.array(saliency), np.array([[5, 1]])) == 0.0
    # Two clips: the lower is the median, the higher the highlight, ranked second and first.
    ratings = np.array([[2, 4], [3, 1]])
    value = tvsum_top5_average_precision(np.array([0.5, 0.1]), ratings)
    assert value == pytest.approx((1 / 4 + 1) / 2)


@pytest.mark.parametrize("decimals", [0, 1, 6])  # many ties, some, none
def test_tvsum_and_youtube_equal_the_plain_versions(decimals):
    rng = np.random.default_rng(decimals)
    for trial in range(150):
        clips = int(rng.integers(1, 8) if trial % 3 == 0 else rng.integers(5, 60))
        scores = max(1, clips + int(rng.choice([0, 0, 0, -2, -1, 1, 2])))
        saliency = rng.normal(size=scores).round(decimals)
        highest = int(rng.integers(2, 7))  # 2: every clip rated 1, nothing above the median
        ratings = rng.integers(1, highest, (clips, int(rng.integers(2, 21))))
        labels = (rng.random(clips) < rng.choice([0.0, 0.1, 0.5, 1.0])).astype(int)
        assert tvsum_top5_average_precision(saliency, ratings) == pytest.approx(
            naive_tvsum(saliency.tolist(), ratings.tolist()), abs=1e-14
        )
        assert youtube_average_precision(saliency, labels) == pytest.approx(
            naive_youtube(saliency.tolist(), labels.tolist()), abs=1e-14
        )


def test_a_domain_of_few_videos_weighs_as_much_as_one_of_many():
    # Average precisions 1, 1/4 and 0 (no highlight), and 1/4.
    first, last, never = np.array([[1], [0]]), np.array([[0], [1]]), np.array([[0], [0]])
    saliency = [np.array([0.9, 0.1])] * 4
    labels, domains = [first, last, never, last], ["surfing", "surfing", "surfing", "dog"]
    numbers = domain_metrics(saliency, labels, domains)
    assert numbers == {"HD-mAP": 33.33, "HD-mAP-dog": 25.0, "HD-mAP-surfing": 41.67}
    assert list(numbers) == ["HD-mAP", "HD-mAP-dog", "HD-mAP-surfing"]
    assert domain_metrics(saliency, labels) == {"HD-mAP": 37.5}


@pytest.mark.parametrize("annotators", [1, 20])
def test_domain_metrics_equal_those_of_the_plain_version(annotators):
    rng = np.random.default_rng(annotators)
    domains = [*"ABACABAAAB"]
    clips = rng.integers(3, 40, len(domains))
    saliency = [rng.normal(size=size).round(1) for size in clips]
    ratings = [rng.integers(0, 2 if annotators == 1 else 6, (size, annotators)) for size in clips]
    precisions = [
        naive_youtube(scores.tolist(), video[:, 0].tolist())
        if annotators == 1
        else naive_tvsum(scores.tolist(), video.tolist())
        for scores, video in zip(saliency, ratings, strict=True)
    ]
    expected = naive_domain_metrics(precisions, domains)
    numbers = domain_metrics(saliency, ratings, domains)
    assert set(numbers) == set(expected)
    for key, value in expected.items():
        assert numbers[key] == pytest.approx(value, abs=0.00501), key

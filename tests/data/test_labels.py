import numpy as np
import pytest
from ml_collections import ConfigDict

from flashvtg_jax.clips import num_video_clips, rate_clips
from flashvtg_jax.data.labels import (
    Clips,
    Labeller,
    binary_labels,
    label_rule,
    qvhighlights_labels,
    rating_labels,
    window_labels,
)
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.metrics.scoring import Scoring, mean_over_rated_clips

RATED = {
    "qid": 7,
    "relevant_clip_ids": [2, 3, 5],
    "saliency_scores": [[1, 2, 0], [4, 4, 3], [0, 1, 1]],
}


def rng(*words: int) -> np.random.Generator:
    return np.random.default_rng(words or 0)


def drawn(rule, annotation, num_clips, generator):
    """The labels, positive and negative clips that a rule finds and draws."""
    labels, draw = rule({"duration": 2.0 * num_clips, **annotation}, Clips(num_clips))
    return labels, *draw(generator)


def test_qvhighlights_labels_are_the_annotators_sum_and_zero_outside():
    labels, positives, negatives = drawn(qvhighlights_labels, RATED, 8, rng())
    np.testing.assert_array_equal(labels, [0, 0, 3, 11, 0, 2, 0, 0])
    assert labels.dtype == np.float32
    assert positives.dtype == negatives.dtype == np.int32
    assert positives[0] == 3  # 11 is the highest sum
    assert negatives[0] == 5  # 2 is the lowest sum of a relevant clip


def test_qvhighlights_random_clips_cover_the_relevant_and_the_irrelevant():
    pairs = [drawn(qvhighlights_labels, RATED, 8, rng(i))[1:] for i in range(200)]
    assert {int(positives[1]) for positives, _ in pairs} == {2, 3, 5}
    assert {int(negatives[1]) for _, negatives in pairs} == {0, 1, 4, 6, 7}


def test_qvhighlights_draws_depend_on_the_generator_alone():
    first = drawn(qvhighlights_labels, RATED, 8, rng(1, 2, 3))
    np.random.default_rng().random()
    for a, b in zip(first, drawn(qvhighlights_labels, RATED, 8, rng(1, 2, 3)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_qvhighlights_repeats_the_hard_clips_when_all_are_relevant():
    annotation = {"relevant_clip_ids": [0, 1, 2], "saliency_scores": [[2], [1], [3]]}
    labels, positives, negatives = drawn(qvhighlights_labels, annotation, 3, rng())
    np.testing.assert_array_equal(labels, [2, 1, 3])
    np.testing.assert_array_equal(positives, [2, 2])
    np.testing.assert_array_equal(negatives, [1, 1])


@pytest.mark.parametrize("seed", range(5))
def test_qvhighlights_ties_take_the_last_most_and_the_first_least_salient_clip(seed):
    ratings = rng(seed).integers(1, 4, 50)  # numpy's default sort reorders ties beyond 16 values
    annotation = {
        "relevant_clip_ids": list(range(10, 60)),
        "saliency_scores": ratings[:, None].tolist(),
    }
    _, positives, negatives = drawn(qvhighlights_labels, annotation, 75, rng())
    assert positives[0] == 10 + np.flatnonzero(ratings == 3)[-1]
    assert negatives[0] == 10 + np.flatnonzero(ratings == 1)[0]


def test_qvhighlights_clips_beyond_the_features_stand_for_the_last_clip():
    annotation = {"relevant_clip_ids": [1, 4, 9], "saliency_scores": [[1], [7], [5]]}
    for i in range(50):
        labels, positives, negatives = drawn(qvhighlights_labels, annotation, 4, rng(i))
        np.testing.assert_array_equal(labels, [0, 1, 0, 7])
        assert positives[0] == 3
        assert positives[1] in (1, 3)
        assert negatives[0] == 1
        assert negatives[1] in (0, 2)


def test_qvhighlights_counts_an_unsalient_relevant_clip_as_relevant():
    annotation = {"relevant_clip_ids": [0, 2], "saliency_scores": [[0, 0, 0], [1, 0, 0]]}
    for i in range(30):
        _, positives, negatives = drawn(qvhighlights_labels, annotation, 3, rng(i))
        assert negatives.tolist() == [0, 1]
        assert positives[0] == 2 and positives[1] in (0, 2)


@pytest.mark.parametrize("rule", ["qvhighlights", "windows"])
@pytest.mark.parametrize("empty", [[], None])
def test_an_annotation_without_relevant_clips_gives_zeros(rule, empty):
    annotation = {
        "duration": 10,
        "relevant_windows": empty,
        "relevant_clip_ids": empty,
        "saliency_scores": empty,
    }
    for given in (annotation, {"duration": 10}):
        labels, positives, negatives = drawn(label_rule(rule).label, given, 5, rng())
        np.testing.assert_array_equal(labels, np.zeros(5))
        np.testing.assert_array_equal(positives, [0, 0])
        np.testing.assert_array_equal(negatives, [0, 0])


def test_qvhighlights_refuses_ratings_that_do_not_match_the_clips():
    with pytest.raises(DataError, match=r"query 7: 3 relevant_clip_ids but 2 rows"):
        drawn(qvhighlights_labels, {**RATED, "saliency_scores": [[1], [2]]}, 8, rng())


@pytest.mark.parametrize(
    ("window", "duration", "num_clips", "inside"),
    [
        # clips of 2 s: 3.9 s falls in clip 1, 8.1 s in clip 4, which min(., L) - 1 takes back to 3
        ([3.9, 8.1], 20.0, 10, [1, 2, 3]),
        ([0.0, 20.0], 20.0, 10, list(range(10))),
        # two clips outside are enough to draw from
        ([0.0, 16.0], 20.0, 10, list(range(8))),
        # int(0.5 / 2) - 1 is below 0
        ([0.0, 0.5], 20.0, 10, [0]),
        # the end is before the start once rounded: the start follows
        ([5.0, 5.5], 20.0, 10, [1]),
        # beyond the video
        ([18.0, 25.0], 20.0, 10, [9]),
        # clips of 33.67 / 30 s: int(6.9 / 1.12233) = 6
        ([0.0, 6.9], 33.67, 30, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_window_labels_are_one_inside_the_window(window, duration, num_clips, inside):
    annotation = {"relevant_windows": [window], "duration": duration}
    outside = sorted(set(range(num_clips)) - set(inside))
    expected = np.zeros(num_clips)
    expected[inside] = 1
    for i in range(20):
        labels, positives, negatives = drawn(window_labels, annotation, num_clips, rng(i))
        np.testing.assert_array_equal(labels, expected)
        assert set(positives.tolist()) <= set(inside)
        assert len(set(positives.tolist())) == min(2, len(inside))
        if len(outside) >= 2:
            assert len(set(negatives.tolist())) == 2
            assert set(negatives.tolist()) <= set(outside)
        else:
            np.testing.assert_array_equal(negatives, positives)
        assert labels.dtype == np.float32
        assert positives.dtype == negatives.dtype == np.int32


def test_window_labels_repeat_the_positives_when_one_clip_only_is_outside():
    annotation = {"relevant_windows": [[0.0, 8.0]], "duration": 10.0}
    labels, positives, negatives = drawn(window_labels, annotation, 5, rng(3))
    np.testing.assert_array_equal(labels, [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(negatives, positives)


def test_rating_labels_are_the_mean_on_the_scale_of_twelve():
    annotation = {"label": [[1, 1], [5, 5], [3, 3], [1, 2]]}
    labels, positives, negatives = drawn(rating_labels, annotation, 4, rng())
    # Means 1, 5, 3, 1.5 of a scale from 1 to 5: 0, 1, 1/2, 1/8 of twelve.
    np.testing.assert_array_equal(labels, [0, 12, 6, 1.5])
    np.testing.assert_array_equal(positives, [1])
    np.testing.assert_array_equal(negatives, [0])
    assert labels.dtype == np.float32
    assert positives.dtype == negatives.dtype == np.int32


def test_rating_labels_of_twenty_annotators_are_the_sums_of_the_paper():
    ratings = rng(1).integers(1, 6, (60, 20)).astype(float)
    labels, positives, negatives = drawn(rating_labels, {"label": ratings.tolist()}, 60, rng())
    sums = (ratings - 1).sum(axis=1)
    np.testing.assert_allclose(labels, sums / 80 * 12, rtol=0, atol=1e-6)
    assert sums[positives[0]] == sums.max()
    assert sums[negatives[0]] == sums.min()


@pytest.mark.parametrize("annotators", [1, 3, 20])
def test_rating_labels_do_not_depend_on_the_number_of_annotators(annotators):
    annotation = {"label": [[4] * annotators, [2] * annotators]}
    np.testing.assert_allclose(drawn(rating_labels, annotation, 2, rng())[0], [9, 3], rtol=1e-6)


def test_binary_labels_are_the_labels_themselves():
    labels, positives, negatives = drawn(binary_labels, {"label": [[0], [1], [1], [0]]}, 4, rng())
    np.testing.assert_array_equal(labels, [0, 1, 1, 0])
    np.testing.assert_array_equal(positives, [2])  # the last of the highest
    np.testing.assert_array_equal(negatives, [0])  # the first of the lowest
    assert labels.dtype == np.float32
    assert positives.dtype == negatives.dtype == np.int32


@pytest.mark.parametrize("rule", ["ratings", "binary"])
@pytest.mark.parametrize("seed", range(3))
def test_ties_take_the_last_of_the_highest_and_the_first_of_the_lowest(rule, seed):
    # numpy's default sort reorders ties beyond 16 values
    values = rng(seed).integers(1, 4, 50) if rule == "ratings" else rng(seed).integers(0, 2, 50)
    _, positives, negatives = drawn(
        label_rule(rule).label, {"label": values[:, None].tolist()}, 50, rng()
    )
    assert positives.tolist() == [np.flatnonzero(values == values.max())[-1]]
    assert negatives.tolist() == [np.flatnonzero(values == values.min())[0]]


@pytest.mark.parametrize(("rule", "value"), [("ratings", 1), ("binary", 0), ("binary", 1)])
def test_a_video_of_equal_clips_has_a_pair_all_the_same(rule, value):
    labels, positives, negatives = drawn(label_rule(rule).label, {"label": [[value]] * 3}, 3, rng())
    np.testing.assert_array_equal(labels, [float(value == 1 and rule == "binary")] * 3)
    assert (positives.tolist(), negatives.tolist()) == ([2], [0])


@pytest.mark.parametrize("rule", ["ratings", "binary"])
def test_labels_beyond_the_features_are_left_out(rule):
    annotation = {"qid": "x", "label": [[1], [0], [1], [1]]}
    if rule == "ratings":
        annotation["label"] = [[2], [1], [5], [5]]
    labels, positives, negatives = drawn(label_rule(rule).label, annotation, 2, rng())
    assert len(labels) == 2
    assert (positives.tolist(), negatives.tolist()) == ([0], [1])
    with pytest.raises(DataError, match="query x: label has 4 rows for 5 clips"):
        drawn(label_rule(rule).label, annotation, 5, rng())


def test_rules_of_highlights_give_one_pair_and_need_no_windows():
    for rule in ("ratings", "binary"):
        assert label_rule(rule).num_pairs == 1
        assert not label_rule(rule).needs_windows


def test_an_unknown_label_rule_names_those_there_are():
    with pytest.raises(ConfigError, match=r"'stars' is not a label rule.*binary, qvhigh"):
        label_rule("stars")


def test_window_labels_count_all_windows_of_a_line():
    # Clips of 2 s. [4, 8] are clips 2 and 3, [12, 14] is clip 6, [7, 10] clips 3 and 4.
    annotation = {"relevant_windows": [[4, 8], [12, 14], [7, 10]], "duration": 20}
    draws = [drawn(window_labels, annotation, 10, rng(i)) for i in range(100)]
    for labels, positives, negatives in draws:
        np.testing.assert_array_equal(labels, [0, 0, 1, 1, 1, 0, 1, 0, 0, 0])
        assert len(set(positives.tolist())) == len(set(negatives.tolist())) == 2
    assert {clip for _, positives, _ in draws for clip in positives.tolist()} == {2, 3, 4, 6}
    assert {clip for *_, negatives in draws for clip in negatives.tolist()} == {0, 1, 5, 7, 8, 9}


def test_one_window_draws_two_clips_inside_and_then_two_outside():
    annotation = {"relevant_windows": [[4, 10]], "duration": 20}
    _, positives, negatives = drawn(window_labels, annotation, 10, rng(5))
    generator = rng(5)
    np.testing.assert_array_equal(positives, generator.choice([2, 3, 4], 2, replace=False))
    outside = [0, 1, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(negatives, generator.choice(outside, 2, replace=False))


def labeller(labels="windows", clip_length=2.0, label_clip_length=None):
    return Labeller(
        ConfigDict(
            {
                "clip_length": clip_length,
                "data": {"labels": labels, "label_clip_length": label_clip_length},
            }
        )
    )


def test_of_a_video_that_is_cut_what_is_left_is_labelled():
    # 600 s of 300 clips, cut to 75: 150 s are left.
    line = {"duration": 600, "relevant_windows": [[20, 40], [140, 170], [150, 160], [400, 420]]}
    found = labeller()(line, 75, 300)
    expected = np.zeros(75)
    expected[10:20] = expected[70:] = 1
    np.testing.assert_array_equal(found.labelled.saliency_labels, expected)
    np.testing.assert_array_equal(found.windows, [[20, 40], [140, 150]])
    assert found.duration == 150
    behind = labeller()({**line, "relevant_windows": [[150, 160]]}, 75, 300)
    assert behind.windows.shape == (0, 2) and not behind.labelled.saliency_labels.any()


def test_a_clip_of_a_cut_video_lasts_as_long_as_before():
    # 100 clips of 1.98 s: [19.5, 29.5] are clips 9 to 13; of 50 clips of 3.96 s they were 4 to 6.
    line = {"duration": 198, "relevant_windows": [[19.5, 29.5]]}
    found = labeller()(line, 50, 100)
    assert np.flatnonzero(found.labelled.saliency_labels).tolist() == [9, 10, 11, 12, 13]


def test_ratings_behind_the_cut_are_left_out():
    line = {
        "duration": 40,
        "relevant_windows": [[4, 14]],
        "relevant_clip_ids": [2, 3, 4, 5, 6],
        "saliency_scores": [[1], [2], [3], [9], [9]],
    }
    found = labeller("qvhighlights")(line, 5, 20)
    np.testing.assert_array_equal(found.labelled.saliency_labels, [0, 0, 1, 2, 3])
    positives, negatives = found.labelled.draw(rng())
    assert (positives[0], negatives[0]) == (4, 2)
    # All behind it: nothing is relevant.
    found = labeller("qvhighlights")(line, 2, 20)
    np.testing.assert_array_equal(found.labelled.saliency_labels, [0, 0])


def test_features_that_reach_beyond_the_video_are_not_a_cut_video():
    # 76 rows of SlowFast for 150 s: the last one is none of the video.
    line = {"duration": 150, "relevant_windows": [[140, 150]]}
    found = labeller()(line, 75, 76)
    assert (found.duration, found.windows.tolist()) == (150, [[140, 150]])
    assert np.flatnonzero(found.labelled.saliency_labels).tolist() == [70, 71, 72, 73, 74]


def test_ids_of_two_second_clips_label_clips_of_one_second():
    line = {
        "duration": 90,
        "relevant_windows": [[60, 80]],
        "relevant_clip_ids": list(range(30, 40)),
        "saliency_scores": [[i, 1, 0] for i in range(10)],
    }
    found = labeller("qvhighlights", clip_length=1.0, label_clip_length=2.0)(line, 90, 90)
    expected = np.zeros(90)
    expected[60:80] = np.repeat(np.arange(1, 11), 2)
    np.testing.assert_array_equal(found.labelled.saliency_labels, expected)
    positives, negatives = found.labelled.draw(rng())
    assert positives[0] == 79 and negatives[0] == 60
    assert 60 <= positives[1] < 80 and not 60 <= negatives[1] < 80


def test_ids_that_count_the_same_clips_are_labelled_as_without_saying_so():
    for given in (None, 2.0):
        found = labeller("qvhighlights", label_clip_length=given)({**RATED, "duration": 16}, 8, 8)
        np.testing.assert_array_equal(found.labelled.saliency_labels, [0, 0, 3, 11, 0, 2, 0, 0])
        for a, b in zip(
            found.labelled.draw(rng(4)),
            drawn(qvhighlights_labels, RATED, 8, rng(4))[1:],
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("ids", "sums", "num_clips", "ratio", "relevant", "labels"),
    [
        # Clips of 4 s, ids of 2 s: clip 1 is rating clips 2 and 3, clip 2 is 4 and 5.
        ([2, 3, 5], [3, 11, 2], 4, 2.0, [1, 2], [0, 7, 1, 0]),
        # 3 s and 2 s: clip 1 lasts from 3 to 6 s, of which rating clip 2 covers 4 to 6 s.
        ([2], [6], 3, 1.5, [1], [0, 4, 0]),
        # Clip 0 lasts to 3 s, of which rating clip 1 (2 to 4 s) covers a third.
        ([1, 2], [6, 3], 3, 1.5, [1], [2, 4, 0]),
        # 10 s and 2 s: no clip is covered by half; clip 1 is covered more than clip 0.
        ([4, 5, 6], [5, 5, 10], 2, 5.0, [1], [1, 3]),
        # 1 s and 2 s, the last rating clip and one beyond it.
        ([1, 2], [4, 6], 3, 0.5, [2], [0, 0, 6]),
    ],
)
def test_labels_of_other_clips_are_means_by_time(ids, sums, num_clips, ratio, relevant, labels):
    duration = 2 * ratio * num_clips
    found = rate_clips(
        np.array(ids), np.array(sums, np.float32), num_clips, duration, 2 * ratio, 2.0
    )
    assert found[0].tolist() == relevant
    np.testing.assert_allclose(found[2], labels, rtol=1e-6)
    np.testing.assert_array_equal(found[1], found[2][relevant])


@pytest.mark.parametrize(
    ("clip_length", "label_clip_length"),
    [(16 / 30, 2.0), (4.0, 2.0), (1 / 6, 1.0), (2.0, 4.0), (0.166666, 1.0), (7.0, 2.0)],
)
def test_the_last_clip_has_the_rating_of_the_last_rated_clip(clip_length, label_clip_length):
    # 150 s are 281.25 clips of 16/30 s or 37.5 of 4 s: of the last one only a part is rated.
    num_clips = num_video_clips(150, clip_length)
    rated = np.arange(num_video_clips(150, label_clip_length))
    sums = np.full(rated.size, 12, np.float32)
    relevant, _, labels = rate_clips(rated, sums, num_clips, 150, clip_length, label_clip_length)
    np.testing.assert_allclose(labels, np.full(num_clips, 12), rtol=1e-6)
    np.testing.assert_array_equal(relevant, np.arange(num_clips))
    # Metrics go the other way: constant saliency is as much for each rated clip.
    scoring = Scoring(clip_length, label_clip_length)
    np.testing.assert_allclose(mean_over_rated_clips(labels.astype(float), scoring), 12, rtol=1e-6)


def test_rows_of_features_after_the_end_of_the_video_are_not_rated():
    found = rate_clips(np.array([0, 1, 2]), np.full(3, 5.0), 8, 6.0, 1.0, 2.0)
    assert found[2].tolist() == [5, 5, 5, 5, 5, 5, 0, 0]


def test_a_cut_video_with_a_label_for_each_clip_lasts_as_long_as_its_clips():
    line = {"duration": 30, "label": [[3, 3]] * 20}
    found = labeller("ratings")(line, 10, 20)
    assert (found.duration, len(found.labelled.saliency_labels)) == (15, 10)


def test_windows_of_a_cut_video_end_where_its_labels_end():
    # 298 rows for 600 s, cut to 75 clips of 2 s.
    line = {"duration": 600, "relevant_windows": [[148.5, 151]]}
    found = labeller()(line, 75, 298)
    assert found.windows.tolist() == [[148.5, 150]] and found.duration == 150
    assert np.flatnonzero(found.labelled.saliency_labels).tolist() == [74]


def test_ratings_of_other_clips_behind_the_cut_are_left_out():
    line = {
        "duration": 40,
        "relevant_windows": [[4, 14]],
        "relevant_clip_ids": [2, 3, 4, 5],
        "saliency_scores": [[1], [2], [3], [9]],
    }
    found = labeller("qvhighlights", clip_length=1.0, label_clip_length=2.0)(line, 9, 40)
    expected = [0, 0, 0, 0, 1, 1, 2, 2, 3]
    np.testing.assert_array_equal(found.labelled.saliency_labels, expected)

"""Decoding, against values worked out by hand and a plain loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from flashvtg_jax.decoding import decode_moments, non_max_suppression, num_moments, temporal_iou
from flashvtg_jax.models import FlashVTGOutput, make_points


def make_output(logits, offsets, *, strides=(1,), clips=None, valid=None) -> FlashVTGOutput:
    """An output of one sample with the given logits [P] and offsets [P, 2]."""
    logits = jnp.asarray([logits], jnp.float32)
    points = make_points(clips or logits.shape[1], strides)
    mask = np.arange(logits.shape[1])[None] < (logits.shape[1] if valid is None else valid)
    zeros = jnp.zeros((1, 1))
    return FlashVTGOutput(
        memory=zeros,
        query_embedding=zeros,
        intra_scale_logits=logits,
        inter_scale_logits=logits,
        logits=logits,
        offsets=jnp.asarray([offsets], jnp.float32),
        points=jnp.asarray(points),
        point_mask=jnp.asarray(mask),
        saliency=zeros,
        query_attention=zeros,
        video_mask=zeros > 0,
    )


def test_windows_are_offsets_in_strides_around_the_point():
    # Levels of stride 1 (two points) and 2 (one point, at clip 0), clips of 3 seconds.
    output = make_output([0, 2, 1], [[0.5, 1], [1, 2], [0.25, 0.5]], strides=(1, 2), clips=2)
    moments = decode_moments(output, 100.0, clip_length=3.0, max_moments=3)[0]
    score = 1 / (1 + np.exp(-np.array([2.0, 1.0, 0.0])))
    expected = np.array([[0, 9], [0, 3], [0, 3]])  # [0 - 1.5 s] is clipped to the video
    np.testing.assert_allclose(moments, np.column_stack([expected, score]), atol=1e-5)


def test_windows_are_clipped_to_the_video():
    output = make_output([0.0, 1.0], [[5, 5], [0, 0.2]])
    moments = decode_moments(output, jnp.array([1.5]), clip_length=1.0, max_moments=2)[0]
    np.testing.assert_allclose(moments[:, :2], [[1, 1.2], [0, 1.5]], atol=1e-6)


def test_rows_beyond_the_valid_points_are_zero():
    output = make_output([3.0, 2.0, 9.0], [[1, 1]] * 3, valid=2)
    moments = decode_moments(output, 10.0, max_moments=5)[0]
    assert moments.shape == (5, 3)
    assert (moments[:2, 2] > 0.8).all()
    assert not moments[2:].any()
    assert num_moments(output, 5).tolist() == [2]
    assert num_moments(output, 1).tolist() == [1]


def test_rounding_is_to_four_decimals_then_to_clips_half_to_even():
    # Windows [0, 3], [0.9, 5.1] and [0, 4.99996] seconds with clips of 2 seconds.
    offsets = [[0, 1.5], [0.55, 1.55], [2, 0.49998]]
    output = make_output([0.12345, 1.0, 2.0], offsets)
    moments = decode_moments(
        output, 10.0, 2.0, 3, round_decimals=True, round_to_clips=True, window_range=(0.0, 150.0)
    )[0]
    # 4.99996 rounds to 5.0, which is 2.5 clips: half to even gives 2; 1.5 clips give 2.
    np.testing.assert_allclose(moments[:, :2], [[0, 4], [0, 6], [0, 4]])
    np.testing.assert_allclose(moments[:, 2], [0.8808, 0.7311, 0.5308], atol=1e-6)


def test_windows_are_clipped_to_the_range_of_the_data_set():
    output = make_output([1.0], [[0, 100]])
    moments = decode_moments(output, 1e4, 2.0, 1, window_range=(0.0, 150.0))[0]
    np.testing.assert_allclose(moments[0, :2], [0, 150])


def test_iou_is_intersection_over_union_and_zero_for_empty_windows():
    first = jnp.array([[0.0, 10], [0, 2], [3, 3]])
    second = jnp.array([[5.0, 20], [4, 6], [3, 3]])
    np.testing.assert_allclose(temporal_iou(first, second), [5 / 20, 0, 0])


def test_suppressed_moments_keep_their_window_and_sort_behind_with_score_zero():
    moments = jnp.array([[[0, 10, 0.9], [0, 9, 0.8], [0, 5, 0.7], [20, 30, 0.6]]])
    # [0, 9] overlaps [0, 10] by 0.9, [0, 5] only by 0.5.
    kept = non_max_suppression(moments, 0.7)[0]
    expected = [[0, 10, 0.9], [0, 5, 0.7], [20, 30, 0.6], [0, 9, 0]]
    np.testing.assert_allclose(kept, expected)


def test_a_suppressed_moment_suppresses_nothing():
    # The second is within 0.7 of the first and of the third; the third only of the second.
    moments = jnp.array([[[0, 10, 0.9], [2, 12, 0.8], [4, 14, 0.7]]])
    np.testing.assert_allclose(non_max_suppression(moments, 0.6)[0, :, 2], [0.9, 0.7, 0])


def test_linear_suppression_multiplies_by_one_minus_iou_at_each_step():
    moments = jnp.array([[[0, 10, 0.9], [0, 5, 0.8], [10, 20, 0.5]]])
    # First [0, 10]: [0, 5] falls to 0.4; then [10, 20], which overlaps neither.
    kept = non_max_suppression(moments, 0.7, "linear")[0]
    np.testing.assert_allclose(kept, [[0, 10, 0.9], [10, 20, 0.5], [0, 5, 0.4]], atol=1e-6)


def plain_suppression(moments, threshold, nms_type):
    """The same by loops, one sample."""
    windows, scores = moments[:, :2], moments[:, 2].copy()
    waiting = list(range(len(moments)))
    while waiting:
        best = max(waiting, key=lambda i: scores[i])
        waiting.remove(best)
        for other in waiting:
            low, high = (
                np.maximum(windows[best, 0], windows[other, 0]),
                np.minimum(windows[best, 1], windows[other, 1]),
            )
            lap = max(0.0, high - low)
            union = np.diff(windows[best])[0] + np.diff(windows[other])[0] - lap
            iou = lap / union if union > 0 else 0.0
            if nms_type == "linear":
                scores[other] *= 1 - iou
            elif iou >= threshold:
                scores[other] = 0
    order = sorted(range(len(moments)), key=lambda i: -scores[i])
    return np.column_stack([windows, scores])[order]


@pytest.mark.parametrize("nms_type", ["normal", "linear"])
def test_suppression_equals_plain_loops(nms_type):
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 50, (8, 30, 1))
    moments = np.concatenate(
        [start, start + rng.exponential(15, (8, 30, 1)), np.sort(rng.uniform(size=(8, 30, 1)), 1)],
        -1,
    ).astype(np.float32)[:, ::-1]
    found = non_max_suppression(jnp.asarray(moments), 0.5, nms_type)
    for b in range(8):
        expected = plain_suppression(moments[b], 0.5, nms_type)
        np.testing.assert_allclose(found[b, :, 2], expected[:, 2], atol=1e-6)
        kept = expected[:, 2] > 1e-6  # the order of what is suppressed is free
        np.testing.assert_allclose(found[b][kept], expected[kept], atol=1e-5)


def test_an_unknown_kind_of_suppression_is_refused():
    with pytest.raises(ValueError, match="'normal' or 'linear'"):
        non_max_suppression(jnp.zeros((1, 2, 3)), 0.5, "soft")

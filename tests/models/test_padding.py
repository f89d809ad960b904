"""Results of a sample never depend on padding: not on the batch, nor on the padded length."""

import jax
import numpy as np
import pytest

from flashvtg_jax.decoding import decode_moments, num_moments

PER_CLIP = ("memory", "saliency", "query_attention")
PER_POINT = ("logits", "intra_scale_logits", "inter_scale_logits", "offsets")


def assert_row_equals_unpadded(out, b, alone, clips):
    """Row b of a padded output holds what an unpadded run of its sample gives."""
    for name in PER_CLIP:
        np.testing.assert_allclose(
            getattr(out, name)[b, :clips], getattr(alone, name)[0], atol=1e-5, err_msg=name
        )
    np.testing.assert_allclose(out.query_embedding[b], alone.query_embedding[0], atol=1e-5)
    np.testing.assert_array_equal(out.points[out.point_mask[b]], alone.points)
    for name in PER_POINT:
        found = getattr(out, name)[b][out.point_mask[b]]
        np.testing.assert_allclose(
            found, getattr(alone, name)[0], rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(
    ("strides", "kernel_size"),
    [
        ((1, 2, 4, 8), 5),
        pytest.param((0.5, 1, 2), 3, marks=pytest.mark.slow),
        pytest.param((1, 4, 16), 7, marks=pytest.mark.slow),
    ],
)
def test_padded_samples_equal_unpadded_ones_at_every_length(small, strides, kernel_size):
    model = small.make_model(strides=strides, kernel_size=kernel_size)
    params, rng = small.init(model), np.random.default_rng(kernel_size)
    # One clip, shorter than the largest stride, at its multiples, full, and random ones.
    lengths = [1, 7, 16, 21, *rng.integers(2, 21, 3)]
    words = rng.integers(1, 6, len(lengths))
    video, video_mask, query, query_mask = small.make_batch(lengths, words, 21, 5)
    out = jax.device_get(small.compiled(model)(params, video, video_mask, query, query_mask))
    moments = decode_moments(out, 1e6, max_moments=20, nms_threshold=0.6)
    for b, (clips, count) in enumerate(zip(lengths, words, strict=True)):
        alone = (
            video[b : b + 1, :clips],
            video_mask[b : b + 1, :clips],
            query[b : b + 1, :count],
            query_mask[b : b + 1, :count],
        )
        alone = jax.device_get(small.compiled(model)(params, *alone))
        assert_row_equals_unpadded(out, b, alone, clips)
        assert num_moments(out, 20)[b] == min(20, alone.logits.shape[1])
        np.testing.assert_allclose(
            moments[b],
            decode_moments(alone, 1e6, max_moments=20, nms_threshold=0.6)[0],
            rtol=1e-5,
            atol=1e-5,
        )


def test_padding_of_any_value_changes_nothing(small):
    model = small.make_model()
    params = small.init(model)
    video, video_mask, query, query_mask = small.make_batch([5, 11], [2, 4], 12, 4)
    out = small.compiled(model)(params, video, video_mask, query, query_mask)
    video = np.where(video_mask[..., None], video, 1e6).astype(np.float32)
    query = np.where(query_mask[..., None], query, -1e6).astype(np.float32)
    other = small.compiled(model)(params, video, video_mask, query, query_mask)
    for name in ("saliency", "query_attention", "query_embedding"):
        np.testing.assert_allclose(getattr(out, name), getattr(other, name), atol=1e-5)
    mask = np.asarray(out.point_mask)
    np.testing.assert_allclose(out.logits[mask], other.logits[mask], atol=1e-5)


def test_padding_rows_leave_other_rows_and_their_negatives_alone(small):
    model = small.make_model()
    params = small.init(model)
    batch = small.make_batch([5, 9, 12], [2, 4, 3], 12, 4)
    rows = np.array([0, 2, 3])
    spread = [np.zeros((5, *a.shape[1:]), a.dtype) for a in batch]
    for a, b in zip(spread, batch, strict=True):
        a[rows] = b
    run = small.compiled(model, with_negatives=True)
    out, padded = run(params, *batch), run(params, *spread)
    np.testing.assert_array_equal(out.negative_index, [1, 2, 0])
    np.testing.assert_array_equal(padded.negative_index, [2, 1, 3, 0, 4])
    for name in ("logits", "saliency", "negative_saliency", "negative_query_attention"):
        np.testing.assert_allclose(
            getattr(padded, name)[rows], getattr(out, name), rtol=1e-5, atol=1e-5
        )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(padded.replace(points=None)))

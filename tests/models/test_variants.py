"""Variants of the model for ablations: each a value of a field, the full model untouched."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.decoding import decode_moments, num_moments
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.models.spatial_pooling import SpatialPooling
from tests import reference

QUERIES = {"moment_head": "queries", "num_moment_queries": 4, "decoder_layers": 2}
# Several at once, for each is compiled for three shapes.
VARIANTS = {
    "queries": QUERIES,
    "one level, intra, no dummies": {
        "strides": (1,),
        "score_refinement": "intra",
        "num_dummies": 0,
    },
    "upsampled, inter": {"strides": (0.5, 1, 2), "score_refinement": "inter"},
}


@pytest.mark.slow
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_results_do_not_depend_on_padding(small, fields):
    model = small.make_model(**fields)
    params = small.init(model)
    batch = small.make_batch([6, 9], [3, 5], clips=9, num_words=5)
    together = small.compiled(model)(params, *batch)
    moments = decode_moments(together, jnp.array([12.0, 18.0]), max_moments=6)
    for row, (clips, words) in enumerate([(6, 3), (9, 5)]):
        one = [array[row : row + 1] for array in batch]
        alone = [one[0][:, :clips], one[1][:, :clips], one[2][:, :words], one[3][:, :words]]
        out = small.compiled(model)(params, *alone)
        # Levels have other lengths there: compared are their valid points.
        valid, valid_alone = together.point_mask[row], out.point_mask[0]
        np.testing.assert_allclose(together.logits[row][valid], out.logits[0][valid_alone], 0, 2e-5)
        np.testing.assert_allclose(
            together.offsets[row][valid], out.offsets[0][valid_alone], 2e-5, 2e-5
        )
        np.testing.assert_allclose(together.saliency[row, :clips], out.saliency[0], 0, 2e-5)
        of_one = decode_moments(out, 2.0 * clips, max_moments=6)[0]
        np.testing.assert_allclose(moments[row, :, :2], of_one[:, :2], 0, 1e-3)


def test_moment_queries_propose_windows_within_the_video(small):
    model = small.make_model(**QUERIES)
    params = small.init(model)
    assert not {"pyramid", "score_refinement", "boundary_head"} & params.keys()
    batch = small.make_batch([6, 9, 0], [3, 5, 1], clips=9, num_words=5)
    out = small.compiled(model)(params, *batch)
    chex.assert_shape(out.logits, (3, 4))
    chex.assert_shape(out.auxiliary_logits, (3, 1, 4))
    chex.assert_shape(out.auxiliary_offsets, (3, 1, 4, 2))
    np.testing.assert_array_equal(num_moments(out), [4, 4, 0])
    start, end = -out.offsets[..., 0], out.offsets[..., 1]
    centre, width = (start + end) / 2, end - start
    for row, clips in enumerate((6, 9)):
        assert ((centre[row] > 0) & (centre[row] < clips)).all()
        assert ((width[row] > 0) & (width[row] < clips)).all()
    # Decoding reads them like any other points: seconds, cut to the video, best first.
    moments = decode_moments(out, jnp.array([12.0, 18.0, 1.0]), clip_length=2.0, max_moments=4)
    best = out.logits[1].argmax()
    expected = np.clip([2 * start[1, best], 2 * end[1, best]], 0, 18)
    np.testing.assert_allclose(moments[1, 0, :2], expected, atol=1e-4)
    np.testing.assert_allclose(moments[1, 0, 2], jax.nn.sigmoid(out.logits[1, best]), atol=1e-6)


def test_mixes_of_scores_have_the_heads_they_use(small):
    batch = small.make_batch([6], [3], clips=6, num_words=3)
    out = {}
    for mix in ("learned", "fixed", "intra", "inter"):
        model = small.make_model(score_refinement=mix)
        params = small.init(small.make_model())["score_refinement"]
        kept = {"intra": ["intra_scale"], "inter": ["inter_scale"], "fixed": params.keys()}
        names = set(kept.get(mix, params)) - ({"mix"} if mix != "learned" else set())
        assert set(small.init(model)["score_refinement"]) == names
        own = small.init(small.make_model()) | {"score_refinement": {n: params[n] for n in names}}
        out[mix] = small.compiled(model)({**own}, *batch)
    full = out["learned"]
    np.testing.assert_allclose(out["intra"].logits, full.intra_scale_logits, 0, 1e-6)
    np.testing.assert_allclose(out["inter"].logits, full.inter_scale_logits, 0, 1e-6)
    half = (full.intra_scale_logits + full.inter_scale_logits) / 2
    np.testing.assert_allclose(out["fixed"].logits, half, 0, 1e-6)
    assert out["intra"].inter_scale_logits is None and out["inter"].intra_scale_logits is None


def test_without_dummies_all_attention_reaches_words(small):
    model = small.make_model(num_dummies=0)
    params = small.init(model)
    assert "dummy_encoder" not in params
    out = small.compiled(model)(params, *small.make_batch([6, 4], [3, 2], 6, 3))
    np.testing.assert_allclose(out.query_attention, out.video_mask.astype(float), atol=1e-6)
    negatives = small.compiled(model, with_negatives=True)
    out = negatives(params, *small.make_batch([6, 4], [3, 2], 6, 3))
    chex.assert_tree_all_finite(out.negative_saliency)


def test_one_spatial_token_is_the_model_as_it_was(small):
    model = small.make_model()
    video, *rest = small.make_batch([6, 4], [3, 2], 6, 3)
    params = small.init(model)
    of_one = jax.eval_shape(model.init, jax.random.key(0), video[:, :, None], *rest)["params"]
    chex.assert_trees_all_equal_shapes(params, of_one)
    chex.assert_trees_all_equal(
        small.compiled(model)(params, video[:, :, None], *rest),
        small.compiled(model)(params, video, *rest),
    )


def test_pooling_of_one_token_is_that_token(small):
    clips = jax.random.normal(jax.random.key(0), (2, 5, 1, 8))
    query = jax.random.normal(jax.random.key(1), (2, 8))
    pooled, _ = SpatialPooling().init_with_output(jax.random.key(2), clips, query)
    np.testing.assert_array_equal(pooled, clips[:, :, 0])


def test_pooling_weighs_tokens_by_the_query():
    # The query is projected to itself: the logits are its products with the tokens over sqrt(4).
    params = {"query": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}
    clips = jnp.array([[[[2.0, 0, 0, 0], [0, 2.0, 0, 0]]]])  # [1, 1, 2, 4]
    query = jnp.array([[np.log(3.0), 0, 0, 0]])
    pooled = SpatialPooling().apply({"params": params}, clips, query)  # logits log 3 and 0
    np.testing.assert_allclose(pooled, [[[1.5, 0.5, 0, 0]]], rtol=1e-6)


def space_time(small, clips=6):
    _, *rest = small.make_batch([6, 4], [3, 2], clips, 3)
    rng = np.random.default_rng(5)
    return rng.standard_normal((2, clips, 3, 10)).astype(np.float32), *rest


def init_space_time(small, model):
    return small.random_params(model, *space_time(small))


def test_the_order_of_spatial_tokens_does_not_matter_but_their_content_does(small):
    model = small.make_model(spatial_tokens=3)
    params = init_space_time(small, model)
    video, *rest = space_time(small)
    out = small.compiled(model)(params, video, *rest)
    turned = small.compiled(model)(params, video[:, :, ::-1], *rest)
    chex.assert_trees_all_close(out.logits, turned.logits, atol=1e-5)
    other = small.compiled(model)(params, video * np.array([1, 1, 2])[:, None], *rest)
    assert np.abs(np.asarray(out.logits - other.logits)).max() > 1e-3


def test_negative_queries_choose_tokens_of_their_own(small):
    model = small.make_model(spatial_tokens=3)
    params = init_space_time(small, model)
    video, video_mask, query, query_mask = space_time(small)
    out = small.compiled(model, with_negatives=True)(params, video, video_mask, query, query_mask)
    swapped = small.compiled(model)(params, video, video_mask, query[::-1], query_mask[::-1])
    np.testing.assert_allclose(out.negative_saliency, swapped.saliency, atol=1e-5)


def test_videos_without_their_spatial_tokens_are_refused(small):
    model = small.make_model(spatial_tokens=3)
    with pytest.raises(AssertionError):
        jax.eval_shape(model.init, jax.random.key(0), *small.make_batch([6], [3], 6, 3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**QUERIES, "attention_window": 8}, "attention_window=8 makes no sense with"),
        ({**QUERIES, "score_refinement": "intra"}, "score_refinement='intra' mixes the scores"),
        ({"moment_head": "detr"}, "moment_head='detr' is not one of pyramid, queries"),
        ({"score_refinement": "none"}, "score_refinement='none' is not one of learned, fixed"),
        ({"num_moment_queries": 0}, "num_moment_queries=0 is too small"),
        ({"spatial_tokens": 0}, "spatial_tokens=0 is too small"),
        ({"num_dummies": -1}, "num_dummies=-1 is too small"),
    ],
)
def test_variants_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        build_model({**load_config("qvhighlights_slowfast_clip").model, **fields})


def test_variants_of_full_size_keep_the_shapes():
    batch = (
        jnp.zeros((2, 75, 2816)),
        jnp.ones((2, 75), bool),
        jnp.zeros((2, 40, 512)),
        jnp.ones((2, 40), bool),
    )
    points = {"queries": 10, "upsampled, inter": 150 + 75 + 37, "fixed": 75 + 37 + 18 + 9}
    for name, fields in {**VARIANTS, "fixed": {"score_refinement": "fixed"}}.items():
        model = reference.make_model(**{**fields, "num_moment_queries": 10})
        out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), *batch)
        expected = points.get(name, 75)
        chex.assert_shape([out.logits, out.point_mask], (2, expected))
        chex.assert_shape(out.offsets, (2, expected, 2))

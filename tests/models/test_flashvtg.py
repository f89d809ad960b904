"""The whole model: shapes, parameters, precision, and life in other frameworks."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from flashvtg_jax.config import load_config
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.interop.pytorch import model_from_shapes
from flashvtg_jax.models import FlashVTG
from flashvtg_jax.models.flashvtg import build_model
from tests import reference


def shapes(model, *, clips=75, words=40, video=2816, query=512, **options):
    """Parameters and output of a full-size model, shapes only."""
    batch = (
        jax.ShapeDtypeStruct((4, clips, video), jnp.float32),
        jax.ShapeDtypeStruct((4, clips), bool),
        jax.ShapeDtypeStruct((4, words, query), jnp.float32),
        jax.ShapeDtypeStruct((4, words), bool),
    )
    out, variables = jax.eval_shape(
        lambda *batch: model.init_with_output(jax.random.key(0), *batch, **options), *batch
    )
    return out, variables["params"]


def test_output_has_the_documented_shapes():
    out, _ = shapes(reference.make_model(), with_negatives=True)
    points = 75 + 37 + 18 + 9
    expected = {
        "memory": (4, 75, 256),
        "query_embedding": (4, 256),
        "intra_scale_logits": (4, points),
        "inter_scale_logits": (4, points),
        "logits": (4, points),
        "offsets": (4, points, 2),
        "points": (points, 4),
        "point_mask": (4, points),
        "saliency": (4, 75),
        "query_attention": (4, 75),
        "video_mask": (4, 75),
        "negative_saliency": (4, 75),
        "negative_query_attention": (4, 75),
        "negative_index": (4,),
    }
    assert {name: getattr(out, name).shape for name in expected} == expected


def test_without_negatives_there_is_no_negative_output():
    out, _ = shapes(reference.make_model())
    assert out.negative_saliency is None
    assert out.negative_query_attention is None


@pytest.mark.parametrize("config", ["qvhighlights_internvideo2", "tacos_slowfast_clip"])
def test_model_has_as_many_parameters_as_its_pytorch_original(config):
    torch = reference.torch_shapes(config)
    unread = [name for name in torch if name.startswith("txt_position_embed.")]
    expected = sum(math.prod(shape) for name, shape in torch.items() if name not in unread)
    widths = dict(zip(("video", "query"), reference.feature_widths(config), strict=True))
    _, params = shapes(model_from_shapes(torch), **widths)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_parameter_names_stay_as_checkpoints_know_them():
    model = reference.make_model(
        t2v_layers=1, enc_layers=1, dummy_layers=1, num_mlp_layers=2, strides=(1, 2)
    )
    _, params = shapes(model)
    names = {"/".join(path) for path in traverse_util.flatten_dict(params)}

    def both(*paths, kernel="kernel"):
        return {f"{path}/{leaf}" for path in paths for leaf in (kernel, "bias")}

    def layer(path, attention):
        return {
            *attention,
            *both(f"{path}/ffn/dense_0", f"{path}/ffn/dense_1"),
            *both(f"{path}/norm_1", f"{path}/norm_2", kernel="scale"),
            f"{path}/ffn/slope",
        }

    expected = {
        "token_types",
        "dummy_encoder/tokens",
        "dummy_encoder/positions",
        "query_pooling/score/kernel",
        "boundary_head/level_factor",
        "score_refinement/mix",
        *both("saliency_head/clip", "saliency_head/video"),
        *both("boundary_head/conv_0", "boundary_head/conv_1", "pyramid/level_1_0_conv"),
        *both("pyramid/level_1_0_norm", kernel="scale"),
        *layer("cross_attention/layer_0", both("cross_attention/layer_0/out")),
    }
    for encoder in ("clip_encoder", "dummy_encoder"):
        attention = f"{encoder}/layer_0/attention"
        own = {f"{attention}/in_kernel", f"{attention}/in_bias", *both(f"{attention}/out")}
        expected |= layer(f"{encoder}/layer_0", own)
    for modality in ("video", "query"):
        projection = f"{modality}_projection"
        expected |= both(f"{projection}/dense_0", f"{projection}/dense_1")
        expected |= both(f"{projection}/norm_0", f"{projection}/norm_1", kernel="scale")
    for scale in ("intra", "inter"):
        head = f"score_refinement/{scale}_scale"
        expected |= both(f"{head}/conv_0", f"{head}/dense_0", f"{head}/dense_1")
    assert names == expected


def test_negative_pass_scores_each_video_with_the_next_rows_query(small):
    model = small.make_model()
    params = small.init(model)
    video, video_mask, query, query_mask = small.make_batch([7, 7, 5], [3, 2, 3], 7, 3)
    out = small.compiled(model, with_negatives=True)(params, video, video_mask, query, query_mask)
    rolled = (np.roll(a, -1, axis=0) for a in (query, query_mask))
    other = small.compiled(model)(params, video, video_mask, *rolled)
    np.testing.assert_allclose(out.negative_saliency, other.saliency, atol=1e-5)
    np.testing.assert_allclose(out.negative_query_attention, other.query_attention, atol=1e-5)


def test_dropout_acts_in_training_alone_and_follows_its_key(small):
    model = small.make_model()
    params, batch = small.init(model), small.make_batch([7, 5], [3, 2], 7, 3)

    def run(seed, **options):
        rngs = {"dropout": jax.random.key(seed)}
        apply = jax.jit(partial(model.apply, rngs=rngs, **options))
        return apply({"params": params}, *batch).logits

    np.testing.assert_array_equal(run(0), run(1))
    np.testing.assert_array_equal(run(0, train=True), run(0, train=True))
    assert not np.allclose(run(0, train=True), run(1, train=True))


def test_all_dropout_fields_at_zero_make_training_deterministic(small):
    fields = [name for name in FlashVTG.__dataclass_fields__ if "drop" in name]
    assert len(fields) == 5
    model = small.make_model(**dict.fromkeys(fields, 0.0))
    params, batch = small.init(model), small.make_batch([7, 5], [3, 2], 7, 3)
    trained = small.compiled(model, train=True)(params, *batch)
    np.testing.assert_array_equal(trained.logits, small.compiled(model)(params, *batch).logits)


def test_bfloat16_keeps_parameters_and_results_in_float32(small):
    model = small.make_model(dtype="bfloat16")
    batch = small.make_batch([7, 5], [3, 2], 7, 3)
    params = small.init(model)
    chex.assert_trees_all_equal_dtypes(params, jax.tree.map(jnp.float32, params))
    out = small.compiled(model)(params, *batch)
    exact = small.compiled(small.make_model())(params, *batch)
    for name in ("logits", "offsets", "saliency", "query_attention", "query_embedding"):
        assert getattr(out, name).dtype == jnp.float32
        np.testing.assert_allclose(getattr(out, name), getattr(exact, name), rtol=0.1, atol=0.1)
    assert out.memory.dtype == jnp.bfloat16


def test_float32_products_ask_for_full_precision(small):
    model = small.make_model()
    program = jax.make_jaxpr(lambda params, *batch: model.apply({"params": params}, *batch))
    jaxpr = str(program(small.init(model), *small.make_batch([8], [3], 8, 3)))
    products = jaxpr.count("dot_general[") + jaxpr.count("conv_general_dilated[")
    assert products > 20
    assert jaxpr.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


def test_one_shape_compiles_once(small):
    model = small.make_model()
    params = small.init(model)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(params, *batch):
        return model.apply({"params": params}, *batch).logits

    for lengths in ([7, 5], [1, 2], [7, 7]):
        run(params, *small.make_batch(lengths, [1, 3], 7, 3))


def test_lives_inside_flax_nnx(small):
    model = small.make_model()
    batch = small.make_batch([7, 5], [3, 2], 7, 3)
    module = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(*batch)
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    expected = small.compiled(model)(params, *batch)
    np.testing.assert_allclose(module(*batch).logits, expected.logits, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 8}, "no field hidden_size"),
        ({"hidden_dim": 12, "num_heads": 8}, "not a multiple"),
        ({"kernel_size": 4}, "even"),
        ({"dtype": "float16"}, "dtype"),
        ({"dropout": 1.5}, "below 1"),
        ({"num_heads": 0}, "too small"),
        ({"strides": (1, 3)}, "powers of two"),
        ({"strides": ()}, "powers of two"),
    ],
)
def test_a_model_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        build_model({**load_config("qvhighlights_slowfast_clip").model, **fields})


def test_a_section_without_a_field_is_refused():
    section = load_config("qvhighlights_slowfast_clip").model.to_dict()
    del section["dropout"], section["ffn_dim"]
    with pytest.raises(ConfigError, match="lacks dropout, ffn_dim"):
        build_model(section)


def test_a_model_is_built_by_keywords_and_has_no_defaults():
    with pytest.raises(TypeError, match="positional"):
        FlashVTG(256)
    with pytest.raises(TypeError, match="num_heads"):
        FlashVTG(hidden_dim=256)


def test_every_rate_of_a_configuration_can_be_set_to_zero():
    config = load_config("qvhighlights_slowfast_clip")
    for name in config.model:
        if "drop" in name:
            config.model[name] = 0
    model = build_model(config.model)
    assert all(getattr(model, name) == 0 for name in config.model if "drop" in name)

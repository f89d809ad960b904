"""Reading the authors' parameters: every name accounted for, whatever is wrong listed at once."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from flashvtg_jax.config import load_config
from flashvtg_jax.errors import CheckpointError, ConfigError
from flashvtg_jax.interop.pytorch import (
    infer_model_fields,
    model_from_shapes,
    param_shapes,
    params_from_torch,
    params_to_torch,
    torch_names,
    unread_entries,
)
from tests import reference

CONFIGS = [
    "qvhighlights_slowfast_clip",
    "qvhighlights_internvideo2",
    "charades_sta_vgg",
    "charades_sta_internvideo2",
    "tacos_slowfast_clip",
    "tvsum_slowfast_clip",
    "youtube_highlights_slowfast_clip",
]


def zeros(config):
    """A state dict with all names and shapes, without values."""
    return {
        name: np.broadcast_to(np.float32(0), shape)
        for name, shape in reference.torch_shapes(config).items()
    }


@pytest.mark.parametrize("config", CONFIGS)
def test_every_official_configuration_is_read(config):
    params = params_from_torch(zeros(config))
    model = model_from_shapes(reference.torch_shapes(config))
    expected = param_shapes(model, *reference.feature_widths(config))
    found = {
        tuple(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    assert found == expected


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_come_back_bit_for_bit_under_all_names(config):
    weights = reference.state_dict(config)
    model = model_from_shapes(reference.torch_shapes(config))
    found = params_to_torch(params_from_torch(weights, model), model)
    unread = unread_entries(model.hidden_dim, load_config(config).data.max_words)
    # Both together are what the authors' strict loading asks for.
    shapes = {name: array.shape for name, array in (found | unread).items()}
    assert shapes == reference.torch_shapes(config)
    assert not found.keys() & unread.keys()
    for name, array in found.items():
        assert array.dtype == np.float32
        assert array.tobytes() == weights[name].tobytes()


def test_upsampling_levels_come_back():
    model = reference.make_model(
        hidden_dim=16, ffn_dim=16, t2v_layers=1, enc_layers=1, strides=(0.5, 1, 4)
    )
    rng = np.random.default_rng(0)
    flat = {
        path: rng.standard_normal(shape).astype(np.float32)
        for path, shape in param_shapes(model, 6, 5).items()
    }
    params = traverse_util.unflatten_dict(flat)
    weights = params_to_torch(params, model)
    torch = weights["pyramid.blocks.0.1.weight"]  # transposed: [in, out, kernel]
    assert flat["pyramid", "level_0_0_conv", "kernel"][0, 3, 7] == torch[3, 7, 0]
    again = traverse_util.flatten_dict(params_from_torch(weights, model))
    assert all(np.array_equal(again[path], leaf) for path, leaf in flat.items())


def test_parameters_of_another_model_cannot_be_written():
    params = params_from_torch(zeros("tvsum_slowfast_clip"))
    with pytest.raises(CheckpointError, match=r"missing: clip_encoder/layer_3/"):
        params_to_torch(params, reference.make_model(strides=(1,), t2v_layers=2, enc_layers=4))
    fields = infer_model_fields(reference.torch_shapes("tvsum_slowfast_clip"))
    with pytest.raises(CheckpointError, match=r"tokens is \(3, 256\), expected \(4, 256\)"):
        params_to_torch(params, reference.make_model(**fields | {"num_dummies": 4}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("moment_head", "queries"),
        ("score_refinement", "intra"),
        ("spatial_tokens", 4),
        ("num_dummies", 0),
    ],
)
def test_variants_have_no_counterpart(field, value):
    with pytest.raises(ConfigError, match=f"no model of config.model.{field}="):
        params_to_torch({}, reference.make_model(**{field: value}))


def test_axes_are_turned():
    weights = reference.state_dict("tvsum_slowfast_clip")
    params = params_from_torch(weights)
    heads = params["score_refinement"]
    torch = weights["class_head.convs.1.weight"]  # [out, in, 1, kernel]
    assert heads["intra_scale"]["conv_1"]["kernel"][2, 5, 7] == torch[7, 5, 0, 2]
    torch = weights["coord_head.module.3.weight"]  # [out, in, kernel]
    assert params["boundary_head"]["conv_1"]["kernel"][0, 9, 1] == torch[1, 9, 0]
    torch = weights["transformer.encoder.layers.2.self_attn.in_proj_weight"]
    assert params["clip_encoder"]["layer_2"]["attention"]["in_kernel"][3, 600] == torch[600, 3]
    torch = weights["transformer.t2v_encoder.layers.1.activation.weight"]
    assert params["cross_attention"]["layer_1"]["ffn"]["slope"] == torch[0]


def test_half_precision_and_data_parallel_prefixes_are_read():
    weights = reference.state_dict("tvsum_slowfast_clip")
    wrapped = {f"module.{name}": value.astype(np.float16) for name, value in weights.items()}
    params, expected = params_from_torch(wrapped), params_from_torch(weights)
    for leaf, other in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-3)


def test_all_that_does_not_fit_is_listed_in_one_error():
    weights = zeros("tvsum_slowfast_clip")
    del weights["saliency_proj1.bias"]
    weights["class_head.fc.layers.0.weight"] = np.zeros((128, 255), np.float32)
    weights["something.else"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError) as error:
        params_from_torch(weights)
    message = str(error.value)
    assert "3 names do not fit" in message
    assert "missing: saliency_proj1.bias (256,)" in message
    assert "misshaped: class_head.fc.layers.0.weight is (128, 255), expected (128, 256)" in message
    assert "unknown: something.else (3,)" in message


def test_parameters_of_another_model_than_the_one_given_are_refused():
    with pytest.raises(CheckpointError, match=r"missing: .*layers\.5\."):
        params_from_torch(zeros("tvsum_slowfast_clip"), reference.make_model(strides=(1,)))


@pytest.mark.parametrize("weights", [{}, {"fc.weight": np.zeros((3, 2))}])
def test_parameters_of_something_else_are_refused(weights):
    with pytest.raises(CheckpointError, match="not the parameters of a FlashVTG model"):
        params_from_torch(weights)


def test_names_of_the_table_are_the_authors():
    shapes = reference.torch_shapes("charades_sta_vgg")
    unread = {name for name in shapes if name.startswith("txt_position_embed.")}
    assert set(torch_names(model_from_shapes(shapes))) == set(shapes) - unread

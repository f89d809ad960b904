"""The paper's modules used alone: other widths, other lengths, other frameworks, and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flashvtg_jax as fv
from flashvtg_jax import models


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def prefix_mask(lengths, length):
    return jnp.arange(length) < jnp.array(lengths)[:, None]


def pad(x, length, fill=0.0):
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0)), constant_values=fill)


@pytest.mark.parametrize(
    "name", ["TemporalFeatureLayering", "AdaptiveCrossAttention", "AdaptiveScoreRefinement"]
)
def test_modules_are_public_names_with_a_program_in_their_docstring(name):
    assert getattr(fv, name) is getattr(models, name)
    assert ".init(key, " in getattr(fv, name).__doc__


def test_pyramid_of_any_width_has_the_lengths_it_promises():
    memory = noise(2, 13, 6)
    levels, _ = fv.TemporalFeatureLayering(strides=(0.5, 1, 4, 16)).init_with_output(
        jax.random.key(0), memory
    )
    assert [level.shape for level in levels] == [(2, 26, 6), (2, 13, 6), (2, 3, 6), (2, 0, 6)]
    np.testing.assert_array_equal(levels[1], memory)


def test_points_of_the_pyramid_that_are_valid_have_read_no_padding():
    pyramid = fv.TemporalFeatureLayering(strides=(1, 2, 8))
    memory, mask = noise(1, 13, 6), prefix_mask([13], 40)
    params = pyramid.init(jax.random.key(0), memory)
    alone = pyramid.apply(params, memory)
    padded = pyramid.apply(params, pad(memory, 40, fill=99.0))
    for level, other, valid in zip(
        alone, padded, fv.make_point_mask(mask, pyramid.strides), strict=True
    ):
        assert valid.sum() == level.shape[1]
        np.testing.assert_allclose(other[0, valid[0]], level[0], atol=1e-6)


def test_score_refinement_of_levels_of_any_length_ignores_padding():
    refinement = fv.AdaptiveScoreRefinement(kernel_size=3, num_conv_layers=2, num_mlp_layers=1)
    lengths, longer = (7, 5, 2), (9, 5, 4)
    levels = [noise(1, n, 4, seed=n) for n in lengths]
    masks = [prefix_mask([n], n) for n in lengths]
    params = refinement.init(jax.random.key(0), levels, masks)
    alone, _, _ = refinement.apply(params, levels, masks)
    wide = [pad(level, n, fill=99.0) for level, n in zip(levels, longer, strict=True)]
    wide_masks = [prefix_mask([n], m) for n, m in zip(lengths, longer, strict=True)]
    padded, _, _ = refinement.apply(params, wide, wide_masks)
    valid = jnp.concatenate(wide_masks, axis=1)[0]
    np.testing.assert_allclose(padded[0, valid], alone[0], atol=1e-5)


def test_score_refinement_takes_one_sequence_as_its_only_level():
    refinement = fv.AdaptiveScoreRefinement(kernel_size=1, num_conv_layers=1, num_mlp_layers=1)
    x, mask = noise(2, 5, 4), prefix_mask([5, 3], 5)
    logits, variables = refinement.init_with_output(jax.random.key(0), [x], [mask])
    assert logits[0].shape == (2, 5)
    assert variables["params"]["mix"] == 0.5
    np.testing.assert_allclose(logits[0], (logits[1] + logits[2]) / 2, atol=1e-6)


def cross_attention(num_dummies=3, num_words=4):
    attention = fv.AdaptiveCrossAttention(
        num_layers=2, num_heads=2, ffn_dim=8, dropout=0.1, drop_path=0.1
    )
    clips, words = noise(2, 6, 4), noise(2, num_words, 4, seed=1)
    arrays = (clips, 0 * clips, words, prefix_mask([4, 2], num_words), noise(2, num_dummies, 4))
    return attention, attention.init(jax.random.key(0), *arrays), arrays


def test_cross_attention_reads_no_masked_word():
    attention, variables, (clips, positions, words, mask, dummies) = cross_attention()
    read, on_words = attention.apply(variables, clips, positions, words, mask, dummies)
    words = np.where(mask[..., None], words, 99.0)
    again, on_words_again = attention.apply(variables, clips, positions, words, mask, dummies)
    np.testing.assert_array_equal(read, again)
    np.testing.assert_array_equal(on_words, on_words_again)
    assert read.shape == (2, 6, 4) and on_words.shape == (2, 6)
    assert (on_words > 0).all() and (on_words < 1).all()


def test_clips_do_not_see_each_other_in_cross_attention():
    attention, variables, (clips, positions, *rest) = cross_attention()
    read, _ = attention.apply(variables, clips, positions, *rest)
    first, _ = attention.apply(variables, clips[:, :2], positions[:, :2], *rest)
    np.testing.assert_allclose(first, read[:, :2], atol=1e-6)


def test_every_parameter_of_the_three_learns():
    attention, variables, arrays = cross_attention()
    pyramid = fv.TemporalFeatureLayering(strides=(1, 2, 4))
    refinement = fv.AdaptiveScoreRefinement(kernel_size=5, num_conv_layers=1, num_mlp_layers=2)
    clips, mask = arrays[0], prefix_mask([6, 5], 6)
    pyramid_variables = pyramid.init(jax.random.key(1), clips)
    masks = fv.make_point_mask(mask, pyramid.strides)
    levels = pyramid.apply(pyramid_variables, clips)
    params = (variables, pyramid_variables, refinement.init(jax.random.key(2), levels, masks))

    @jax.jit
    def loss(params):
        read, _ = attention.apply(params[0], *arrays)
        logits, _, _ = refinement.apply(params[2], pyramid.apply(params[1], read), masks)
        return (logits * noise(*logits.shape, seed=3)).sum()

    gradient = jax.grad(loss)(params)
    untouched = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not (np.isfinite(leaf).all() and leaf.any())
    ]
    assert not untouched


def test_modules_inside_nnx_give_the_same_numbers():
    memory, mask = noise(2, 9, 4), prefix_mask([9, 6], 9)
    masks = fv.make_point_mask(mask, (1, 2))
    pyramid = fv.TemporalFeatureLayering(strides=(1, 2))
    refinement = fv.AdaptiveScoreRefinement(kernel_size=5, num_conv_layers=1, num_mlp_layers=5)
    rngs = nnx.Rngs(0)
    wrapped = nnx.bridge.ToNNX(pyramid, rngs=rngs).lazy_init(memory)
    levels = wrapped(memory)
    scores = nnx.bridge.ToNNX(refinement, rngs=rngs).lazy_init(levels, masks)
    found = nnx.jit(lambda module, levels: module(levels, masks))(scores, levels)

    def params(module):
        return nnx.to_pure_dict(nnx.state(module, nnx.Param))

    again = pyramid.apply({"params": params(wrapped)}, memory)
    for level, other in zip(levels, again, strict=True):
        np.testing.assert_allclose(level, other, atol=1e-6)
    expected = refinement.apply({"params": params(scores)}, levels, masks)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)


def test_dropout_in_nnx_draws_from_its_own_stream():
    attention, _, arrays = cross_attention()
    rngs = nnx.Rngs(0, dropout=1)
    module = nnx.bridge.ToNNX(attention, rngs=rngs).lazy_init(*arrays)
    first, second = (module(*arrays, train=True)[0] for _ in range(2))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(module(*arrays)[0], module(*arrays)[0])

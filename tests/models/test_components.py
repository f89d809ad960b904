"""The parts of the model, against values worked out by hand or computed another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from flashvtg_jax.models import AdaptiveCrossAttention, TemporalFeatureLayering, make_points
from flashvtg_jax.models.attention import EncoderLayer
from flashvtg_jax.models.layers import (
    Convolution,
    Dropout,
    PairConvolution,
    sine_positions,
    temporal_endpoints,
    uniform_init,
)
from flashvtg_jax.models.pyramid import make_point_mask
from flashvtg_jax.models.score_refinement import join_levels, permute, split_levels


def test_temporal_endpoints_are_fractions_of_the_videos_own_length():
    endpoints = temporal_endpoints(jnp.array([[True] * 4, [True, True, False, False]]))
    np.testing.assert_allclose(endpoints[0, 3], [0.75, 1.0])
    np.testing.assert_allclose(endpoints[1, 1], [0.5, 1.0])


def test_last_valid_clip_sits_at_two_pi():
    positions = sine_positions(jnp.array([[True, True, True, False]]), 4)
    # Channels 0 and 1 have frequency 1, channels 2 and 3 frequency 1 / 100.
    angle = 2 * np.pi * 2 / 3
    expected = [np.sin(angle), np.cos(angle), np.sin(angle / 100), np.cos(angle / 100)]
    np.testing.assert_allclose(positions[0, 1], expected, atol=1e-5)
    np.testing.assert_allclose(positions[0, 2, :2], [0, 1], atol=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_convolution_equals_scipys_on_the_valid_part(kernel_size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 9, 2)).astype(np.float32)
    mask = jnp.arange(9)[None] < 6
    module = Convolution(features=3, kernel_size=kernel_size)
    variables = module.init(jax.random.key(0), x, mask)
    out = module.apply(variables, x, mask)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    for feature in range(3):
        expected = sum(
            correlate(x[0, :6, i], kernel[:, i, feature], mode="same", method="direct")
            for i in range(2)
        )
        np.testing.assert_allclose(out[0, :6, feature], expected + bias[feature], atol=1e-5)


def test_pair_convolution_reads_each_clip_once_and_drops_an_odd_last_one():
    x = jnp.array([[[1.0], [2.0], [3.0], [4.0], [5.0]]])
    params = {"kernel": jnp.array([[[10.0]], [[1.0]]]), "bias": jnp.array([0.5])}
    out = PairConvolution().apply({"params": params}, x)
    np.testing.assert_allclose(out[0, :, 0], [12.5, 34.5])


def test_transposed_pair_convolution_writes_two_points_for_each_clip():
    x = jnp.array([[[1.0], [2.0]]])
    params = {"kernel": jnp.array([[[10.0]], [[1.0]]]), "bias": jnp.array([0.5])}
    out = PairConvolution(transpose=True).apply({"params": params}, x)
    np.testing.assert_allclose(out[0, :, 0], [10.5, 1.5, 20.5, 2.5])


def test_points_lie_at_multiples_of_their_stride_and_ranges_follow_the_strides():
    points = make_points(5, (1, 2, 4))
    inf = np.inf
    expected = [[i, 0, 2, 1] for i in range(5)] + [[0, 2, 4, 2], [2, 2, 4, 2], [0, 4, inf, 4]]
    np.testing.assert_array_equal(points, np.array(expected, np.float32))


def test_points_of_one_level_have_no_range_limit():
    np.testing.assert_array_equal(make_points(2, (1,)), [[0, 0, np.inf, 1], [1, 0, np.inf, 1]])


def test_points_below_stride_one_lie_between_clips():
    np.testing.assert_array_equal(make_points(2, (0.5,))[:, 0], [0, 0.5, 1, 1.5])


def test_a_point_is_valid_if_all_clips_it_covers_are():
    masks = make_point_mask(jnp.array([[True, True, True, False]]), (0.5, 1, 2, 4, 8))
    assert [m[0].tolist() for m in masks] == [
        [True] * 6 + [False] * 2,
        [True] * 3 + [False],
        [True, False],
        [False],
        [],
    ]


def test_levels_have_their_parameters_however_short_the_example_is():
    short, long = (
        TemporalFeatureLayering(strides=(1, 2, 16)).init(jax.random.key(0), jnp.zeros((1, n, 4)))
        for n in (1, 32)
    )
    assert jax.tree.map(jnp.shape, short) == jax.tree.map(jnp.shape, long)


@pytest.mark.parametrize("stride", [3, 0, -2])
def test_a_stride_that_is_no_power_of_two_is_refused(stride):
    with pytest.raises(ValueError, match="powers of two"):
        TemporalFeatureLayering(strides=(1, stride)).init(jax.random.key(0), jnp.zeros((1, 8, 4)))


def test_joined_levels_split_again():
    levels = [jnp.ones((1, n, 2)) * n for n in (4, 2, 0, 1)]
    joined = join_levels(levels, 2)
    assert joined.shape == (1, 7 + 3 * 2, 2)
    for level, again in zip(levels, split_levels(joined, [4, 2, 0, 1], 2), strict=True):
        np.testing.assert_array_equal(level, again)


def test_gradient_of_a_permutation_is_that_of_indexing():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 5, 3)), jnp.float32)
    weight = jnp.asarray(rng.standard_normal((2, 5, 3)), jnp.float32)
    order = jnp.asarray(rng.permuted(np.tile(np.arange(5), (2, 1)), axis=1))
    inverse = jnp.argsort(order, axis=1)
    ours = jax.grad(lambda x: (permute(x, order, inverse) ** 2 * weight).sum())(x)
    index = order[..., None]
    plain = jax.grad(lambda x: (jnp.take_along_axis(x, index, 1) ** 2 * weight).sum())(x)
    np.testing.assert_allclose(ours, plain, atol=1e-6)


def cross_attention():
    module = AdaptiveCrossAttention(
        num_layers=1, num_heads=1, ffn_dim=4, dropout=0.1, drop_path=0.1
    )
    clips, words, dummies = (jnp.ones((1, n, 2)) for n in (3, 2, 4))
    mask = jnp.array([[True, False]])
    args = (clips, jnp.zeros_like(clips), words, mask, dummies)
    return module, module.init(jax.random.key(0), *args), args


def test_attention_that_reaches_words_is_their_share_of_equal_keys():
    module, variables, args = cross_attention()
    # One valid word and four dummies with equal keys: a fifth of the attention reaches words.
    np.testing.assert_allclose(module.apply(variables, *args)[1], np.full((1, 3), 0.2), atol=1e-6)


def test_without_dummies_all_attention_reaches_words():
    module, variables, (clips, positions, words, mask, dummies) = cross_attention()
    _, on_words = module.apply(variables, clips, positions, words, mask, dummies[:, :0])
    np.testing.assert_allclose(on_words, np.ones((1, 3)), atol=1e-6)


def test_stochastic_depth_drops_whole_samples():
    module = EncoderLayer(num_heads=1, ffn_dim=4, dropout=0.0, drop_path=0.5)
    x = jax.random.normal(jax.random.key(3), (64, 2, 4))
    mask = jnp.ones((64, 2), bool)
    variables = module.init(jax.random.key(0), x, 0 * x, mask)
    rngs = {"dropout": jax.random.key(1)}
    out = module.apply(variables, x, 0 * x, mask, train=True, rngs=rngs)

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    # Both branches dropped (a quarter of the samples): what is left are the two norms.
    untouched = np.isclose(out, norm(norm(x)), atol=1e-4).all((1, 2))
    assert 4 <= untouched.sum() <= 32


def test_default_initialisation_fills_the_range_of_pytorch():
    values = uniform_init(16)(jax.random.key(0), (2000,))
    assert 0.24 < jnp.abs(values).max() <= 0.25
    np.testing.assert_allclose(values.std(), 0.25 / np.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.25])
@pytest.mark.parametrize("width", [64, 65])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate, width):
    x = jnp.ones((2000, width))
    out = Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(out)) == {0, np.float32(1 / (1 - rate))}
    deviation = np.sqrt(rate * (1 - rate) / out.size)
    assert abs((out == 0).mean() - rate) < 4 * deviation


def test_dropout_acts_on_neighbours_independently():
    x = jnp.ones((4000, 8))
    out = Dropout(0.1).apply({}, x, train=True, rngs={"dropout": jax.random.key(1)})
    correlation = np.corrcoef(np.asarray(out == 0, float).T)
    assert np.abs(correlation - np.eye(8)).max() < 5 / np.sqrt(4000)


def test_dropout_at_rate_one_drops_all_and_at_zero_nothing():
    x, rngs = jnp.ones((3, 5)), {"dropout": jax.random.key(0)}
    assert not Dropout(1.0).apply({}, x, train=True, rngs=rngs).any()
    assert Dropout(0.0).apply({}, x, train=True).all()

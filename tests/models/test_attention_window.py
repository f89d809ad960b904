"""Attention within a window: the numbers of a band mask, in memory linear in clips."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.models import ClipEncoder
from flashvtg_jax.models.attention import full_attention, windowed_attention
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.models.layers import Dropout


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def prefix_mask(lengths, length):
    return jnp.arange(length) < jnp.array(lengths)[:, None]


def query_key_value(batch, length):
    return [noise(batch, length, 2, 8, seed=seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("lengths", "length", "window"),
    [
        ([64, 23, 1], 64, 1),  # blocks longer than the window
        ([57, 60, 17], 61, 16),  # blocks as long, the last one not full
        ([70, 29], 70, 20),
        ([50, 29], 50, 20),  # fewer clips than three blocks
        ([21, 20], 21, 19),  # one clip short of covering all
        ([5, 3], 5, 30),  # longer than all
    ],
)
def test_window_equals_jaxs_own_local_window_forward_and_backward(lengths, length, window):
    mask = prefix_mask(lengths, length)
    weight = noise(len(lengths), length, 2, 8, seed=3)

    def ours(*arrays):
        return windowed_attention(*arrays, mask, window)

    def theirs(*arrays):
        return jax.nn.dot_product_attention(
            *arrays,
            key_value_seq_lengths=jnp.array(lengths, jnp.int32),
            local_window_size=window,
            implementation="xla",
        )

    def run(function):
        def loss(*arrays):
            out = jnp.where(mask[..., None, None], function(*arrays), 0)
            return (out * weight).sum(), out

        gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
        return gradient(*query_key_value(len(lengths), length))

    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), run(ours), run(theirs))


def test_equal_keys_average_the_values_within_the_window_by_hand():
    zero, value = jnp.zeros((1, 6, 1, 1)), jnp.arange(6.0).reshape(1, 6, 1, 1)
    out = windowed_attention(zero, zero, value, prefix_mask([5], 6), 2)
    # Clips 0 to 2 for the first, 1 to 4 for clip 3: clip 5 is padding.
    np.testing.assert_allclose(out[0, :5, 0, 0], [1, 1.5, 2, 2.5, 3], atol=1e-6)


def make_encoder(batch, length, **fields):
    """A small clip encoder, its parameters, and what it reads but the mask."""
    encoder = ClipEncoder(
        **{"num_layers": 2, **fields}, num_heads=2, ffn_dim=16, dropout=0.1, drop_path=0.1
    )
    clips, positions = noise(batch, length, 8), noise(batch, length, 8, seed=1)
    mask = jnp.ones((batch, length), bool)
    variables = jax.jit(encoder.init)(jax.random.key(0), clips, positions, mask)
    moved = jax.tree.map(lambda a: a + 0.5 * noise(*a.shape, seed=2), variables)
    return encoder, moved, (clips, positions)


def test_a_layer_reads_the_window_and_no_clip_beyond_it():
    encoder, variables, (clips, positions) = make_encoder(1, 52, num_layers=1, attention_window=3)
    mask = jnp.ones((1, 52), bool)

    def first_feature(clips):
        return encoder.apply(variables, clips, positions, mask)[0, :, 0]

    jacobian = jax.jit(jax.jacobian(first_feature))(clips)[:, 0]
    read = np.abs(jacobian).max(-1) > 1e-7  # [clip of the result, clip of the input]
    apart = np.abs(np.arange(52)[:, None] - np.arange(52))
    np.testing.assert_array_equal(read, apart <= 3)


@pytest.mark.parametrize("train", [False, True])
def test_a_window_that_covers_the_padded_length_changes_no_bit(train):
    encoder, variables, arrays = make_encoder(3, 9)
    mask = prefix_mask([9, 9, 7], 9)
    full, covered, narrower = (
        jax.jit(partial(encoder.clone(attention_window=window).apply, train=train))(
            variables, *arrays, mask, rngs={"dropout": jax.random.key(0)}
        )
        for window in (None, 8, 7)
    )
    np.testing.assert_array_equal(full, covered)
    assert np.abs(narrower - full)[:2].max() > 1e-4


def test_a_window_that_covers_a_video_but_not_the_padding_is_full_attention_of_it():
    arrays, mask = query_key_value(2, 100), prefix_mask([33, 100], 100)
    found = jax.jit(partial(windowed_attention, window=32))(*arrays, mask)
    full = jax.jit(full_attention)(*arrays, mask)
    np.testing.assert_allclose(found[0, :33], full[0, :33], atol=1e-6)
    assert np.abs(found[1] - full[1]).max() > 1e-2


def test_padded_videos_equal_unpadded_ones():
    lengths = [1, 4, 17, 49, 60]  # in blocks of 16 clips from 49 on
    encoder, variables, (clips, positions) = make_encoder(5, 60, attention_window=3)
    apply = jax.jit(encoder.apply)
    together = apply(variables, clips, positions, prefix_mask(lengths, 60))
    longer = [
        jnp.pad(x, ((0, 0), (0, 11), (0, 0)), constant_values=9.0) for x in (clips, positions)
    ]
    longer = apply(variables, *longer, prefix_mask(lengths, 71))
    for b, n in enumerate(lengths):
        cut = [x[b : b + 1, :n] for x in (clips, positions)]
        alone = apply(variables, *cut, jnp.ones((1, n), bool))[0]
        np.testing.assert_allclose(together[b, :n], alone, atol=1e-5)
        np.testing.assert_allclose(longer[b, :n], alone, atol=1e-5)


def test_rows_without_a_valid_clip_stay_finite_and_give_finite_gradients():
    encoder, variables, (clips, positions) = make_encoder(3, 60, attention_window=2)
    mask = prefix_mask([0, 53, 6], 60)

    def loss(variables, clips):
        out = encoder.apply(variables, clips, positions, mask)
        return jnp.where(mask[..., None], out, 0).sum(), out

    gradients, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables, clips)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out, gradients)))
    np.testing.assert_array_equal(jnp.where(mask[..., None], 0, gradients[1]), 0)


def parameter_shapes(model, batch):
    return jax.eval_shape(model.init, jax.random.key(0), *batch)["params"]


def test_words_and_dummies_have_no_window(small):
    batch = small.make_batch([2], [30], 2, 30)

    def program(window):
        model = small.make_model(attention_window=window)
        variables = {"params": parameter_shapes(model, batch)}
        apply = partial(model.apply, method="project_query")
        return jax.jit(apply).lower(variables, *batch[2:]).as_text()

    assert program(1) == program(None)


def test_dropout_acts_on_the_weights_at_its_rate():
    def run(key):
        found = []

        def drop(weights):
            dropped = Dropout(0.25).apply({}, weights, train=True, rngs={"dropout": key})
            found.extend([weights, dropped])
            return dropped

        zero = jnp.zeros((1, 200, 2, 4))
        mask = jnp.ones((1, 200), bool)
        return windowed_attention(zero, zero, zero + 1, mask, 20, drop), *found

    out, before, after = jax.device_get(jax.jit(run)(jax.random.key(0)))
    before, after = before[before > 0], after[before > 0]
    assert before.size == 2 * (200 * 41 - 20 * 21)  # heads, and clips within the window
    assert abs((after == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / before.size)
    np.testing.assert_allclose(after[after > 0], before[after > 0] / 0.75, rtol=1e-6)
    np.testing.assert_allclose(out.mean(), 1, atol=0.02)


def test_dropout_draws_its_masks_at_once():
    encoder, variables, arrays = make_encoder(1, 60)

    def draws(window):
        apply = partial(encoder.clone(attention_window=window).apply, train=True)
        mask, rngs = jnp.ones((1, 60), bool), {"dropout": jax.random.key(0)}
        return str(jax.make_jaxpr(apply)(variables, *arrays, mask, rngs=rngs)).count("random_bits[")

    assert draws(5) == draws(None) > 0


def largest_array(jaxpr):
    """Elements of the largest array of a program, those of inner programs too."""
    inner = [p for eqn in jaxpr.eqns for p in jax.tree.leaves(list(eqn.params.values()))]
    inner = [getattr(p, "jaxpr", p) for p in inner]
    own = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "size")]
    return max([*own, 0, *(largest_array(p) for p in inner if hasattr(p, "eqns"))])


@pytest.mark.slow
def test_arrays_of_training_grow_with_the_clips_not_their_square(small):
    def largest(window, clips):
        model = small.make_model(attention_window=window)
        batch = small.make_batch([clips], [3], clips, 3)

        def loss(params):
            rngs, options = {"dropout": jax.random.key(0)}, {"train": True, "with_negatives": True}
            out = model.apply({"params": params}, *batch, rngs=rngs, **options)
            return out.logits.sum() + out.saliency.sum() + out.negative_saliency.sum()

        gradient = jax.make_jaxpr(jax.grad(loss))(parameter_shapes(model, batch))
        return largest_array(gradient.jaxpr)

    assert largest(32, 4096) == pytest.approx(2 * largest(32, 2048), rel=0.05)
    assert largest(None, 4096) == pytest.approx(4 * largest(None, 2048), rel=0.05)


def test_memory_of_a_gradient_grows_with_the_clips_not_their_square():
    def temporaries(length):
        shape = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
        mask = jnp.ones((1, length), bool)
        gradient = jax.grad(lambda *a: windowed_attention(*a, mask, 32).sum(), (0, 1, 2))
        compiled = jax.jit(gradient).lower(shape, shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 1.1 * 2 * temporaries(2048)


def test_a_window_of_no_clips_is_refused():
    config = load_config("demo", {"model.attention_window": 0})
    with pytest.raises(ConfigError, match=r"config\.model\.attention_window=0 is too small"):
        build_model(config.model)


def test_a_window_is_given_on_the_command_line_and_is_off_otherwise():
    config = load_config("demo", ["--config.model.attention_window=12"])
    assert build_model(config.model).attention_window == 12
    assert build_model(load_config("demo").model).attention_window is None

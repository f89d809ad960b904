"""cuDNN's attention, as far as it can be told without the GPU: arguments, place and rules."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.models import ClipEncoder, attention
from flashvtg_jax.models.flashvtg import build_model

BATCHES = [([12, 7, 1, 0], 12), ([13, 5], 13)]  # an odd length is padded to an even one


def query_key_value(lengths, length):
    """bfloat16, with values at padded positions that show wherever they are read."""
    rng = np.random.default_rng(0)
    mask = jnp.arange(length) < jnp.array(lengths)[:, None]
    arrays = rng.standard_normal((3, len(lengths), length, 2, 8))
    arrays = np.where(mask[None, ..., None, None], arrays, 1e3)
    return [jnp.asarray(a, jnp.bfloat16) for a in arrays], mask


@pytest.fixture
def without_gpu(monkeypatch):
    """JAX's plain implementation in cuDNN's place, with NaN in the results of padded positions."""
    plain = jax.nn.dot_product_attention
    calls = []

    def stand_in(query, key, value, *, query_seq_lengths, implementation, **options):
        assert query.dtype == jnp.bfloat16
        calls.append((implementation, query.shape[1], query_seq_lengths))
        out = plain(query, key, value, implementation="xla", **options)
        padded = jnp.arange(query.shape[1]) >= query_seq_lengths[:, None]
        return jnp.where(padded[..., None, None], jnp.nan, out)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    return calls


@pytest.fixture
def with_cuda(monkeypatch):
    """A machine whose GPU programs are only compiled for."""
    checks = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(checks, lambda: 91000)
    monkeypatch.setattr(attention, "_has_fused_kernel", lambda: True)


@pytest.mark.parametrize(("lengths", "length"), BATCHES)
def test_valid_clips_get_full_attention_whatever_is_left_in_the_padding(
    without_gpu, lengths, length
):
    arrays, mask = query_key_value(lengths, length)
    found = attention._cudnn_attention(*arrays, mask).astype(jnp.float32)
    full = jax.jit(attention.full_attention)(*arrays, mask).astype(jnp.float32)
    valid = np.asarray(mask)
    np.testing.assert_allclose(found[valid], full[valid], atol=0.02)  # rounding of bfloat16
    np.testing.assert_array_equal(found[~valid], 0)
    ((implementation, padded, given),) = without_gpu
    assert (implementation, padded) == ("cudnn", length + length % 2)
    np.testing.assert_array_equal(given, np.maximum(lengths, 1))


@pytest.mark.parametrize(("lengths", "length"), BATCHES)
def test_gradients_are_those_of_full_attention_and_zero_in_the_padding(
    without_gpu, lengths, length
):
    arrays, mask = query_key_value(lengths, length)

    def gradient(function):
        def loss(*arrays):
            out = function(*arrays, mask).astype(jnp.float32)
            return (jnp.where(mask[..., None, None], out, 0) ** 2).sum()

        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*arrays)
        return [a.astype(jnp.float32) for a in gradients]

    valid = np.asarray(mask)
    full = gradient(attention.full_attention)
    for found, expected in zip(gradient(attention._cudnn_attention), full, strict=True):
        np.testing.assert_allclose(found[valid], expected[valid], atol=0.05)
        np.testing.assert_array_equal(found[~valid], 0)


@pytest.mark.parametrize("length", [12, 13])
def test_a_program_for_nvidia_gpus_calls_cudnn_and_holds_no_square_array(with_cuda, length):
    arrays, mask = query_key_value([length], length)

    def loss(*arrays):
        return attention.fused_attention(*arrays, mask).astype(jnp.float32).sum()

    for function, call in [(loss, "fmhaSoftmax"), (jax.grad(loss), "fmhaSoftmaxBackward")]:
        text = jax.jit(function).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
        assert f"__cudnn${call}(" in text.replace("\\24", "$")
        assert f"x{length}x{length}x" not in text
        text = jax.jit(function).trace(*arrays).lower(lowering_platforms=("cpu",)).as_text()
        assert "cudnn" not in text
        assert f"x{length}x{length}x" in text


def encoder(**fields):
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 9, 16)), jnp.float32)
    fields = {"dropout": 0.1, "drop_path": 0.1, "attention_kernel": "cudnn", **fields}
    module = ClipEncoder(num_layers=2, num_heads=2, ffn_dim=8, dtype=jnp.bfloat16, **fields)
    arrays = (x, 0 * x, jnp.arange(9) < jnp.array([[9], [6]]))
    return module, jax.jit(module.init)(jax.random.key(0), *arrays), arrays


def test_without_an_nvidia_gpu_the_numbers_are_those_of_xla(monkeypatch):
    monkeypatch.setattr(attention, "_has_fused_kernel", lambda: False)
    module, variables, arrays = encoder()
    plain = module.clone(attention_kernel="xla")
    found, expected = (jax.jit(m.apply)(variables, *arrays) for m in (module, plain))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("dropout", "train", "fused"), [(0.1, True, 0), (0.1, False, 2), (0.0, True, 2)]
)
def test_weights_that_are_dropped_are_computed_plainly(monkeypatch, dropout, train, fused):
    calls = []

    def stand_in(*arrays):
        calls.append(arrays)
        return attention.full_attention(*arrays)

    module, variables, arrays = encoder(dropout=dropout)
    monkeypatch.setattr(attention, "fused_attention", stand_in)
    apply = partial(module.apply, train=train, rngs={"dropout": jax.random.key(0)})
    jax.eval_shape(apply, variables, *arrays)
    assert len(calls) == fused  # layers


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "it needs config.model.dtype=bfloat16, not float32"),
        (
            {"model.dtype": "bfloat16", "model.attention_window": 8},
            "it has no windows, and config.model.attention_window=8",
        ),
        ({"model.dtype": "bfloat16", "model.num_heads": 16}, "a multiple of 8 up to 128, not 4"),
    ],
)
def test_what_cudnn_does_not_compute_is_refused(overrides, message):
    config = load_config("demo", {"model.attention_kernel": "cudnn", **overrides})
    with pytest.raises(ConfigError, match=f"attention_kernel=cudnn: .*{message}; change that"):
        build_model(config.model)


def test_an_unknown_kernel_is_refused():
    config = load_config("demo", {"model.attention_kernel": "flash"})
    with pytest.raises(ConfigError, match="attention_kernel='flash' is not one of xla, cudnn"):
        build_model(config.model)


def test_jax_has_no_window_for_cudnn_that_reaches_to_both_sides():
    (query, key, value), _ = query_key_value([4], 4)
    with pytest.raises(ValueError, match="doesn't support right window"):
        jax.nn.dot_product_attention(query, key, value, local_window_size=2, implementation="cudnn")

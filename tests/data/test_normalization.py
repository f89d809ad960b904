import jax.numpy as jnp
import numpy as np
import pytest

from flashvtg_jax.data.normalization import normalize, normalize_on_device


def test_normalize_divides_by_the_norm_plus_a_little_in_float32():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [300.0, 400.0]], np.float16)  # 300 ** 2 > float16
    normalized = normalize(rows)
    assert normalized.dtype == np.float32
    expected = [[3 / 5.00001, 4 / 5.00001], [0, 0], [300 / 500.00001, 400 / 500.00001]]
    np.testing.assert_allclose(normalized, expected, rtol=1e-6)


def test_normalize_agrees_with_the_formula_and_writes_into_part_of_a_batch():
    rows = np.random.default_rng(0).standard_normal((7, 33)).astype(np.float16)
    batch = np.full((2, 9, 40), 9.0, np.float32)
    part = batch[1, :7, 4:37]
    assert normalize(rows, out=part) is part
    x = rows.astype(np.float64)
    expected = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(part, expected, atol=1e-7)
    assert (batch[0] == 9.0).all()
    assert (batch[1, 7:] == 9.0).all()


def test_normalize_takes_every_float16_for_what_numpy_takes_it_for():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 8)
    np.testing.assert_array_equal(normalize(finite), normalize(finite.astype(np.float32)))
    with np.errstate(invalid="ignore"):
        for value in (np.inf, -np.inf, np.nan):
            rows = np.asarray([[1, 2, value], [3, 4, 5]], np.float16)
            np.testing.assert_array_equal(normalize(rows), normalize(rows.astype(np.float32)))
    assert normalize(np.zeros((0, 3), np.float16)).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_devices_normalise_as_the_host_does(dtype):
    rows = 10 * np.random.default_rng(0).standard_normal((2, 5, 33))
    rows[0, 0] = 0
    rows = rows.astype(dtype)
    on_device = normalize_on_device(jnp.asarray(rows))
    assert on_device.dtype == np.float32
    np.testing.assert_allclose(on_device, normalize(rows), rtol=1e-6)

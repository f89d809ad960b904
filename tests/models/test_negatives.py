"""Rows that lend their query to another video: which, and how they are brought there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashvtg_jax.models.negatives import negative_rows, stack_rows, take_rows, unstack_rows

MASKS = {
    "full": [1, 1, 1, 1, 1],
    "padding last": [1, 1, 1, 0, 0],
    "padding in the middle": [1, 0, 1, 1, 0],
    "padding first": [0, 0, 1, 1, 1],
    "one valid row": [1, 0, 0, 0, 0],
    "one valid row in the middle": [0, 0, 1, 0, 0],
    "all padding": [0, 0, 0, 0, 0],
    "a single row": [1],
    "a single padding row": [0],
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


def make_arrays(rows, seed=0):
    """Words, their mask and dummy keys of a few rows."""
    rng = np.random.default_rng(seed)
    words = rng.standard_normal((rows, 3, 2)).astype(np.float32)
    keys = rng.standard_normal((rows, 4)).astype(np.float32)
    return jnp.asarray(words), jnp.asarray(rng.integers(0, 2, (rows, 3)) > 0), jnp.asarray(keys)


def taken(words, word_mask, keys, row_mask):
    return take_rows((words, word_mask, keys), negative_rows(row_mask), row_mask)


def test_negative_rows_roll_over_the_valid_rows():
    mask = jnp.array([True, False, True, True, False])
    np.testing.assert_array_equal(negative_rows(mask), [2, 1, 3, 0, 4])
    np.testing.assert_array_equal(negative_rows(jnp.zeros(3, bool)), [0, 1, 2])
    np.testing.assert_array_equal(negative_rows(jnp.array([True])), [0])


@masks
def test_taken_rows_are_those_that_the_index_names(mask):
    mask, arrays = jnp.asarray(mask, bool), make_arrays(len(mask))
    index = negative_rows(mask)
    for array, rows in zip(arrays, jax.jit(taken)(*arrays, mask), strict=True):
        assert rows.dtype == array.dtype
        np.testing.assert_array_equal(rows, array[index])


@masks
def test_gradients_go_back_to_the_rows_that_lent(mask):
    mask = jnp.asarray(mask, bool)
    words, word_mask, keys = make_arrays(len(mask))
    weights, _, key_weights = make_arrays(len(mask), seed=1)
    index = negative_rows(mask)

    def by_rows(words, keys):
        new_words, _, new_keys = taken(words, word_mask, keys, mask)
        return jnp.vdot(weights, new_words) + jnp.vdot(key_weights, new_keys)

    def by_index(words, keys):
        return jnp.vdot(weights, words[index]) + jnp.vdot(key_weights, keys[index])

    found = jax.jit(jax.grad(by_rows, argnums=(0, 1)))(words, keys)
    expected = jax.grad(by_index, argnums=(0, 1))(words, keys)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # a row may lend to two: itself, another


def test_runs_that_are_trained_together_take_rows_of_their_own():
    runs = jnp.asarray([MASKS["padding last"], MASKS["padding in the middle"]], bool)
    arrays = [jnp.stack(pair) for pair in zip(make_arrays(5), make_arrays(5, seed=1), strict=True)]
    found = jax.jit(jax.vmap(taken))(*arrays, runs)
    for e in range(2):
        index = negative_rows(runs[e])
        for array, rows in zip(arrays, found, strict=True):
            np.testing.assert_array_equal(rows[e], array[e][index])


def test_stacked_rows_alternate_and_come_apart_again():
    first, second = jnp.array([[1, 2], [3, 4]]), jnp.array([[5, 6], [7, 8]])
    stacked = stack_rows(first, second)
    np.testing.assert_array_equal(stacked, [[1, 2], [5, 6], [3, 4], [7, 8]])
    for whole, part in zip((first, second), unstack_rows(stacked), strict=True):
        np.testing.assert_array_equal(part, whole)
    mask = jnp.array([True, False])
    np.testing.assert_array_equal(unstack_rows(stack_rows(mask, ~mask))[1], [False, True])

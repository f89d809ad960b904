"""Counted operations, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.flops import count_flops


def counted(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_flops(jax.make_jaxpr(function)(*arrays))


PRODUCT = 2 * 3 * 4 * 5  # of [3, 4] and [4, 5]


def test_a_product_is_two_operations_for_each_element_and_term():
    assert counted(jnp.matmul, (3, 4), (4, 5)) == PRODUCT
    assert counted(lambda a, b: jnp.tanh(a @ b) + 1, (3, 4), (4, 5)) == PRODUCT
    assert counted(jnp.matmul, (7, 3, 4), (7, 4, 5)) == 7 * PRODUCT
    assert counted(
        lambda a, b: jnp.einsum("bqhd,bkhd->bhqk", a, b), (2, 3, 8, 5), (2, 4, 8, 5)
    ) == (2 * (2 * 8) * (3 * 4) * 5)
    assert counted(lambda a: a * a, (3, 4)) == 0


def test_a_convolution_sums_over_taps_and_inputs_of_its_group():
    def convolve(groups):
        return lambda x, kernel: jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1,),
            padding="SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )

    # 2 x rows x positions x outputs x taps x inputs
    assert counted(convolve(1), (2, 10, 6), (5, 6, 8)) == 2 * 2 * 10 * 8 * 5 * 6
    assert counted(convolve(3), (2, 10, 6), (5, 2, 9)) == 2 * 2 * 10 * 9 * 5 * 2


def test_gradients_of_a_product_take_twice_its_operations():
    def loss(a, b):
        return jnp.sum(jnp.square(a @ b))

    both = jax.value_and_grad(loss, argnums=(0, 1))
    assert counted(both, (3, 4), (4, 5)) == 3 * PRODUCT
    assert counted(jax.jit(both), (3, 4), (4, 5)) == 3 * PRODUCT


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    def scanned(x, a):
        return jax.lax.scan(lambda x, _: (x @ a, None), x, length=6)[0]

    assert counted(scanned, (3, 4), (4, 4)) == 6 * 2 * 3 * 4 * 4

    def repeated(x, a):
        return jax.lax.fori_loop(0, 6, lambda _, x: x @ a, x)

    assert counted(repeated, (3, 4), (4, 4)) == 6 * 2 * 3 * 4 * 4

    def until_large(x, a):
        return jax.lax.while_loop(lambda x: x.sum() < 10, lambda x: x @ a, x)

    assert counted(until_large, (3, 4), (4, 4)) == 2 * 3 * 4 * 4  # once: it is not known


def test_the_dearest_branch_counts():
    def either(x, a, b):
        return jax.lax.cond(x.sum() > 0, lambda: x @ a, lambda: (x @ b) @ b.T @ a)

    dear = 2 * 3 * (4 * 9 + 9 * 4 + 4 * 5)
    assert counted(either, (3, 4), (4, 5), (4, 9)) == dear


def test_functions_with_rules_of_their_own_are_looked_into():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
    assert counted(product, (3, 4), (4, 5)) == PRODUCT
    loss = jax.grad(lambda a, b: product(a, b).sum(), argnums=(0, 1))
    assert counted(loss, (3, 4), (4, 5)) == 3 * PRODUCT

    remembered = jax.grad(lambda a, b: jnp.sum(jax.checkpoint(jnp.matmul)(a, b) ** 2))
    assert counted(remembered, (3, 4), (4, 5)) >= 2 * PRODUCT


@pytest.mark.parametrize("size", [16, 32])
def test_the_count_is_that_of_the_compiler_where_there_is_nothing_else(size):
    array = jax.ShapeDtypeStruct((size, size), jnp.float32)
    traced = jax.jit(lambda a, b: a @ b @ a).trace(array, array)
    by_compiler = traced.lower().compile().cost_analysis()["flops"]
    assert count_flops(traced.jaxpr) == by_compiler

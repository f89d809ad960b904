"""Floating-point operations of a function, counted in its jaxpr: matrix products and convolutions.

XLA's own count is of the program after its optimisations: it takes the body of a loop once, and on
GPU it misses the products that became calls of cuBLAS or cuDNN. What is counted here depends on the
function alone. Additions of biases, activations, norms and softmax are left out, as is usual: they
are a few percent of the operations.
"""

import math
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """Returns the operations of all matrix products and convolutions, 2 for a multiply and an add.

    The body of a `scan` counts as often as it runs, the dearest branch of a `cond` alone; the body
    of a `while`, whose length is known only once it ran, counts once. Zeros of padding and dilation
    count as other numbers do.

    Args:
      jaxpr: `jax.make_jaxpr(function)(*arguments)`, or `jax.jit(function).trace(*arguments).jaxpr`.
    """
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _count_product(equation)
    if name == "conv_general_dilated":
        return _count_convolution(equation)
    if name == "cond":
        return max(count_flops(branch) for branch in params["branches"])
    leaves = jax.tree.leaves(params, is_leaf=_is_jaxpr)
    inside = sum(count_flops(leaf) for leaf in leaves if _is_jaxpr(leaf))
    return inside * params["length"] if name == "scan" else inside


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)


def _count_product(equation: Any) -> int:
    """2 x the size of the result x the numbers that each of its elements sums over."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    size = math.prod(equation.outvars[0].aval.shape)
    return 2 * size * math.prod(left[axis] for axis in contracted)


def _count_convolution(equation: Any) -> int:
    """2 x the size of the result x the taps and inputs that each of its elements sums over."""
    _, in_features, *window = equation.params["dimension_numbers"].rhs_spec
    kernel = equation.invars[1].aval.shape  # its inputs are those of one group
    size = math.prod(equation.outvars[0].aval.shape)
    return 2 * size * math.prod(kernel[axis] for axis in (in_features, *window))

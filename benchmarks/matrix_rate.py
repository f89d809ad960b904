"""What the device reaches in nothing but large matrix products: the limit to compare with."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from measuring import summary

from flashvtg_jax.models.layers import matmul_precision

_PRODUCTS = 8  # one after the other
_SMALLEST, _LARGEST = 512, 8192
_ENOUGH_SECONDS = 0.3  # for a chain: long beside what it takes to start it


def measure_matrix_rate(dtype: str, repeats: int = 5) -> dict[str, Any]:
    """Measures chains of products of square matrices, as large as it takes to keep the device busy.

    Args:
      dtype: "float32" takes full products, as the model does; "bfloat16" has inputs of that type
        and sums in float32.
      repeats: of the chain of the largest matrices.

    Returns:
      "gflop_per_second", median and spread, and the size of the matrices.
    """
    size = _SMALLEST
    while True:
        chain, arrays = make_chain(size, dtype)
        seconds = min(_seconds(chain, arrays) for _ in range(2))
        if seconds >= _ENOUGH_SECONDS or size >= _LARGEST:
            break
        size *= 2
    gflop = _PRODUCTS * 2 * size**3 / 1e9
    rates = summary([gflop / _seconds(chain, arrays) for _ in range(repeats)])
    return {"dtype": dtype, "matrix_size": size, "gflop_per_second": rates}


def make_chain(size: int, dtype: str) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """Returns a compiled chain of products of [size, size] matrices, and what it takes.

    Each product waits for the one before it, so that none can be left out or done with another.
    """
    multiply = partial(
        jnp.matmul, precision=matmul_precision(dtype), preferred_element_type=jnp.float32
    )

    def chain(x: jax.Array, matrix: jax.Array) -> jax.Array:
        for _ in range(_PRODUCTS):
            x = multiply(x, matrix).astype(dtype)
        return x

    # Entries of size^-1/2: the products neither grow nor vanish.
    x, matrix = (
        (jax.random.normal(key, (size, size)) * size**-0.5).astype(dtype)
        for key in jax.random.split(jax.random.key(0))
    )
    return jax.jit(chain).lower(x, matrix).compile(), (x, matrix)


def _seconds(chain: Any, arrays: tuple[jax.Array, jax.Array]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(chain(*arrays))
    return time.perf_counter() - start

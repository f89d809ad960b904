"""Types of arrays in signatures: `Float[Array, "B L D"]` is a float array of that shape.

Names of axes: B samples, L clips, Q words, D width, N queries or dummies, P points of the pyramid.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool as Bool
from jaxtyping import Float as Float
from jaxtyping import Int as Int
from jaxtyping import Num as Num
from jaxtyping import Shaped as Shaped

Array = jax.Array | np.ndarray
Size = Any  # an int, or a symbol of jax.export
Scalar = float | Num[Array, ""]  # a Python number, or a scalar array

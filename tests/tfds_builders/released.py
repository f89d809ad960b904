"""Small folders laid out as the released files are, and builds of them."""

import numpy as np
import pytest

from flashvtg_jax.data.build.building import build
from flashvtg_jax.errors import DataError


def numbers(*seed, dtype=np.float16):
    """An array [rows, width] of numbers that only `seed` determines; it ends with rows, width."""
    rows, width = seed[-2:]
    rng = np.random.default_rng([ord(c) for c in str(seed)])
    return (3 * rng.standard_normal((rows, width))).astype(dtype)


def save(path, array, key="features"):
    """Writes a feature file, `.npz` or `.npy`, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, **{key: array})


def build_quietly(dataset, manual, data_dir, **options):
    return build(dataset, manual, data_dir, progress=False, **options)


def failing_build(dataset, manual, data_dir, **options):
    """The message of a build that must fail and leave nothing behind."""
    with pytest.raises(DataError) as info:
        build_quietly(dataset, manual, data_dir, **options)
    assert not data_dir.exists()
    return str(info.value)


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }

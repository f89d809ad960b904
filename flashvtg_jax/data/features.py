"""Feature files: `.npz`, `.npy` and `.pt` into arrays [rows, width].

Nothing that a file holds is ever executed: pickled objects are refused in all three.
"""

import contextlib
import importlib
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from flashvtg_jax.errors import DataError

SUFFIXES = (".npz", ".npy", ".pt")

_FLOATS = ("float16", "float32", "float64")
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # a compression or encryption that zipfile does not know
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class FeatureHeader(NamedTuple):
    """What a feature file says of itself before its numbers are read."""

    rows: int  # clips of a video, words of a query
    width: int
    dtype: np.dtype


def read_feature(path: str | os.PathLike, key: str, width: int | None = None) -> np.ndarray:
    """Reads one feature file as an array [rows, width], in the precision it was released in.

    Args:
      path: a `.npz`, `.npy` or `.pt` file; pickled objects in it are refused.
      key: name of the array in a `.npz` file or a `.pt` dictionary; a bare array needs none.
      width: the width the array must have; None takes any.

    Raises:
      DataError: a missing or damaged file, another key, rank or width, no rows, NaN or infinity.
    """
    path = Path(path)
    array = _read_torch(path, key) if path.suffix == ".pt" else _read_numpy(path, key)
    _check_header(path, array.shape, array.dtype, width)
    finite = np.isfinite(array)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        raise DataError(
            f"{path}: NaN or infinity in {rows.size} of {len(array)} rows (first: row {rows[0]}); "
            "extract or download this file again."
        )
    return array


def feature_header(path: str | os.PathLike, key: str, width: int | None = None) -> FeatureHeader:
    """Reads rows, width and dtype of a feature file without reading its numbers (`.pt`: with).

    Args:
      path: a `.npz`, `.npy` or `.pt` file.
      key: name of the array, as for `read_feature`.
      width: the width the array must have; None takes any.

    Raises:
      DataError: as `read_feature`, except for NaN and infinity.
    """
    path = Path(path)
    if path.suffix == ".pt":
        array = _read_torch(path, key)
        return _check_header(path, array.shape, array.dtype, width)
    with _open_array(path, key) as (stream, available):
        shape, dtype, start = _npy_header(stream)
    header = _check_header(path, shape, dtype, width)
    expected = start + header.rows * header.width * dtype.itemsize
    if available < expected:
        raise _unreadable(path, f"cut short, {available} of {expected} bytes")
    return header


def normalize(features: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """Divides every row of [rows, width] by its L2 norm + 1e-5, in float32.

    The small number keeps an all-zero row (an unknown word) zero; it is the one that released
    checkpoints were trained with.

    Args:
      features: [rows, width] of any float type.
      out: float32 array of the same shape to write into; a new one when not given.

    Returns:
      `out`.
    """
    if out is None:
        out = np.empty(np.shape(features), np.float32)
    out[...] = features
    norms = np.sqrt(np.einsum("...d,...d->...", out, out))
    norms += np.float32(1e-5)
    return np.divide(out, norms[..., None], out=out)


@contextlib.contextmanager
def _open_array(path: Path, key: str) -> Iterator[tuple[IO[bytes], int]]:
    """Opens the array `key` of a `.npz` file, or a `.npy` file: (stream, bytes there are)."""
    try:
        with contextlib.ExitStack() as stack:
            if path.suffix == ".npz":
                archive = stack.enter_context(zipfile.ZipFile(path))
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                if key not in names:
                    raise _wrong_key(path, key, names)
                member = archive.infolist()[names.index(key)]
                yield stack.enter_context(archive.open(member)), member.file_size
            else:
                stream = stack.enter_context(path.open("rb"))
                yield stream, os.fstat(stream.fileno()).st_size
    except DataError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _read_numpy(path: Path, key: str) -> np.ndarray:
    with _open_array(path, key) as (stream, _):
        return np.lib.format.read_array(stream, allow_pickle=False)


def _npy_header(stream) -> tuple[tuple[int, ...], np.dtype, int]:
    """Returns shape, dtype and the position of the first number of an open `.npy` stream."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"npy format version {version} is not one for numbers")
    return shape, dtype, stream.tell()


def _read_torch(path: Path, key: str) -> np.ndarray:
    """Reads a tensor, or the entry `key` of a dictionary of tensors, from a `.pt` file."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise DataError(
            f"{path}: reading .pt files needs PyTorch: pip install 'flashvtg-jax[torch]'. "
            "(Or convert the files to .npy under the same names; both are read.)"
        ) from error
    try:
        # weights_only: tensors are read, code in the file is not run.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    if isinstance(content, dict):
        if key not in content:
            raise _wrong_key(path, key, [str(name) for name in content])
        content = content[key]
    if not isinstance(content, torch.Tensor):
        raise DataError(f"{path}: expected a tensor, found {type(content).__name__}.")
    if content.dtype == torch.bfloat16:  # numpy has none
        content = content.float()
    return content.detach().numpy()


def _check_header(path: Path, shape, dtype: np.dtype, width: int | None) -> FeatureHeader:
    """Returns the header of an array of this shape and dtype, or raises what is wrong with it."""
    if len(shape) != 2:
        raise DataError(f"{path}: expected an array [rows, width], found shape {list(shape)}.")
    if dtype.name not in _FLOATS:
        raise DataError(f"{path}: expected floating-point numbers, found {dtype}.")
    rows, found = shape
    if width is not None and found != width:
        raise DataError(
            f"{path}: expected width {width}, got {found}: features of another backbone?"
        )
    if rows == 0 or found == 0:
        raise DataError(f"{path}: empty, shape {list(shape)}; extract or download it again.")
    return FeatureHeader(rows, found, dtype)


def _wrong_key(path: Path, key: str, keys: list[str]) -> DataError:
    return DataError(
        f"{path}: no array {key!r} in it; it holds {', '.join(sorted(keys)) or 'none'}."
    )


def _unreadable(path: Path, reason) -> DataError:
    if isinstance(reason, FileNotFoundError):
        return DataError(f"{path}: no such file.")
    reason = (str(reason).strip() or type(reason).__name__).splitlines()[0].rstrip(".")
    return DataError(f"{path}: cannot be read ({reason}); extract or download it again.")

"""Reads feature files, `.npz`, `.npy`, `.pt` and HDF5, as arrays [rows, width].

A file of space-time features [L, S, width] is read as [L, S * width]: a row holds the S tokens of a
clip side by side.

No code in a file is ever run: pickled objects are refused in all formats.
"""

import contextlib
import importlib
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from flashvtg_jax.data import hdf5
from flashvtg_jax.errors import DataError

T = TypeVar("T")
ByteStream = io.BufferedIOBase

SUFFIXES = (".npz", ".npy", ".pt", *hdf5.SUFFIXES)
USUAL_KEYS = ("features", "last_hidden_state")  # read if a file has several arrays

# Before 2.6, torch.load(weights_only=True) could run code in a file (CVE-2025-32434).
OLDEST_TORCH = (2, 6)

# Explanations of shapes that are wrong.
ANOTHER_BACKBONE = "features of another backbone?"
TRANSPOSED = "perhaps it is transposed, [width, rows]; save array.T"
WITHOUT_BATCH_AXIS = "Its first axis is that of a batch of one; save array[0]."

_PARSING_ATTEMPTS = 10
_FLOATS = ("float16", "float32", "float64")
_UNREADABLE = (
    OSError,
    EOFError,
    SystemError,  # of the parser of headers, if it failed repeatedly
    MemoryError,  # of an impossible size
    OverflowError,
    ValueError,
    RuntimeError,  # a compression or encryption that zipfile does not know
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class FeatureHeader(NamedTuple):
    """Shape and type of the features in a file."""

    rows: int  # clips of a video, words of a query
    width: int  # of a row, or of one token if a row has several
    dtype: np.dtype
    tokens: int = 1  # S, of each row


def read_feature(
    path: str | os.PathLike, key: str | None, width: int | None = None, spatial: bool = False
) -> Float[np.ndarray, "rows row_width"]:
    """Reads one feature file as an array [rows, width], in the precision it was released in.

    Arguments and errors are those of `read_tokens`. With `spatial`, arrays [rows, S, width] are
    returned as [rows, S * width].
    """
    array = read_tokens(path, key, width, spatial)
    return array.reshape(len(array), -1)


def read_tokens(
    path: str | os.PathLike, key: str | None, width: int | None = None, spatial: bool = False
) -> Float[np.ndarray, "rows S width"]:
    """Reads one feature file as an array [rows, S, width], in the precision it was released in.

    Args:
      path: a `.npz`, `.npy`, `.pt`, `.h5` or `.hdf5` file, or for an HDF5 file of all videos its
        path followed by the name of the array. Pickled objects are refused.
      key: name of the array in a `.npz` or HDF5 file or a `.pt` dictionary. None takes the only
        array, or the first of `USUAL_KEYS`.
      width: the width that the array must have; None takes any.
      spatial: accept arrays [rows, S, width]; for arrays [rows, width] S is 1.

    Raises:
      DataError: a missing or damaged file; another key, rank or width; no rows; NaN, infinity, or
        numbers beyond float32.
    """
    path = Path(path)
    if hdf5.in_hdf5(path):
        array = _from_hdf5(path, key, hdf5.read)
    elif path.suffix == ".pt":
        array = _read_torch(path, key)
    else:
        array = _read_numpy(path, key, width, spatial)
    header = _check_header(path, array.shape, array.dtype, width, spatial)
    array = array.reshape(header.rows, header.tokens, header.width)
    finite = np.isfinite(array)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=(1, 2)))
        raise DataError(
            f"{path}: NaN or infinity in {rows.size} of {len(array)} rows (first: row {rows[0]}); "
            "extract or download this file again."
        )
    if array.dtype == np.float64 and np.abs(array).max(initial=0.0) > np.finfo(np.float32).max:
        rows = np.flatnonzero((np.abs(array) > np.finfo(np.float32).max).any(axis=(1, 2)))
        raise DataError(
            f"{path}: numbers too large for float32 in {rows.size} of {len(array)} rows (first: "
            f"row {rows[0]}); extract this file again."
        )
    return array


def feature_header(
    path: str | os.PathLike, key: str | None, width: int | None = None, spatial: bool = False
) -> FeatureHeader:
    """Reads shape and dtype of a feature file without its numbers (except in `.pt` files).

    Args:
      path: see `read_tokens`.
      key: see `read_tokens`.
      width: see `read_tokens`.
      spatial: see `read_tokens`.

    Raises:
      DataError: as `read_feature`, except for NaN and infinity.
    """
    path = Path(path)
    if hdf5.in_hdf5(path):
        return _check_header(path, *_from_hdf5(path, key, hdf5.header), width, spatial)
    if path.suffix == ".pt":
        array = _read_torch(path, key)
        return _check_header(path, array.shape, array.dtype, width, spatial)
    with _open_array(path, key) as (opened, available):
        return _from_start(
            opened, lambda stream: _numpy_header(path, stream, available, width, spatial)
        )


@contextlib.contextmanager
def _open_array(path: Path, key: str | None) -> Iterator[tuple[Callable[[], ByteStream], int]]:
    """Opens the array `key` of a `.npz` file, or a `.npy` file: (opened, size in bytes).

    `opened()` returns a stream at its start; another call ends the use of the stream before.
    """
    try:
        with contextlib.ExitStack() as stack:
            if path.suffix == ".npz":
                archive = stack.enter_context(zipfile.ZipFile(path))
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                member = archive.infolist()[names.index(_key(path, key, names))]
                # A new stream each time: after a seek, zipfile does not verify the checksum.
                yield lambda: stack.enter_context(archive.open(member)), member.file_size
            else:
                stream = stack.enter_context(path.open("rb"))

                def from_start() -> ByteStream:
                    stream.seek(0)
                    return stream

                yield from_start, os.fstat(stream.fileno()).st_size
    except DataError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _read_numpy(path: Path, key: str | None, width: int | None, spatial: bool) -> np.ndarray:
    with _open_array(path, key) as (opened, available):
        # A damaged header must not decide how much memory is allocated.
        _from_start(opened, lambda stream: _numpy_header(path, stream, available, width, spatial))
        return _from_start(opened, lambda s: np.lib.format.read_array(s, allow_pickle=False))


def _from_start(opened: Callable[[], ByteStream], read: Callable[[ByteStream], T]) -> T:
    """Calls `read` with a stream at its start, again if it fails to parse the header.

    CPython before 3.11.8 sometimes fails to parse a literal, as headers are, while another thread
    does the same (gh-106905).
    """
    for _ in range(_PARSING_ATTEMPTS - 1):
        with contextlib.suppress(SystemError):
            return read(opened())
    return read(opened())


def _numpy_header(
    path: Path, stream: ByteStream, available: int, width: int | None, spatial: bool
) -> FeatureHeader:
    """Returns the header of an open `.npy` stream; DataError if `available` bytes are too few."""
    shape, dtype, start = _npy_header(stream)
    header = _check_header(path, shape, dtype, width, spatial)
    expected = start + header.rows * header.tokens * header.width * dtype.itemsize
    if available < expected:
        raise _unreadable(path, f"cut short, {available} of {expected} bytes")
    return header


def _npy_header(stream: ByteStream) -> tuple[tuple[int, ...], np.dtype, int]:
    """Returns shape, dtype and the position of the first number of an open `.npy` stream."""
    try:
        start = stream.read(2)
        if start[:1] == b"\x80" and start[1:] in b"\2\3\4\5":  # how pickles begin
            raise ValueError("a pickle file; save the array in it with np.save")
        stream.seek(-len(start), 1)
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"npy format version {version} is not one for numbers")
    except SystemError:
        raise  # nothing is wrong with the header
    # It is Python: tokenize.TokenError, TypeError, IndexError, MemoryError, ...
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return shape, dtype, stream.tell()


def torch_problem(torch: ModuleType) -> str | None:
    """Returns why this PyTorch is not safe to read files with; None if it is."""
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if version >= OLDEST_TORCH:
        return None
    oldest = ".".join(map(str, OLDEST_TORCH))
    return (
        f"PyTorch {torch.__version__} is too old to read a file without running what is in it; "
        f"install {oldest} or newer: pip install 'flashvtg-jax[torch]'"
    )


def _read_torch(path: Path, key: str | None) -> np.ndarray:
    """Reads a tensor, or the entry `key` of a dictionary of tensors, from a `.pt` file."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise DataError(
            f"{path}: reading .pt files needs PyTorch: pip install 'flashvtg-jax[torch]'. "
            "(Or convert the files to .npy under the same names; both are read.)"
        ) from error
    if problem := torch_problem(torch):
        raise DataError(f"{path}: {problem}")
    try:
        # weights_only: tensors are read, code in the file is not run.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises many kinds
        raise _unreadable(path, error) from error
    if isinstance(content, dict):
        entries = {str(name): entry for name, entry in content.items()}
        content = entries[_key(path, key, list(entries))]
    if not isinstance(content, torch.Tensor):
        raise DataError(f"{path}: expected a tensor, found {type(content).__name__}.")
    try:
        if content.dtype == torch.bfloat16:  # numpy has none
            content = content.float()
        return content.detach().numpy()
    except Exception as error:  # sparse, quantised, without data
        raise _unreadable(path, error) from error


def _from_hdf5(path: Path, key: str | None, read: Callable[[Path, hdf5.Choose], T]) -> T:
    try:
        return read(path, lambda names: _key(path, key, names))
    except DataError:
        raise
    except Exception as error:  # h5py raises many kinds
        raise _unreadable(path, error) from error


class WidthError(DataError):
    """Features of another width than expected.

    Attributes:
      width: that of the features.
    """

    def __init__(self, message: str, width: int):
        super().__init__(message)
        self.width = width


def _check_header(
    path: Path, shape, dtype: np.dtype, width: int | None, spatial: bool
) -> FeatureHeader:
    """Returns the header of an array of this shape and dtype. Raises DataError for a wrong one."""
    if dtype.hasobject:
        raise pickled(path)
    if len(shape) not in ((2, 3) if spatial else (2,)):
        advice = f" {WITHOUT_BATCH_AXIS}" if len(shape) > 2 and shape[0] == 1 else ""
        raise DataError(
            f"{path}: expected an array [rows, width]{' or [rows, tokens, width]' * spatial}, "
            f"found shape {list(shape)}.{advice}"
        )
    if dtype.name not in _FLOATS:
        raise DataError(f"{path}: expected floating-point numbers, found {dtype}.")
    rows, found = shape[0], shape[-1]
    tokens = shape[1] if len(shape) == 3 else 1
    if width is not None and found != width:
        of = f" for each of {tokens} tokens" if tokens > 1 else ""
        problem = f"{path}: expected width {width}{of}, got {found}"
        if tokens == 1 and rows == width:
            raise DataError(f"{problem}: {TRANSPOSED}")
        raise WidthError(f"{problem}: {ANOTHER_BACKBONE}", found)
    if rows <= 0 or tokens <= 0 or found <= 0:  # below 0 in a damaged header
        raise DataError(f"{path}: empty, shape {list(shape)}; extract or download it again.")
    return FeatureHeader(rows, found, dtype, tokens)


def _key(path: Path, key: str | None, keys: list[str]) -> str:
    """Returns the name of the array to read: `key`, or for None the only or a usual one."""
    listing = ", ".join(sorted(keys)) or "none"
    if key is None:
        candidates = keys if len(keys) == 1 else [name for name in USUAL_KEYS if name in keys]
        if not candidates:
            raise DataError(
                f"{path}: which array is meant? It holds {listing}; store the features alone, or "
                f"under the name {' or '.join(map(repr, USUAL_KEYS))}."
            )
        return candidates[0]
    if key not in keys:
        raise DataError(f"{path}: no array {key!r} in it; it holds {listing}.")
    return key


def pickled(name: object) -> DataError:
    """Returns the error for a file or array of Python objects."""
    return DataError(
        f"{name}: Python objects, a dictionary perhaps, not an array of numbers. They are not "
        "read, because that could run code; save the array alone: "
        'np.save(path, d["features"]).'
    )


def _unreadable(path: Path, reason) -> DataError:
    if isinstance(reason, FileNotFoundError):
        return DataError(f"{path}: no such file.")
    reason = (str(reason).strip() or type(reason).__name__).splitlines()[0].rstrip(".")
    return DataError(f"{path}: cannot be read ({reason}); extract or download it again.")

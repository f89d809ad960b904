"""HDF5 files of features: one for all videos, with an array by the name of each, or one a video.

An array in a file for all videos has a path below it, `video/rgb.h5/VID`; it may also be a group
that contains the array. References to other files (external links, virtual arrays, external
storage) are refused.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flashvtg_jax.errors import DataError

SUFFIXES = (".h5", ".hdf5")

_MAX_DEPTH = 4  # of groups that contain only another group, or the array

Choose = Callable[[list[str]], str]


def is_file_for_all(path: Path) -> bool:
    """Returns whether a path is an HDF5 file, whose arrays are paths below it."""
    return path.suffix in SUFFIXES and path.is_file()


def in_hdf5(path: Path) -> bool:
    """Returns whether a feature is in an HDF5 file: one of its own, or one for all videos."""
    return path.suffix in SUFFIXES or is_file_for_all(path.parent)


def names(path: Path) -> list[str]:
    """Returns the names of the arrays and groups in a file for all.

    Raises:
      DataError: no HDF5 file, or no h5py.
      OSError: it cannot be opened.
    """
    with _opened(path, path) as file:
        return list(file)


def read(path: Path, choose: Choose) -> np.ndarray:
    """Reads an array.

    Args:
      path: of a file, or of a name below a file for all.
      choose: returns the name of the array, given the names in a group.

    Raises:
      DataError: there is no h5py; the array is in another file, incomplete or not of numbers.
      Exception: whatever else h5py raises.
    """
    with _array(path, choose) as array:
        return array[...]


def header(path: Path, choose: Choose) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and type of an array without reading it; arguments and errors as `read`."""
    with _array(path, choose) as array:
        return array.shape, array.dtype


@contextlib.contextmanager
def _opened(path: Path, asked: Path) -> Iterator[Any]:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise DataError(
            f"{asked}: reading HDF5 files needs h5py: pip install 'flashvtg-jax[hdf5]'. (Or save "
            "each array as a .npy file; both are read.)"
        ) from error
    with h5py.File(path, "r") as file:
        yield file


@contextlib.contextmanager
def _array(path: Path, choose: Choose) -> Iterator[Any]:
    inside = is_file_for_all(path.parent)
    with _opened(path.parent if inside else path, path) as file:
        node = _child(path, file, path.name) if inside else file
        for _ in range(_MAX_DEPTH):
            if not hasattr(node, "keys"):  # an array
                break
            node = _child(path, node, choose(list(node)))
        if not hasattr(node, "shape"):
            raise DataError(f"{path}: groups within groups; store one array under this name.")
        _check(path, node)
        yield node


def _child(path: Path, group: Any, name: str) -> Any:
    """Returns an item of a group. Raises DataError if it is a link."""
    kind = type(group.get(name, getlink=True)).__name__
    if kind in ("ExternalLink", "SoftLink"):
        raise DataError(f"{path}: a link to another array or file; store the array itself.")
    return group[name]


def _check(path: Path, array: Any) -> None:
    if array.shape is None or array.dtype.hasobject or array.dtype.names:
        raise DataError(f"{path}: expected an array of numbers, found {array.dtype}.")
    if array.is_virtual or array.external:
        raise DataError(f"{path}: its numbers are in other files; store the array itself.")
    # HDF5 reads zeros from an array that was created and never written.
    plain = array.id.get_create_plist().get_nfilters() == 0
    if plain and array.id.get_storage_size() < array.nbytes:
        raise DataError(
            f"{path}: only {array.id.get_storage_size()} of {array.nbytes} bytes were written; "
            "extract it again."
        )

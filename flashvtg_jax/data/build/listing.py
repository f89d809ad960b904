"""Lists folders of feature files, and HDF5 files of them."""

import collections
import os
from pathlib import Path

from flashvtg_jax.data import hdf5

MANIFEST = "synthetic.json"  # in a folder of synthetic features: how they were made
_NUM_SHOWN = 5


def list_files(folder: Path) -> dict[str, list[Path]]:
    """Returns the paths of all files below a folder by name; or of the arrays in an HDF5 file.

    The folder and those within it are listed once: testing thousands of names one by one is slow on
    network disks. Hidden folders are skipped.

    Raises:
      OSError: a folder that cannot be listed.
      DataError: an HDF5 file, but no h5py.
    """
    if hdf5.is_file_for_all(folder):
        return {name: [folder / name] for name in hdf5.names(folder)}

    def fail(error: OSError) -> None:
        raise error

    found: dict[str, list[Path]] = collections.defaultdict(list)
    seen = set()
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a cycle of links
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            found[name].append(Path(place, name))
    return dict(found)


def is_synthetic(folder: Path) -> bool:
    """Returns whether `flashvtg synthesize` made the features in a folder."""
    return (folder / MANIFEST).exists()


def what_is_there(path: Path) -> str:
    """Describes the nearest folder above a missing path: "DIR holds videos/, a.npz"."""
    for folder in path.parents:
        try:
            if folder.is_dir():
                return f"{folder} holds {_shown(folder)}"
        except OSError as error:  # this is part of another message, which matters more
            return f"{folder} cannot be listed ({error.strerror or error})"
    return f"{path}: there is no folder above it"


def _shown(folder: Path) -> str:
    with os.scandir(folder) as entries:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
    names.sort(key=lambda name: not name.endswith("/"))  # folders first
    if not names:
        return "nothing"
    more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(names[:_NUM_SHOWN]) + more

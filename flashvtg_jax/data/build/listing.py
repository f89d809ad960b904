"""What is in a folder of feature files, or in an HDF5 file of them."""

import collections
import os
from pathlib import Path

from flashvtg_jax.data import hdf5

MANIFEST = "synthetic.json"  # in a folder of synthetic features: how they were made
_NUM_SHOWN = 5


def list_files(folder: Path) -> dict[str, list[Path]]:
    """Returns where the files below a folder lie, by name; or the arrays in an HDF5 file.

    The folder is read once, with its folders, however deep: asking for each of thousands of names
    is slow on network disks. Hidden folders are passed over.

    Raises:
      OSError: a folder that cannot be listed.
      DataError: an HDF5 file that cannot be read for lack of h5py.
    """
    if hdf5.is_file_for_all(folder):
        return {name: [folder / name] for name in hdf5.names(folder)}

    def fail(error: OSError) -> None:
        raise error

    found: dict[str, list[Path]] = collections.defaultdict(list)
    seen = set()
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # links in a circle
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
    """Says what is in the nearest folder above a missing path: "DIR holds videos/, a.npz"."""
    for folder in path.parents:
        try:
            if folder.is_dir():
                return f"{folder} holds {_shown(folder)}"
        except OSError as error:  # the message that this is part of matters more
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

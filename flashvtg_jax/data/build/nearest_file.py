"""Finds the file that was probably meant where a feature file is missing, and what differs."""

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from flashvtg_jax.data import hdf5
from flashvtg_jax.data.build.listing import list_files
from flashvtg_jax.data.feature_files import SUFFIXES

# Endings that are not part of an id: those of feature files, and of the videos themselves.
_ENDINGS = re.compile(
    r"(\.(npz|npy|pt|pth|h5|hdf5|pkl|pickle|mat|bin|csv|txt|json|safetensors|tar|gz|zip|"
    r"mp4|avi|mkv|webm|mov|flv|m4v|mpe?g|wmv|3gp|wav|mp3))+ *$",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"(qid|query|vid|video|v)[_-]?(?=.)", re.IGNORECASE)
_FORMS = {True: "composed (NFC)", False: "decomposed (NFD)"}


class NearestFiles:
    """Finds similar files for missing ones; each folder is listed once."""

    def __init__(self):
        self._folders: dict[tuple[Path, bool], dict[str, Path]] = {}  # files by `_core`

    def hint(self, path: Path) -> str:
        """Returns the name of a similar file and how it differs; "" if there is none."""
        for folder, deep in ((path.parent, True), (path.parent.parent, False)):
            if found := self._files(folder, deep).get(_core(path)):
                place = "" if deep else f" in {folder}"
                differences = "; ".join(_differences(path, found))
                reasons = f": {differences}" if differences else ""
                return f" (there is {found.name!r}{place}{reasons})"
        return ""

    def _files(self, folder: Path, deep: bool) -> dict[str, Path]:
        if (folder, deep) not in self._folders:
            try:
                if deep:
                    paths = [places[0] for places in list_files(folder).values()]
                else:
                    paths = [path for path in folder.iterdir() if path.is_file()]
            except (OSError, ValueError):
                paths = []
            paths.sort(reverse=True)  # the first of several is kept
            self._folders[folder, deep] = {_core(path): path for path in paths}
        return self._folders[folder, deep]


class _Name(NamedTuple):
    """The parts of the name of a file, or of an array in an HDF5 file for all videos."""

    prefix: str
    stem: str
    video: str  # ending of the video file, which some ids and files keep
    suffix: str  # of the file


def _parts(path: Path) -> _Name:
    name = unicodedata.normalize("NFC", path.name)
    match = _ENDINGS.search(name)
    stem, ending = (name[: match.start()], match.group()) if match else (name, "")
    cut = len(ending) if hdf5.is_file_for_all(path.parent) or not ending else ending.rindex(".")
    match = _PREFIX.match(stem)
    prefix = match.group() if match else ""
    return _Name(prefix, stem[len(prefix) :], ending[:cut], ending[cut:])


def _core(path: Path) -> str:
    """Returns a name without the parts in which names usually differ."""
    stem = _parts(path).stem.strip().casefold()
    return str(int(stem)) if stem.isascii() and stem.isdigit() else stem


def _differences(wanted: Path, found: Path) -> list[str]:
    """Returns how the name of a file differs from the wanted one, which has the same core."""
    one, other = _parts(wanted), _parts(found)
    differences = []
    suffix = other.suffix.strip()
    if hdf5.is_file_for_all(found.parent) or suffix in SUFFIXES:
        if other.video != one.video:
            differences.append(
                f"its name ends in {other.video}, the id does not"
                if not one.video
                else f"the id ends in {one.video}, its name does not"
            )
    elif suffix.lower() in SUFFIXES:
        differences.append(f"the suffix is {suffix}, not {suffix.lower()}")
    else:
        differences.append(f"only {', '.join(SUFFIXES)} are read")
    if one.prefix.lower() != other.prefix.lower():
        if other.prefix:
            differences.append(f"{other.prefix!r} is in front of the id")
        if one.prefix:
            differences.append(f"{one.prefix!r} is not in front")
    texts = wanted.name, found.name, one.stem, other.stem
    if any(text != text.strip() for text in texts):
        differences.append("a blank at an end")
    stems = one.stem.strip(), other.stem.strip()
    if stems[0].casefold() != stems[1].casefold():
        differences.append("zeros in front")
    elif stems[0] != stems[1] or (
        one.prefix != other.prefix and one.prefix.lower() == other.prefix.lower()
    ):
        differences.append("upper and lower case differ")
    form, needed = (_FORMS[unicodedata.is_normalized("NFC", path.name)] for path in (found, wanted))
    if form != needed:
        differences.append(f"its accents are {form}, those of the id {needed}")
    return differences

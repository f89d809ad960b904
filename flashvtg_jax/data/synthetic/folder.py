"""The output folder of `flashvtg synthesize`, and its manifest."""

import concurrent.futures
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flashvtg_jax.data.build.layout import FeatureFiles, Layout
from flashvtg_jax.data.build.listing import MANIFEST
from flashvtg_jax.errors import DataError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.system.progress import progress_bar

_THREADS = 4

# The content of a file: text, or arrays by key.
Content = bytes | Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Item:
    """The files of one video, of one query, or of the words of all queries.

    Attributes:
      name: in the manifest.
      fingerprint: of everything that the features depend on, besides the settings.
      paths: of the files.
      make: returns the content of each file.
    """

    name: str
    fingerprint: str
    paths: tuple[Path, ...]
    make: Callable[[], Sequence[Content]]


class SyntheticFolder:
    """The output folder for features of one layout and settings.

    Entering it raises DataError for a folder with real features, or with those of other settings.
    """

    def __init__(self, path: Path, layout: Layout, settings: Mapping[str, Any]):
        self._path = path
        self._layout = layout
        self._settings = settings
        self._done: dict[str, str] = {}

    def __enter__(self) -> "SyntheticFolder":
        manifest = self._path / MANIFEST
        if manifest.exists():
            found = read_manifest(manifest)
            settings, self._done = found["settings"], found["done"]
            if settings != self._settings:
                raise DataError(
                    f"{self._path}: holds features synthesised with other settings, {settings} "
                    f"instead of {self._settings}; choose another output, or remove this one."
                )
        else:
            for files in self._layout.feature_files:
                if place := files.present(self._path):
                    raise DataError(
                        f"{place}: holds features that synthesize did not write, real ones "
                        "perhaps; choose another output."
                    )
        with _write_errors(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
        self._save_manifest()
        return self

    def __exit__(self, *_: object) -> None:
        # After an error or Ctrl-C as well: the next call continues from there.
        with contextlib.suppress(DataError):
            self._save_manifest()

    def write(self, items: Sequence[Item], progress: bool) -> int:
        """Writes the items that are not there yet, and returns how many."""
        with _write_errors(self._path):
            for folder in {path.parent for item in items for path in item.paths}:
                folder.mkdir(parents=True, exist_ok=True)
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
        try:
            written = pool.map(self._write_item, items)
            return sum(progress_bar(written, len(items), "synthesising", progress))
        finally:
            pool.shutdown(cancel_futures=True)

    def _write_item(self, item: Item) -> bool:
        if self._done.get(item.name) == item.fingerprint and all(map(Path.exists, item.paths)):
            return False
        with _write_errors(self._path):
            for path, content in zip(item.paths, item.make(), strict=True):
                save(path, content)
        self._done[item.name] = item.fingerprint
        return True

    def _save_manifest(self) -> None:
        content = {"settings": self._settings, "done": self._done}
        write_atomically(self._path / MANIFEST, json.dumps(content))


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Returns "settings" and "done" of a manifest.

    Raises:
      DataError: it cannot be read.
    """
    try:
        found = json.loads(path.read_bytes())
        return {"settings": dict(found["settings"]), "done": dict(found["done"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not what synthesize wrote ({error}); choose another output."
        ) from error


def paths_to_write(files: FeatureFiles, output: Path, row: Mapping[str, Any]) -> list[Path]:
    """Returns the file of each part for an annotation line, with its released name.

    Without PyTorch, `.npy` files, which the builders read as well, replace `.pt` files.
    """
    suffix = files.suffix
    if suffix == ".pt" and importlib.util.find_spec("torch") is None:
        suffix = ".npy"
    return [output / files.folder / (files.stem(row) + part + suffix) for part in files.parts]


def save(path: Path, content: Content) -> None:
    """Writes text, arrays to a `.npz` file, or the first array to a `.npy` or `.pt` file."""
    with _replacing(path) as file:
        if isinstance(content, bytes):
            file.write(content)
            return
        if path.suffix == ".npz":
            np.savez(file, **content)
            return
        array = next(iter(content.values()))
        if path.suffix == ".pt":
            torch = importlib.import_module("torch")
            torch.save(torch.from_numpy(array), file)
        else:
            np.save(file, array)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that is renamed to `path` when it is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _write_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{output}: cannot be written ({error}); make room or choose another output, and call "
            "again: it continues where it stopped."
        ) from error

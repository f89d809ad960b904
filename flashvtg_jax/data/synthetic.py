"""`flashvtg synthesize`: feature files in a released layout for any annotation file.

Builders, annotations and other people's code can so be run without the feature packs; `planting`
says what is in the features.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flashvtg_jax.data.annotations import check_lines_agree, load_annotations
from flashvtg_jax.data.building import find_builder
from flashvtg_jax.data.layout import FeatureFiles, Layout, parse_widths
from flashvtg_jax.data.planting import Planting
from flashvtg_jax.data.synthetic_annotations import generate_annotations
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from flashvtg_jax.progress import progress_bar

MANIFEST = "synthetic.json"  # in the output folder: how its features were made

_EXTRA_ROWS = {"slowfast": 1}  # released SlowFast files have a clip more than CLIP's
_THREADS = 4
_MAX_STRENGTH = 100.0  # beyond it nothing changes but that float16 may overflow

Row = Mapping[str, Any]
Paths = str | os.PathLike | Sequence[str | os.PathLike]


def synthesize(
    output: str | os.PathLike,
    *,
    annotations: Paths | None = None,
    limit: int | None = None,
    dataset: str = "qvhighlights/slowfast_clip",
    strength: float = 1.0,
    seed: int = 0,
    widths: Mapping[str, int] | str | None = None,
    num_train: int = 512,
    num_val: int = 128,
    progress: bool = True,
) -> Path:
    """Writes features with planted moments, and their annotation files, ready for `build`.

    It may be called again for another annotation file of the same data set, and continues where
    it was interrupted: what is there already is not written again.

    Args:
      output: folder, to be given to `build` as manual_dir.
      annotations: one or more annotation files in the format of the data set, whose names tell
        the split (that of the release, or one with "train", "val" or "test" in it). They are
        copied into `output`. None generates a train and a val file with QVHighlights' statistics.
      limit: lines of each annotation file to use, from the first; None uses all.
      dataset: whose layout to write, "name/config".
      strength: size of what is planted beside the noise: at 0.3 a moment's clips are hard to tell
        from others, at 1 easy, at 0 impossible. At most 100.
      seed: of everything random, from 0.
      widths: feature widths other than the released ones, as for `build`.
      num_train: queries to generate for the train split, without `annotations`.
      num_val: the same for the val split.
      progress: show bars and a report on stderr.

    Returns:
      `output`.

    Raises:
      ConfigError: an unknown data set or stream, or arguments that are out of range or exclude
        each other.
      DataError: annotations that cannot be used; `output` holds features that are real or were
        made with other settings, or cannot be written.
    """
    layout = _layout(dataset, widths)
    settings = _settings(dataset, layout, strength, seed)
    output = Path(output).expanduser()
    if annotations is None:
        if limit is not None:
            raise ConfigError("limit goes with annotation files; without, set num_train, num_val.")
        splits = _generated(layout, seed, num_train, num_val)
        targets = {split: output / layout.annotations[split][0] for split in splits}
    else:
        paths = _paths_by_split(layout, annotations)
        splits = _given(layout, paths, limit)
        targets = {split: output / _name(layout, split, path) for split, path in paths.items()}
        _check_targets(layout, targets, paths, limit)

    with _SyntheticFolder(output, layout, settings) as folder:
        # A video may have queries in files of earlier calls, too: all their topics go in.
        earlier = _earlier_rows(layout, output, targets)
        check_lines_agree(earlier | {str(targets[split]): rows for split, rows in splits.items()})
        planting = Planting(seed, strength, layout.clip_length)
        rows, others = (list(itertools.chain(*x.values())) for x in (splits, earlier))
        items = _items(layout, planting, rows, others)
        num_written = folder.write(items, progress)
        for split, target in targets.items():
            write_json_lines(target, splits[split])
    if progress:
        sizes = ", ".join(f"{split} {len(rows)}" for split, rows in splits.items())
        options = "".join(f",{name}={width}" for name, width in settings["widths"].items())
        print(
            f"synthesised {output}: {sizes} queries, {num_written} of {len(items)} videos and "
            f"queries written; next: flashvtg build --dataset={dataset} --manual_dir={output}"
            + (f" --widths={options[1:]}" if widths else "")
            + " --data_dir=DIR",
            file=sys.stderr,
        )
    return output


def check_generated(
    output: str | os.PathLike,
    *,
    dataset: str,
    strength: float,
    seed: int,
    widths: Mapping[str, int],
    num_train: int,
    num_val: int,
) -> None:
    """Checks that `output`, where it still is there, is what `synthesize` generates with these.

    Raises:
      ConfigError: it was made with other settings, or of other sizes.
      DataError: its files cannot be read.
    """
    output, layout = Path(output), _layout(dataset, widths)
    if not (output / MANIFEST).exists():
        return
    found = _read_manifest(output / MANIFEST)["settings"]
    wanted = _settings(dataset, layout, strength, seed)
    for split, size in (("train", num_train), ("val", num_val)):
        found[f"num_{split}"] = len(read_json_lines(output / layout.annotations[split][0]))
        wanted[f"num_{split}"] = size
    differing = [name for name, value in wanted.items() if found.get(name) != value]
    if differing:
        raise ConfigError(
            f"{output}: made with "
            + ", ".join(f"{name}={found.get(name)!r}" for name in differing)
            + ", but the configuration says "
            + ", ".join(f"{name}={wanted[name]!r}" for name in differing)
            + "; use another work directory (or config.data.data_dir)."
        )


def _layout(dataset: str, widths: Mapping[str, int] | str | None) -> Layout:
    layout = find_builder(dataset)[1].layout
    if widths:
        layout = layout.with_widths(parse_widths(widths) if isinstance(widths, str) else widths)
    for files in layout.feature_files:
        if files.width is None:
            raise ConfigError(f"{dataset} has no width of its own for {files.name}: give widths.")
    return layout


def _settings(dataset: str, layout: Layout, strength: float, seed: int) -> dict[str, Any]:
    """Returns all that the features depend on, beside the annotations."""
    if not 0 <= strength <= _MAX_STRENGTH:
        raise ConfigError(f"strength {strength}; expected a number from 0 to {_MAX_STRENGTH:g}.")
    if seed < 0:
        raise ConfigError(f"seed {seed}; expected an integer from 0.")
    return {
        "dataset": dataset,
        "strength": float(strength),
        "seed": int(seed),
        "widths": {files.name: files.width for files in layout.feature_files},
    }


def _generated(layout: Layout, seed: int, num_train: int, num_val: int) -> dict[str, list[Row]]:
    if layout.labels != "qvhighlights":
        raise ConfigError("annotations are generated in QVHighlights' format only: give a file.")
    if num_train < 1 or num_val < 1:
        raise ConfigError(f"num_train {num_train}, num_val {num_val}; expected 1 or more of each.")
    return {
        "train": generate_annotations(num_train, seed=seed),
        "val": generate_annotations(num_val, seed=seed, first_qid=num_train),
    }


def _given(layout: Layout, paths: Mapping[str, Path], limit: int | None) -> dict[str, list[Row]]:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}; expected 1 or more.")
    return {split: _load(layout, split, path)[:limit] for split, path in paths.items()}


def _load(layout: Layout, split: str, path: Path) -> list[Row]:
    labels = None if split in layout.unlabelled_splits else layout.labels
    return load_annotations(path, clip_length=layout.clip_length, labels=labels)


def _paths_by_split(layout: Layout, annotations: Paths) -> dict[str, Path]:
    if isinstance(annotations, str | os.PathLike):
        annotations = [annotations]
    paths: dict[str, Path] = {}
    for path in map(Path, annotations):
        split = _split_of(layout, path)
        if split in paths:
            raise ConfigError(f"{path}: a second annotation file of the {split} split.")
        paths[split] = path
    return paths


def _name(layout: Layout, split: str, path: Path) -> str:
    """Returns the name that the builder looks for: that of the file itself, where it is one."""
    names = layout.annotations[split]
    return path.name if path.name in names else names[0]


def _split_of(layout: Layout, path: Path) -> str:
    """Returns the split that an annotation file is of, by its name."""
    for split, names in layout.annotations.items():
        if path.name in names:
            return split
    named = [split for split in layout.annotations if split in path.name.lower()]
    if len(named) == 1:
        return named[0]
    released = ", ".join(names[0] for names in layout.annotations.values())
    raise ConfigError(
        f"{path}: its name does not tell the split; rename it to one of {released}, or to a name "
        f"with one of {', '.join(layout.annotations)} in it."
    )


def _check_targets(
    layout: Layout, targets: Mapping[str, Path], paths: Mapping[str, Path], limit: int | None
) -> None:
    """Raises when a file given would be replaced by a part of it, or never be read."""
    for path, target in itertools.product(paths.values(), targets.values()):
        if limit is not None and target.exists() and path.exists() and target.samefile(path):
            raise ConfigError(f"{path}: limit would cut this very file; choose another output.")
    for split, target in targets.items():
        for name in layout.annotations[split]:
            if name != target.name and target.with_name(name).exists():
                raise ConfigError(
                    f"{target.with_name(name)}: already the {split} split of this output, which "
                    f"cannot have {target.name} besides; choose another output, or remove it."
                )


def _earlier_rows(
    layout: Layout, output: Path, targets: Mapping[str, Path]
) -> dict[str, list[Row]]:
    """Returns the annotation files of earlier calls, of splits that this one does not write."""
    return {
        str(output / name): _load(layout, split, output / name)
        for split, names in layout.annotations.items()
        for name in names
        if split not in targets and (output / name).exists()
    }


@dataclasses.dataclass(frozen=True)
class _Item:
    """The files of one video, or of one query.

    Attributes:
      name: in the manifest.
      fingerprint: of everything that the features depend on, beside the settings.
      files: of each stream, or of the query.
      row: an annotation line, for the file names.
      make: returns the arrays of each file, by key.
    """

    name: str
    fingerprint: str
    files: tuple[FeatureFiles, ...]
    row: Row
    make: Callable[[], list[dict[str, np.ndarray]]]


def _items(
    layout: Layout, planting: Planting, rows: Sequence[Row], earlier: Sequence[Row]
) -> list[_Item]:
    """Returns the videos and queries of `rows`; `earlier` rows only add to their videos."""
    about: dict[str, list[Row]] = {row["vid"]: [] for row in rows}
    for row in itertools.chain(rows, earlier):
        if row["vid"] in about:
            about[row["vid"]].append(row)
    items = []
    for vid, lines in about.items():
        lines.sort(key=lambda row: str(row["qid"]))  # the order of the calls does not matter
        make = functools.partial(_video, layout, planting, lines)
        items.append(_Item(f"vid {vid}", _fingerprint(lines), layout.streams, lines[0], make))
    for row in rows:
        make = functools.partial(_query, layout.query, planting, row)
        fingerprint = _fingerprint(row["query"])
        items.append(_Item(f"qid {row['qid']}", fingerprint, (layout.query,), row, make))
    return items


def _video(layout: Layout, planting: Planting, rows: Sequence[Row]) -> list[dict[str, np.ndarray]]:
    clips = planting.clips(rows, {files.name: files.width for files in layout.streams})
    arrays = []
    for files in layout.streams:
        last = clips[files.name][-1:]
        extra = np.repeat(last, _EXTRA_ROWS.get(files.name, 0), axis=0)
        arrays.append({files.key: np.concatenate([clips[files.name], extra])})
    return arrays


def _query(files: FeatureFiles, planting: Planting, row: Row) -> list[dict[str, np.ndarray]]:
    words = planting.words(row, files.width)
    return [{files.key: words, "pooler_output": words[-1]}]


def _fingerprint(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _SyntheticFolder:
    """The output folder and its manifest, which tells whose features are in it."""

    def __init__(self, path: Path, layout: Layout, settings: Mapping[str, Any]):
        self._path = path
        self._layout = layout
        self._settings = settings
        self._done: dict[str, str] = {}

    def __enter__(self) -> "_SyntheticFolder":
        manifest = self._path / MANIFEST
        if manifest.exists():
            found = _read_manifest(manifest)
            settings, self._done = found["settings"], found["done"]
            if settings != self._settings:
                raise DataError(
                    f"{self._path}: holds features synthesised with other settings, {settings} "
                    f"instead of {self._settings}; choose another output, or remove this one."
                )
        else:
            for files in self._layout.feature_files:
                folder = self._path / files.folder
                if folder.is_dir() and any(folder.iterdir()):
                    raise DataError(
                        f"{folder}: holds features that synthesize did not write, real ones "
                        "perhaps; choose another output."
                    )
        with _write_errors(self._path):
            for files in self._layout.feature_files:
                (self._path / files.folder).mkdir(parents=True, exist_ok=True)
        self._save_manifest()
        return self

    def __exit__(self, *_: object) -> None:
        # Also after an error or Ctrl-C: the next call continues here.
        with contextlib.suppress(DataError):
            self._save_manifest()

    def write(self, items: Sequence[_Item], progress: bool) -> int:
        """Writes what is not there yet and returns how many items that was."""
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
        try:
            written = pool.map(self._write_item, items)
            return sum(progress_bar(written, len(items), "synthesising", progress))
        finally:
            pool.shutdown(cancel_futures=True)

    def _write_item(self, item: _Item) -> bool:
        paths = [
            self._path / files.folder / (files.stem(item.row) + _suffix(files))
            for files in item.files
        ]
        if self._done.get(item.name) == item.fingerprint and all(map(Path.exists, paths)):
            return False
        with _write_errors(self._path):
            for path, arrays in zip(paths, item.make(), strict=True):
                _save(path, arrays)
        self._done[item.name] = item.fingerprint
        return True

    def _save_manifest(self) -> None:
        content = {"settings": self._settings, "done": self._done}
        write_atomically(self._path / MANIFEST, json.dumps(content))


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes())
        return {"settings": dict(found["settings"]), "done": dict(found["done"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not what synthesize wrote ({error}); choose another output."
        ) from error


def _suffix(files: FeatureFiles) -> str:
    """Returns the released suffix; without PyTorch `.npy`, which the builders read as well."""
    if files.suffix == ".pt" and importlib.util.find_spec("torch") is None:
        return ".npy"
    return files.suffix


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a `.npz` file, or the first of them to a `.npy` or `.pt` file."""
    with _replacing(path) as file:
        if path.suffix == ".npz":
            np.savez(file, **arrays)
            return
        array = next(iter(arrays.values()))
        if path.suffix == ".pt":
            torch = importlib.import_module("torch")
            torch.save(torch.from_numpy(array), file)
        else:
            np.save(file, array)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that becomes `path` when it is whole."""
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

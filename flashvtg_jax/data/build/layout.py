"""The layout of a released data set: where its files are, and what they must contain."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from flashvtg_jax.clips import lengths_agree
from flashvtg_jax.data import hdf5
from flashvtg_jax.data.annotations import LABEL_FIELDS, check_annotations, placed
from flashvtg_jax.data.build.clipping import Change, clip_lines
from flashvtg_jax.data.build.listing import list_files, what_is_there
from flashvtg_jax.data.feature_files import (
    SUFFIXES,
    FeatureHeader,
    WidthError,
    feature_header,
    read_feature,
    read_tokens,
)
from flashvtg_jax.errors import ConfigError, DataError, first_lines
from flashvtg_jax.json_lines import read_json_lines

# Subfolders of manual_dir that may contain annotation files, in order of preference.
ANNOTATION_FOLDERS = (".", "annotations", "data")

QUERY = "query"  # name of the features of the words, besides the streams of the videos

Row = Mapping[str, Any]


class Item(Protocol):
    """The features of a video, or of the words of a query. Hashable; `str` gives the files."""

    def header(self, width: int | None) -> FeatureHeader:
        """Returns rows, width and dtype without reading numbers; DataError as `feature_header`."""

    def read(self, width: int | None) -> np.ndarray:
        """Returns the features [rows, tokens * width]; DataError as `read_feature`."""


class Found(Protocol):
    """The features of one kind in a manual_dir."""

    def item(self, row: Row) -> Item | None:
        """Returns the features for an annotation line, None if a file is missing."""

    def missing(self, row: Row) -> list[Path]:
        """Returns the missing files of an annotation line."""


class Features(Protocol):
    """One kind of features: those of a video stream, or of the words of the queries.

    Implemented by `FeatureFiles` and `glove.GloveWords`.
    """

    name: str
    width: int | None
    dtype: np.dtype  # as released

    def find(self, manual_dir: Path, rows: Iterable[Row]) -> Found:
        """Finds the features for annotation lines.

        Raises:
          DataError: there are no features of this kind, or they cannot be read.
        """

    def present(self, folder: Path) -> Path | None:
        """Returns a file or folder below `folder` with features of this kind, None if none is."""


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """A feature file for each video, or for each query; or several files with parts of a row.

    Attributes:
      name: of the stream: "slowfast"; for the words of the queries "query".
      pattern: path below manual_dir without suffix, with a field of the annotation line:
        "slowfast_features/{vid}".
      key: name of the array in a `.npz` file; None takes the only one, or a usual one.
      width: of a row, or of each of its tokens in arrays [L, S, width]; None takes any width that
        all files have.
      suffix: of the released files. Files of the same names in other formats are read as well.
      parts: endings, before the suffix, of the files with a part of each row: ("_rgb", "_opt").
        They are concatenated along the width, token by token. Tokens of parts must therefore be
        arrays [L, S, width]: [L, S * width] does not say where tokens begin.
      also: further (pattern, key) of the same features in other packs. The first one with a folder
        is read.
    """

    name: str
    pattern: str
    key: str | None
    width: int | None
    suffix: str = ".npz"
    parts: tuple[str, ...] = ("",)
    also: tuple[tuple[str, str | None], ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """The type of the released features."""
        return np.dtype(np.float16)

    @property
    def spatial(self) -> bool:
        """Whether a row may have several tokens: clips may, words do not."""
        return self.name != QUERY

    @property
    def folder(self) -> str:
        """The folder below manual_dir that holds the files."""
        return str(PurePosixPath(self.pattern).parent)

    def stem(self, row: Row) -> str:
        """Returns the file name, without part and suffix, for an annotation line."""
        # Not Path.stem: ids contain dots.
        return PurePosixPath(self.pattern).name.format(**row)

    def suffixes(self) -> tuple[str, ...]:
        """Returns the suffixes that files may have, the released one first."""
        return (self.suffix, *(suffix for suffix in SUFFIXES if suffix != self.suffix))

    def find(self, manual_dir: Path, rows: Iterable[Row]) -> "FoundFiles":
        """Returns the files for annotation lines.

        Raises:
          DataError: their folder is missing or cannot be listed.
        """
        places = self._places()
        sources = [(place, path) for place in places if (path := place.source(manual_dir))]
        place, source = sources[0] if sources else (self, manual_dir / self.folder)
        try:
            suffixes = ("",) if hdf5.is_file_for_all(source) else self.suffixes()
            return FoundFiles(place, source, list_files(source), suffixes)
        except OSError as error:
            patterns = " or ".join(p.pattern + self.parts[0] + self.suffix for p in places)
            there = "" if source.exists() else f" {what_is_there(source)}."
            raise DataError(
                f"{source}: cannot be listed ({error.strerror or error}); the {self.name} features "
                f"({patterns}) belong there.{there}"
            ) from error

    def source(self, manual_dir: Path) -> Path | None:
        """Returns the folder of the files, or the HDF5 file in its place; None without either."""
        folder = manual_dir / self.folder
        paths = [folder]
        if folder != manual_dir:
            paths += [folder.with_name(folder.name + suffix) for suffix in hdf5.SUFFIXES]
        # A pack may be kept beside the folder that it was unpacked to: the folder comes first.
        return next((path for path in paths if path.is_dir() or hdf5.is_file_for_all(path)), None)

    def present(self, folder: Path) -> Path | None:
        """Returns the folder or file below `folder` that has such features, None if none has."""
        paths = filter(None, (place.source(folder) for place in self._places()))
        return next((path for path in paths if path.is_file() or any(path.iterdir())), None)

    def _places(self) -> list["FeatureFiles"]:
        pairs = ((self.pattern, self.key), *self.also)
        return [dataclasses.replace(self, pattern=p, key=key) for p, key in pairs]


@dataclasses.dataclass(frozen=True)
class FoundFiles:
    """The feature files of one kind in a folder, or the arrays of an HDF5 file for all.

    Attributes:
      files: the kind.
      source: the folder, or the file.
      paths: below it, by name.
      suffixes: of the names, best first.
    """

    files: FeatureFiles
    source: Path
    paths: Mapping[str, Sequence[Path]]
    suffixes: tuple[str, ...]

    def item(self, row: Row) -> "FileItem | None":
        """Returns the files for an annotation line, None if one is missing.

        Raises:
          DataError: two folders have a file of the same name.
        """
        paths = self._paths(row)
        if None in paths:
            return None
        return FileItem(tuple(paths), self.files.key, self.files.spatial)

    def missing(self, row: Row) -> list[Path]:
        """Returns the missing files of an annotation line."""
        pairs = zip(self.files.parts, self._paths(row), strict=True)
        stem, suffix = self.files.stem(row), self.suffixes[0]
        return [self.source / (stem + part + suffix) for part, path in pairs if path is None]

    def _paths(self, row: Row) -> list[Path | None]:
        """Returns the file of each part, of the released format if there are several."""
        stem = self.files.stem(row)
        return [self._path([stem + part + x for x in self.suffixes]) for part in self.files.parts]

    def _path(self, names: Sequence[str]) -> Path | None:
        """Returns the file of the first name in the folder itself, or else in one within it."""
        found = [path for name in names for path in self.paths.get(name, ())]
        here = [path for path in found if path.parent == self.source]
        if len(found) > 1 and not here and found[0].name == found[1].name:
            raise DataError(f"{found[0]}, {found[1]}: which one is meant? Move the other away.")
        return next(iter(here or found), None)


@dataclasses.dataclass(frozen=True)
class FileItem:
    """The feature file of one video or query, or its parts.

    Attributes:
      paths: one for each part.
      key: name of the array in a `.npz` file, as for `read_feature`.
      spatial: accept arrays [rows, S, width].
    """

    paths: tuple[Path, ...]
    key: str | None
    spatial: bool = False

    def header(self, width: int | None) -> FeatureHeader:
        """Returns the header; of parts the fewest rows, the sum of widths and the widest dtype.

        Raises:
          DataError: as `feature_header`; parts that differ in length or tokens, or with tokens side
            by side, as far as `width` shows it.
        """
        if len(self.paths) == 1:
            return feature_header(self.paths[0], self.key, width, self.spatial)
        headers = [feature_header(path, self.key, spatial=self.spatial) for path in self.paths]
        return self._joined(headers, width)

    def read(self, width: int | None) -> np.ndarray:
        """Reads the features [rows, tokens * width], parts side by side, cut to the shortest.

        Raises:
          DataError: as `read_feature` and `header`.
        """
        if len(self.paths) == 1:
            return read_feature(self.paths[0], self.key, width, self.spatial)
        parts = [read_tokens(path, self.key, spatial=self.spatial) for path in self.paths]
        headers = [FeatureHeader(len(p), p.shape[2], p.dtype, p.shape[1]) for p in parts]
        rows = self._joined(headers, width).rows
        return np.concatenate([part[:rows] for part in parts], axis=2).reshape(rows, -1)

    def _joined(self, headers: Sequence[FeatureHeader], width: int | None) -> FeatureHeader:
        """Returns the header of parts side by side. Raises DataError if they do not fit."""
        rows = [header.rows for header in headers]
        if not lengths_agree(min(rows), max(rows)):
            raise DataError(
                "parts of one video differ in length by more than 10%: "
                + ", ".join(f"{p} has {n} rows" for p, n in zip(self.paths, rows, strict=True))
                + "; one of them is cut short, or of another clip length."
            )
        tokens = [header.tokens for header in headers]
        if len(set(tokens)) > 1:
            raise DataError(
                "parts of one video differ in tokens: "
                + ", ".join(f"{p} has {n} a row" for p, n in zip(self.paths, tokens, strict=True))
                + "; extract them with the same grid."
            )
        found = sum(header.width for header in headers)
        if width is not None and found != width:
            widths = " + ".join(str(header.width) for header in headers)
            problem = (
                f"{self}: expected width {width} together, got {widths}: features of another "
                "backbone?"
            )
            flat, rest = divmod(found, width)
            if self.spatial and tokens[0] == 1 and not rest:
                # Dividing them after joining would make tokens of one part each.
                problem += (
                    f" Or {flat} tokens a row, side by side? Tokens of parts must be arrays "
                    f"[L, {flat}, width]."
                )
            raise WidthError(problem, found)
        dtype = np.result_type(*(header.dtype for header in headers))
        return FeatureHeader(min(rows), found, dtype, tokens[0])

    def __str__(self) -> str:
        return " + ".join(map(str, self.paths))


@dataclasses.dataclass(frozen=True)
class Layout:
    """The released layout of a data set with one set of features.

    Attributes:
      annotations: for each split the names that its file may have, best first. Splits without a
        file are not built.
      streams: the video features, in the order in which they are concatenated.
      query: the features of the words.
      clip_length: seconds.
      label_clip_length: seconds of the clips that ids and ratings count; None: clip_length.
      labels: kind of labels, a key of `annotations.LABEL_FIELDS`.
      unlabelled_splits: splits that may have no labels.
      released_rows: queries of each split as released, for the report.
      domains: the values of the field `domain` of annotation lines; () for a data set without
        domains.
      left_out: names of further streams, which are not used.
      resample: videos have a fixed number of features: interpolate a row for each clip.
    """

    annotations: Mapping[str, tuple[str, ...]]
    streams: tuple[FeatureFiles, ...]
    query: Features
    clip_length: float
    labels: str
    unlabelled_splits: tuple[str, ...] = ()
    released_rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    domains: tuple[str, ...] = ()
    label_clip_length: float | None = None
    left_out: tuple[str, ...] = ()
    resample: bool = False

    @property
    def feature_files(self) -> tuple[Features, ...]:
        """All streams and the query."""
        return (*self.streams, self.query)

    @property
    def rated(self) -> bool:
        """Whether the labels have a row for each clip, so that the number of clips is known."""
        return "label" in LABEL_FIELDS[self.labels]

    def rated_clips(self, row: Row) -> int | None:
        """Returns the number of clips that the labels of a line rate; None for other labels."""
        return len(row["label"]) if self.rated and row.get("label") else None

    def with_widths(self, widths: Mapping[str, int | None]) -> "Layout":
        """Returns this layout with other feature widths.

        Args:
          widths: by name of a stream, or "query"; None takes the width of the files.

        Raises:
          ConfigError: a name that the layout does not have, or a width that is not positive.
        """
        known = {files.name for files in self.feature_files}
        for name, width in widths.items():
            if name not in known:
                raise ConfigError(
                    f"widths: no features {name!r}; known: {', '.join(sorted(known))}"
                )
            if width is not None and (not isinstance(width, int) or width < 1):
                raise ConfigError(f"widths: {name}={width!r}; expected a positive integer")

        def changed(files: Features) -> Features:
            return dataclasses.replace(files, width=widths.get(files.name, files.width))

        return dataclasses.replace(
            self, streams=tuple(map(changed, self.streams)), query=changed(self.query)
        )

    def with_streams(self, names: Sequence[str]) -> "Layout":
        """Returns this layout with some of its streams, in its order; () keeps all.

        Raises:
          ConfigError: a name that the layout does not have.
        """
        known = [files.name for files in self.streams]
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(
                f"no stream {', '.join(map(repr, unknown))}; the data set has "
                f"{', '.join(map(repr, known))}"
            )
        names = names or known
        kept = tuple(files for files in self.streams if files.name in names)
        left_out = tuple(name for name in known if name not in names)
        return dataclasses.replace(self, streams=kept, left_out=left_out)

    def other_widths(self, widths: Mapping[str, int | None]) -> dict[str, int | None]:
        """Returns the feature widths that differ from those of the layout."""
        own = {files.name: files.width for files in self.feature_files}
        return {name: width for name, width in widths.items() if width != own[name]}

    def find_annotations(self, manual_dir: Path) -> dict[str, Path]:
        """Returns the annotation file of each split that has one in `manual_dir`.

        Raises:
          DataError: the folder is missing, or has none of the files.
        """
        if not manual_dir.is_dir():
            raise DataError(
                f"{manual_dir}: no such folder; give the one that holds annotations and features "
                "(flashvtg build --manual_dir=DIR, or config.data.manual_dir). "
                f"{what_is_there(manual_dir)}."
            )
        found = {}
        for split, names in self.annotations.items():
            candidates = [
                manual_dir / folder / name for name in names for folder in ANNOTATION_FOLDERS
            ]
            existing = [path for path in candidates if path.is_file()]
            if existing:
                found[split] = existing[0]
        if not found:
            names = ", ".join(name for names in self.annotations.values() for name in names)
            raise DataError(
                f"{manual_dir}: no annotation file; expected one or more of {names}, there or in "
                f"its subfolders {', '.join(ANNOTATION_FOLDERS[1:])}. "
                f"{what_is_there(manual_dir / names)}."
            )
        return found

    def load_annotations(self, split: str, path: Path) -> list[dict[str, Any]]:
        """Reads and checks the annotation file of a split.

        Raises:
          DataError: as `annotations.load_annotations`.
        """
        rows = read_json_lines(path)
        self._check(split, path, rows)
        return rows

    def load_clipped_annotations(
        self, split: str, path: Path
    ) -> tuple[list[dict[str, Any]], list[Change]]:
        """Reads an annotation file as `load_annotations` and cuts its lines to their videos.

        Returns:
          The remaining lines, and the changes.

        Raises:
          DataError: as `load_annotations`; no line remains.
        """
        label_clip_length = self.label_clip_length or self.clip_length
        rows = read_json_lines(path)
        rows, changes = clip_lines(path, rows, self.clip_length, label_clip_length)
        if not rows:
            raise DataError(
                "\n".join(
                    [
                        f"{path}: no query has a moment in its video:",
                        *first_lines([change.text for change in changes]),
                    ]
                )
            )
        self._check(split, path, rows)
        return rows, changes

    def _check(self, split: str, path: Path, rows: Sequence[Row]) -> None:
        check_annotations(
            str(path),
            placed(path, rows),
            clip_length=self.clip_length,
            label_clip_length=self.label_clip_length,
            labels=None if split in self.unlabelled_splits else self.labels,
            domains=self.domains,
        )


def parse_widths(text: str) -> dict[str, int]:
    """Parses widths from a command line: "slowfast=64,clip=32,query=32".

    Raises:
      ConfigError: text of another form.
    """
    widths = {}
    for part in text.split(","):
        name, _, width = part.partition("=")
        if not name.strip() or not width.strip().isdigit():
            raise ConfigError(f"widths {text!r}; expected name=number, separated by commas")
        widths[name.strip()] = int(width)
    return widths

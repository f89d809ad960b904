"""Where the files of a data set lie as they were released, and what must be in them."""

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

# An annotation file is looked for in these subfolders of manual_dir, in this order.
ANNOTATION_FOLDERS = (".", "annotations", "data")

QUERY = "query"  # what the features of the words are called, beside the streams of the videos

Row = Mapping[str, Any]


class Item(Protocol):
    """The features of one video, or of the words of one query. Hashable; its text names files."""

    def header(self, width: int | None) -> FeatureHeader:
        """Returns rows, width and dtype without reading numbers; DataError as `feature_header`."""

    def read(self, width: int | None) -> np.ndarray:
        """Returns the features [rows, tokens * width]; DataError as `read_feature`."""


class Found(Protocol):
    """The features of one kind that there are in a manual_dir."""

    def item(self, row: Row) -> Item | None:
        """Returns what an annotation line needs, None where something is missing."""

    def missing(self, row: Row) -> list[Path]:
        """Returns the files that an annotation line needs and that are not there."""


class Features(Protocol):
    """One kind of features: those of a video stream, or of the words of the queries.

    `FeatureFiles` and `glove.GloveWords` are the two there are.
    """

    name: str
    width: int | None
    dtype: np.dtype  # as released

    def find(self, manual_dir: Path, rows: Iterable[Row]) -> Found:
        """Looks for the features that annotation lines need.

        Raises:
          DataError: nothing of this kind is there, or it cannot be read.
        """

    def present(self, folder: Path) -> Path | None:
        """Returns a file or folder with any features of this kind below `folder`, if any."""


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """One feature file for each video, or for each query; or several, side by side.

    Attributes:
      name: of the stream: "slowfast"; for the words of the queries "query".
      pattern: path below manual_dir without suffix, with a field of the annotation line in it:
        "slowfast_features/{vid}".
      key: name of the array in a `.npz` file; None takes the only one, or a usual one.
      width: features a row, or of each of its tokens in arrays [L, S, width]; None where any width
        will do, as long as all files agree.
      suffix: of the released files. Files of the same names in the other formats are read, too.
      parts: endings of the names, before the suffix, of the files that hold a share of the
        features each: ("_rgb", "_opt"). They are concatenated along the width, token by token;
        in [L, S * width] nobody knows where tokens begin, so those of parts are [L, S, width].
      also: further (pattern, key), where other packs keep the same features. The first one whose
        folder is there is read.
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
        """Returns the suffixes to look for, the released one first."""
        return (self.suffix, *(suffix for suffix in SUFFIXES if suffix != self.suffix))

    def find(self, manual_dir: Path, rows: Iterable[Row]) -> "FoundFiles":
        """Returns the files that there are for annotation lines.

        Raises:
          DataError: their folder is not there, or cannot be listed.
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
        """Returns the folder of the files, or else the HDF5 file in its place, if there is any."""
        folder = manual_dir / self.folder
        paths = [folder]
        if folder != manual_dir:
            paths += [folder.with_name(folder.name + suffix) for suffix in hdf5.SUFFIXES]
        # Packs are kept beside the folder that they were unpacked to: the folder comes first.
        return next((path for path in paths if path.is_dir() or hdf5.is_file_for_all(path)), None)

    def present(self, folder: Path) -> Path | None:
        """Returns the folder or file below `folder` with anything where these belong, if any."""
        paths = filter(None, (place.source(folder) for place in self._places()))
        return next((path for path in paths if path.is_file() or any(path.iterdir())), None)

    def _places(self) -> list["FeatureFiles"]:
        pairs = ((self.pattern, self.key), *self.also)
        return [dataclasses.replace(self, pattern=p, key=key) for p, key in pairs]


@dataclasses.dataclass(frozen=True)
class FoundFiles:
    """The feature files of one kind that there are, or the arrays of an HDF5 file for all."""

    files: FeatureFiles
    source: Path  # the folder, or the file
    places: Mapping[str, Sequence[Path]]  # below it, by name
    suffixes: tuple[str, ...]  # of the names, best first

    def item(self, row: Row) -> "FileItem | None":
        """Returns the files of an annotation line, None where one is missing.

        Raises:
          DataError: two folders have a file of the same name.
        """
        paths = self._paths(row)
        if None in paths:
            return None
        return FileItem(tuple(paths), self.files.key, self.files.spatial)

    def missing(self, row: Row) -> list[Path]:
        """Returns the files that an annotation line needs and that are not there."""
        pairs = zip(self.files.parts, self._paths(row), strict=True)
        stem, suffix = self.files.stem(row), self.suffixes[0]
        return [self.source / (stem + part + suffix) for part, path in pairs if path is None]

    def _paths(self, row: Row) -> list[Path | None]:
        """Returns the file of each part; of several formats the released one wins."""
        stem = self.files.stem(row)
        return [self._path([stem + part + x for x in self.suffixes]) for part in self.files.parts]

    def _path(self, names: Sequence[str]) -> Path | None:
        """Returns the file of the first name that is in the folder itself, or in one within it."""
        found = [path for name in names for path in self.places.get(name, ())]
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
      spatial: take arrays [rows, S, width], too.
    """

    paths: tuple[Path, ...]
    key: str | None
    spatial: bool = False

    def header(self, width: int | None) -> FeatureHeader:
        """Reads rows, width and dtype; the parts' shortest, their sum and their widest.

        Raises:
          DataError: as `feature_header`; parts of very different length, of other tokens, or with
            the tokens of a row side by side, if `width` tells.
        """
        if len(self.paths) == 1:
            return feature_header(self.paths[0], self.key, width, self.spatial)
        headers = [feature_header(path, self.key, spatial=self.spatial) for path in self.paths]
        return self._joined(headers, width)

    def read(self, width: int | None) -> np.ndarray:
        """Reads the features [rows, tokens * width], parts side by side and cut to the shortest.

        Raises:
          DataError: as `read_feature`; as `header`.
        """
        if len(self.paths) == 1:
            return read_feature(self.paths[0], self.key, width, self.spatial)
        parts = [read_tokens(path, self.key, spatial=self.spatial) for path in self.paths]
        headers = [FeatureHeader(len(p), p.shape[2], p.dtype, p.shape[1]) for p in parts]
        rows = self._joined(headers, width).rows
        return np.concatenate([part[:rows] for part in parts], axis=2).reshape(rows, -1)

    def _joined(self, headers: Sequence[FeatureHeader], width: int | None) -> FeatureHeader:
        """Returns the header of the parts side by side, or raises what does not fit."""
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
                # Joined as they are, they would be cut into tokens of one part each.
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
    """The released layout of one data set with one set of features.

    Attributes:
      annotations: for each split the names its file may have, best first. Splits without a file
        are not built.
      streams: the video features, in the order in which they are concatenated.
      query: the features of the words.
      clip_length: seconds.
      label_clip_length: seconds of the clips that ids and ratings count; None: clip_length.
      labels: kind of labels, a key of `annotations.LABEL_FIELDS`.
      unlabelled_splits: splits that may come without labels.
      released_rows: queries of each split as released, for the report.
      domains: the values that the field `domain` of an annotation line may have; () where the data
        set is not divided into domains.
      left_out: names of further streams, which are not used.
      resample: read a fixed number of features a video, spread over its duration, as one row for
        each clip.
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
        """Whether the labels are a list with a row for each clip, which tells the clips."""
        return "label" in LABEL_FIELDS[self.labels]

    def rated_clips(self, row: Row) -> int | None:
        """Returns the clips that the labels of a line rate one by one; None if they do not."""
        return len(row["label"]) if self.rated and row.get("label") else None

    def with_widths(self, widths: Mapping[str, int | None]) -> "Layout":
        """Returns this layout with other feature widths.

        Args:
          widths: by name of a stream, or "query"; None takes the width that the files have.

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
        """Returns this layout with some of its streams, in its order; of no names, all of them.

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
        """Returns those of some feature widths, by known names, that are not the layout's own."""
        own = {files.name: files.width for files in self.feature_files}
        return {name: width for name, width in widths.items() if width != own[name]}

    def find_annotations(self, manual_dir: Path) -> dict[str, Path]:
        """Returns the annotation file of each split that has one in `manual_dir`.

        Raises:
          DataError: there is no such folder, or none of the files in it.
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
        """Reads the annotation file of a split and checks every line of it.

        Args:
          split: of the file.
          path: of the file.

        Raises:
          DataError: as `annotations.load_annotations`.
        """
        rows = read_json_lines(path)
        self._check(split, path, rows)
        return rows

    def load_clipped_annotations(
        self, split: str, path: Path
    ) -> tuple[list[dict[str, Any]], list[Change]]:
        """Reads an annotation file as `load_annotations`, its lines cut to their videos.

        Returns:
          The lines that are left, and what was done to them.

        Raises:
          DataError: as `load_annotations`; no line is left.
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
    """Reads "slowfast=64,clip=32,query=32", as it is written on a command line.

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

"""Where the files of a data set lie as they were released, and what must be in them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flashvtg_jax.data.features import SUFFIXES
from flashvtg_jax.errors import ConfigError, DataError

# An annotation file is looked for in these subfolders of manual_dir, in this order.
ANNOTATION_FOLDERS = (".", "annotations", "data")


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """One feature file for each video, or for each query.

    Attributes:
      name: of the stream: "slowfast"; for the words of the queries "query".
      pattern: path below manual_dir without suffix, with a field of the annotation line in it:
        "slowfast_features/{vid}".
      key: name of the array in a `.npz` file.
      width: features a row; None where any width will do, as long as all files agree.
      suffix: of the released files. Files of the same names in the other formats are read, too.
    """

    name: str
    pattern: str
    key: str
    width: int | None
    suffix: str = ".npz"

    @property
    def folder(self) -> str:
        """The folder below manual_dir that holds the files."""
        return str(PurePosixPath(self.pattern).parent)

    def stem(self, row: Mapping[str, Any]) -> str:
        """Returns the file name, without suffix, for an annotation line."""
        # Not Path.stem: ids contain dots.
        return PurePosixPath(self.pattern).name.format(**row)

    def suffixes(self) -> tuple[str, ...]:
        """Returns the suffixes to look for, the released one first."""
        return (self.suffix, *(suffix for suffix in SUFFIXES if suffix != self.suffix))


@dataclasses.dataclass(frozen=True)
class Layout:
    """The released layout of one data set with one set of features.

    Attributes:
      annotations: for each split the names its file may have, best first. Splits without a file
        are not built.
      streams: the video features, in the order in which they are concatenated.
      query: the features of the words.
      clip_length: seconds.
      labels: kind of labels, a key of `annotations.LABEL_FIELDS`.
      unlabelled_splits: splits that may come without labels.
      released_rows: queries of each split as released, for the report.
    """

    annotations: Mapping[str, tuple[str, ...]]
    streams: tuple[FeatureFiles, ...]
    query: FeatureFiles
    clip_length: float
    labels: str
    unlabelled_splits: tuple[str, ...] = ()
    released_rows: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def feature_files(self) -> tuple[FeatureFiles, ...]:
        """All streams and the query."""
        return (*self.streams, self.query)

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

        def changed(files: FeatureFiles) -> FeatureFiles:
            return dataclasses.replace(files, width=widths.get(files.name, files.width))

        return dataclasses.replace(
            self, streams=tuple(map(changed, self.streams)), query=changed(self.query)
        )

    def find_annotations(self, manual_dir: Path) -> dict[str, Path]:
        """Returns the annotation file of each split that has one in `manual_dir`.

        Raises:
          DataError: there is no such folder, or none of the files in it.
        """
        if not manual_dir.is_dir():
            raise DataError(f"{manual_dir}: no such folder; --manual_dir is where the files are.")
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
                f"its subfolders {', '.join(ANNOTATION_FOLDERS[1:])}."
            )
        return found


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

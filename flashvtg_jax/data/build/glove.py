"""Word vectors from a table (GloVe), instead of a feature file for each query."""

import codecs
import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flashvtg_jax.data.build.listing import is_synthetic, what_is_there
from flashvtg_jax.data.feature_files import FeatureHeader
from flashvtg_jax.errors import DataError

# A table without half of the words of a data set is a wrong one: GloVe has almost every English
# word. Fewer words prove nothing.
_MIN_WORDS_TO_JUDGE = 20

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class GloveWords:
    """The words of the queries, looked up in one text file.

    Each line of the file is a word and its numbers, separated by spaces. A query has a row for each
    of its words, zeros if the file does not have the word.

    Attributes:
      name: of the features: "query".
      file: its name.
      width: numbers of a word; None takes that of the first line.
      folders: below manual_dir that may contain the file, in order of preference.
      released: (lines, width) of the released file. A file of this width with fewer lines is
        incomplete, unless `synthesize` made it.
    """

    name: str
    file: str
    width: int | None
    folders: tuple[str, ...] = (".", "glove")
    released: tuple[int, int] | None = None

    @property
    def dtype(self) -> np.dtype:
        """The type of the vectors: the file has more digits than float16."""
        return np.dtype(np.float32)

    def find(self, manual_dir: Path, rows: Iterable[Row]) -> "FoundWords":
        """Reads the vectors of all words of annotation lines, in one pass over the file.

        Raises:
          DataError: the file is missing or has fewer lines than released; as `read_vectors`.
        """
        path = self.present(manual_dir)
        if path is None:
            places = " or ".join(str(manual_dir / folder / self.file) for folder in self.folders)
            raise DataError(
                f"{places}: no such file; the vectors of the words belong there. The builder's "
                f"README says where to get them. {what_is_there(manual_dir / self.file)}."
            )
        words = {word for row in rows for word in split_words(row["query"])}
        num_lines, width = self.released or (0, None)
        released = width == self.width and not is_synthetic(manual_dir)
        vectors = read_vectors(path, words, self.width, min_lines=num_lines if released else 0)
        return FoundWords(WordTable(path, vectors))

    def present(self, folder: Path) -> Path | None:
        """Returns the file below `folder`, None if there is none."""
        paths = (folder / subfolder / self.file for subfolder in self.folders)
        return next((path for path in paths if path.is_file()), None)


@dataclasses.dataclass(frozen=True)
class WordTable:
    """Vectors of some words.

    Attributes:
      path: of their file.
      vectors: by word, all of one width; "" has zeros, for unknown words.
    """

    path: Path
    vectors: Mapping[str, np.ndarray] = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class FoundWords:
    """The vectors of all words that a data set needs."""

    table: WordTable

    def item(self, row: Row) -> "WordsItem":
        """Returns the words of an annotation line."""
        return WordsItem(self.table, split_words(row["query"]))

    def missing(self, row: Row) -> list[Path]:
        """Returns []: the file was found, and words that it lacks are zeros."""
        return []


@dataclasses.dataclass(frozen=True)
class WordsItem:
    """The words of one query."""

    table: WordTable
    words: tuple[str, ...]

    def header(self, width: int | None) -> FeatureHeader:
        """Returns the header; `width` was checked when the table was read."""
        unknown = self.table.vectors[""]
        return FeatureHeader(len(self.words), len(unknown), unknown.dtype)

    def read(self, width: int | None) -> np.ndarray:
        """Returns the vectors [words, width] float32, zeros for unknown words."""
        unknown = self.table.vectors[""]
        return np.stack([self.table.vectors.get(word, unknown) for word in self.words])

    def __str__(self) -> str:
        return str(self.table.path)


def split_words(query: str) -> tuple[str, ...]:
    """Returns the words of a query as the authors look them up: split at spaces, in lower case.

    A full stop stays part of its word, which GloVe then does not have.
    """
    return tuple(word.lower() for word in query.split())


def count_unknown(items: Iterable[WordsItem]) -> tuple[int, int, int]:
    """Returns numbers of different words: all, unknown ones, unknown ones of letters only."""
    vectors = {word: item.table.vectors for item in items for word in item.words}
    unknown = [word for word, known in vectors.items() if word not in known]
    return len(vectors), len(unknown), sum(word.isalpha() for word in unknown)


def read_vectors(
    path: Path, words: Collection[str], width: int | None, *, min_lines: int = 0
) -> dict[str, np.ndarray]:
    """Reads the vectors of some words from a table in GloVe's format.

    The whole file is read and the numbers of every line are counted, to notice a file that is cut
    short.

    Args:
      path: text file; each line a word and its numbers.
      words: to read.
      width: numbers of a word; None takes that of the first line.
      min_lines: fewer are an error.

    Returns:
      float32 [width] for each word that the file has, and zeros for "".

    Raises:
      DataError: a file that cannot be read, is empty, has lines of another width or without finite
        numbers, has too few lines, or lacks too many of the words.
    """
    wanted = {word.encode(): word for word in words}
    vectors: dict[str, np.ndarray] = {}
    num_lines, line = 0, b""
    try:
        with open(path, "rb") as file:
            for num_lines, line in enumerate(file, start=1):
                if num_lines == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)  # some editors write it
                word, _, numbers = line.rstrip().partition(b" ")
                found = numbers.count(b" ") + 1 if numbers else 0
                width = width or found
                if found != width or not found:
                    raise _wrong_width(path, num_lines, width, found)
                if word in wanted and wanted[word] not in vectors:
                    vectors[wanted[word]] = _parse(path, num_lines, numbers)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if not num_lines:
        raise DataError(f"{path}: empty; unpack or download it again.")
    if not line.endswith(b"\n"):  # a cut within the last number is not noticed otherwise
        raise DataError(
            f"{path}:{num_lines}: the last line has no end: cut short? Unpack or download it again."
        )
    if num_lines < min_lines:
        raise DataError(
            f"{path}: {num_lines} lines, but {min_lines} were released: cut short? Unpack or "
            "download it again."
        )
    _check_coverage(path, words, vectors, num_lines)
    vectors[""] = np.zeros(width, np.float32)
    return vectors


def _parse(path: Path, line: int, numbers: bytes) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # checked below
            vector = np.array(numbers.split(b" "), np.float64).astype(np.float32)
    except ValueError as error:
        raise DataError(
            f"{path}:{line}: not a word and numbers ({error}); unpack or download it again."
        ) from error
    if not np.isfinite(vector).all():
        raise DataError(f"{path}:{line}: NaN or infinity; unpack or download it again.")
    return vector


def _wrong_width(path: Path, line: int, width: int, found: int) -> DataError:
    reason = "vectors of another kind, or not such a file?" if line == 1 else "cut short, damaged?"
    return DataError(
        f"{path}:{line}: expected a word and {width} numbers, found {found} numbers; {reason} "
        "Unpack or download it again."
    )


def _check_coverage(
    path: Path, words: Collection[str], found: Collection[str], num_lines: int
) -> None:
    """Raises DataError for a file that was cut at the end of a line, or of another language."""
    plain = [word for word in words if word.isalpha()]  # "it's" and "door." are not in GloVe
    num_found = sum(word in found for word in plain)
    if len(plain) >= _MIN_WORDS_TO_JUDGE and num_found < len(plain) / 2:
        raise DataError(
            f"{path}: only {num_found} of the {len(plain)} words of the queries are in its "
            f"{num_lines} lines; cut short, or of another language? Unpack or download it again."
        )

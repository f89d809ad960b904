"""JSON lines: one JSON object a line, as annotations, predictions and logs are kept."""

import codecs
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashvtg_jax.errors import DataError
from flashvtg_jax.files import write_atomically

# Bytes that are 0 of two ASCII characters, or of one.
_UTF_16, _UTF_32 = ("x0x0", "0x0x"), ("x000", "000x")


class Row(dict):
    """A JSON object of a file, and the `line` that it is on, from 1."""

    line: int


def numbered(rows: Iterable[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """Rows with the lines that they are on; rows of no file are counted from 1."""
    return [(getattr(row, "line", number), row) for number, row in enumerate(rows, start=1)]


def read_json_lines(path: str | os.PathLike) -> list[Row]:
    """Reads a JSON-lines file; blank lines are passed over, each row knows its `line`.

    Raises:
      DataError: the file is missing, unreadable, empty or not UTF-8, or a line is not one JSON
        object.
    """
    rows = []
    for number, line in enumerate(read_utf8(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: not JSON: {error.msg} at column {error.colno}; expected one "
                "JSON object per line"
            ) from error
        # ValueError: bytes that are no text, or an integer of more than 4300 digits.
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number}: expected a JSON object {{...}}, got {_json_type(row)}"
            )
        rows.append(Row(row))
        rows[-1].line = number
    if not rows:
        raise DataError(f"{path}: the file is empty; expected one JSON object per line")
    return rows


def read_utf8(path: str | os.PathLike) -> bytes:
    """Reads a text file, without a mark of its encoding in front.

    Raises:
      DataError: the file is missing, cannot be read, or is in UTF-16 or UTF-32.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    check_encoding(path, content)
    return content.removeprefix(codecs.BOM_UTF8)


def check_encoding(path: str | os.PathLike, beginning: bytes) -> None:
    """Raises DataError for a file that begins as UTF-16 or UTF-32 text does, or with zeros."""
    # Marks may be missing; then the first two characters, which are ASCII, have bytes of 0.
    zeros = "".join("0" if byte == 0 else "x" for byte in beginning[:4])
    encoding = None
    if beginning.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) or zeros in _UTF_32:
        encoding = "UTF-32"
    elif beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or zeros in _UTF_16:
        encoding = "UTF-16"
    if encoding:
        raise DataError(
            f"{path}: the text is in {encoding} (as Windows' Notepad and PowerShell may write it), "
            f"expected UTF-8; convert it: iconv -f {encoding} -t UTF-8 FILE > NEW"
        )
    if "0" in zeros:
        raise DataError(f"{path}: holds zeros instead of text: was it written whole?")


def write_json_lines(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, with parent folders: the whole file or nothing.

    Raises:
      DataError: the file cannot be written, or a row holds what JSON cannot (NaN, infinity, an
        array); `path` is then as it was before.
    """
    lines = [_json_line(row, path, number) for number, row in enumerate(rows, start=1)]
    write_atomically(path, "".join(lines))


def _json_line(row: Mapping[str, Any], path: str | os.PathLike, number: int) -> str:
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        line.encode()  # fails for half a surrogate pair, which JSON can spell and UTF-8 cannot
        return line
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: row {number} cannot be written as JSON: {error}") from error


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number"}
    return names.get(type(value), "a number")

"""JSON lines: one JSON object a line, as annotations, predictions and logs are kept."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashvtg_jax.errors import DataError
from flashvtg_jax.files import write_atomically


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a JSON-lines file; row `i` of the result is line `i + 1` of the file.

    Empty lines are allowed at the end only, so that line numbers stay those of the rows.

    Raises:
      DataError: the file is missing, unreadable or empty, or a line is not one JSON object.
    """
    try:
        lines = Path(path).read_bytes().rstrip().splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not lines:
        raise DataError(f"{path}: the file is empty; expected one JSON object per line")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at column {error.colno}" if line.strip() else "an empty line"
            raise DataError(
                f"{path}:{number}: not JSON: {problem}; expected one JSON object per line"
            ) from error
        # ValueError: bytes that are no text, or an integer of more than 4300 digits.
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number}: expected a JSON object {{...}}, got {_json_type(row)}"
            )
        rows.append(row)
    return rows


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

"""JSON lines: one JSON object a line, as annotations, predictions and logs are kept."""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashvtg_jax.errors import DataError


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
        except (UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number}: expected a JSON object {{...}}, got {_json_type(row)}"
            )
        rows.append(row)
    return rows


def write_json_lines(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, beside `path` first and then renamed: never half a file.

    Raises:
      DataError: the file cannot be written, or a row holds what JSON cannot (NaN, infinity, an
        array); `path` is then as it was before.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for number, row in enumerate(rows, start=1):
                file.write(_json_line(row, path, number))
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _json_line(row: Mapping[str, Any], path: Path, number: int) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: row {number} cannot be written as JSON: {error}") from error


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number"}
    return names.get(type(value), "a number")

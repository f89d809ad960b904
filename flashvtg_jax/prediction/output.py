"""The files that `flashvtg predict` writes: predictions, their settings, errors; and resuming."""

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from flashvtg_jax.errors import DataError
from flashvtg_jax.files import write_atomically

_SHOWN_ERRORS = 20  # on stderr


def request_hash(row: Mapping[str, Any]) -> int:
    """A hash of vid and query, of a line of the list or of its prediction; it saves memory."""
    return hash((row["vid"], row.get("query")))


@contextlib.contextmanager
def opened_output(
    path: Path, settings: Mapping[str, Any], overwrite: bool
) -> Iterator[tuple[IO[bytes], dict[str, int]]]:
    """Opens a file of predictions at its end: (the file, `request_hash` of each id in it)."""
    about = path.with_name(f"{path.name}.settings.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{path}: another process is writing this file") from error
        except OSError:  # some network disks have no locks
            pass
        if overwrite:
            file.truncate(0)
        done: dict[str, int] = {}
        if file.seek(0, os.SEEK_END):
            _check_settings(path, about, settings)
            done = _finished_lines(path, file)
        write_atomically(about, json.dumps(settings, indent=2) + "\n")
        yield file, done


def _check_settings(path: Path, about: Path, settings: Mapping[str, Any]) -> None:
    """Raises DataError if the predictions in the file have other settings."""
    advice = "Move it away, or start over with --overwrite."
    try:
        saved = json.loads(about.read_bytes())
        if not isinstance(saved, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: exists, and was not begun by this command. {advice}") from error
    differing = [key for key, value in settings.items() if saved.get(key) != value]
    if differing:
        key = differing[0]
        how = f"with {key}={saved.get(key)}, not {settings[key]}"
        if key not in saved:
            how = "by another version of flashvtg-jax"
        raise DataError(
            f"{path}: begun {how}: predictions with different settings do not go into one file. "
            f"{advice}"
        )


def _finished_lines(path: Path, file: IO[bytes]) -> dict[str, int]:
    """`request_hash` of each id in the file; an incomplete last line is cut off."""
    done: dict[str, int] = {}
    end, torn = 0, False
    file.seek(0)
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if torn:
                raise DataError(
                    f"{path}:{number - 1}: not a prediction; the file is damaged. Move it away, or "
                    "start over with --overwrite."
                )
            try:
                torn = not line.endswith(b"\n")
                if not torn and line.strip():
                    row = json.loads(line)
                    done[str(row["qid"])] = request_hash(row)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                torn = True
            end += 0 if torn else len(line)
    file.truncate(end)
    file.seek(0, os.SEEK_END)
    return done


def write_whole(file: IO[bytes], path: Path, line: bytes) -> None:
    """Writes a whole line to an unbuffered file."""
    try:
        while line:
            line = line[file.write(line) :]
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror or error}; the same command resumes here"
        ) from error


class ErrorFile:
    """OUTPUT.errors.jsonl: lines that were left out; there is no such file without any."""

    def __init__(self, queries: Path, output: Path, show: bool):
        self.path = output.with_name(f"{output.name}.errors.jsonl")
        self.count = 0
        self._queries, self._show = queries, show
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "ErrorFile":
        self.path.unlink(missing_ok=True)  # all lines are checked again
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, line: int, qid: Any, problem: str) -> None:
        """Reports the problem of a line of the list."""
        self.count += 1
        if self._file is None:
            self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115 (closed in __exit__)
        content = {"line": line, "qid": qid, "error": problem}
        write_whole(self._file, self.path, (json.dumps(content) + "\n").encode())
        if self._show and self.count <= _SHOWN_ERRORS:
            more = "" if self.count < _SHOWN_ERRORS else f" (further ones: {self.path})"
            print(f"{self._queries}:{line}: {problem}{more}", file=sys.stderr)

"""The list of queries that `flashvtg predict` reads, line by line."""

import dataclasses
import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flashvtg_jax.data.annotations import unusable_character
from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import check_encoding
from flashvtg_jax.prediction.inputs import CheckedVideo
from flashvtg_jax.prediction.output import request_hash
from flashvtg_jax.prediction.predictor import Prediction


@dataclasses.dataclass
class Task:
    """A line of the list, and its state so far."""

    line: int
    row: dict[str, Any] = dataclasses.field(default_factory=dict)
    done: bool = False  # predicted by an earlier call
    problem: str | None = None
    video: CheckedVideo | None = None
    query: np.ndarray | None = None
    num_words: int = 0  # before the query was cut
    prediction: Prediction | None = None


def count_lines(path: Path) -> int:
    """The number of lines that are not blank. Raises DataError for none, or an unreadable list."""
    try:
        # It is read three times, and opening a pipe could wait forever.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataError(f"{path}: not a regular file; write the list to a file first")
        with open(path, "rb") as file:
            check_encoding(path, file.read(4))
            file.seek(0)
            count = sum(bool(line.strip()) for line in file)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not count:
        raise DataError(f"{path}: the file is empty or blank; expected one JSON object per line")
    return count


def read_tasks(path: Path, done: Mapping[str, int]) -> Iterator[Task]:
    """Yields a task for each line, with its problem if it has one."""
    seen: dict[str, int] = {}  # line of each id
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            task = Task(number)
            try:
                row = json.loads(line)
            # ValueError: bytes that are not text, or an integer of more than 4300 digits.
            except (ValueError, RecursionError) as error:
                where = getattr(error, "colno", None)
                reason = f"{error.msg} at column {where}" if where else error
                task.problem = f"not JSON: {reason}"
                yield task
                continue
            task.problem = next(_row_problems(row), None)
            if isinstance(row, dict):
                task.row = row
                if row.get("query", "") is None:
                    del row["query"]  # null is the same as no field
            if task.problem is None:
                qid = str(row["qid"])  # as text: 7 and "7" have the same feature file
                if seen.setdefault(qid, number) != number:
                    task.problem = f"qid {qid} is already used in line {seen[qid]}"
                elif qid in done:
                    task.done = done[qid] == request_hash(row)
                    if not task.done:
                        task.problem = (
                            "already answered for another video or query; use another --output"
                        )
            yield task


def _row_problems(row: Any) -> Iterator[str]:
    """Yields the problems of a line; its features are checked later."""
    if not isinstance(row, dict):
        yield "expected a JSON object {...} with qid and vid"
        return
    for field, types in (("qid", (str, int)), ("vid", (str,))):
        value = row.get(field)
        if not isinstance(value, types) or isinstance(value, bool) or not str(value).strip():
            shown = repr(value) if field in row else "missing"
            yield f"{field} {shown}; expected a string" + (" or an integer" * (field == "qid"))
        elif found := unusable_character(value):
            yield f"{field} {value!r} holds {found!r}, which file names cannot"
    query = row.get("query")
    if query is not None and not (isinstance(query, str) and query.strip()):
        yield f"query {row['query']!r}; expected a sentence"
    duration = row.get("duration")
    if duration is not None and not _are_seconds(duration):
        yield f"duration {reprlib.repr(duration)}; expected the seconds of the video"


def _are_seconds(value: Any) -> bool:
    """Whether it is a number above 0 within float32, in which moments are computed."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return 0 < float(value) <= float(np.finfo(np.float32).max)
    except OverflowError:  # an integer of hundreds of digits
        return False

"""Converts released annotation files of other data sets to lines for custom data sets."""

import collections
import dataclasses
import os
import statistics
from collections.abc import Sequence
from typing import Any

from flashvtg_jax.data.annotations import check_annotations, check_lines_agree, is_number
from flashvtg_jax.data.build.clipping import unusable
from flashvtg_jax.data.build.released_formats import (
    READERS,
    WITHOUT_DURATIONS,
    ReleasedQuery,
    read_durations,
    read_text,
)
from flashvtg_jax.errors import ConfigError, DataError, first_lines
from flashvtg_jax.json_lines import write_json_lines

# Seconds by which a moment may exceed its video: times and durations are rounded, in Charades-STA
# to 0.1 s. Such moments are cut and counted.
ROUNDING = 0.1


@dataclasses.dataclass
class Conversion:
    """The result of `convert_annotations`.

    Attributes:
      rows: the lines written.
      places: the place of each row's query in the released files.
      rounded: number of moments cut that exceeded their video by at most `ROUNDING`.
      cut: moments cut that exceeded it by more, each as "place: problem".
      left_out: queries without a sentence or a moment, in the same form.
    """

    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    places: list[str] = dataclasses.field(default_factory=list)
    rounded: int = 0
    cut: list[str] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)

    def summary(self) -> str:
        """Returns the numbers of queries and videos, and lengths of videos and moments."""
        durations = list({row["vid"]: row["duration"] for row in self.rows}.values())
        queries = f"{_count(len(self.rows), 'query')}, {_count(len(durations), 'video')}"
        text = f"{queries}; median video {statistics.median(durations):.1f} s"
        if "relevant_windows" not in self.rows[0]:
            return f"{text}; no moments, as in a test split"
        lengths = [end - start for row in self.rows for start, end in row["relevant_windows"]]
        return (
            f"{text}, median moment {statistics.median(lengths):.3g} s "
            f"(from {min(lengths):.3g} to {max(lengths):.3g} s)"
        )

    def notes(self) -> list[str]:
        """Returns notes about what was changed, and about repeated queries."""
        notes = []
        if self.rounded:
            notes.append(
                f"{_count(self.rounded, 'moment')} cut that reached up to {ROUNDING:g} s over the "
                "ends of their video, as rounded times do"
            )
        for done, places in (("cut to the video", self.cut), ("left out", self.left_out)):
            if places:
                queries = _count(len(places), "query")
                notes.append("\n  ".join([f"{queries} {done}:", *first_lines(places)]))
        counts = collections.Counter((row["vid"], row["query"]) for row in self.rows)
        repeated = sum(count for count in counts.values() if count > 1)
        if repeated:
            notes.append(
                f"{repeated} queries have the same video and sentence as another one; each keeps "
                "its own line and moment"
            )
        return notes


def convert_annotations(
    source: str,
    files: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    durations: Sequence[str | os.PathLike] = (),
    clip_windows: bool = False,
) -> Conversion:
    """Writes the queries of released files, in order, as annotation lines for custom data sets.

    Blanks around sentences are removed. A qid is the key of the format, "_", and the number of the
    query among those of this key, from 0. Queries that are left out are counted, so ids do not
    depend on `clip_windows`.

    Args:
      source: format of the files, a key of `READERS`.
      files: one or more.
      output: file of JSON lines to write, completely or not at all.
      durations: files with the seconds of each video, for formats without; see `read_durations`.
      clip_windows: cut moments to their video, and leave out moments outside it and queries without
        a sentence. Otherwise these are errors.

    Raises:
      ConfigError: `durations` are missing, or the format has its own; `output` is one of the files.
      DataError: files that cannot be read or have another format; queries that cannot be used, up
        to ten of them in one message, each with its place.
    """
    given = {os.path.realpath(path) for path in (*files, *durations)}
    if os.path.realpath(output) in given:
        raise ConfigError(f"{output} is one of the files to read; write to another one.")
    _check_durations_given(source, durations)
    queries = [query for path in files for query in READERS[source](read_text(path), str(path))]
    if source in WITHOUT_DURATIONS:
        queries = _with_durations(queries, durations)
    conversion = _convert(queries, clip_windows)
    if not conversion.rows:
        left_out = ": all are left out" if queries else ""
        raise DataError(f"{', '.join(map(str, files))}: no queries to write{left_out}")
    lines = list(zip(conversion.places, conversion.rows, strict=True))
    # Clips of a millisecond: moments must be within their video, whatever the clip length.
    check_annotations(source, lines, clip_length=1e-3)
    check_lines_agree(lines)
    write_json_lines(output, conversion.rows)
    return conversion


def _check_durations_given(source: str, durations: Sequence[str | os.PathLike]) -> None:
    if durations and source not in WITHOUT_DURATIONS:
        raise ConfigError(
            f"files of {source} hold durations; others are for {', '.join(WITHOUT_DURATIONS)}."
        )
    if source in WITHOUT_DURATIONS and not durations:
        raise ConfigError(
            f"files of {source} hold no durations of the videos; give {WITHOUT_DURATIONS[source]}."
        )


def _with_durations(
    queries: Sequence[ReleasedQuery], paths: Sequence[str | os.PathLike]
) -> list[ReleasedQuery]:
    durations = read_durations(paths)

    def with_duration(query: ReleasedQuery) -> ReleasedQuery:
        if query.problem:
            return query
        if query.vid not in durations:
            problem = f"no duration of {query.vid} in {', '.join(map(str, paths))}"
            return dataclasses.replace(query, problem=problem)
        return dataclasses.replace(query, duration=durations[query.vid])

    return [with_duration(query) for query in queries]


def _convert(queries: Sequence[ReleasedQuery], clip_windows: bool) -> Conversion:
    """Checks all queries and returns the rows to keep. Raises DataError for wrong queries."""
    labelled = any(query.window is not None for query in queries)
    numbers: collections.Counter[str] = collections.Counter()
    conversion = Conversion()
    problems, noisy = [], 0
    for query in queries:
        row = {"qid": f"{query.key}_{numbers[query.key]}"}
        numbers[query.key] += 1
        if problem := _problem(query):
            problems.append(f"{query.place}: {problem}")
            continue
        window, noise = _usable_part(query, labelled)
        if noise and not clip_windows:
            problems.append(f"{query.place}: {noise}")
            noisy += 1
            continue
        if noise:
            done = conversion.left_out if window is None else conversion.cut
            done.append(f"{query.place}: {noise}")
            if window is None:
                continue
        elif labelled and window != query.window:
            conversion.rounded += 1
        row |= {"query": query.query.strip(), "vid": query.vid}
        row["duration"] = query.duration
        if labelled:
            row["relevant_windows"] = [window]
        conversion.rows.append(row)
        conversion.places.append(query.place)
    if problems:
        hint = (
            f"--clip_windows helps with {noisy} of these {len(problems)}: it cuts moments to their "
            "video, leaves out what is empty, and lists both"
        )
        raise DataError("\n".join([*first_lines(problems), *([hint] if noisy else [])]))
    return conversion


def _problem(query: ReleasedQuery) -> str:
    """Returns a problem of a query that clipping does not solve; "" if there is none."""
    window, duration = query.window, query.duration
    if query.problem:
        return query.problem
    if not query.vid or not query.key:
        return "no id of the video or the annotation"
    if not (is_number(duration) and duration > 0):
        return f"duration {duration!r} of {query.vid}; expected the seconds of the video"
    if not isinstance(query.query, str | None):
        return f"query {query.query!r}; expected a sentence"
    if window is not None and not (
        isinstance(window, list) and len(window) == 2 and all(map(is_number, window))
    ):
        return f"moment {window!r}; expected [start, end], two numbers of seconds"
    return ""


def _usable_part(query: ReleasedQuery, labelled: bool) -> tuple[list[float] | None, str]:
    """Returns the part of the moment within its video, and a problem of the query.

    Args:
      query: without a `_problem`.
      labelled: whether queries of these files have moments.

    Returns:
      The moment, None for a query to leave out ([] if queries have no moments); and the problem, ""
      if there is none besides rounding.
    """
    if not (query.query or "").strip():
        return None, f"query {query.query!r}; expected a sentence"
    if not labelled:
        return [], ""
    if query.window is None:
        return None, "no moment, but other queries have one"
    start, end = query.window
    if problem := unusable(query.window):
        return None, f"moment {query.window} {problem}"
    window = [max(start, 0), min(end, query.duration)]
    if window[0] >= window[1]:
        return None, f"moment {query.window} is outside its video of {query.duration} s"
    if max(-start, end - query.duration) > ROUNDING + 1e-6:
        return window, f"moment {query.window} reaches out of its video of {query.duration} s"
    return window, ""


def _count(number: int, noun: str) -> str:
    plural = noun.removesuffix("y") + "ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"

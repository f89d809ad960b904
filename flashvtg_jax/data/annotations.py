"""Annotation files: one JSON object for each query, checked line by line.

The format is QVHighlights': `qid`, `query`, `vid`, `duration` (seconds), and, where a data set has
them, `relevant_windows` ([[start, end], ...], seconds) with `relevant_clip_ids` and
`saliency_scores` (a list of the annotators' ratings for each of these clips), or `label` (a list of
ratings for each clip of the video) and `domain` (the part of the data set that a video is in).
"""

import collections
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flashvtg_jax.clips import (
    clip_id_problem,
    label_length_problem,
    length_hint,
    num_video_clips,
    other_length,
)
from flashvtg_jax.errors import MAX_ERRORS, DataError
from flashvtg_jax.json_lines import numbered, read_json_lines

# The fields that training and scoring need, by the values of `config.data.labels`.
LABEL_FIELDS = {
    "qvhighlights": ("relevant_windows", "relevant_clip_ids", "saliency_scores"),
    "windows": ("relevant_windows",),
    "ratings": ("label",),
    "binary": ("label",),
}

Placed = tuple[str, Mapping[str, Any]]  # the place of a line, "file:line", and the line

_SALIENCY_FIELDS = ("relevant_clip_ids", "saliency_scores")

# What `label` holds for each clip, by kind of labels, for error messages.
_LABEL_VALUES = {"ratings": "numbers from 1 to 5", "binary": "one number, 0 or 1,"}


def load_annotations(
    path: str | os.PathLike,
    *,
    clip_length: float = 2.0,
    label_clip_length: float | None = None,
    labels: str | None = None,
    domains: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Reads an annotation file and checks every line of it.

    Windows may end with the last clip (a video of 149.3 s has 75 clips of 2 s), clip ids may be one
    larger than the last: they are cut to the video later. Ids and windows of a line must agree.

    Args:
      path: file of JSON lines.
      clip_length: seconds.
      label_clip_length: seconds of the clips that `relevant_clip_ids` count; None: clip_length.
      labels: a key of `LABEL_FIELDS`: every line must have these labels. None: labels are optional,
        but every line must have them or none.
      domains: every line must have one of these as `domain`; () takes any name, or none.

    Raises:
      DataError: the file is missing, empty or not JSON lines, or has lines that cannot be used: up
        to ten of them in one message, each as "file:line: problem". Problems that point to the file
        of another data set are reported for the first such line, with the number of lines.
    """
    rows = read_json_lines(path)
    check_annotations(
        str(path),
        placed(path, rows),
        clip_length=clip_length,
        label_clip_length=label_clip_length,
        labels=labels,
        domains=domains,
    )
    return rows


def placed(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> list[Placed]:
    """Returns the lines of a file with their places."""
    return [(f"{path}:{line}", row) for line, row in numbered(rows)]


def check_annotations(
    name: str,
    lines: Sequence[Placed],
    *,
    clip_length: float,
    label_clip_length: float | None = None,
    labels: str | None = None,
    domains: Sequence[str] = (),
) -> None:
    """Checks annotation lines as `load_annotations` does, whose other arguments and errors it has.

    Args:
      name: of the file or files, for errors about all lines.
      lines: with their places.
      clip_length: see `load_annotations`.
      label_clip_length: see `load_annotations`.
      labels: see `load_annotations`.
      domains: see `load_annotations`.
    """
    problems = _wrong_file_problems(lines, labels, domains)
    first_place: dict[str, str] = {}
    first_rated: dict[str, tuple[str, int]] = {}  # place and annotators, by field
    for place, row in lines:
        found = [
            *_row_problems(row, clip_length, label_clip_length or clip_length),
            *_label_problems(row),
            *_domain_problems(row, domains),
        ]
        problems += [f"{place}: {problem}" for problem in found]
        for field in () if found else ("saliency_scores", "label"):
            if not row.get(field):
                continue
            annotators = len(row[field][0])
            first, expected = first_rated.setdefault(field, (place, annotators))
            if annotators != expected:
                problems.append(
                    f"{place}: {field} of {annotators} annotators, but of {expected} in {first}; "
                    "every line needs as many"
                )
        # As text: 7 and "7" name the same feature file.
        qid = str(row.get("qid"))
        if "qid" in row and first_place.setdefault(qid, place) != place:
            problems.append(
                f"{place}: qid {qid} is already used in {first_place[qid]}; give every query an id "
                "of its own"
            )
        if len(problems) > MAX_ERRORS:
            problems[MAX_ERRORS:] = [f"{name}: ... and more; correct these first"]
            break
    if not problems:
        rows = (row for _, row in lines)
        length_problem = label_length_problem(rows, label_clip_length or clip_length)
        problems += [f"{name}: {length_problem}"] if length_problem else []
    if problems:
        raise DataError("\n".join(problems))


def check_lines_agree(lines: Iterable[Placed]) -> None:
    """Raises DataError if lines that share a feature file contradict each other.

    In all files together, a qid has one query and a video one duration.
    """
    queries: dict[str, tuple[str, str]] = {}
    durations: dict[str, tuple[str, float]] = {}
    for place, row in lines:
        known, query = queries.setdefault(str(row["qid"]), (place, row["query"]))
        if query != row["query"]:
            raise DataError(
                f"{place}: qid {row['qid']} is already another query in {known}; both would use "
                "the same feature file. Give every query an id of its own."
            )
        known, duration = durations.setdefault(row["vid"], (place, row["duration"]))
        if not math.isclose(duration, row["duration"], rel_tol=1e-5):
            raise DataError(
                f"{place}: vid {row['vid']!r} lasts {row['duration']} seconds, but {duration} in "
                f"{known}; correct one of them, or give the videos ids of their own."
            )


def unusable_character(id_: str | int) -> str | None:
    """Returns a character of a qid or vid that its feature file's name cannot contain, if any."""
    # A path must not lead out of the folder of the features.
    return next((character for character in "/\\\0" if character in str(id_)), None)


def _common_labels(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns the label fields of some line: the other lines must have them, too."""
    found = {field for row in rows for field, value in row.items() if value is not None}
    if found & set(_SALIENCY_FIELDS):  # they need each other
        found |= set(_SALIENCY_FIELDS)
    return tuple(field for field in (*LABEL_FIELDS["qvhighlights"], "label") if field in found)


def _wrong_file_problems(
    lines: Sequence[Placed], labels: str | None, domains: Sequence[str]
) -> list[str]:
    """Returns the signs that a file belongs to another data set, each sign once."""
    required = LABEL_FIELDS[labels] if labels else _common_labels([row for _, row in lines])
    first: dict[str, str] = {}  # place and problem, by what is wrong
    counts: collections.Counter[str] = collections.Counter()
    for place, row in lines:
        for kind, problem in _signs_of_another_set(row, labels, required, domains):
            first.setdefault(kind, f"{place}: {problem}")
            counts[kind] += 1
    return [
        problem + (f" ({counts[kind]} of {len(lines)} lines)" if counts[kind] > 1 else "")
        for kind, problem in first.items()
    ]


def _signs_of_another_set(
    row: dict[str, Any], labels: str | None, required: Sequence[str], domains: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yields (kind of problem, message) for a line that looks like one of another data set."""
    for field in required:
        if row.get(field) is None:
            found = [name for fields in LABEL_FIELDS.values() for name in fields if row.get(name)]
            yield (
                field,
                f"no field {field!r}"
                + (f", but {', '.join(dict.fromkeys(found))}" if found else "")
                + "; is this the annotation file of another data set, or of a split without "
                "labels?",
            )
    rated = [name for name in _SALIENCY_FIELDS if row.get(name) is not None]
    if labels == "windows" and rated:
        yield (
            "rated",
            f"{' and '.join(rated)}, but this data set has moments alone; is this the annotation "
            "file of another data set?",
        )
    wrong = _wrong_ratings(row.get("label"), labels)
    if wrong is not None:
        yield (
            "ratings",
            f"label holds {_shortened(wrong)}; expected {_LABEL_VALUES[labels]} for each clip; is "
            "this the annotation file of another data set?",
        )
    if domains and row.get("domain") is None:
        yield (
            "domain",
            f"no field 'domain', one of {', '.join(domains)}; is this the annotation file of "
            "another data set?",
        )


def _wrong_ratings(label: Any, labels: str | None) -> list[Any] | None:
    """Returns the first ratings of a clip that this kind of labels cannot have, if any."""
    well_formed = isinstance(label, list) and not any(_rating_table_problems(label, "label"))
    if labels not in _LABEL_VALUES or not well_formed:
        return None

    def fits(ratings: list[Any]) -> bool:
        if labels == "binary":
            return len(ratings) == 1 and ratings[0] in (0, 1)
        return all(1 <= rating <= 5 for rating in ratings)

    return next((ratings for ratings in label if not fits(ratings)), None)


def _row_problems(
    row: dict[str, Any], clip_length: float, label_clip_length: float
) -> Iterator[str]:
    """Yields what is wrong with one line."""
    for field in ("qid", "query", "vid", "duration"):
        if field not in row:
            yield f"no field {field!r}; every line needs qid, query, vid and duration"
    yield from _id_problems(row)
    duration = row.get("duration")
    if "duration" in row and not (is_number(duration) and duration > 0):
        yield f"duration {duration!r}; expected the seconds of the video, more than 0"
        return
    if duration is None:
        return
    wrong_windows = list(_window_problems(row, duration, clip_length))
    yield from wrong_windows
    windows = [] if wrong_windows else row.get("relevant_windows") or []
    yield from _saliency_problems(row, duration, label_clip_length, windows)


def _id_problems(row: dict[str, Any]) -> Iterator[str]:
    """Yields what is wrong with query, qid and vid."""
    if "query" in row and not (isinstance(row["query"], str) and row["query"].strip()):
        yield f"query {row['query']!r}; expected a sentence"
    for field, types in (("qid", (str, int)), ("vid", str)):
        if field not in row:
            continue
        value = row[field]
        if not isinstance(value, types) or isinstance(value, bool) or not str(value).strip():
            yield f"{field} {value!r}; expected a string" + (" or an integer" * (field == "qid"))
        elif found := unusable_character(value):
            yield f"{field} {value!r} holds {found!r}, which file names cannot"


def _window_problems(row: dict[str, Any], duration: float, clip_length: float) -> Iterator[str]:
    windows = row.get("relevant_windows")
    if windows is None:
        return
    if not isinstance(windows, list):
        yield f"relevant_windows {windows!r}; expected a list of [start, end] in seconds"
        return
    latest = latest_end(duration, clip_length)
    for window in windows:
        if not (isinstance(window, list) and len(window) == 2 and all(map(is_number, window))):
            yield f"window {window!r}; expected [start, end], two numbers of seconds"
        elif window[0] >= window[1]:
            wrong = "empty" if window[0] == window[1] else "reversed"
            yield (
                f"window {window} is {wrong}; expected [start, end] with start < end (build "
                "--clip_windows leaves out such windows)"
            )
        elif window[0] < 0 or window[1] > latest:
            yield (
                f"window {window} is outside its video of {duration} seconds (build --clip_windows "
                "cuts such windows)"
            )


def latest_end(duration: float, clip_length: float) -> float:
    """Returns where windows of a video may end, in seconds."""
    end_of_video = num_video_clips(duration, clip_length) * clip_length
    # float32 durations and windows differ from each other in the seventh digit.
    return max(end_of_video, duration) + 1e-3


def _saliency_problems(
    row: dict[str, Any], duration: float, clip_length: float, windows: list[list[float]]
) -> Iterator[str]:
    """Yields what is wrong with ids and ratings; they are compared with `windows`."""
    ids, scores = row.get("relevant_clip_ids"), row.get("saliency_scores")
    if ids is None or scores is None:
        return
    if not isinstance(ids, list) or not isinstance(scores, list):
        yield "relevant_clip_ids and saliency_scores; expected two lists"
        return
    if len(ids) != len(scores):
        yield (
            f"{len(scores)} saliency_scores for {len(ids)} relevant_clip_ids; "
            "expected one list of ratings for each clip"
        )
    wrong = [i for i in ids if not isinstance(i, int) or isinstance(i, bool)]
    num_clips = num_video_clips(duration, clip_length)
    outside = [i for i in ids if i not in wrong and not 0 <= i <= num_clips]
    if wrong:
        yield f"relevant_clip_ids holds {wrong[0]!r}; expected integers, counted from 0"
    if outside:
        other = None if wrong else other_length(set(ids), windows, clip_length)
        yield (
            f"relevant_clip_ids holds {outside[0]}, but the video has {num_clips} clips"
            + (length_hint(other, clip_length) if other else "")
        )
    elif not wrong and (problem := clip_id_problem(ids, windows, clip_length)):
        yield problem
    if not wrong and len(set(ids)) != len(ids):
        yield "relevant_clip_ids holds a clip twice"
    yield from _rating_table_problems(scores, "saliency_scores")


def _label_problems(row: dict[str, Any]) -> Iterator[str]:
    """Yields what is wrong with the form of `label`."""
    label = row.get("label")
    if label is None:
        return
    if not isinstance(label, list) or not label:
        yield "label; expected one list of ratings for each clip"
        return
    yield from _rating_table_problems(label, "label")


def _domain_problems(row: dict[str, Any], domains: Sequence[str]) -> Iterator[str]:
    domain = row.get("domain")
    if domain is None:
        return
    if not (isinstance(domain, str) and domain.strip()):
        yield f"domain {domain!r}; expected a name"
    elif domains and domain not in domains:
        yield f"domain {domain!r}; known: {', '.join(domains)}"


def _shortened(values: list[Any]) -> str:
    return str(values) if len(values) <= 5 else f"[{', '.join(map(str, values[:5]))}, ...]"


def _rating_table_problems(table: list[Any], field: str) -> Iterator[str]:
    """Yields what is wrong with a list of ratings for each clip, all of the same length."""
    for ratings in table:
        if not isinstance(ratings, list) or not ratings:
            yield f"{field} holds {ratings!r}; expected a list of annotators' ratings for each clip"
            return
        if not all(is_number(rating) and rating >= 0 for rating in ratings):
            yield f"{field} holds {ratings}; expected numbers from 0"
            return
        if len(ratings) != len(table[0]):
            yield f"{field} has {len(table[0])} ratings for one clip and {len(ratings)} for another"
            return


def is_number(value: Any) -> bool:
    """Returns whether a value of a JSON file is a finite number."""
    # The comparison is False for NaN and infinity, and takes integers of any length.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15

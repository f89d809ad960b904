"""Predictions and annotations, rows of JSON, checked and turned into arrays.

Whatever is wrong is a DataError that names the query, and the line where there is a file.
"""

import dataclasses
import numbers
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashvtg_jax.clips import num_video_clips
from flashvtg_jax.errors import DataError
from flashvtg_jax.metrics.moment_retrieval import MAX_PREDICTIONS

_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one file or list, and how errors name them."""

    rows: Sequence[dict[str, Any]]
    kind: str  # "prediction" or "annotation"
    path: str | None = None  # of the file

    def error(self, index: int, problem: str) -> DataError:
        """The error for one row."""
        row = self.rows[index]
        query = f"qid {row['qid']!r}" if isinstance(row, dict) and "qid" in row else "without qid"
        if self.path is None:
            return DataError(f"{self.kind} of {query} (row {index + 1}): {problem}")
        return DataError(f"{self.path}:{row.line}: {self.kind} of {query}: {problem}")

    def has(self, field: str) -> bool:
        """Whether the rows carry this field; a field that only some carry is an error."""
        there = [row.get(field) is not None for row in self.rows]
        if any(there) and not all(there):
            raise self.error(there.index(False), f"has no {field!r}, unlike other rows")
        return all(there)


def match_queries(predictions: Rows, annotations: Rows) -> list[int]:
    """The annotation row of each prediction.

    Raises:
      DataError: the two do not hold the same qids, each once.
    """
    predicted, annotated = _qids(predictions), _qids(annotations)
    index_of = {qid: index for index, qid in enumerate(annotated)}
    known = set(predicted)
    problems = [
        _listing("annotated but not predicted", [qid for qid in annotated if qid not in known]),
        _listing("predicted but not annotated", [qid for qid in predicted if qid not in index_of]),
        _listing("predicted more than once", _repeated(predicted)),
        _listing("annotated more than once", _repeated(annotated)),
    ]
    problems = [problem for problem in problems if problem]
    if problems:
        if {str(qid) for qid in predicted} == {str(qid) for qid in annotated}:
            problems.append("an integer is not the string of its digits")
        problems += _missing_domains(annotations, known)
        where = ""
        if predictions.path is not None and annotations.path is not None:
            where = f"{predictions.path} against {annotations.path}: "
        raise DataError(
            f"{where}predictions and annotations must hold the same qids, each once "
            f"({len(predicted)} and {len(annotated)} rows): " + "; ".join(problems)
        )
    return [index_of[qid] for qid in predicted]


def predicted_windows(predictions: Rows) -> np.ndarray:
    """The first ten predicted windows of each query: [N, 10, 3] start, end, score.

    A query may have none: a miss, which counts 0. Padding is a window of length zero with score
    -inf.
    """
    padded = np.zeros((len(predictions.rows), MAX_PREDICTIONS, 3))
    padded[..., 2] = -np.inf
    for index, windows in enumerate(all_predicted_windows(predictions)):
        kept = windows[:MAX_PREDICTIONS]
        padded[index, : len(kept)] = kept
    return padded


def all_predicted_windows(predictions: Rows) -> list[np.ndarray]:
    """The predicted windows of each query, [K, 3]: start, end, score."""
    field = "pred_relevant_windows"
    return [
        # No moment was found.
        np.zeros((0, 3))
        if _is_empty(row[field])
        else _table(predictions, index, field, row[field], "[start, end, score]", 3)
        for index, row in enumerate(predictions.rows)
    ]


def predicted_saliency(predictions: Rows) -> list[np.ndarray]:
    """The saliency scores of each query, [L']."""
    field = "pred_saliency_scores"
    return [
        _numbers(predictions, index, field, row[field], "numbers", 1)
        for index, row in enumerate(predictions.rows)
    ]


def relevant_windows(annotations: Rows, order: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The ground-truth windows [N, M, 2] in seconds and their mask [N, M].

    A query may have no window. `order` is the annotation row of each query.
    """
    field = "relevant_windows"
    windows = []
    for index, row in enumerate(annotations.rows):
        values = np.zeros((0, 2))
        if not _is_empty(row[field]):
            values = _table(annotations, index, field, row[field], "[start, end]", 2)
        if (values[:, 1] <= values[:, 0]).any():
            start, end = values[values[:, 1] <= values[:, 0]][0]
            raise annotations.error(
                index, f"window [{start:g}, {end:g}] does not end after it starts"
            )
        windows.append(values)
    windows = [windows[index] for index in order]
    counts = np.array([len(values) for values in windows])
    mask = np.arange(counts.max()) < counts[:, None]
    padded = np.zeros((*mask.shape, 2))
    padded[mask] = np.concatenate(windows)
    return padded, mask


def durations(annotations: Rows, order: Sequence[int]) -> list[float]:
    """The seconds of each query's video; `order` is the annotation row of each query."""
    for index, row in enumerate(annotations.rows):
        duration = row.get("duration")
        if not _is_number(duration) or not 0 < duration < np.inf:
            raise annotations.error(index, f"'duration' is {duration!r}; expected seconds above 0")
    return [annotations.rows[index]["duration"] for index in order]


def clip_ratings(
    annotations: Rows, order: Sequence[int], seconds: Sequence[float], clip_length: float
) -> list[np.ndarray]:
    """The ratings of every clip of each video, [L, A] with 0 for clips not rated.

    As in the official evaluator, a part of a clip at the end of a video is none (but every video
    has a clip); ratings of what annotation files may count beyond the last clip go to the last.

    Args:
      annotations: with `relevant_clip_ids` and `saliency_scores` (A ratings a clip).
      order: the annotation row of each query.
      seconds: of each query's video.
      clip_length: seconds of the clips that were rated.
    """
    rated = [_rated_clips(annotations, index) for index in range(len(annotations.rows))]
    annotators = next((scores.shape[1] for _, scores in rated if len(scores)), 1)
    ratings: list[np.ndarray] = []
    for index, duration in zip(order, seconds, strict=True):
        clips, scores = rated[index]
        if len(scores) and scores.shape[1] != annotators:
            raise annotations.error(
                index,
                f"{scores.shape[1]} ratings a clip in 'saliency_scores', "
                f"{annotators} in other rows",
            )
        begun = num_video_clips(duration, clip_length)
        # Annotation files may count one clip beyond the last, `load_annotations` lets it pass.
        outside = (clips < 0) | (clips > begun) | (clips != np.floor(clips))
        if outside.any():
            raise annotations.error(
                index,
                f"'relevant_clip_ids' holds {clips[outside][0]:g}; the video of {duration:g} s "
                f"has clips 0 to {begun - 1} of {clip_length:g} s",
            )
        total = max(1, int(duration / clip_length))
        full = np.zeros((total, annotators))
        if len(clips):
            np.maximum.at(full, np.minimum(clips, total - 1).astype(int), scores)
        ratings.append(full)
    return ratings


def labels(annotations: Rows, order: Sequence[int]) -> list[np.ndarray]:
    """The ratings of every clip of each video, [L, A] with the same A for all.

    A = 1 is YouTube Highlights, a 0 or a 1 a clip; A > 1 is TVSum, annotators' ratings.
    `order` is the annotation row of each query.
    """
    field = "label"
    rated: list[np.ndarray] = []
    for index, row in enumerate(annotations.rows):
        values = _numbers(annotations, index, field, row[field], "lists of ratings, one a clip", 2)
        annotators, others = values.shape[1], (rated or [values])[0].shape[1]
        if annotators != others:
            raise annotations.error(
                index,
                f"{annotators} ratings a clip in {field!r}, {others} in the rows before; TVSum "
                "has those of several annotators, YouTube Highlights one, and one file is of one "
                "data set",
            )
        if annotators == 1 and not np.isin(values, (0, 1)).all():
            unknown = values[~np.isin(values, (0, 1))][0]
            raise annotations.error(
                index,
                f"{field!r} holds {unknown:g}; one rating a clip (YouTube Highlights) is 0 or 1",
            )
        rated.append(values)
    return [rated[index] for index in order]


def domains(annotations: Rows, order: Sequence[int]) -> list[str] | None:
    """The domain of each query's video; None where the rows have none.

    `order` is the annotation row of each query.
    """
    field = "domain"
    if not annotations.has(field):
        return None
    for index, row in enumerate(annotations.rows):
        if not isinstance(row[field], str) or not row[field]:
            raise annotations.error(index, f"{field!r} is {row[field]!r}; expected a name")
    return [annotations.rows[index][field] for index in order]


def _rated_clips(annotations: Rows, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The clip numbers [n] and ratings [n, A] of a row; [0] and [0, 0] without relevant clips."""
    row, ids, ratings = annotations.rows[index], "relevant_clip_ids", "saliency_scores"
    clips, scores = np.zeros(0), np.zeros((0, 0))
    if not _is_empty(row.get(ids)):
        clips = _numbers(annotations, index, ids, row.get(ids), "clip numbers", 1)
    if not _is_empty(row[ratings]):
        expected = "lists of ratings, one a clip"
        scores = _numbers(annotations, index, ratings, row[ratings], expected, 2)
    if len(clips) != len(scores):
        raise annotations.error(index, f"{len(scores)} {ratings!r} for {len(clips)} {ids!r}")
    return clips, scores


def _qids(table: Rows) -> list[int | str]:
    if not table.rows:
        raise DataError(f"{table.path + ': ' if table.path else ''}no {table.kind}s")
    qids = []
    for index, row in enumerate(table.rows):
        if not isinstance(row, dict):
            raise table.error(index, f"expected a dict, got {type(row).__name__}")
        qid = row.get("qid")
        if not isinstance(qid, (str, numbers.Integral)) or isinstance(qid, bool):
            raise table.error(index, "expected a 'qid', an integer or a string")
        qids.append(qid)
    return qids


def _repeated(qids: Sequence[int | str]) -> list[int | str]:
    return [qid for qid, count in Counter(qids).items() if count > 1]


def _listing(what: str, qids: Sequence[int | str]) -> str:
    if not qids:
        return ""
    more = ", ..." if len(qids) > _LISTED else ""
    return f"{len(qids)} {what}: {', '.join(map(repr, qids[:_LISTED]))}{more}"


def _missing_domains(annotations: Rows, predicted: set[int | str]) -> list[str]:
    """A hint where whole domains are missing, as in the predictions of a run of one domain."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for row in annotations.rows:
        found[row["qid"] in predicted].add(str(row.get("domain")))
    if not found[True] or not found[False] or found[True] & found[False]:
        return []
    names = ", ".join(sorted(found[True]))
    return [f"the predictions are of domain {names} only: keep these lines of the annotations"]


def _is_empty(value: object) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and len(value) == 0


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _table(
    table: Rows, index: int, field: str, value: object, row_format: str, columns: int
) -> np.ndarray:
    values = _numbers(table, index, field, value, f"rows {row_format}", 2)
    if values.shape[1] != columns:
        raise table.error(index, f"{field!r} must hold rows {row_format}")
    return values


def _numbers(
    table: Rows, index: int, field: str, value: object, expected: str, dimensions: int
) -> np.ndarray:
    """A non-empty float64 array of finite numbers with that many dimensions."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):  # rows of different lengths
        array = None
    if array is not None and array.size == 0:
        raise table.error(index, f"{field!r} is empty; expected {expected}")
    if array is None or array.ndim != dimensions or array.dtype.kind not in "iuf":
        raise table.error(index, f"{field!r} must hold {expected}")
    array = array.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        raise table.error(index, f"{field!r} holds NaN or infinity")
    return array

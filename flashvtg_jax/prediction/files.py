"""`flashvtg predict`: from a list of queries and feature files to a file of predictions."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import reprlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flashvtg_jax.data.annotations import unusable_character
from flashvtg_jax.data.build.flat_features import flatness
from flashvtg_jax.data.build.layout import FileItem
from flashvtg_jax.errors import ConfigError, DataError, FlashVTGError
from flashvtg_jax.json_lines import check_encoding
from flashvtg_jax.metrics.scoring_settings import settings_to_score
from flashvtg_jax.prediction.features import QUERY, FoundFeatures, find_features
from flashvtg_jax.prediction.inputs import CheckedVideo
from flashvtg_jax.prediction.output import ErrorFile, asked, opened_output, write_whole
from flashvtg_jax.prediction.predictor import Prediction, Predictor
from flashvtg_jax.system.progress import progress_bar

_WINDOW_BATCHES = 8  # full batches' rows that are read before they are predicted, at most
_WINDOW_BYTES = 128 << 20  # of their features, likewise; with two windows in memory at a time
_THREADS = 8  # that read files
_KEPT_VIDEOS = 16  # read last, for further queries about them


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of the lines of a list.

    Attributes:
      predicted: lines whose predictions this call wrote.
      found: lines whose predictions were there before.
      bad: lines left out, for what is wrong with them.
      cut: lines predicted for the beginning of a video that is longer than those of training.
      errors: the file that says what is wrong with the bad ones.
      cut_queries: lines predicted for the beginning of a query of more than `max_words` words.
      longest_query: words of the longest query.
      max_words: of a query that the model reads.
      flat: lines predicted from features of a video or query that are zeros, or all the same.
    """

    predicted: int
    found: int
    bad: int
    cut: int
    errors: Path
    cut_queries: int
    longest_query: int
    max_words: int
    flat: int

    def told(self, output: str | os.PathLike) -> str:
        """The same for people, in a few lines."""
        lines = [f"wrote {self.predicted} predictions to {output}"]
        if self.found:
            lines[0] += f"; {self.found} were there"
        if self.bad:
            lines.append(
                f"{self.bad} lines could not be used: {self.errors} says why; once they are mended "
                "the same command appends them at the end"
            )
        if self.cut:
            lines.append(
                f"{self.cut} videos are longer than those of training and were cut; "
                "--whole_videos reads all of them"
            )
        if self.cut_queries:
            lines.append(
                f"{self.cut_queries} queries have more than the {self.max_words} words that the "
                f"model reads and were cut; the longest has {self.longest_query}"
            )
        if self.flat:
            lines.append(
                f"note: {self.flat} predictions are from features of a video or query that are all "
                "zeros, or the same in every row; did their extraction fail?"
            )
        return "\n".join(lines)


@dataclasses.dataclass
class _Task:
    """A line of the list, and what has become of it so far."""

    line: int
    row: dict[str, Any] = dataclasses.field(default_factory=dict)
    done: bool = False  # by an earlier call
    problem: str | None = None
    video: CheckedVideo | None = None
    query: np.ndarray | None = None
    num_words: int = 0  # before the query was cut
    prediction: Prediction | None = None


def predict_file(
    predictor: Predictor,
    queries: str | os.PathLike,
    output: str | os.PathLike,
    *,
    features: str | os.PathLike | None = None,
    video_features: Mapping[str, str | os.PathLike] | None = None,
    query_features: str | os.PathLike | None = None,
    nms_threshold: float | str | None = "config",
    max_moments: int | None = None,
    score_threshold: float | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Summary:
    """Predicts for every line of a list, in its order, and writes predictions as they come.

    The list may be of any length: some hundred lines and their features are in memory at a time.
    Called again with the same arguments it goes on where it stopped: what is written stays, the
    rest is appended. A line is there already if qid, vid and query are; with another vid or query
    it cannot be used. A line that cannot be used is left out, named on stderr with its number and
    written to OUTPUT.errors.jsonl as {"line", "qid", "error"}; the next call tries it again, and
    appends it at the end if it was mended: then the output is no longer in the list's order.

    Args:
      predictor: of the model.
      queries: JSON lines with "qid" and "vid", and "query" and "duration" (seconds) where known.
      output: JSON lines in the format of `flashvtg evaluate`, with the moments that a predictor
        returns. OUTPUT.settings.json beside it says what it is made with.
      features: folder of feature files, laid out as those of the data set of the training.
      video_features: for a stream the folder of its files, named as there, or after "vid".
      query_features: folder of the queries' files, named as there, or after "qid".
      nms_threshold: as for a predictor; so are the next two.
      max_moments: as there.
      score_threshold: as there.
      overwrite: begin anew, whatever `output` holds.
      show_progress: show a bar, and bad lines, on stderr.

    Raises:
      DataError: a list or folder that cannot be read, a list without lines or that is no regular
        file (it is read several times); an output that cannot be written, that was made with other
        settings, from other folders or by other means, or that another process writes.
      ConfigError: a stream that the model does not read, features that are nowhere, a threshold
        that cannot be.
    """
    queries, output = Path(queries), Path(output)
    choice = {
        "nms_threshold": nms_threshold,
        "max_moments": max_moments,
        "score_threshold": score_threshold,
    }
    data, window_range = predictor.config.data, predictor.config.evaluation.window_range
    settings = {
        "parameters": _fingerprint(predictor.params),
        "step": predictor.step,
        **dataclasses.asdict(predictor.choice(**choice)),
        "whole_videos": data.max_clips is None,  # asked for, or without a limit
        **settings_to_score(predictor.config),  # `flashvtg score` and `plot` read it
        "window_range": None if window_range is None else list(window_range),
        "features": _resolved(features),
        "video_features": {
            name: _resolved(folder) for name, folder in sorted((video_features or {}).items())
        },
        "query_features": _resolved(query_features),
    }
    total = _count_lines(queries)
    rows = (task.row for task in _parsed(queries, {}) if not task.problem and task.row.get("query"))
    found = find_features(
        predictor.config,
        predictor.streams,
        rows,
        features=features,
        video_features=video_features,
        query_features=query_features,
    )
    counts: collections.Counter[str] = collections.Counter()
    longest_query = 0
    with (
        opened_output(output, settings, overwrite) as (file, done),
        ErrorFile(queries, output, show_progress) as errors,
        contextlib.closing(_windows(predictor, found, _parsed(queries, done))) as windows,
    ):
        predicted = _predicted(predictor, windows, choice)
        for task in progress_bar(predicted, total, "predicting", show_progress):
            if task.done:
                counts["found"] += 1
                continue
            line = None if task.problem else _as_line(task)
            if line is None:
                errors.add(task.line, task.row.get("qid"), task.problem)
                continue
            write_whole(file, output, line)
            counts["predicted"] += 1
            counts["cut"] += task.video.is_cut
            counts["cut_queries"] += task.num_words > data.max_words
            longest_query = max(longest_query, task.num_words)
            counts["flat"] += bool(task.video.flat or flatness(task.query))
    return Summary(
        predicted=counts["predicted"],
        found=counts["found"],
        bad=errors.count,
        cut=counts["cut"],
        errors=errors.path,
        cut_queries=counts["cut_queries"],
        longest_query=longest_query,
        max_words=data.max_words,
        flat=counts["flat"],
    )


def predict_pair(
    predictor: Predictor,
    video: Sequence[tuple[str | None, str | os.PathLike]],
    query: str | os.PathLike,
    *,
    duration: float | None = None,
    **choice: Any,
) -> dict[str, Any]:
    """Predicts for the files of one video and one query, in the format of `flashvtg evaluate`.

    Args:
      predictor: of the model.
      video: (stream, file) for each stream, or several times for the parts of one; stream may be
        None where the model has one.
      query: file of the words' features.
      duration: seconds of the video; None: those of all its clips.
      **choice: as for a predictor.

    Raises:
      DataError, ConfigError: as a predictor does; files that cannot be read.
    """
    parts: dict[str, list[Path]] = {}
    for stream, path in video:
        if stream is None and len(predictor.streams) > 1:
            raise ConfigError(
                f"{path}: of which stream? Write STREAM={path}, with one of "
                f"{', '.join(predictor.streams)}"
            )
        parts.setdefault(stream or next(iter(predictor.streams)), []).append(Path(path))
    items = {stream: FileItem(tuple(paths), None, spatial=True) for stream, paths in parts.items()}
    arrays = {stream: item.read(_width(predictor, stream, item)) for stream, item in items.items()}
    words = FileItem((Path(query),), None).read(predictor.query_width)
    return predictor(arrays, words, duration=duration, **choice).to_dict()


def _width(predictor: Predictor, stream: str, item: FileItem) -> int | None:
    """What the files of a stream are to have; None: tokens may lie side by side, it is up to them.

    In parts they may not. The predictor checks the arrays anyway.
    """
    known = predictor.spatial_tokens == 1 or len(item.paths) > 1
    return predictor.streams.get(stream) if known else None


# From lines to windows of tasks -------------------------------------------------------------------


def _count_lines(path: Path) -> int:
    """Lines that are not blank. Raises DataError if the list cannot be read, or has none."""
    try:
        # It is read three times. To open a pipe could wait forever.
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


def _parsed(path: Path, done: Mapping[str, int]) -> Iterator[_Task]:
    """The lines of a list one by one, marked where they are done or cannot be used."""
    seen: dict[str, int] = {}  # line of each id; a few ten bytes a line
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            task = _Task(number)
            try:
                row = json.loads(line)
            # ValueError: bytes that are no text, or an integer of more than 4300 digits.
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
                    del row["query"]  # null: as if it were not there
            if task.problem is None:
                qid = str(row["qid"])  # as text: 7 and "7" have the same feature file
                if seen.setdefault(qid, number) != number:
                    task.problem = f"qid {qid} is already used in line {seen[qid]}"
                elif qid in done:
                    task.done = done[qid] == asked(row)
                    if not task.done:
                        task.problem = (
                            "already answered for another video or query; use another --output"
                        )
            yield task


def _row_problems(row: Any) -> Iterator[str]:
    """Yields what is wrong with a line; features are looked at later."""
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
    """Whether it is a number above 0 that float32, in which moments are computed, can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return 0 < float(value) <= float(np.finfo(np.float32).max)
    except OverflowError:  # an integer of hundreds of digits
        return False


class _Reader:
    """Reads the features of tasks, in any thread; of a video once for queries that are near."""

    def __init__(self, predictor: Predictor, found: FoundFeatures):
        self._predictor, self._found = predictor, found
        self._videos: collections.OrderedDict[tuple, concurrent.futures.Future] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def read(self, task: _Task) -> _Task:
        """Fills in the features of a task, or what is wrong with them."""
        predictor = self._predictor
        try:
            items = self._found.items(task.row)
            words = items.pop(QUERY).read(predictor.query_width)
            task.query, task.num_words = predictor.check_query(words), len(words)
            # Only where it says how features are read: videos are kept for lines that are wrong.
            resampled = predictor.config.data.resample
            seconds = task.row.get("duration") if resampled else None
            video = self._video(tuple(items.items()), seconds)
            task.video = predictor.check_video(video, duration=task.row.get("duration"))
        except FlashVTGError as error:
            task.problem = str(error)
        return task

    def _video(
        self, items: tuple[tuple[str, FileItem], ...], seconds: float | None
    ) -> CheckedVideo:
        key = items, seconds
        with self._lock:
            known = self._videos.get(key)
            if known is None:
                future = self._videos[key] = concurrent.futures.Future()
                if len(self._videos) > _KEPT_VIDEOS:
                    self._videos.popitem(last=False)
            else:
                self._videos.move_to_end(key)
        if known is not None:
            return known.result()
        try:
            arrays = {
                stream: item.read(_width(self._predictor, stream, item)) for stream, item in items
            }
            future.set_result(self._predictor.check_video(arrays, duration=seconds))
        except BaseException as error:
            future.set_exception(error)
        return future.result()


def _windows(
    predictor: Predictor, found: FoundFeatures, tasks: Iterable[_Task]
) -> Iterator[list[_Task]]:
    """Tasks with their features, some hundred at a time; the next ones are read meanwhile."""
    reader = _Reader(predictor, found)
    limit = _WINDOW_BATCHES * predictor.batch_size
    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        concurrent.futures.ThreadPoolExecutor(1) as collector,
    ):
        ready = _read_ahead(pool, reader, tasks)
        waiting = collector.submit(_next_window, ready, limit)
        while window := waiting.result():
            waiting = collector.submit(_next_window, ready, limit)
            yield window


def _read_ahead(
    pool: concurrent.futures.Executor, reader: _Reader, tasks: Iterable[_Task]
) -> Iterator[_Task]:
    """The tasks in order, their features read in threads a little ahead."""
    pending: collections.deque[concurrent.futures.Future | _Task] = collections.deque()
    for task in tasks:
        idle = task.done or task.problem
        pending.append(task if idle else pool.submit(reader.read, task))
        if len(pending) > 2 * _THREADS:
            yield _settled(pending.popleft())
    yield from map(_settled, pending)


def _settled(pending: concurrent.futures.Future | _Task) -> _Task:
    return pending if isinstance(pending, _Task) else pending.result()


def _next_window(tasks: Iterator[_Task], limit: int) -> list[_Task]:
    """The next tasks: as many as may be in memory at a time; none at the end."""
    window: list[_Task] = []
    held: dict[int, int] = {}  # bytes of each video
    for task in itertools.islice(tasks, limit):
        window.append(task)
        if task.video is not None:
            held[id(task.video)] = task.video.nbytes
            if sum(held.values()) >= _WINDOW_BYTES:
                break
    return window


def _predicted(
    predictor: Predictor, windows: Iterable[list[_Task]], choice: Mapping[str, Any]
) -> Iterator[_Task]:
    """The tasks in order, with predictions where nothing is wrong."""
    for window in windows:
        good = [task for task in window if not (task.done or task.problem)]
        if good:
            predictions = predictor(
                [task.video for task in good],
                [task.query for task in good],
                duration=[task.row.get("duration") for task in good],
                **choice,
            )
            for task, prediction in zip(good, predictions, strict=True):
                task.prediction = prediction
        yield from window


# Output -------------------------------------------------------------------------------------------


def _as_line(task: _Task) -> bytes | None:
    """A prediction as it is written; None, and the task has a problem, if it cannot be."""
    row = task.row
    content = task.prediction.to_dict(qid=row["qid"], query=row.get("query"), vid=row["vid"])
    try:
        return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()
    # The numbers of features may be too large; text may hold half a surrogate pair.
    except ValueError as error:
        task.problem = f"the prediction cannot be written: {error}"
        return None


def _resolved(folder: str | os.PathLike | None) -> str | None:
    """The name of a folder that is the same from everywhere."""
    return None if folder is None else os.path.realpath(folder)


def _fingerprint(params: Any) -> str:
    """A name of these parameters that no others have."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]

"""`flashvtg predict`: from a list of queries and feature files to a file of predictions."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flashvtg_jax.data.build.flat_features import flatness
from flashvtg_jax.data.build.layout import FileItem
from flashvtg_jax.errors import ConfigError, FlashVTGError
from flashvtg_jax.metrics.scoring_settings import settings_to_score
from flashvtg_jax.prediction.features import QUERY, FoundFeatures, find_features
from flashvtg_jax.prediction.inputs import CheckedVideo
from flashvtg_jax.prediction.output import ErrorFile, opened_output, write_whole
from flashvtg_jax.prediction.predictor import Predictor
from flashvtg_jax.prediction.query_list import Task, count_lines, read_tasks
from flashvtg_jax.system.progress import progress_bar

# Lines are read and predicted in windows, of which two are in memory at a time.
_WINDOW_BATCHES = 8  # full batches of a window, at most
_WINDOW_BYTES = 128 << 20  # of its features, at most
_THREADS = 8  # that read files
_KEPT_VIDEOS = 16  # videos read last, kept for further queries about them


@dataclasses.dataclass(frozen=True)
class Summary:
    """How many lines of a list were predicted, and how.

    Attributes:
      predicted: lines whose predictions this call wrote.
      found: lines whose predictions were there before.
      bad: lines left out because of errors.
      cut: lines predicted for the beginning of a video that is longer than those of training.
      errors: the file with the errors of the bad ones.
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

    def report(self, output: str | os.PathLike) -> str:
        """The summary as text, in a few lines."""
        lines = [f"wrote {self.predicted} predictions to {output}"]
        if self.found:
            lines[0] += f"; {self.found} were there already"
        if self.bad:
            lines.append(
                f"{self.bad} lines could not be used, for the reasons in {self.errors}; once they "
                "are fixed, the same command appends them at the end"
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

    The list may be of any length: a few hundred lines and their features are in memory at a time.
    Called again with the same arguments, it resumes: predictions in the file stay, the rest is
    appended. A line is done if its qid, vid and query are in the file; the same qid with another
    vid or query is an error. A line with an error is left out, reported on stderr with its number
    and written to OUTPUT.errors.jsonl as {"line", "qid", "error"}. The next call tries it again and
    appends it at the end, out of the list's order.

    Args:
      predictor: of the model.
      queries: JSON lines with "qid" and "vid", and "query" and "duration" (seconds) where known.
      output: JSON lines in the format of `flashvtg evaluate`, with the moments that a predictor
        returns. The settings are written to OUTPUT.settings.json.
      features: folder of feature files, laid out as those of the data set of the training.
      video_features: for a stream the folder of its files, named as there, or after "vid".
      query_features: folder of the queries' files, named as there, or after "qid".
      nms_threshold: as for a predictor; so are the next two.
      max_moments: as there.
      score_threshold: as there.
      overwrite: start over, whatever `output` holds.
      show_progress: show a progress bar and errors on stderr.

    Raises:
      DataError: a list or folder that cannot be read, a list without lines or that is not a regular
        file (it is read several times); an output that cannot be written, that has other settings,
        or that another process is writing.
      ConfigError: a stream that the model does not read, features that are not given, an invalid
        threshold.
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
        "whole_videos": data.max_clips is None,  # by option, or by the configuration
        **settings_to_score(predictor.config),  # for `flashvtg score` and `plot`
        "window_range": None if window_range is None else list(window_range),
        "features": _resolved(features),
        "video_features": {
            name: _resolved(folder) for name, folder in sorted((video_features or {}).items())
        },
        "query_features": _resolved(query_features),
    }
    total = count_lines(queries)
    rows = (
        task.row for task in read_tasks(queries, {}) if not task.problem and task.row.get("query")
    )
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
        contextlib.closing(_windows(predictor, found, read_tasks(queries, done))) as windows,
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
      video: (stream, file) for each stream, several for a stream in parts; stream may be None
        for a model with a single one.
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
    """The width that the files of a stream must have; None: any, for the predictor to check.

    Spatial tokens may stand side by side in a row, but not in a stream of several parts.
    """
    known = predictor.spatial_tokens == 1 or len(item.paths) > 1
    return predictor.streams.get(stream) if known else None


# From lines to windows of tasks -------------------------------------------------------------------


class _Reader:
    """Reads the features of tasks, in any thread; a video once for queries close to each other."""

    def __init__(self, predictor: Predictor, found: FoundFeatures):
        self._predictor, self._found = predictor, found
        self._videos: collections.OrderedDict[tuple, concurrent.futures.Future] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def read(self, task: Task) -> Task:
        """Fills in the features of a task, or its problem."""
        predictor = self._predictor
        try:
            items = self._found.items(task.row)
            words = items.pop(QUERY).read(predictor.query_width)
            task.query, task.num_words = predictor.check_query(words), len(words)
            # Only where reading depends on it: a wrong duration must not spoil the kept video.
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
    predictor: Predictor, found: FoundFeatures, tasks: Iterable[Task]
) -> Iterator[list[Task]]:
    """Tasks with their features, a few hundred at a time; the next ones are read meanwhile."""
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
    pool: concurrent.futures.Executor, reader: _Reader, tasks: Iterable[Task]
) -> Iterator[Task]:
    """The tasks in order, their features read in threads a little ahead."""
    pending: collections.deque[concurrent.futures.Future | Task] = collections.deque()
    for task in tasks:
        idle = task.done or task.problem
        pending.append(task if idle else pool.submit(reader.read, task))
        if len(pending) > 2 * _THREADS:
            yield _settled(pending.popleft())
    yield from map(_settled, pending)


def _settled(pending: concurrent.futures.Future | Task) -> Task:
    return pending if isinstance(pending, Task) else pending.result()


def _next_window(tasks: Iterator[Task], limit: int) -> list[Task]:
    """The next window of tasks; empty at the end."""
    window: list[Task] = []
    held: dict[int, int] = {}  # bytes of each video
    for task in itertools.islice(tasks, limit):
        window.append(task)
        if task.video is not None:
            held[id(task.video)] = task.video.nbytes
            if sum(held.values()) >= _WINDOW_BYTES:
                break
    return window


def _predicted(
    predictor: Predictor, windows: Iterable[list[Task]], choice: Mapping[str, Any]
) -> Iterator[Task]:
    """The tasks in order, with predictions for those without a problem."""
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


def _as_line(task: Task) -> bytes | None:
    """The prediction as a line of JSON; None, and a problem for the task, if that is impossible."""
    row = task.row
    content = task.prediction.to_dict(qid=row["qid"], query=row.get("query"), vid=row["vid"])
    try:
        return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()
    # Features may be so large that moments are not finite; text may hold half a surrogate pair.
    except ValueError as error:
        task.problem = f"the prediction cannot be written: {error}"
        return None


def _resolved(folder: str | os.PathLike | None) -> str | None:
    """The absolute name of a folder, for the settings."""
    return None if folder is None else os.path.realpath(folder)


def _fingerprint(params: Any) -> str:
    """A short hash of the parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]

"""Reading a built data set: random access to examples, as stored."""

import collections
import dataclasses
import functools
import json
import operator
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from flashvtg_jax.data.dataset_builder import FORMAT_VERSION, VIDEOS
from flashvtg_jax.errors import DataError

_CACHE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Example:
    """One query and the features of its video, in the precision they are stored in.

    Attributes:
      annotation: the annotation line.
      streams: for each video stream an array [L_s, width], not normalised. Streams differ in
        length by a clip or so.
      query: word features [Q, Dq], not normalised.
    """

    annotation: dict[str, Any]
    streams: dict[str, np.ndarray]
    query: np.ndarray


class SplitSource:
    """Random access to the examples of one split, from any number of threads.

    Attributes:
      streams: width of each video stream, in order.
      query_dim: width of the word features.
      num_clips: clips of each example, those of its shortest stream [N].
      num_words: words of each example [N].
      num_windows: relevant windows of each example [N].
      clip_length: seconds.
      labels: kind of labels, a key of `annotations.LABEL_FIELDS`.
    """

    def __init__(self, folder: str | os.PathLike, split: str, cache_bytes: int = _CACHE_BYTES):
        """Opens a split; `open_split` finds the folder of a data set by name."""
        self._arguments = (os.fspath(folder), split, cache_bytes)
        try:
            self._open(folder, split)
        except DataError:
            raise
        except Exception as error:  # TFDS and protobuf have many of their own for damaged files
            raise DataError(
                f"{folder}: cannot be read ({type(error).__name__}: {error}); build the data set "
                "again with --overwrite."
            ) from error
        self._cache = _VideoCache(cache_bytes)

    def _open(self, folder: str | os.PathLike, split: str) -> None:
        """Reads what is known of the split before its rows, and opens their files."""
        builder = tfds.builder_from_directory(folder)
        metadata = dict(builder.info.metadata.items())
        if metadata["format_version"] != FORMAT_VERSION:
            raise DataError(
                f"{folder}: built by another version of flashvtg-jax (format "
                f"{metadata['format_version']}, this one reads {FORMAT_VERSION}); "
                "build it again with --overwrite."
            )
        if split not in metadata["splits"]:
            raise DataError(
                f"{folder}: no split {split!r}, only {', '.join(metadata['splits'])}; put its "
                "annotation file into manual_dir and build again with --overwrite."
            )
        self.streams: dict[str, int] = metadata["streams"]
        self.query_dim: int = metadata["query_width"]
        self.clip_length: float = metadata["clip_length"]
        self.labels: str = metadata["labels"]
        lengths = metadata["splits"][split]
        self.num_clips = np.asarray(lengths["num_clips"], np.int64)
        self.num_words = np.asarray(lengths["num_words"], np.int64)
        self.num_windows = np.asarray(lengths["num_windows"], np.int64)
        self._queries = builder.as_data_source(split)
        self._videos = builder.as_data_source(VIDEOS)

    def __len__(self) -> int:
        return len(self.num_clips)

    def __getitem__(self, index: int) -> Example:
        """Returns example `index` of the split, in annotation order."""
        row = self._query_row(index)
        video = int(row["video_row"])
        streams = self._cache.get(video)
        if streams is None:
            stored = self._read(self._videos, video)
            streams = {name: stored[name] for name in self.streams}
            self._cache.put(video, streams)
        return Example(json.loads(row["annotation"]), dict(streams), row["query"])

    def annotations(self) -> list[dict[str, Any]]:
        """Returns the annotation lines of the split, in order; no video is read."""
        return [json.loads(line) for line in self._annotation_lines]

    @functools.cached_property
    def _annotation_lines(self) -> list[str]:
        # Kept as text: evaluation asks again and again, and takes what it gets for its own.
        return [self._query_row(index)["annotation"] for index in range(len(self))]

    def __repr__(self) -> str:
        folder, split, _ = self._arguments
        return f"SplitSource({folder!r}, {split!r}, {len(self)} examples)"

    def __reduce__(self):
        # Opened again where it is unpickled: readers and locks stay in their process.
        return SplitSource, self._arguments

    def _query_row(self, index: int) -> dict[str, Any]:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self._read(self._queries, index)

    def _read(self, rows: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
        try:
            return rows[index]
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self._arguments[0]}: a row cannot be read ({error}); build the data set again "
                "with --overwrite."
            ) from error


class _VideoCache:
    """The videos read last, up to a number of bytes: many queries ask about the same one."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._bytes = 0
        self._videos: collections.OrderedDict[int, dict[str, np.ndarray]] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def get(self, key: int) -> dict[str, np.ndarray] | None:
        with self._lock:
            if key in self._videos:
                self._videos.move_to_end(key)
            return self._videos.get(key)

    def put(self, key: int, streams: dict[str, np.ndarray]) -> None:
        with self._lock:
            if key in self._videos:  # read by another thread meanwhile
                return
            self._videos[key] = streams
            self._bytes += _size(streams)
            while self._bytes > self._max_bytes:
                self._bytes -= _size(self._videos.popitem(last=False)[1])


def _size(streams: dict[str, np.ndarray]) -> int:
    return sum(stream.nbytes for stream in streams.values())


def open_split(
    data_dir: str | os.PathLike, dataset: str = "qvhighlights/slowfast_clip", split: str = "train"
) -> SplitSource:
    """Opens a split of a built data set.

    Args:
      data_dir: folder of all built data sets.
      dataset: "name/config".
      split: "train", "val", "test": whichever annotation files there were when building.

    Raises:
      DataError: the data set is not built, built by another version, or has no such split.
    """
    parent = Path(data_dir).expanduser() / dataset
    folders = [
        path.parent
        for path in parent.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    if not folders:
        raise DataError(
            f"{parent}: not built yet; run: flashvtg build --dataset={dataset} "
            f"--manual_dir=DIR_OF_FEATURES --data_dir={data_dir}"
        )
    newest = max(folders, key=lambda path: tuple(map(int, path.name.split("."))))
    return SplitSource(newest, split)

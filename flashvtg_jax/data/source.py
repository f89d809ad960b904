"""Reading a built data set: random access to examples, as stored."""

import collections
import dataclasses
import functools
import json
import math
import operator
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from flashvtg_jax.data.build_command import build_command
from flashvtg_jax.data.dataset_names import is_custom
from flashvtg_jax.errors import DataError

FORMAT_VERSION = 1  # of the rows and metadata of built data sets
VIDEOS = "videos"  # the split of videos, which the rows of the others refer to

_CACHE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Example:
    """One query and the features of its video, in the precision they are stored in.

    Attributes:
      annotation: the annotation line.
      streams: for each video stream an array [L_s, width], not normalised; of space-time features
        the tokens of a clip lie side by side. Streams differ in length by a clip or so.
      query: word features [Q, Dq], not normalised.
    """

    annotation: dict[str, Any]
    streams: dict[str, np.ndarray]
    query: np.ndarray


class SplitSource:
    """Random access to the examples of one split, or of some of its domains, from any thread.

    Attributes:
      streams: width of each video stream, in order.
      tokens: S, of the streams whose files were [L, S, width]; their tokens are side by side. 1 for
        streams that were joined from parts of a token. Other streams are missing: a row of theirs
        may be one token or several.
      query_dim: width of the word features.
      num_clips: clips of each example, those of its shortest stream [N].
      num_words: words of each example [N].
      num_windows: relevant windows of each example [N].
      clip_length: seconds.
      label_clip_length: seconds of the clips that ids and ratings count, if it was given when the
        data set was built; else None.
      labels: kind of labels, a key of `annotations.LABEL_FIELDS`.
      stream_clips: clips of each example [N] in each stream (or in its labels, if fewer); {} if the
        data set was built by a version that did not record them.
      all_num_clips, all_num_words, all_stream_clips: the same for the whole split, with all
        domains.
      all_domains: domain of each row of the whole split; None if no domains were selected.
      left_out: names of streams that the files have and that were not built.
      resampled: whether the features of a video were interpolated at its clips.
      rows: indices of these examples in the whole split [N].
      name: folder and name of the whole split.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str,
        domains: Sequence[str] = (),
        *,
        cache_bytes: int | None = _CACHE_BYTES,
    ):
        """Opens a split; `open_split` finds the folder of a data set by name.

        Args:
          folder: of one version of a built data set.
          split: name of the split.
          domains: as for `select`.
          cache_bytes: size of the cache of videos, for further queries about them; None keeps all
            videos and queries.
        """
        self._select(_StoredSplit(folder, split, cache_bytes), domains)

    def select(self, domains: Sequence[str]) -> "SplitSource":
        """Returns a source of some domains of the whole split; it shares files and cache.

        Args:
          domains: values of the field "domain" of the annotations; (): all rows.

        Raises:
          DataError: no row has this domain.
        """
        source = object.__new__(SplitSource)
        source._select(self._stored, domains)
        return source

    def _select(self, stored: "_StoredSplit", domains: Sequence[str]) -> None:
        self._stored = stored
        self._domains = tuple(domains)
        self.name = f"{stored.folder}/{stored.split}"
        self.streams = stored.streams
        self.tokens = stored.tokens
        self.query_dim = stored.query_dim
        self.clip_length = stored.clip_length
        self.label_clip_length = stored.label_clip_length
        self.labels = stored.labels
        self.left_out: tuple[str, ...] = tuple(stored.metadata.get("left_out", ()))
        self.resampled: bool = stored.metadata.get("resampled", False)
        self.all_num_clips = stored.num_clips
        self.all_num_words = stored.num_words
        self.all_stream_clips = stored.stream_clips
        self.all_domains: np.ndarray | None = None
        self.rows = np.arange(len(stored.num_clips))
        if self._domains:
            self.all_domains = stored.domains
            known = [name for name in dict.fromkeys(stored.domains.tolist()) if name]
            unknown = [name for name in self._domains if name not in known]
            if unknown:
                raise DataError(
                    f"{stored.folder}: split {stored.split!r} has no domain "
                    f"{', '.join(map(repr, unknown))}; it has "
                    f"{', '.join(known) or 'none: its annotations have no field domain'}"
                )
            self.rows = np.flatnonzero(np.isin(self.all_domains, self._domains))
        self.num_clips = stored.num_clips[self.rows]
        self.num_words = stored.num_words[self.rows]
        self.num_windows = stored.num_windows[self.rows]
        self.stream_clips = {name: clips[self.rows] for name, clips in stored.stream_clips.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Returns example `index` of the selected rows, in annotation order."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self._stored.example(int(self.rows[index]))

    def video(self, index: int) -> dict[str, np.ndarray]:
        """Returns the streams of example `index` alone, as in `Example`."""
        return dict(self._stored.video(int(self.rows[index])))

    def query(self, index: int) -> np.ndarray:
        """Returns the word features of example `index` alone, as in `Example`."""
        return self._stored.query(int(self.rows[index]))

    def forget(self) -> None:
        """Clears the caches of videos and queries in host memory."""
        self._stored.video_cache.clear()
        self._stored.query_cache.clear()

    def rebuild_command(self) -> str:
        """Returns the command that builds the data set again, with all streams of its files."""
        return self._stored.command(all_streams=True)

    def annotations(self) -> list[dict[str, Any]]:
        """Returns the annotation lines of the selected rows, in order; no video is read."""
        lines = self._stored.annotation_lines
        return [json.loads(lines[row]) for row in self.rows]

    def __repr__(self) -> str:
        stored = self._stored
        of = f" of {', '.join(self._domains)}" if self._domains else ""
        return f"SplitSource({stored.folder!r}, {stored.split!r}, {len(self)} examples{of})"

    def __reduce__(self):
        # Unpickling opens the split again: readers and locks cannot leave their process.
        stored = self._stored
        return _reopen, (stored.folder, stored.split, self._domains, stored.cache_bytes)


def _reopen(
    folder: str, split: str, domains: tuple[str, ...], cache_bytes: int | None
) -> SplitSource:
    return SplitSource(folder, split, domains, cache_bytes=cache_bytes)


class _StoredSplit:
    """The open files of a split, and their caches."""

    def __init__(self, folder: str | os.PathLike, split: str, cache_bytes: int | None):
        self.folder, self.split, self.cache_bytes = os.fspath(folder), split, cache_bytes
        self.metadata: dict[str, Any] = {}  # until it is read
        try:
            self._open()
        except DataError:
            raise
        except Exception as error:  # TFDS and protobuf have many of their own for damaged files
            raise DataError(
                f"{folder}: cannot be read ({type(error).__name__}: {error}); build it again: "
                f"{self.command()}"
            ) from error
        self.video_cache = _Cache(cache_bytes)
        # Each query is read once an epoch: a bounded cache would only hold the wrong ones.
        self.query_cache = _Cache(None if cache_bytes is None else 0)

    def _open(self) -> None:
        """Reads the metadata and opens the files of the rows."""
        folder, split = self.folder, self.split
        builder = tfds.builder_from_directory(folder)
        metadata = self.metadata = dict(builder.info.metadata.items())
        if metadata["format_version"] != FORMAT_VERSION:
            raise DataError(
                f"{folder}: built by another version of flashvtg-jax (format "
                f"{metadata['format_version']}, this one reads {FORMAT_VERSION}); "
                f"build it again: {self.command()}"
            )
        if split not in metadata["splits"]:
            raise DataError(
                f"{folder}: no split {split!r}, only {', '.join(metadata['splits'])}; put its "
                f"annotation file into manual_dir and build again: {self.command()}"
            )
        self.streams: dict[str, int] = metadata["streams"]
        self.tokens: dict[str, int] = dict(metadata.get("tokens", {}))
        self.query_dim: int = metadata["query_width"]
        self.clip_length: float = metadata["clip_length"]
        self.label_clip_length: float | None = metadata.get("label_clip_length")
        self.labels: str = metadata["labels"]
        lengths = metadata["splits"][split]
        self.num_clips = np.asarray(lengths["num_clips"], np.int64)
        self.num_words = np.asarray(lengths["num_words"], np.int64)
        self.num_windows = np.asarray(lengths["num_windows"], np.int64)
        self.stream_clips = {
            name: np.asarray(clips, np.int64)
            for name, clips in lengths.get("stream_clips", {}).items()
        }
        self.queries = builder.as_data_source(split)
        self.videos = builder.as_data_source(VIDEOS)

    def example(self, row: int) -> Example:
        """Returns a row of the split with the features of its video."""
        query = self._query(row)
        return Example(
            json.loads(query["annotation"]), dict(self._video(query["video_row"])), query["query"]
        )

    def video(self, row: int) -> dict[str, np.ndarray]:
        """Returns the streams of the video of a row of the split."""
        return self._video(self._query(row)["video_row"])

    def query(self, row: int) -> np.ndarray:
        """Returns the word features of a row of the split."""
        return self._query(row)["query"]

    @functools.cached_property
    def annotation_lines(self) -> list[str]:
        """The annotation lines of the split, in order."""
        # As text: every call of `annotations` returns new objects, which the caller may change.
        return [self._query(row)["annotation"] for row in range(len(self.num_clips))]

    @functools.cached_property
    def domains(self) -> np.ndarray:
        """The domain of each row; "" for rows without one."""
        domains = [json.loads(line).get("domain") for line in self.annotation_lines]
        return np.asarray([domain or "" for domain in domains], str)

    def _query(self, row: int) -> dict[str, Any]:
        query = self.query_cache.get(row)
        if query is None:
            stored = self._read(self.queries, row)
            query = {name: stored[name] for name in ("annotation", "video_row", "query")}
            query["video_row"] = int(query["video_row"])
            self.query_cache.put(row, query, query["query"].nbytes)
        return query

    def _video(self, video: int) -> dict[str, np.ndarray]:
        streams = self.video_cache.get(video)
        if streams is None:
            stored = self._read(self.videos, video)
            streams = {name: stored[name] for name in self.streams}
            num_bytes = sum(stream.nbytes for stream in streams.values())
            self.video_cache.put(video, streams, num_bytes)
        return streams

    def _read(self, rows: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
        try:
            return rows[index]
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self.folder}: a row cannot be read ({error}); build it again: {self.command()}"
            ) from error

    def command(self, all_streams: bool = False) -> str:
        """Returns the command that builds this data set again, with the same options."""
        metadata = self.metadata
        some_streams = bool(metadata.get("left_out")) and not all_streams
        folder = Path(self.folder).absolute()  # data_dir/name/config/version
        dataset = f"{folder.parents[1].name}/{folder.parent.name}"
        return build_command(
            dataset,
            folder.parents[2],
            "--overwrite",
            *(["--clip_windows"] if metadata.get("clip_windows") else []),
            manual_dir=metadata.get("manual_dir"),
            clip_length=metadata.get("clip_length"),
            label_clip_length=metadata.get("label_clip_length"),
            widths=_widths(dataset, metadata) if metadata else None,
            streams=list(metadata["streams"]) if some_streams else (),
            resample=metadata.get("resampled", False),
        )


def _widths(dataset: str, metadata: Mapping[str, Any]) -> dict[str, int]:
    """Returns the feature widths for the command line, by name."""
    if is_custom(dataset):
        return {}  # custom data sets take them from the files
    tokens = metadata.get("tokens", {})
    widths = {name: width // tokens.get(name, 1) for name, width in metadata["streams"].items()}
    return {**widths, "query": metadata["query_width"]}


class _Cache:
    """The rows read last, up to a number of bytes: many queries are about the same video."""

    def __init__(self, max_bytes: int | None):
        self._max_bytes = math.inf if max_bytes is None else max_bytes
        self.num_bytes = 0
        self._rows: collections.OrderedDict[int, tuple[Any, int]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Drops all rows."""
        with self._lock:
            self._rows.clear()
            self.num_bytes = 0

    def get(self, key: int) -> Any:
        """Returns a row, None if it is not in the cache."""
        with self._lock:
            if key not in self._rows:
                return None
            self._rows.move_to_end(key)
            return self._rows[key][0]

    def put(self, key: int, row: Any, num_bytes: int) -> None:
        """Keeps a row of `num_bytes`, and drops those not used for longest."""
        with self._lock:
            if key in self._rows:  # read by another thread meanwhile
                return
            self._rows[key] = row, num_bytes
            self.num_bytes += num_bytes
            while self.num_bytes > self._max_bytes:
                self.num_bytes -= self._rows.popitem(last=False)[1][1]


def open_split(
    data_dir: str | os.PathLike,
    dataset: str = "qvhighlights/slowfast_clip",
    split: str = "train",
    domains: Sequence[str] = (),
    *,
    cache: bool = False,
) -> SplitSource:
    """Opens a split of a built data set.

    Args:
      data_dir: folder of all built data sets.
      dataset: "name/config".
      split: "train", "val", "test": whichever annotation files there were when building.
      domains: take only the rows whose annotation names one of them as its "domain"; none: all.
      cache: keep everything in host memory once it is read; otherwise only the videos read last,
        up to a fixed number of bytes.

    Raises:
      DataError: the data set is not built, built by another version, or has no such split or
        domain.
    """
    folder = built_folder(data_dir, dataset)
    if folder is None:
        raise DataError(
            f"{Path(data_dir).expanduser() / dataset}: not built yet; run: "
            f"{build_command(dataset, data_dir)}"
        )
    return SplitSource(folder, split, domains, cache_bytes=None if cache else _CACHE_BYTES)


def built_folder(data_dir: str | os.PathLike, dataset: str) -> Path | None:
    """Returns the folder of the newest version of a data set that is built, None if none is."""
    folders = [
        path.parent
        for path in (Path(data_dir).expanduser() / dataset).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    return max(folders, key=lambda path: tuple(map(int, path.name.split("."))), default=None)

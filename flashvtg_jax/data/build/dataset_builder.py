"""Writes feature files as a TFDS data set of ArrayRecord files, without TensorFlow.

The splits of queries have a row for each annotation line; the split `videos` has each video once,
because many queries may be about one video. All splits have the same fields; fields that a row does
not use have length 0.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from flashvtg_jax.data.build.flat_features import FlatFeatures
from flashvtg_jax.data.build.glove import GloveWords
from flashvtg_jax.data.build.inventory import Inventory, Query, Stream, Video, take_inventory
from flashvtg_jax.data.build.layout import QUERY, Item, Layout
from flashvtg_jax.data.source import FORMAT_VERSION, VIDEOS
from flashvtg_jax.errors import DataError
from flashvtg_jax.system.progress import progress_bar

# TFDS keeps the rows of a shard in memory until it is written.
_SHARD_BYTES = 128 << 20
_READ_AHEAD = 32  # files
_READ_AHEAD_BYTES = 256 << 20  # of them together, unless a single one is larger
_READ_THREADS = 4


@dataclasses.dataclass
class FeatureConfig(tfds.core.BuilderConfig):
    """A TFDS config: one data set with one set of features.

    Attributes:
      layout: of the released files.
    """

    layout: Layout | None = None


class FeatureDatasetBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Base of all builders: a subclass only defines `VERSION` and `BUILDER_CONFIGS`.

    It is shard-based because TFDS's other builders need TensorFlow to sort splits of more than a
    gigabyte, as most of these are.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "See README.md: annotations and feature folders in manual_dir."

    def __init__(
        self,
        *,
        inventory: Inventory | None = None,
        origin: str | None = None,
        progress: bool = True,
        **kwargs,
    ):
        """Prepares a build.

        Args:
          inventory: what to build; None: the files in TFDS's manual_dir, of released widths and
            types only, which TFDS needs to know here.
          origin: folder of the files, recorded in the metadata; None records none.
          progress: show a progress bar.
          **kwargs: data_dir, config, version, as for all TFDS builders.
        """
        self._inventory = inventory
        self.flat = FlatFeatures()  # among the features written
        self._origin = {} if origin is None else {"manual_dir": origin}
        self._progress = progress
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        layout, inventory = self.builder_config.layout, self._inventory
        if inventory is None:
            *streams, query = (Stream(files, files.dtype) for files in layout.feature_files)
        else:
            streams, query = inventory.streams, inventory.query
        features = {
            "annotation": tfds.features.Text(doc="The annotation line, JSON; '' for videos."),
            "vid": tfds.features.Text(doc="Id of the video."),
            "video_row": tfds.features.Scalar(np.int64, doc="Row of the video in `videos`."),
            "query": _tensor(query, "Word features [Q, width]."),
        }
        for stream in streams:
            of = f", {stream.tokens} tokens side by side" if stream.tokens > 1 else ""
            features[stream.files.name] = _tensor(stream, f"Clip features [L, width]{of}.")
        documents = self.get_metadata()
        return _DatasetInfo(
            builder=self,
            description=documents.description,
            citation=documents.citation,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                _metadata(inventory) | self._origin if inventory else {}
            ),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        inventory = self._inventory
        if inventory is None:
            inventory = take_inventory(self.builder_config.layout, dl_manager.manual_dir)
            for stream in (*inventory.streams, inventory.query):
                if stream.dtype != stream.files.dtype:
                    raise DataError(
                        f"{dl_manager.manual_dir}: {stream.files.name} features are not "
                        f"{stream.files.dtype}; build with `flashvtg build`, which accepts other "
                        "types."
                    )
                if stream.tokens > 1:
                    raise DataError(
                        f"{dl_manager.manual_dir}: {stream.files.name} features have "
                        f"{stream.tokens} tokens a clip; build with `flashvtg build`, which "
                        "accepts them."
                    )
            self.info.metadata.update(_metadata(inventory))
        num_rows = sum(map(len, inventory.queries.values())) + len(inventory.videos)
        ticks = iter(progress_bar(range(num_rows), num_rows, "writing", self._progress))

        def shards(items, size, as_row):
            return _shards(items, size, functools.partial(as_row, inventory, self.flat), ticks)

        return {
            **{
                split: shards(queries, inventory.query_bytes, _query_row)
                for split, queries in inventory.queries.items()
            },
            VIDEOS: shards(inventory.videos, inventory.video_bytes, _video_row),
        }

    def _example_writer(self) -> tfds.core.writer.ExampleWriter:
        return _UncompressedWriter(self.info.file_format)


class _DatasetInfo(tfds.core.DatasetInfo):
    """TFDS's description of a data set, without its look-up in TFDS's cloud storage."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; TFDS's version leaves an empty temporary folder behind."""


class _UncompressedWriter(tfds.core.writer.ExampleWriter):
    """Writes ArrayRecord files without compression.

    Compression saves 8% and makes reading four times slower (0.37 ms instead of 0.10 ms for a video
    of 75 clips of SlowFast and CLIP).
    """

    def write(self, path: os.PathLike, examples: Iterator[tuple[int, bytes]]) -> None:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        try:
            for _, example in examples:
                writer.write(example)
        finally:
            writer.close()


def _tensor(stream: Stream, doc: str) -> tfds.features.Tensor:
    """Returns the feature of one stream, as bytes: otherwise TFDS widens float16 to float32."""
    return tfds.features.Tensor(
        shape=(None, stream.width), dtype=stream.dtype, encoding="bytes", doc=doc
    )


def _metadata(inventory: Inventory) -> dict[str, Any]:
    """Returns the metadata that a reader needs before it reads a row."""
    layout = inventory.layout
    # Streams joined from parts have 1: their rows cannot be divided into tokens later.
    tokens = {
        stream.files.name: stream.tokens
        for stream in inventory.streams
        if stream.tokens > 1 or len(stream.files.parts) > 1
    }
    label_clip_length = inventory.layout.label_clip_length
    return {
        "format_version": FORMAT_VERSION,
        "streams": {stream.files.name: stream.width for stream in inventory.streams},
        **({"tokens": tokens} if tokens else {}),  # S; other streams have no known tokens
        "query_width": inventory.query.width,
        "clip_length": layout.clip_length,
        **({"label_clip_length": label_clip_length} if label_clip_length else {}),
        "labels": layout.labels,
        **({"left_out": list(layout.left_out)} if layout.left_out else {}),
        **({"resampled": True} if layout.resample else {}),
        **({"clip_windows": True} if inventory.clipped is not None else {}),
        "splits": {
            split: {
                "num_clips": [query.num_clips for query in queries],
                "stream_clips": {
                    stream.files.name: [query.stream_clips[index] for query in queries]
                    for index, stream in enumerate(inventory.streams)
                },
                "num_words": [query.num_words for query in queries],
                "num_windows": [
                    len(query.annotation.get("relevant_windows") or ()) for query in queries
                ],
            }
            for split, queries in inventory.queries.items()
        },
        "skipped": {split: list(qids) for split, qids in inventory.skipped.items()},
    }


def _query_row(inventory: Inventory, flat: FlatFeatures, query: Query) -> dict[str, Any]:
    words = _read(inventory.query, query.item)
    if not isinstance(inventory.query.files, GloveWords):  # there, unknown words are zeros
        flat.add(QUERY, query.annotation["qid"], words)
    empty = {s.files.name: np.empty((0, s.width), s.dtype) for s in inventory.streams}
    return empty | {
        "annotation": json.dumps(query.annotation, ensure_ascii=False),
        "vid": query.annotation["vid"],
        "video_row": query.video,
        "query": words,
    }


def _video_row(inventory: Inventory, flat: FlatFeatures, video: Video) -> dict[str, Any]:
    features = {
        stream.files.name: _read(stream, item)
        for stream, item in zip(inventory.streams, video.items, strict=True)
    }
    for name, array in features.items():
        flat.add(name, video.vid, array)
    words = np.empty((0, inventory.query.width), inventory.query.dtype)
    return features | {"annotation": "", "vid": video.vid, "video_row": -1, "query": words}


def _read(stream: Stream, item: Item) -> np.ndarray:
    return np.ascontiguousarray(item.read(stream.files.width), dtype=stream.dtype)


def _shards(
    items: Sequence[Any],
    size: Callable[[Any], int],
    as_row: Callable[[Any], dict[str, Any]],
    ticks: Iterator[int],
) -> list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]:
    """Divides `items` into shards of about `_SHARD_BYTES`: functions that yield their rows."""
    ends = np.cumsum([size(item) for item in items]) // _SHARD_BYTES
    starts = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist(), len(items)]
    return [
        functools.partial(_rows, items[start:end], start, size, as_row, ticks)
        for start, end in itertools.pairwise(starts)
    ]


def _rows(
    items: Sequence[Any],
    first: int,
    size: Callable[[Any], int],
    as_row: Callable[[Any], dict[str, Any]],
    ticks: Iterator[int],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (key, row) for `items` in order; threads read their files ahead."""
    pool = concurrent.futures.ThreadPoolExecutor(_READ_THREADS)
    try:
        pending: collections.deque[concurrent.futures.Future] = collections.deque()
        submitted, num_bytes = 0, 0  # bytes of the pending rows
        for done, item in enumerate(items):
            while submitted < min(len(items), done + _READ_AHEAD) and (
                not pending or num_bytes + size(items[submitted]) <= _READ_AHEAD_BYTES
            ):
                pending.append(pool.submit(as_row, items[submitted]))
                num_bytes += size(items[submitted])
                submitted += 1
            yield first + done, pending.popleft().result()
            num_bytes -= size(item)
            next(ticks)  # all splits share one progress bar
    finally:
        pool.shutdown(cancel_futures=True)

"""Checks everything that a build reads, before anything is written."""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashvtg_jax.clips import lengths_agree, num_video_clips
from flashvtg_jax.data.annotations import check_lines_agree, placed
from flashvtg_jax.data.build.clipping import Change
from flashvtg_jax.data.build.layout import QUERY, Features, Found, Item, Layout
from flashvtg_jax.data.build.nearest_file import NearestFiles
from flashvtg_jax.data.build.resampled_features import FoundResampled
from flashvtg_jax.data.feature_files import (
    ANOTHER_BACKBONE,
    TRANSPOSED,
    WITHOUT_BATCH_AXIS,
    FeatureHeader,
    WidthError,
)
from flashvtg_jax.errors import MAX_ERRORS, DataError, first_lines
from flashvtg_jax.system.progress import progress_bar

# Opening thousands of small files is limited by the disk, not the processor.
_THREADS = 8

_MAX_UNRATED_CLIPS = 2  # difference of features and ratings, which are cut to the shorter
_MIN_LENGTHS_TO_JUDGE = 3  # different ones; fewer could be widths of as many backbones
_MAX_EXTRA_CLIPS = 1  # of one stream, or 10%: released SlowFast features have one more than CLIP


@dataclasses.dataclass(frozen=True)
class Stream:
    """One kind of features, as its files have it.

    Attributes:
      files: where they are; `width` is that of one token.
      dtype: float16 when all files are float16, else float32.
      tokens: S, of each row.
    """

    files: Features
    dtype: np.dtype
    tokens: int = 1

    @property
    def width(self) -> int:
        """Width of a row with all its tokens."""
        return self.tokens * self.files.width


@dataclasses.dataclass(frozen=True)
class Video:
    """One video: its features and the clips in each, in the order of the streams."""

    vid: str
    items: tuple[Item, ...]
    num_clips: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Query:
    """An annotation line with its words and its video.

    Attributes:
      annotation: the line.
      item: features of its words.
      num_words: rows of these.
      video: index of its video.
      stream_clips: clips of each stream, in order; at most those that its labels rate.
    """

    annotation: Mapping[str, Any]
    item: Item
    num_words: int
    video: int
    stream_clips: tuple[int, ...]

    @property
    def num_clips(self) -> int:
        """Clips that all streams have."""
        return min(self.stream_clips)


@dataclasses.dataclass(frozen=True)
class Inventory:
    """Everything that a build reads.

    Attributes:
      layout: of the files.
      streams: of the videos, in order.
      query: of the words.
      videos: each once, in order of appearance.
      queries: for each split, in annotation order.
      skipped: for each split the ids of queries left out because of missing files.
      clipped: changes that cut lines to their videos; None if this was not asked for.
    """

    layout: Layout
    streams: tuple[Stream, ...]
    query: Stream
    videos: tuple[Video, ...]
    queries: dict[str, tuple[Query, ...]]
    skipped: dict[str, tuple[Any, ...]]
    clipped: tuple[Change, ...] | None = None

    def video_bytes(self, video: Video) -> int:
        """Returns the size of a video's features."""
        pairs = zip(self.streams, video.num_clips, strict=True)
        return sum(n * stream.width * stream.dtype.itemsize for stream, n in pairs)

    def query_bytes(self, query: Query) -> int:
        """Returns the size of a query's features."""
        return query.num_words * self.query.width * self.query.dtype.itemsize

    def total_bytes(self) -> int:
        """Returns the size of all features."""
        queries = itertools.chain.from_iterable(self.queries.values())
        return sum(map(self.video_bytes, self.videos)) + sum(map(self.query_bytes, queries))


def take_inventory(
    layout: Layout,
    manual_dir: str | os.PathLike,
    *,
    skip_missing: bool = False,
    clip_windows: bool = False,
    progress: bool = True,
    command: str = "flashvtg build",
) -> Inventory:
    """Checks annotations and the headers of all feature files that they need.

    Args:
      layout: where the files are and what they must contain.
      manual_dir: folder of the annotation files and the feature folders.
      skip_missing: leave out queries with missing files, instead of stopping.
      clip_windows: see `building.build`.
      progress: show a progress bar.
      command: the command that builds this, for advice.

    Raises:
      DataError: annotations that cannot be used; missing files, the first ten named and all
        counted; files of another key, rank, width, type or number of tokens, without rows or cut
        short, up to ten in one message; a split without queries left; videos whose streams differ
        in length, or from their annotations or labels, up to ten in one message.
    """
    manual_dir = Path(manual_dir).expanduser()
    paths = layout.find_annotations(manual_dir)
    rows, changes = {}, []
    for split, path in paths.items():
        if clip_windows:
            rows[split], changed = layout.load_clipped_annotations(split, path)
            changes += changed
        else:
            rows[split] = layout.load_annotations(split, path)
    check_lines_agree(line for split, path in paths.items() for line in placed(path, rows[split]))
    lines = list(itertools.chain(*rows.values()))
    advice = f"Put them there, or leave these queries out: {command} --skip_missing"
    found: dict[str, Found] = {x.name: x.find(manual_dir, lines) for x in layout.streams}
    if layout.resample:
        found = {name: FoundResampled(x, layout.clip_length) for name, x in found.items()}
    try:
        found[layout.query.name] = layout.query.find(manual_dir, lines)
    except DataError:
        # Missing videos are reported first: the words may be missing only because of them.
        _without_missing(manual_dir, rows, found, skip_missing, advice)
        raise
    rows, skipped = _without_missing(manual_dir, rows, found, skip_missing, advice)

    wanted = [
        (files, item)
        for files in layout.feature_files
        for item in dict.fromkeys(
            found[files.name].item(row) for row in itertools.chain(*rows.values())
        )
    ]
    headers = _read_headers(wanted, progress)
    _check_axes(layout, found, headers, itertools.chain(*rows.values()))
    *streams, query = (_agree(files, headers[files.name]) for files in layout.feature_files)

    videos: dict[str, Video] = {}
    index_of: dict[str, int] = {}
    for row in itertools.chain(*rows.values()):
        if row["vid"] not in videos:
            index_of[row["vid"]] = len(videos)
            items = tuple(found[stream.files.name].item(row) for stream in streams)
            num_clips = tuple(
                headers[s.files.name][item].rows for s, item in zip(streams, items, strict=True)
            )
            videos[row["vid"]] = Video(row["vid"], items, num_clips)
    _check_lengths(layout, streams, videos, itertools.chain(*rows.values()))

    def as_query(row: Mapping[str, Any]) -> Query:
        item = found[query.files.name].item(row)
        stream_clips = videos[row["vid"]].num_clips
        if (rated := layout.rated_clips(row)) is not None:
            stream_clips = tuple(min(clips, rated) for clips in stream_clips)
        num_words = headers[query.files.name][item].rows
        return Query(row, item, num_words, index_of[row["vid"]], stream_clips)

    queries = {split: tuple(map(as_query, kept)) for split, kept in rows.items()}
    return Inventory(
        layout,
        tuple(streams),
        query,
        tuple(videos.values()),
        queries,
        skipped,
        tuple(changes) if clip_windows else None,
    )


def _without_missing(
    manual_dir: Path,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    found: Mapping[str, Found],
    skip_missing: bool,
    advice: str,
) -> tuple[dict[str, list[Mapping[str, Any]]], dict[str, tuple[Any, ...]]]:
    """Returns the rows that have all their files, and the ids of the others."""
    missing: dict[Path, None] = {}  # an ordered set
    kept, skipped = {}, {}
    for split, split_rows in rows.items():
        kept[split], absent = [], []
        for row in split_rows:
            lacking = [path for features in found.values() for path in features.missing(row)]
            (absent if lacking else kept[split]).append(row)
            missing.update(dict.fromkeys(lacking))
        skipped[split] = tuple(row["qid"] for row in absent)
    if missing and not (skip_missing and all(kept.values())):
        num_skipped, num_rows = (sum(map(len, x.values())) for x in (skipped, rows))
        hint = NearestFiles().hint
        # Hints list folders: only the paths that the message shows get one.
        names = [
            f"{path}{hint(path)}" if i < MAX_ERRORS else str(path) for i, path in enumerate(missing)
        ]
        empty = [split for split, split_rows in kept.items() if not split_rows]
        if empty:
            advice = (
                f"No query of {', '.join(empty)} has all its files: is {manual_dir} the right "
                "folder?"
            )
        raise DataError(
            f"{manual_dir}: {len(missing)} feature files are missing, needed by {num_skipped} of "
            f"{num_rows} queries:\n  " + "\n  ".join(first_lines(names)) + f"\n{advice}"
        )
    return kept, skipped


def _read_headers(
    wanted: Sequence[tuple[Features, Item]], progress: bool
) -> dict[str, dict[Item, FeatureHeader]]:
    """Returns all headers by name of the features. Raises DataError for wrong files."""

    def read(pair: tuple[Features, Item]) -> FeatureHeader | DataError:
        files, item = pair
        try:
            return item.header(files.width)
        except DataError as error:
            return error

    headers: dict[str, dict[Item, FeatureHeader]] = collections.defaultdict(dict)
    problems: dict[str, list[tuple[Item, DataError]]] = collections.defaultdict(list)
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
    ticks = iter(progress_bar(range(len(wanted)), len(wanted), "checking features", progress))
    try:
        for name, group in itertools.groupby(wanted, lambda pair: pair[0].name):
            pairs = list(group)
            results = [pool.submit(read, pair) for pair in pairs]
            for (_, item), result in zip(pairs, results, strict=True):
                header = result.result()
                next(ticks)
                if not isinstance(header, DataError):
                    headers[name][item] = header
                    continue
                problems[name].append((item, header))
                if len(problems[name]) > MAX_ERRORS:  # go on with the next kind of features
                    for other in results:
                        other.cancel()
                    break
    finally:
        # After errors or Ctrl-C, do not wait for the other files.
        pool.shutdown(cancel_futures=True)
    if problems:
        raise DataError("\n".join(_messages(problems, headers)))
    return headers


def _messages(
    problems: Mapping[str, Sequence[tuple[Item, DataError]]],
    headers: Mapping[str, Mapping[Item, FeatureHeader]],
) -> list[str]:
    """Returns a line for each problem; one line if all files have the same wrong width."""
    messages, widths = [], {}
    for name, bad in problems.items():
        found = {error.width if isinstance(error, WidthError) else None for _, error in bad}
        if not headers.get(name) and len(found) == 1 and None not in found:
            (widths[name],) = found
            messages.append(f"{bad[0][1]} All {name} files that were read have this width.")
        else:
            messages += [str(error) for _, error in bad]
    if len(messages) > MAX_ERRORS:  # reading stopped there
        messages[MAX_ERRORS:] = ["... and more; correct these first."]
    if widths:
        pairs = ",".join(f"{name}={width}" for name, width in widths.items())
        messages.append(
            f"if that is meant: --widths={pairs} (flashvtg build), or config.data.video_widths and "
            "config.data.query_width"
        )
    return messages


def _agree(files: Features, headers: Mapping[Item, FeatureHeader]) -> Stream:
    """Returns the stream of files that share width, tokens and type.

    Raises DataError for a file that differs from most in width or tokens.
    """
    ((width, _),) = collections.Counter(h.width for h in headers.values()).most_common(1)
    ((tokens, _),) = collections.Counter(h.tokens for h in headers.values()).most_common(1)
    for item, header in headers.items():
        if header.width != width:
            cause = TRANSPOSED if header.rows == width else ANOTHER_BACKBONE
            raise DataError(
                f"{item}: expected width {width}, as most {files.name} files have, "
                f"got {header.width}: {cause}"
            )
        if header.tokens != tokens:
            raise DataError(
                f"{item}: expected {tokens} tokens a row, as most {files.name} files have, "
                f"got {header.tokens}: features of another grid?"
            )
    half = all(header.dtype == np.float16 for header in headers.values())
    dtype = np.dtype(np.float16 if half else np.float32)
    return Stream(dataclasses.replace(files, width=width), dtype, tokens)


def _check_axes(
    layout: Layout,
    found: Mapping[str, Found],
    headers: Mapping[str, Mapping[Item, FeatureHeader]],
    rows: Iterable[Mapping[str, Any]],
) -> None:
    """Raises DataError for arrays that are transposed or have a batch axis, by their lengths."""
    problems: dict[str, None] = {}  # an ordered set
    of_videos = {row["vid"]: row for row in rows}.values()
    for files in layout.streams:
        vary = len({header.width for header in headers[files.name].values()}) > 1
        for row in of_videos:
            item = found[files.name].item(row)
            header, expected = headers[files.name][item], _expected_clips(layout, row)
            if lengths_agree(header.rows, expected):
                continue
            shape = [header.rows, *[header.tokens] * (header.tokens > 1), header.width]
            if header.rows == 1 and header.tokens > 1 and lengths_agree(header.tokens, expected):
                problems[f"{item}: shape {shape}, of {expected} clips. {WITHOUT_BATCH_AXIS}"] = None
            elif vary and header.tokens == 1 and lengths_agree(header.width, expected):
                problems[f"{item}: shape {shape}, of {expected} clips: {TRANSPOSED}"] = None
    # The rows of a query are unknown; but their number varies, and the width does not.
    words = headers[layout.query.name]
    shapes = {(header.rows, header.width) for header in words.values()}
    counts = [len(set(axis)) for axis in zip(*shapes, strict=True)]
    if counts[0] == 1 and counts[1] >= _MIN_LENGTHS_TO_JUDGE:
        for item, header in words.items():
            shape = [header.rows, header.width]
            problems[
                f"{item}: shape {shape}, and {counts[1]} different widths in all {QUERY} "
                f"files: {TRANSPOSED}"
            ] = None
    if problems:
        raise DataError("\n".join(first_lines(list(problems))))


def _expected_clips(layout: Layout, row: Mapping[str, Any]) -> int:
    """Returns the clips of a line's video according to its labels, or its duration."""
    return layout.rated_clips(row) or num_video_clips(row["duration"], layout.clip_length)


def _check_lengths(
    layout: Layout,
    streams: Sequence[Stream],
    videos: Mapping[str, Video],
    rows: Iterable[Mapping[str, Any]],
) -> None:
    """Raises DataError for videos whose streams differ in length, or from the annotations."""
    problems: dict[str, None] = {}  # an ordered set: many lines may be about one video
    for row in rows:
        video = videos[row["vid"]]
        shortest, longest = min(video.num_clips), max(video.num_clips)
        expected = _expected_clips(layout, row)
        if layout.rated_clips(row) is not None:
            known = "rated clips"
            # Each rating belongs to a clip: a difference of 10% is too much here.
            fits = abs(shortest - expected) <= _MAX_UNRATED_CLIPS
        else:
            known = f"clips of {layout.clip_length:g} s in {row['duration']:g} s"
            fits = lengths_agree(shortest, expected)
        if not lengths_agree(shortest, longest, _MAX_EXTRA_CLIPS):
            pairs = zip(video.items, video.num_clips, strict=True)
            problem = (
                "streams of one video differ in length by more than 10%: "
                + ", ".join(f"{item} has {n} clips" for item, n in pairs)
                + "; they were extracted at different clip lengths, or one is cut short."
            )
        elif not fits:
            index = video.num_clips.index(shortest)
            item, width = video.items[index], streams[index].width
            problem = (
                f"{item}: {shortest} rows, but the annotations say {expected} {known}; extracted "
                "at another clip length, or cut short?"
            )
            if lengths_agree(width, expected):
                problem += f" Its width is {width}: {TRANSPOSED}."
        else:
            continue
        problems[problem] = None
    if problems:
        raise DataError("\n".join(first_lines(list(problems))))

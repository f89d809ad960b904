"""`flashvtg build`: builds a data set, completely or not at all."""

import collections
import contextlib
import difflib
import errno
import fcntl
import functools
import importlib
import io
import itertools
import os
import pkgutil
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from flashvtg_jax.clips import num_video_clips
from flashvtg_jax.data.build import custom
from flashvtg_jax.data.build.dataset_builder import FeatureConfig, FeatureDatasetBuilder
from flashvtg_jax.data.build.glove import GloveWords, count_unknown
from flashvtg_jax.data.build.inventory import Inventory, take_inventory
from flashvtg_jax.data.build.layout import parse_widths
from flashvtg_jax.data.build.listing import is_synthetic
from flashvtg_jax.data.build_command import build_command
from flashvtg_jax.data.dataset_names import CUSTOM, check_custom_name, is_custom
from flashvtg_jax.data.source import VIDEOS
from flashvtg_jax.errors import ConfigError, DataError, first_lines

_PACKAGE = "tfds_builders"
_SLACK_BYTES = 64 << 20  # free space needed besides the features, for annotations and metadata
_USUAL_DEVIATION = 0.03  # of rows times clip length from the duration, in the median video


def build(
    dataset: str,
    manual_dir: str | os.PathLike,
    data_dir: str | os.PathLike,
    *,
    skip_missing: bool = False,
    clip_windows: bool = False,
    overwrite: bool = False,
    widths: Mapping[str, int | None] | str | None = None,
    clip_length: float | None = None,
    label_clip_length: float | None = None,
    streams: Sequence[str] = (),
    resample: bool = False,
    progress: bool = True,
) -> Path:
    """Builds a data set from feature and annotation files, and reports on stderr.

    All files are checked before anything is written. Rows are written to a temporary folder that is
    then renamed, so a data set is always complete.

    Args:
      dataset: "qvhighlights/slowfast_clip"; `dataset_names` lists all. "custom/NAME" is a custom
        data set, under any NAME.
      manual_dir: folder with annotation files and feature folders, see the builder's README.
      data_dir: folder of all built data sets.
      skip_missing: leave out queries with missing feature files, instead of stopping.
      clip_windows: cut moments and ratings to their video, and leave out moments outside it and
        queries without other moments, instead of stopping. The lines are stored, and later scored
        against, as cut.
      overwrite: build a data set again; the old one is replaced when the new one is complete.
      widths: feature widths other than the released ones, by name of the stream or "query":
        {"slowfast": 64, "query": 32}, or as text "slowfast=64,query=32". None as a width takes
        the width of the files. For files [L, S, width], with S spatial tokens a clip, it is the
        width of one token; for files [L, S * width] that of all of them.
      clip_length: seconds of video that a row of features stands for, for custom data sets only.
      label_clip_length: seconds of the clips that `relevant_clip_ids` and `saliency_scores` of a
        custom data set count, if it is another length.
      streams: names of the video features to check and build; (): all.
      resample: videos of a custom data set have a fixed number of features, whatever their
        duration: interpolate them at the clips of `clip_length` seconds.
      progress: show progress bars and the report on stderr.

    Returns:
      The folder of the data set, `data_dir/name/config/version`.

    Raises:
      ConfigError: an unknown data set or stream; a clip length that is missing or not for this data
        set; `resample` for another data set than a custom one, or for rated clips.
      DataError: annotations or feature files that cannot be used; no space left, or `data_dir`
        cannot be written.
    """
    builder_class, config = find_builder(dataset)
    custom.check_clip_length(dataset, clip_length, label_clip_length)
    if resample and not is_custom(dataset):
        raise ConfigError(f"{dataset}: resample is for {CUSTOM} only.")
    target = Path(data_dir).expanduser() / dataset / str(builder_class.VERSION)
    report = functools.partial(print, file=sys.stderr) if progress else lambda *_: None
    if (target / "dataset_info.json").exists():
        if not overwrite:
            report(f"{dataset} is already built in {target}; --overwrite builds it again.")
            return target
    elif target.exists():
        raise DataError(f"{target}: there already, but not a data set; move it away.")

    if config.layout is None:
        released = custom.custom_layout(
            manual_dir, clip_length, streams, label_clip_length=label_clip_length, resample=resample
        )
    else:
        released = config.layout.with_streams(streams)
    widths = parse_widths(widths) if isinstance(widths, str) else widths or {}
    layout = released.with_widths(widths)
    command = build_command(
        dataset,
        data_dir,
        *(["--overwrite"] if overwrite else []),
        *(["--clip_windows"] if clip_windows else []),
        streams=[files.name for files in released.streams] if released.left_out else (),
        resample=resample,
        manual_dir=manual_dir,
        clip_length=clip_length,
        label_clip_length=label_clip_length,
        widths=released.other_widths(widths),
    )
    inventory = take_inventory(
        layout,
        manual_dir,
        skip_missing=skip_missing,
        clip_windows=clip_windows,
        progress=progress,
        command=command,
    )
    origin = Path(manual_dir).expanduser().resolve()
    if is_custom(dataset):
        for line in _clip_length_note(inventory):
            report(line)
    with _clear_write_errors(data_dir), _folder_beside(target) as folder:
        _check_space(folder, inventory)
        builder = builder_class(
            config=config,
            data_dir=folder,
            inventory=inventory,
            origin=str(origin),
            progress=progress,
        )
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints about downloads
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
            )
        _check_sizes(builder, inventory)
        _move(Path(builder.data_dir), target, folder)
    for line in _summary(dataset, inventory, target):
        report(line)
    num_queries = sum(map(len, inventory.queries.values()))
    for line in builder.flat.notes(len(inventory.videos), num_queries):
        report(line)
    if not is_synthetic(origin):  # synthetic data sets may have any size
        for line in _size_notes(inventory):
            report(line)
    return target


def dataset_names() -> list[str]:
    """Returns the names of all data sets that can be built, "name/config", sorted.

    "custom/NAME" stands for custom data sets of any name.
    """
    fixed = (
        f"{name}/{config.name}" for name in _packages() for config in _builder(name).BUILDER_CONFIGS
    )
    return sorted([*fixed, CUSTOM])


def find_builder(dataset: str) -> tuple[type[FeatureDatasetBuilder], FeatureConfig]:
    """Returns builder class and config of "name/config".

    The config of a custom data set has no layout: that depends on its folder.

    Raises:
      ConfigError: there is no data set of this name; the message suggests similar ones.
    """
    name, _, config_name = dataset.partition("/")
    if is_custom(dataset):
        check_custom_name(dataset)
        return _builder(name), FeatureConfig(name=config_name)
    if name in _packages():
        builder_class = _builder(name)
        for config in builder_class.BUILDER_CONFIGS:
            if config.name == config_name:
                return builder_class, config
    known = dataset_names()
    near = [other for other in known if other.split("/")[0] == name]
    near = near or difflib.get_close_matches(dataset, known, cutoff=0.5)
    raise ConfigError(
        f"no data set {dataset!r}"
        + (f"; did you mean {' or '.join(near)}?" if near else "")
        + f" Known: {', '.join(known)}."
    )


def _packages() -> list[str]:
    package = importlib.import_module(_PACKAGE)
    return [module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg]


def _builder(name: str) -> type[FeatureDatasetBuilder]:
    return importlib.import_module(f"{_PACKAGE}.{name}.{name}_dataset_builder").Builder


@contextlib.contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """Makes a temporary folder on the disk of `target` and removes it at the end.

    Folders of builds that were killed, whose locks are free, are removed as well.
    """
    root = target.parents[2]
    created = [path for path in (root, *root.parents) if not path.exists()]
    root.mkdir(parents=True, exist_ok=True)
    prefix = f".building.{target.parents[1].name}.{target.parent.name}."
    for old in root.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), open(old / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        with open(folder / "lock", "w") as lock:
            with contextlib.suppress(OSError):  # some network disks have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()  # fails if the folder is not empty, as intended


@contextlib.contextmanager
def _clear_write_errors(data_dir: str | os.PathLike) -> Iterator[None]:
    """Turns errors of writing into a DataError of one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: array_record's
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if getattr(error, "errno", None) in full or any(os.strerror(n) in str(error) for n in full):
            raise DataError(
                f"{data_dir}: no space left while building ({error}). Nothing was left behind; "
                "make room, or choose another data_dir."
            ) from error
        if isinstance(error, OSError):
            raise DataError(f"{data_dir}: cannot be written ({error}).") from error
        raise


def _check_space(folder: Path, inventory: Inventory) -> None:
    needed, free = inventory.total_bytes() + _SLACK_BYTES, shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder.parent}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; "
            "make room, or choose another data_dir."
        )


def _check_sizes(builder: FeatureDatasetBuilder, inventory: Inventory) -> None:
    expected = {split: len(queries) for split, queries in inventory.queries.items()}
    expected[VIDEOS] = len(inventory.videos)
    written = {split: info.num_examples for split, info in builder.info.splits.items()}
    if written != expected:
        raise RuntimeError(f"rows written {written} are not the rows to write {expected}")


def _move(source: Path, target: Path, folder: Path) -> None:
    """Moves a complete data set to `target`, replacing the old one if there is one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # TFDS's file with the default config, for `tfds.builder`; custom data sets have none.
    note, written = (path.parents[1] / ".config" for path in (target, source))
    if written.exists() and not note.exists():
        os.rename(written, note)
    replaced = folder / "replaced"
    if target.exists():
        os.rename(target, replaced)
    try:
        os.rename(source, target)
    except OSError:
        if replaced.exists():
            os.rename(replaced, target)
        raise


def _summary(dataset: str, inventory: Inventory, target: Path) -> Iterator[str]:
    parts = [f"{split} {len(queries)}" for split, queries in inventory.queries.items()]
    words = ""
    if isinstance(inventory.query.files, GloveWords):
        items = (query.item for query in itertools.chain(*inventory.queries.values()))
        num_words, num_unknown, num_plain = count_unknown(items)
        words = (
            f"; {num_unknown} of the {num_words} words of the queries are unknown, {num_plain} of "
            "them without a full stop or the like"
        )
    yield (
        f"built {dataset}: {', '.join(parts)} queries of {len(inventory.videos)} videos, "
        f"{inventory.total_bytes() / 1e9:.2f} GB of features, in {target}{words}"
    )
    counts = {stream.files.name: stream.tokens for stream in inventory.streams}
    if max(counts.values()) > 1:
        listing = ", ".join(f"{name} {tokens}" for name, tokens in counts.items())
        yield (
            f"spatial tokens a clip: {listing}; to train on them, --config.spatial_tokens="
            f"{max(counts.values())}"
        )
    if inventory.clipped:
        counts: collections.Counter[str] = collections.Counter()
        for change in inventory.clipped:
            counts[change.kind] += change.count
        yield ", ".join(f"{kind}: {count}" for kind, count in counts.items())
        texts = [change.text for change in inventory.clipped]
        yield from (f"  {text}" for text in first_lines(texts))
    for split, qids in inventory.skipped.items():
        if qids:
            shown = ", ".join(map(str, itertools.islice(qids, 10)))
            yield (
                f"skipped {len(qids)} queries of {split} for missing features: {shown}"
                + (", ..." if len(qids) > 10 else "")
            )


def _size_notes(inventory: Inventory) -> Iterator[str]:
    """Yields a note for each split of another size than released."""
    for split, queries in inventory.queries.items():
        found = len(queries) + len(inventory.skipped[split])
        released = inventory.layout.released_rows.get(split, found)
        if found != released:
            yield (
                f"note: {split} has {found} queries, {released} were released: is the file "
                "complete?"
            )


def _clip_length_note(inventory: Inventory) -> Iterator[str]:
    """Yields a note if rows times clip length are not the duration, in the median video."""
    clip_length = inventory.layout.clip_length
    durations = {
        query.video: query.annotation["duration"]
        for query in itertools.chain(*inventory.queries.values())
        if inventory.layout.rated_clips(query.annotation) is None
    }
    ratios = []
    for video, duration in durations.items():
        rows = min(inventory.videos[video].num_clips)
        # The last clip, if it is not full, may have a row or not.
        rounded = abs(rows - num_video_clips(duration, clip_length)) <= 1
        ratios.append(1.0 if rounded else rows * clip_length / duration)
    ratio = statistics.median(ratios) if ratios else 1.0
    if abs(ratio - 1) > _USUAL_DEVIATION:
        yield (
            f"note: rows times clip length ({clip_length:g} s) are {ratio:.0%} of the duration in "
            f"the median video; is the clip length {clip_length / ratio:.3g} s?"
        )

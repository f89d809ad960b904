"""The data of `flashvtg study long_videos`: videos to learn from, and others of each length."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from flashvtg_jax.data.build.building import build, find_builder
from flashvtg_jax.data.build.layout import Layout
from flashvtg_jax.data.source import built_folder
from flashvtg_jax.data.synthetic.annotations import (
    CLIP_LENGTH,
    generate_annotations,
    generate_long_annotations,
)
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.json_lines import write_json_lines

SPLIT = "val"
TRAINING = "training"  # the folder of what is learned from, among those of the lengths
SETTINGS = "settings.json"  # in a folder of data: what they were made with

_NUM_TRAIN, _NUM_VAL = 400, 100  # queries to learn from, where the configuration does not say
_FIRST_QID = 1_000_000  # far from those of training: queries of one id and text share a topic

Rows = list[dict[str, Any]]


def prepare_lengths(
    config: ml_collections.ConfigDict,
    minutes: Sequence[float],
    num_queries: int,
    data_dir: Path,
    seed: int,
    *,
    show_progress: bool = True,
) -> dict[float, Path]:
    """Synthesises and builds videos of each length, where they are not there yet.

    Args:
      config: its data set, widths and strength of what is planted.
      minutes: lengths of videos, multiples of 2.5.
      num_queries: of each length.
      data_dir: a folder in it for each length, "10min".
      seed: of all that is synthesised; what was learned holds for data of the same seed alone.
      show_progress: show bars and reports on stderr.

    Returns:
      The folder of each length, for `open_split` with split "val".

    Raises:
      ConfigError: a data set of another format than QVHighlights'; queries that do not fill the
        videos; `data_dir` holds what was made with other settings.
      DataError: `data_dir` cannot be written.
    """
    check_dataset(config)
    lines = {
        length: generate_long_annotations(num_queries, length, seed=seed, first_qid=_FIRST_QID)
        for length in minutes
    }
    folders = {length: data_dir / folder_name(length) for length in minutes}
    for length, folder in folders.items():
        _prepare(config, {SPLIT: lines[length]}, folder, seed, show_progress)
    return folders


def prepare_training(
    config: ml_collections.ConfigDict, data_dir: Path, seed: int, *, show_progress: bool = True
) -> Path:
    """Synthesises and builds what is learned from: videos of 2.5 minutes; as `prepare_lengths`.

    As many queries as `config.synthetic` says, or 400 and 100.

    Returns:
      The folder "training" in `data_dir`, with splits "train" and "val".
    """
    check_dataset(config)
    sizes = config.get("synthetic", {"num_train": _NUM_TRAIN, "num_val": _NUM_VAL})
    lines = {
        "train": generate_annotations(sizes["num_train"], seed=seed),
        "val": generate_annotations(sizes["num_val"], seed=seed, first_qid=sizes["num_train"]),
    }
    folder = data_dir / TRAINING
    _prepare(config, lines, folder, seed, show_progress)
    return folder


def check_dataset(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for a data set that videos of any length cannot be synthesised for."""
    dataset = config.data.dataset
    layout = find_builder(dataset)[1].layout
    if layout is None or layout.labels != "qvhighlights" or layout.clip_length != CLIP_LENGTH:
        raise ConfigError(
            f"config.data.dataset={dataset!r}: long videos are synthesised in QVHighlights' format "
            f"only, with clips of {CLIP_LENGTH} s; use a configuration of that data set, "
            "qvhighlights_slowfast_clip or demo"
        )


def folder_name(minutes: float) -> str:
    """ "10min": of a length, in the folder of data as in that of results."""
    return f"{minutes:g}min"


def _prepare(
    config: ml_collections.ConfigDict,
    lines: Mapping[str, Rows],
    folder: Path,
    seed: int,
    show_progress: bool,
) -> None:
    """Synthesises features for the annotation lines of some splits, and builds them."""
    data = config.data
    layout = find_builder(data.dataset)[1].layout
    settings = {
        "dataset": data.dataset,
        "widths": _widths(config, layout),
        "strength": config.synthetic.strength if "synthetic" in config else 1.0,
        "seed": seed,
        "spatial_tokens": data.spatial_tokens,
    }
    sizes = {f"num_{split}": len(rows) for split, rows in lines.items()}
    _check_settings(folder / SETTINGS, {**settings, **sizes})
    if built_folder(folder, data.dataset):
        return
    features = folder / "synthetic"
    paths = [features / layout.annotations[split][0] for split in lines]
    for path, rows in zip(paths, lines.values(), strict=True):
        write_json_lines(path, rows)
    synthesize(features, annotations=paths, progress=show_progress, **settings)
    widths = settings["widths"]
    if data.spatial_tokens > 1:
        # Tokens lie side by side in the files; opening the data set checks the widths.
        widths = widths | {name: None for name in data.video_streams}
    build(data.dataset, features, folder, widths=widths, progress=show_progress)


def _widths(config: ml_collections.ConfigDict, layout: Layout) -> dict[str, int]:
    known = {files.name for files in layout.feature_files}
    widths = {**config.data.video_widths, "query": config.data.query_width}
    return {name: width for name, width in widths.items() if name in known}


def _check_settings(path: Path, wanted: dict[str, Any]) -> None:
    """Writes down what data are made with. Raises ConfigError if there are some of another kind."""
    if not path.exists():
        write_atomically(path, json.dumps(wanted, indent=2) + "\n")
        return
    found = read_json(path)
    differing = [name for name, value in wanted.items() if found.get(name) != value]
    if differing:
        raise ConfigError(
            f"{path.parent}: made with "
            + ", ".join(f"{name}={found.get(name)!r}" for name in differing)
            + ", but now it is "
            + ", ".join(f"{name}={wanted[name]!r}" for name in differing)
            + "; use another work directory."
        )


def read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it to have it made again") from (
            error
        )

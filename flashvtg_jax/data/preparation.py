"""The data set a configuration trains on, made ready before training where it can be."""

import shlex
import sys
from pathlib import Path

import ml_collections

from flashvtg_jax.config import apply_overrides
from flashvtg_jax.data import custom
from flashvtg_jax.data.annotations import LABEL_FIELDS
from flashvtg_jax.data.building import build
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.data.synthetic import check_generated, synthesize
from flashvtg_jax.errors import ConfigError, DataError

# The field of an annotation line that scores are computed from, by the beginning of their names.
_FIELDS_SCORED = {"MR": "relevant_windows", "HL": "saliency_scores", "HD": "label"}


def prepare_data(
    config: ml_collections.ConfigDict, data_dir: Path, *, show_progress: bool = True
) -> None:
    """Synthesise and build, or build, the data set of a configuration, if it is not there yet.

    With a `synthetic` section the features are made first, below `data_dir`; with
    `config.data.manual_dir` the files there are built; with neither, nothing is done.

    Raises:
      ConfigError: a synthetic data set is there that was made with other settings.
      DataError: files that cannot be used; one's own data that are neither built nor given.
    """
    data = config.data
    built = max((data_dir / data.dataset).glob("*/dataset_info.json"), default=None)
    manual_dir, widths = data.manual_dir, {**data.video_widths, "query": data.query_width}
    clip_length = config.clip_length if custom.is_custom(data.dataset) else None
    if "synthetic" in config:
        manual_dir = data_dir / "synthetic"
        settings = {
            "dataset": data.dataset,
            "widths": widths,
            "clip_length": clip_length,
            "seed": config.seed,
            **config.synthetic,
        }
        if built:
            check_generated(manual_dir, **settings)
        else:
            synthesize(manual_dir, progress=show_progress, **settings)
    if manual_dir is not None and not built:
        build(
            data.dataset,
            manual_dir,
            data_dir,
            widths=widths,
            clip_length=clip_length,
            progress=show_progress,
        )
    elif not built and custom.is_custom(data.dataset):
        raise DataError(
            f"{data_dir / data.dataset}: not built yet; say where your features are: "
            "--config=custom:DIR, or config.data.manual_dir"
        )
    elif built and clip_length and manual_dir is not None and show_progress:
        _note_changes(data.dataset, Path(manual_dir), built, clip_length)


def _note_changes(dataset: str, manual_dir: Path, built: Path, clip_length: float) -> None:
    """Says on stderr which of one's own files are newer than the data set built from them."""
    times = {path: path.stat().st_mtime for path in custom.inspected(manual_dir)}
    newer = [str(path) for path, time in times.items() if time > built.stat().st_mtime]
    if newer:
        source, data_dir = (shlex.quote(str(folder)) for folder in (manual_dir, built.parents[3]))
        print(
            f"note: {', '.join(newer)} changed after {dataset} was built; what was built is used. "
            "To use the new files take another work directory, or build again: flashvtg build "
            f"--dataset={dataset} --manual_dir={source} --clip_length={clip_length:g} "
            f"--data_dir={data_dir} --overwrite",
            file=sys.stderr,
        )


def complete_config(
    config: ml_collections.ConfigDict, source: SplitSource
) -> ml_collections.ConfigDict:
    """What a configuration leaves to the data: streams, widths, labels, as they are built.

    Takes `config.data.video_streams` of (), a width that is missing in `config.data.video_widths`,
    `config.data.query_width` and `config.data.labels` of None from an opened split.

    Returns:
      A locked copy, equal to `config` where that leaves nothing open.

    Raises:
      ConfigError: a stream that the data set does not have, or a score to select the best
        checkpoint by that cannot be computed from its labels.
    """
    data = config.data
    streams = tuple(data.video_streams) or tuple(source.streams)
    for name in streams:
        if name not in source.streams:
            raise ConfigError(
                f"config.data.video_streams names {name!r}, but data set {data.dataset!r} has "
                f"{', '.join(map(repr, source.streams))}"
            )
    for metric in config.train.selection_metrics:
        field = _FIELDS_SCORED.get(metric[:2])
        if field is not None and field not in LABEL_FIELDS[source.labels]:
            raise ConfigError(
                f"config.train.selection_metrics names {metric!r}, which is computed from {field}, "
                f"but the lines of data set {data.dataset!r} have "
                f"{', '.join(LABEL_FIELDS[source.labels])}; moments and highlights take different "
                "configurations, see common.get_highlights in tfds_builders/custom/README.md"
            )
    found = {"video_streams": streams}
    if data.query_width is None:
        found["query_width"] = source.query_dim
    if data.labels is None:
        found["labels"] = source.labels
    config = apply_overrides(config, {f"data.{field}": value for field, value in found.items()})
    widths = config.data.video_widths
    with widths.unlocked():
        for name in streams:
            if name not in widths:
                widths[name] = source.streams[name]
    return config

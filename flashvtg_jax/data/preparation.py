"""Builds the data set of a configuration before training, and completes the configuration."""

import json
import math
import sys
from pathlib import Path

import ml_collections

from flashvtg_jax.config import apply_overrides
from flashvtg_jax.data.annotations import LABEL_FIELDS
from flashvtg_jax.data.build import custom
from flashvtg_jax.data.build.building import build, find_builder
from flashvtg_jax.data.build.layout import Layout
from flashvtg_jax.data.build_command import build_command
from flashvtg_jax.data.dataset_names import is_custom
from flashvtg_jax.data.source import SplitSource, built_folder
from flashvtg_jax.data.synthetic.features import check_generated, synthesize
from flashvtg_jax.errors import ConfigError, DataError

# The field of annotation lines that metrics are computed from, by the start of their names.
_METRIC_FIELDS = {"MR": "relevant_windows", "HL": "saliency_scores", "HD": "label"}


def prepare_data(
    config: ml_collections.ConfigDict, data_dir: Path, *, show_progress: bool = True
) -> None:
    """Builds the data set of a configuration if it is not built yet.

    With a `synthetic` section features are synthesised below `data_dir` and built; with
    `config.data.manual_dir` the files there are built; with neither, nothing is done. A data set
    that is built no longer needs the files it was built from.

    Raises:
      ConfigError: there is a synthetic data set made with other settings; a custom data set without
        a clip length; streams or selection metrics that the data set cannot have.
      DataError: files that cannot be used, or a split without a file; the data set was built from
        another folder than `config.data.manual_dir`; a custom data set that is not built, without
        a folder to build it from.
    """
    data = config.data
    custom_data = is_custom(data.dataset)
    if custom_data:
        custom.check_clip_length(data.dataset, config.clip_length, data.label_clip_length)
    built = built_folder(data_dir, data.dataset)
    manual_dir, widths = data.manual_dir, {**data.video_widths, "query": data.query_width}
    clip_length = config.clip_length if custom_data else None
    if "synthetic" in config:
        manual_dir = data_dir / "synthetic"
        settings = {
            "dataset": data.dataset,
            "widths": widths,
            "clip_length": clip_length,
            "seed": config.seed,
            "spatial_tokens": data.spatial_tokens,
            **config.synthetic,
        }
        if built:
            check_generated(manual_dir, **settings)
        else:
            synthesize(manual_dir, progress=show_progress, **settings)
    if manual_dir is not None and not built:
        layout = find_builder(data.dataset)[1].layout
        if layout is None:
            layout = custom.custom_layout(
                manual_dir,
                config.clip_length,
                data.video_streams,
                label_clip_length=data.label_clip_length,
                resample=data.resample,
            )
        else:
            layout = layout.with_streams(data.video_streams)
        _check_before_building(config, layout, Path(manual_dir).expanduser())
        build(
            data.dataset,
            manual_dir,
            data_dir,
            widths=_widths_to_build(config, layout),
            clip_windows=data.clip_windows,
            clip_length=clip_length,
            label_clip_length=data.label_clip_length if custom_data else None,
            streams=data.video_streams,
            resample=data.resample,
            progress=show_progress,
        )
    elif not built and custom_data:
        raise DataError(
            f"{data_dir / data.dataset}: not built yet; give the folder of your features: "
            "--config=custom:DIR, or config.data.manual_dir"
        )
    elif built and manual_dir is not None:
        manual_dir = Path(manual_dir).expanduser()
        if "synthetic" not in config:  # its settings were compared above
            _check_origin(config, data_dir, built, manual_dir)
        if custom_data and show_progress:
            _note_changes(config, data_dir, built, manual_dir)


def _widths_to_build(config: ml_collections.ConfigDict, layout: Layout) -> dict[str, int | None]:
    """Returns the widths that `build` expects, by name of the features; None: any.

    Widths of streams that the layout does not have are left out.
    """
    data = config.data
    widths = {**data.video_widths, "query": data.query_width}
    if data.spatial_tokens > 1:
        # Files that are no parts may have tokens side by side; widths are checked on opening.
        whole = [files.name for files in layout.streams if len(files.parts) == 1]
        widths |= {name: None for name in whole if name in data.video_streams}
    names = [files.name for files in layout.feature_files]
    return {name: widths[name] for name in names if name in widths}


def _check_before_building(
    config: ml_collections.ConfigDict, layout: Layout, manual_dir: Path
) -> None:
    """Raises errors of a run that can be found before its data set is built."""
    data = config.data
    _check_selection_metrics(config, layout.labels)
    _check_label_clip_length(config, layout.labels)
    found = layout.find_annotations(manual_dir)
    for field in ("train_split", "val_split"):
        if data[field] not in found:
            names = layout.annotations.get(data[field])
            raise DataError(
                f"{manual_dir}: no annotation file of split {data[field]!r}, which config.data."
                f"{field} names; "
                + (f"put {' or '.join(names)} there, or " if names else "")
                + f"choose another split: there are {', '.join(found)}"
            )


def _check_origin(
    config: ml_collections.ConfigDict, data_dir: Path, built: Path, manual_dir: Path
) -> None:
    """Raises DataError if a data set was built from another folder.

    Earlier versions recorded the folders of custom data sets only.
    """
    try:
        origin = json.loads((built / "metadata.json").read_text()).get("manual_dir")
    except (OSError, ValueError, AttributeError):
        return  # opening the data set reports it
    if origin is None or Path(origin) == manual_dir.resolve():
        return
    if is_custom(config.data.dataset):
        instead = (
            ", a folder of the same name. For the new folder use another work directory, another "
            "config.data.data_dir, or another name, --config.data.dataset=custom/NAME"
        )
    else:
        instead = ". For the new folder use another config.data.data_dir"
    raise DataError(
        f"{built}: built from {origin}, but the configuration is about {manual_dir.resolve()}"
        f"{instead}. If the folder was moved, keep the built data set with "
        "--config.data.manual_dir=None, or build it again: "
        f"{_command(config, data_dir, manual_dir)}"
    )


def _note_changes(
    config: ml_collections.ConfigDict, data_dir: Path, built: Path, manual_dir: Path
) -> None:
    """Prints which files of a custom data set changed after it was built."""
    built_at = (built / "dataset_info.json").stat().st_mtime
    times = {path: path.stat().st_mtime for path in custom.inspected(manual_dir)}
    newer = [str(path) for path, time in times.items() if time > built_at]
    if newer:
        print(
            f"note: {', '.join(newer)} changed after {config.data.dataset} was built; the built "
            "data set is used. To use the new files choose another work directory, or build "
            f"again: {_command(config, data_dir, manual_dir)}",
            file=sys.stderr,
        )


def _command(config: ml_collections.ConfigDict, data_dir: Path, manual_dir: Path) -> str:
    """Returns the command that builds a configuration's data set again from a folder."""
    dataset, clip_length, widths = config.data.dataset, None, {}
    label_clip_length = None
    streams = config.data.video_streams
    if is_custom(dataset):
        clip_length = config.clip_length  # the widths are those of the files
        label_clip_length = config.data.label_clip_length
    else:
        layout = find_builder(dataset)[1].layout.with_streams(streams)
        widths = layout.other_widths(_widths_to_build(config, layout))
        streams = streams if layout.left_out else ()
    return build_command(
        dataset,
        data_dir,
        "--overwrite",
        *(["--clip_windows"] if config.data.clip_windows else []),
        manual_dir=manual_dir,
        clip_length=clip_length,
        label_clip_length=label_clip_length,
        widths=widths,
        streams=streams,
        resample=config.data.resample,
    )


def complete_config(
    config: ml_collections.ConfigDict, source: SplitSource
) -> ml_collections.ConfigDict:
    """Returns a configuration with what it leaves open taken from a built data set.

    From an opened split come `config.data.video_streams` of (), widths that are missing in
    `config.data.video_widths`, and `config.data.query_width`, `config.data.labels` and
    `config.data.label_clip_length` of None.

    Returns:
      A locked copy.

    Raises:
      ConfigError: a stream that the data set does not have; a `label_clip_length` for a data set
        without clip ids, or another one than it was built with; a selection metric that cannot be
        computed from its labels.
    """
    data = config.data
    streams = tuple(data.video_streams) or tuple(source.streams)
    _check_streams(config, source)
    _check_selection_metrics(config, source.labels)
    found = {"video_streams": streams}
    if data.query_width is None:
        found["query_width"] = source.query_dim
    if data.labels is None:
        found["labels"] = source.labels
    _check_label_clip_length(config, source.labels)
    if source.label_clip_length is not None:
        given, built = data.label_clip_length, source.label_clip_length
        if given is not None and not math.isclose(given, built, rel_tol=1e-5):
            raise ConfigError(
                f"config.data.label_clip_length is {given:g} s, but data set {data.dataset!r} was "
                f"built with --label_clip_length={built:g}"
            )
        found["label_clip_length"] = built
    config = apply_overrides(config, {f"data.{field}": value for field, value in found.items()})
    widths = config.data.video_widths
    with widths.unlocked():
        for name in streams:
            if name not in widths:
                widths[name] = source.streams[name] // source.tokens.get(name, 1)
    return config


def _check_streams(config: ml_collections.ConfigDict, source: SplitSource) -> None:
    """Raises ConfigError for streams that a data set lacks."""
    wanted = config.data.video_streams
    for name in wanted or (*source.streams, *source.left_out):
        if name not in source.streams:
            named = f"names {name!r}" if wanted else f"is (), all streams, of which {name!r} is one"
            raise ConfigError(
                f"config.data.video_streams {named}, but data set {config.data.dataset!r} "
                f"has {', '.join(map(repr, source.streams))}"
                + (" only: it was built with these" if source.left_out else "")
                + f". Name these, or build it again with all: {source.rebuild_command()}"
            )


def _check_label_clip_length(config: ml_collections.ConfigDict, labels: str) -> None:
    """Raises ConfigError for `config.data.label_clip_length` if the lines have no clip ids."""
    seconds = config.data.label_clip_length
    if seconds is not None and labels != "qvhighlights":
        raise ConfigError(
            f"config.data.label_clip_length={seconds:g} is for relevant_clip_ids and "
            f"saliency_scores, but the lines of data set {config.data.dataset!r} have "
            f"{', '.join(LABEL_FIELDS[labels])}"
        )


def _check_selection_metrics(config: ml_collections.ConfigDict, labels: str) -> None:
    """Raises ConfigError for selection metrics that cannot be computed from the labels."""
    for metric in config.train.selection_metrics:
        field = _METRIC_FIELDS.get(metric[:2])
        if field is not None and field not in LABEL_FIELDS[labels]:
            raise ConfigError(
                f"config.train.selection_metrics names {metric!r}, which is computed from {field}, "
                f"but the lines of data set {config.data.dataset!r} have "
                f"{', '.join(LABEL_FIELDS[labels])}; moments and highlights need different "
                "configurations, see common.get_highlights in tfds_builders/custom/README.md"
            )

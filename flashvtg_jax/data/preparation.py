"""The data set a configuration trains on, made ready before training where it can be."""

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

# The field of an annotation line that scores are computed from, by the beginning of their names.
_FIELDS_SCORED = {"MR": "relevant_windows", "HL": "saliency_scores", "HD": "label"}


def prepare_data(
    config: ml_collections.ConfigDict, data_dir: Path, *, show_progress: bool = True
) -> None:
    """Synthesise and build, or build, the data set of a configuration, if it is not there yet.

    With a `synthetic` section the features are made first, below `data_dir`; with
    `config.data.manual_dir` the files there are built; with neither, nothing is done. What is
    built needs its files no more: they may be removed.

    Raises:
      ConfigError: a synthetic data set is there that was made with other settings; one's own data
        without a clip length; streams or scores that the data to build cannot have.
      DataError: files that cannot be used, or none of a split that is needed; a data set that is
        built from another folder than `config.data.manual_dir`; one's own data that are neither
        built nor given.
    """
    data = config.data
    own = is_custom(data.dataset)
    if own:
        custom.check_clip_length(data.dataset, config.clip_length, data.label_clip_length)
    built = built_folder(data_dir, data.dataset)
    manual_dir, widths = data.manual_dir, {**data.video_widths, "query": data.query_width}
    clip_length = config.clip_length if own else None
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
            label_clip_length=data.label_clip_length if own else None,
            streams=data.video_streams,
            resample=data.resample,
            progress=show_progress,
        )
    elif not built and own:
        raise DataError(
            f"{data_dir / data.dataset}: not built yet; say where your features are: "
            "--config=custom:DIR, or config.data.manual_dir"
        )
    elif built and manual_dir is not None:
        manual_dir = Path(manual_dir).expanduser()
        if "synthetic" not in config:  # that was compared by its settings
            _check_origin(config, data_dir, built, manual_dir)
        if own and show_progress:
            _note_changes(config, data_dir, built, manual_dir)


def _widths_to_build(config: ml_collections.ConfigDict, layout: Layout) -> dict[str, int | None]:
    """Returns the widths that `build` is to find, by name of the features; None: any.

    A configuration that is used for other streams than its own has widths of no use.
    """
    data = config.data
    widths = {**data.video_widths, "query": data.query_width}
    if data.spatial_tokens > 1:
        # Tokens may lie side by side in a file, if it is no part; opening checks the widths.
        whole = [files.name for files in layout.streams if len(files.parts) == 1]
        widths |= {name: None for name in whole if name in data.video_streams}
    names = [files.name for files in layout.feature_files]
    return {name: widths[name] for name in names if name in widths}


def _check_before_building(
    config: ml_collections.ConfigDict, layout: Layout, manual_dir: Path
) -> None:
    """Raises what a run would find wrong with the data set once it is built."""
    data = config.data
    _check_scores(config, layout.labels)
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
    """Raises DataError if a data set was built from another folder, as far as is known.

    Neither folder need exist any more. Earlier versions remembered those of one's own data alone.
    """
    try:
        origin = json.loads((built / "metadata.json").read_text()).get("manual_dir")
    except (OSError, ValueError, AttributeError):
        return  # opening it will tell
    if origin is None or Path(origin) == manual_dir.resolve():
        return
    if is_custom(config.data.dataset):
        instead = (
            ", a folder of the same name. For that one take another work directory, another "
            "config.data.data_dir, or another name, --config.data.dataset=custom/NAME"
        )
    else:
        instead = ". For that one take another config.data.data_dir"
    raise DataError(
        f"{built}: built from {origin}, but the configuration is about {manual_dir.resolve()}"
        f"{instead}. Was the folder moved, use what is built with --config.data.manual_dir=None, "
        f"or build it again: {_command(config, data_dir, manual_dir)}"
    )


def _note_changes(
    config: ml_collections.ConfigDict, data_dir: Path, built: Path, manual_dir: Path
) -> None:
    """Says on stderr which of one's own files are newer than the data set built from them."""
    built_at = (built / "dataset_info.json").stat().st_mtime
    times = {path: path.stat().st_mtime for path in custom.inspected(manual_dir)}
    newer = [str(path) for path, time in times.items() if time > built_at]
    if newer:
        print(
            f"note: {', '.join(newer)} changed after {config.data.dataset} was built; what was "
            "built is used. To use the new files take another work directory, or build again: "
            f"{_command(config, data_dir, manual_dir)}",
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
    """What a configuration leaves to the data: streams, widths, labels, as they are built.

    Takes `config.data.video_streams` of (), a width that is missing in `config.data.video_widths`,
    `config.data.query_width`, `config.data.labels` and `config.data.label_clip_length` of None
    from an opened split.

    Returns:
      A locked copy, equal to `config` where that leaves nothing open.

    Raises:
      ConfigError: a stream that the data set does not have, a length of the clips that ids count
        where there are none, or another one than it was built with, or a score to select the best
        checkpoint by that cannot be computed from its labels.
    """
    data = config.data
    streams = tuple(data.video_streams) or tuple(source.streams)
    _check_streams(config, source)
    _check_scores(config, source.labels)
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
    """Raises ConfigError for streams that a data set lacks, or all where some were left out."""
    wanted = config.data.video_streams
    for name in wanted or (*source.streams, *source.left_out):
        if name not in source.streams:
            named = f"names {name!r}" if wanted else f"is (), all streams, of which {name!r} is one"
            raise ConfigError(
                f"config.data.video_streams {named}, but data set {config.data.dataset!r} "
                f"has {', '.join(map(repr, source.streams))}"
                + (" alone, as it was built with these" if source.left_out else "")
                + f". Name what it has, or build it again with all: {source.rebuild_command()}"
            )


def _check_label_clip_length(config: ml_collections.ConfigDict, labels: str) -> None:
    """Raises ConfigError for the length of clips that ids count if the lines have no ids."""
    seconds = config.data.label_clip_length
    if seconds is not None and labels != "qvhighlights":
        raise ConfigError(
            f"config.data.label_clip_length={seconds:g} is for relevant_clip_ids and "
            f"saliency_scores, but the lines of data set {config.data.dataset!r} have "
            f"{', '.join(LABEL_FIELDS[labels])}"
        )


def _check_scores(config: ml_collections.ConfigDict, labels: str) -> None:
    """Raises ConfigError for a score to select by that labels of a kind do not give."""
    for metric in config.train.selection_metrics:
        field = _FIELDS_SCORED.get(metric[:2])
        if field is not None and field not in LABEL_FIELDS[labels]:
            raise ConfigError(
                f"config.train.selection_metrics names {metric!r}, which is computed from {field}, "
                f"but the lines of data set {config.data.dataset!r} have "
                f"{', '.join(LABEL_FIELDS[labels])}; moments and highlights take different "
                "configurations, see common.get_highlights in tfds_builders/custom/README.md"
            )

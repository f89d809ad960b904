"""The arguments of scoring, from a configuration or the files beside the predictions."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from flashvtg_jax.config import read_config
from flashvtg_jax.errors import ConfigError, FlashVTGError
from flashvtg_jax.metrics.scoring import all_length_ranges, parse_length_ranges


def configured_clips(config: Any) -> dict[str, Any]:
    """The arguments of `evaluate_predictions` about clips that a configuration gives."""
    return {
        "clip_length": config.clip_length,
        # Configurations of earlier versions have no such field.
        "label_clip_length": config.data.get("label_clip_length"),
        "max_clips": config.data.max_clips,
    }


def configured_scoring(config: Any) -> dict[str, Any]:
    """The arguments of `evaluate_predictions` that a configuration gives.

    Raises ConfigError for invalid ranges of lengths.
    """
    return {**configured_clips(config), **_length_ranges(config.evaluation.get("length_ranges"))}


def settings_to_score(config: Any) -> dict[str, Any]:
    """The same as JSON, for the file of settings beside predictions."""
    return {
        **configured_clips(config),
        "length_ranges": list(config.evaluation.length_ranges),
    }


def scoring_arguments(predictions: str | os.PathLike, **given: Any) -> dict[str, Any]:
    """The arguments of `score_files` for a file of predictions: those given that are not None.

    The others come from the settings file that `flashvtg predict` wrote beside it, or else from the
    run's config.json in its folder or in the one above, with a note on stderr. Without any of these
    files they are left out.

    Raises ConfigError if that file has invalid ranges of lengths.
    """
    path = Path(predictions)
    # Results may be written into a folder below the run's.
    folders = (path.parent, path.parent.resolve().parent)
    sources = [(path.with_name(f"{path.name}.settings.json"), _from_settings)]
    sources += [(folder / "config.json", _from_config) for folder in folders]
    known: dict[str, Any] = {}
    for source, read in sources:
        try:
            found = read(source)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
        if found is not None:
            print(f"clip lengths and ranges of lengths are read from {source}", file=sys.stderr)
            known = found
            break
    return known | {name: value for name, value in given.items() if value is not None}


def _from_settings(path: Path) -> dict[str, Any] | None:
    """The arguments in a settings file; None if it is missing, or of an earlier version."""
    try:
        settings = json.loads(path.read_bytes())
        found = {n: settings[n] for n in ("clip_length", "label_clip_length", "max_clips")}
        ranges = settings["length_ranges"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return {**found, **_length_ranges(ranges)}


def _from_config(path: Path) -> dict[str, Any] | None:
    """The arguments in a config.json; None if there is no configuration in that file."""
    try:
        config = read_config(path)
        found, evaluation = configured_clips(config), config.evaluation
    except (FlashVTGError, OSError, AttributeError):
        return None
    return {**found, **_length_ranges(evaluation.get("length_ranges"))}


def _length_ranges(written: Any) -> dict[str, Any]:
    """The argument `length_ranges`, checked; configurations of earlier versions have none."""
    ranges = None if written is None else parse_length_ranges(written)
    all_length_ranges(ranges)
    return {"length_ranges": ranges}

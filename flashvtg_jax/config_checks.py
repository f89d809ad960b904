"""The rules for the values of a whole configuration, checked before anything is trained.

`config.py` checks names and types of fields; what depends on the data is checked where they are
opened.
"""

import difflib

import ml_collections

from flashvtg_jax.data.perturbation import check_perturbation, check_strength
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.metrics.names import is_metric_name, quoted_names
from flashvtg_jax.metrics.scoring import all_length_ranges, parse_length_ranges
from flashvtg_jax.model_checks import check_model

_AT_LEAST_ONE = (
    "spatial_tokens",
    "train.batch_size",
    "train.epochs",
    "train.log_every_steps",
    "train.evaluate_every_epochs",
    "train.checkpoint_every_epochs",
    "train.keep_checkpoints",
    "evaluation.batch_size",
    "evaluation.max_moments",
    "data.max_words",
    "data.num_threads",
    "data.prefetch",
)

_AT_LEAST_ONE_OR_NONE = (
    "train.early_stopping_evaluations",
    "train.steps_per_dispatch",
    "optimizer.lr_drop",
    "data.max_clips",
)

_ONE_OF = {
    "loss.classification": ("focal", "binary_cross_entropy"),
    "loss.alignment_directions": ("row", "column"),
    "data.source_video": ("youtube_id", "vid"),
    "evaluation.nms_type": ("normal", "linear"),
    "train.on_nan": ("stop", "skip"),
    "parallel.mode": ("jit", "pmap"),
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError if a value is invalid, or does not go with another one."""
    for key in _AT_LEAST_ONE:
        if config[key] < 1:
            raise ConfigError(f"config.{key} is {config[key]}; it must be at least 1")
    for key in _AT_LEAST_ONE_OR_NONE:
        if config[key] is not None and config[key] < 1:
            raise ConfigError(f"config.{key} is {config[key]}; it must be at least 1, or None")
    for key, known in _ONE_OF.items():
        values = config[key]
        for value in (values,) if isinstance(values, str) else values:
            if value not in known:
                raise ConfigError(f"config.{key}: {value!r} is not one of {', '.join(known)}")
    check_model(config.model)
    _check_runs(config)
    _check_metrics(config)
    _check_training(config)
    check_augmentation(config)


def check_augmentation(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError if the augmentation is unknown, or does not suit the streams.

    Where the streams are left to the data set, the latter is known once the configuration is
    complete.
    """
    data = config.data
    if data.augment is not None:
        num_streams = len(data.video_streams) or 2
        check_perturbation(data.augment, num_streams, name="config.data.augment")
    check_strength(data.augment_strength, name="config.data.augment_strength")


def _check_runs(config: ml_collections.ConfigDict) -> None:
    for seed in (config.seed, *config.seeds):
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ConfigError(f"a seed is {seed!r}; it must be an integer from 0 to {2**32 - 1}")
    for key in ("seeds", "data.domains"):
        if len(set(config[key])) < len(config[key]):
            raise ConfigError(f"config.{key} contains one twice: {config[key]}")
    for domain in config.data.domains:
        if not isinstance(domain, str) or "/" in domain or domain in ("", ".", ".."):
            raise ConfigError(f"config.data.domains: {domain!r} cannot be the name of a folder")


def _check_metrics(config: ml_collections.ConfigDict) -> None:
    window_range = config.evaluation.window_range
    if window_range is not None and not (
        len(window_range) == 2 and 0 <= window_range[0] < window_range[1]
    ):
        raise ConfigError(
            f"config.evaluation.window_range is {window_range}; it must be None, or the least and "
            "the greatest second of a moment"
        )
    ranges = all_length_ranges(parse_length_ranges(config.evaluation.length_ranges))
    if not config.train.selection_metrics:
        raise ConfigError(
            "config.train.selection_metrics is empty: name a metric to select the best checkpoint "
            "by"
        )
    for metric in config.train.selection_metrics:
        if not is_metric_name(metric, ranges):
            known = quoted_names(f"MR-{name}-mAP" for name in ranges)
            nearest = difflib.get_close_matches(metric, known, 1, 0.0)[0]
            raise ConfigError(
                f"config.train.selection_metrics contains {metric!r}, which is no metric; the "
                f"nearest is {nearest!r}"
            )


def _check_training(config: ml_collections.ConfigDict) -> None:
    if config.train.init_partial and config.train.init_from is None:
        raise ConfigError(
            "config.train.init_partial allows parameters of another run to be missing; name that "
            "run: config.train.init_from"
        )
    if config.model.moment_head == "queries" and not config.loss.regression:
        raise ConfigError(
            "config.model.moment_head='queries' proposes moments, but config.loss.regression=False "
            "means that none are learned; use 'pyramid' for highlight detection"
        )
    if config.model.num_dummies == 0 and config.loss.lw_wattn != 0:
        raise ConfigError(
            "config.model.num_dummies=0 leaves clips only words to attend to, so that their "
            "attention to words cannot be learned: set config.loss.lw_wattn=0"
        )
    if config.parallel.mode == "pmap":
        for key in ("data.cache_on_device", "train.steps_per_dispatch"):
            if config[key]:
                raise ConfigError(
                    f"config.{key}={config[key]} needs config.parallel.mode='jit': under pmap each "
                    "batch is sent by the host"
                )
        if config.parallel.shard_state:
            raise ConfigError(
                "config.parallel.shard_state needs config.parallel.mode='jit': under pmap every "
                "device has the whole state"
            )

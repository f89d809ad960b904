"""What can be known to be wrong before training starts."""

import difflib

import ml_collections

from flashvtg_jax.data.perturbation import check_perturbation, check_strength
from flashvtg_jax.data.pipeline import clip_counts
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.decoding import NMS_TYPES
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.losses.alignment import DIRECTIONS
from flashvtg_jax.losses.objective import CLASSIFICATIONS
from flashvtg_jax.metrics.names import is_metric_name, quoted_names
from flashvtg_jax.metrics.scoring import all_length_ranges, parse_length_ranges
from flashvtg_jax.models.pyramid import level_length

_AT_LEAST_ONE = (
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
    "data.spatial_tokens",
)

_ONE_OF = {
    "loss.classification": CLASSIFICATIONS,
    "loss.alignment_directions": DIRECTIONS,
    "evaluation.nms_type": NMS_TYPES,
    "train.on_nan": ("stop", "skip"),
    "parallel.mode": ("jit", "pmap"),
}


def check_augmentation(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for an augmentation that is none, or that the streams do not allow.

    Streams that are left to the data set count once the configuration is complete.
    """
    data = config.data
    if data.augment is not None:
        num_streams = len(data.video_streams) or 2
        check_perturbation(data.augment, num_streams, name="config.data.augment")
    check_strength(data.augment_strength, name="config.data.augment_strength")


def check_strides(config: ml_collections.ConfigDict, source: SplitSource) -> None:
    """Raises ConfigError where even the longest video is too short for a level of the pyramid.

    Shorter videos have no point at such a level, and their moments belong to the others.
    """
    longest = int(clip_counts(source, config).max())
    stride = max(config.model.strides)
    if config.model.moment_head == "pyramid" and level_length(longest, stride) == 0:
        raise ConfigError(
            f"config.model.strides={tuple(config.model.strides)}: the longest video has {longest} "
            f"clips, so that the level of stride {stride:g} would never have a point; leave it out"
        )


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for values of the right type that mean nothing."""
    for key in _AT_LEAST_ONE:
        section, field = key.split(".")
        if config[section][field] < 1:
            raise ConfigError(f"config.{key} is {config[section][field]}; it must be at least 1")
    for field in ("early_stopping_evaluations", "steps_per_dispatch"):
        value = config.train[field]
        if value is not None and value < 1:
            raise ConfigError(f"config.train.{field} is {value}; it must be at least 1, or None")
    check_augmentation(config)
    if config.train.init_partial and config.train.init_from is None:
        raise ConfigError(
            "config.train.init_partial says that parameters of another run need not all fit; name "
            "that run: config.train.init_from"
        )
    window_range = config.evaluation.window_range
    if window_range is not None and not (
        len(window_range) == 2 and 0 <= window_range[0] < window_range[1]
    ):
        raise ConfigError(
            f"config.evaluation.window_range is {window_range}; it must be None, or the least and "
            "the greatest second of a moment"
        )
    for key, known in _ONE_OF.items():
        section, field = key.split(".")
        values = config[section][field]
        for value in (values,) if isinstance(values, str) else values:
            if value not in known:
                raise ConfigError(f"config.{key} holds {value!r}; it knows {' and '.join(known)}")
    if not config.train.selection_metrics:
        raise ConfigError(
            "config.train.selection_metrics is empty: name a score to select the best checkpoint by"
        )
    ranges = all_length_ranges(parse_length_ranges(config.evaluation.length_ranges))
    for metric in config.train.selection_metrics:
        if not is_metric_name(metric, ranges):
            known = quoted_names(f"MR-{name}-mAP" for name in ranges)
            nearest = difflib.get_close_matches(metric, known, 1, 0.0)[0]
            raise ConfigError(
                f"config.train.selection_metrics holds {metric!r}, which no evaluation computes; "
                f"the nearest is {nearest!r}"
            )
    for seed in (config.seed, *config.seeds):
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ConfigError(f"a seed is {seed!r}; it must be an integer from 0 to {2**32 - 1}")
    for name, values in (("seeds", config.seeds), ("data.domains", config.data.domains)):
        if len(set(values)) < len(values):
            raise ConfigError(f"config.{name} names one twice: {values}")
    for domain in config.data.domains:
        if not isinstance(domain, str) or "/" in domain or domain in ("", ".", ".."):
            raise ConfigError(f"config.data.domains: {domain!r} cannot be the name of a folder")
    if config.model.moment_head == "queries" and not config.loss.regression:
        raise ConfigError(
            "config.model.moment_head='queries' proposes moments, and config.loss.regression=False "
            "says that there are none to learn; use 'pyramid' for highlight detection"
        )
    if config.model.num_dummies == 0 and config.loss.lw_wattn != 0:
        raise ConfigError(
            "config.model.num_dummies=0 leaves clips nothing but words to attend to, so that how "
            "much they do cannot be learned: set config.loss.lw_wattn=0"
        )
    if config.parallel.mode == "pmap":
        for key in ("data.cache_on_device", "train.steps_per_dispatch"):
            section, field = key.split(".")
            if config[section][field]:
                raise ConfigError(
                    f"config.{key}={config[section][field]} needs config.parallel.mode='jit': "
                    "under pmap each batch is sent by the host"
                )
    if config.parallel.mode == "pmap" and config.parallel.shard_state:
        raise ConfigError(
            "config.parallel.shard_state needs config.parallel.mode='jit': under pmap every device "
            "has the whole state"
        )

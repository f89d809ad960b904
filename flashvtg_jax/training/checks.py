"""What is checked once the data of a run are open."""

import ml_collections

from flashvtg_jax.data.pipeline import clip_counts
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.models.pyramid import level_length


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

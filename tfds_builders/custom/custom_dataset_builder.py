"""Custom data sets, with the features of a folder."""

import tensorflow_datasets as tfds

from flashvtg_jax.data.build.dataset_builder import FeatureConfig, FeatureDatasetBuilder
from flashvtg_jax.errors import ConfigError


class Builder(FeatureDatasetBuilder):
    """Builder of custom data sets; README.md beside this file is the guide.

    There is no list of configs: `flashvtg build` makes one for each name.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _create_builder_config(self, builder_config, version) -> FeatureConfig:
        # TFDS's own would warn that the config is not in the list.
        if not isinstance(builder_config, FeatureConfig):
            raise ConfigError(
                "custom data sets are built with: flashvtg build --dataset=custom/NAME "
                "--manual_dir=DIR --clip_length=SECONDS"
            )
        return builder_config

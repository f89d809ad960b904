"""One's own data, with whatever features lie in a folder."""

import tensorflow_datasets as tfds

from flashvtg_jax.data.build.dataset_builder import FeatureConfig, FeatureDatasetBuilder
from flashvtg_jax.errors import ConfigError


class Builder(FeatureDatasetBuilder):
    """Builder of one's own data; README.md beside this file is the guide.

    There is no list of configs: `flashvtg build` makes one for each name it is given.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _create_builder_config(self, builder_config, version) -> FeatureConfig:
        # TFDS's own would warn that the config is not in the list.
        if not isinstance(builder_config, FeatureConfig):
            raise ConfigError(
                "one's own data are built with: flashvtg build --dataset=custom/NAME "
                "--manual_dir=DIR --clip_length=SECONDS"
            )
        return builder_config

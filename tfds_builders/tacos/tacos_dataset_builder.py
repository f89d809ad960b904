"""TACoS with SlowFast and CLIP features."""

import tensorflow_datasets as tfds

from flashvtg_jax.data.build.dataset_builder import FeatureConfig, FeatureDatasetBuilder
from flashvtg_jax.data.build.layout import FeatureFiles, Layout


class Builder(FeatureDatasetBuilder):
    """Builder of TACoS; see README.md beside this file for the files."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's convention)
        FeatureConfig(
            name="slowfast_clip",
            description="SlowFast and CLIP features of the clips, CLIP features of the words.",
            layout=Layout(
                annotations={
                    "train": ("train.jsonl",),
                    "val": ("val.jsonl",),
                    "test": ("test.jsonl",),
                },
                streams=(
                    FeatureFiles("slowfast", "slowfast_features/{vid}", "features", 2304),
                    FeatureFiles("clip", "clip_features/{vid}", "features", 512),
                ),
                # The ids are names, "s17-d69_0", and stand alone.
                query=FeatureFiles("query", "clip_text_features/{qid}", "last_hidden_state", 512),
                clip_length=2.0,
                labels="windows",
                released_rows={"train": 9790, "val": 4436, "test": 4001},
            ),
        ),
    ]

"""YouTube Highlights with CLIP and SlowFast features."""

import tensorflow_datasets as tfds

from flashvtg_jax.data.build.dataset_builder import FeatureConfig, FeatureDatasetBuilder
from flashvtg_jax.data.build.layout import FeatureFiles, Layout


class Builder(FeatureDatasetBuilder):
    """Builder of YouTube Highlights; see README.md beside this file for the files."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's convention)
        FeatureConfig(
            name="slowfast_clip",
            description="CLIP and SlowFast features of the clips, CLIP features of the words.",
            layout=Layout(
                annotations={"train": ("youtube_train.jsonl",), "val": ("youtube_valid.jsonl",)},
                streams=(  # in the authors' order, which is not that of the other data sets
                    FeatureFiles("clip", "vid_clip/{vid}", "features", 512),
                    FeatureFiles("slowfast", "vid_slowfast/{vid}", "features", 2304),
                ),
                query=FeatureFiles("query", "txt_clip/{qid}", "last_hidden_state", 512),
                clip_length=1.0,
                labels="binary",
                released_rows={"train": 233, "val": 152},
                domains=("dog", "gymnastics", "parkour", "skating", "skiing", "surfing"),
            ),
        ),
    ]

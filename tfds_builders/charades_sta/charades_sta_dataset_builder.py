"""Charades-STA with SlowFast and CLIP, VGG and GloVe, or InternVideo2 features."""

import tensorflow_datasets as tfds

from flashvtg_jax.data.build.dataset_builder import FeatureConfig, FeatureDatasetBuilder
from flashvtg_jax.data.build.glove import GloveWords
from flashvtg_jax.data.build.layout import FeatureFiles, Layout

_COMMON = {
    "annotations": {
        "train": ("charades_sta_train_tvr_format.jsonl",),
        "test": ("charades_sta_test_tvr_format.jsonl",),
    },
    "labels": "windows",
    "released_rows": {"train": 12404, "test": 3720},
}


class Builder(FeatureDatasetBuilder):
    """Builder of Charades-STA; see README.md beside this file for the files."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's convention)
        FeatureConfig(
            name="slowfast_clip",
            description="SlowFast and CLIP features of the clips, CLIP features of the words.",
            layout=Layout(
                streams=(
                    FeatureFiles("slowfast", "slowfast_features/{vid}", "features", 2304),
                    FeatureFiles("clip", "clip_features/{vid}", "features", 512),
                ),
                query=FeatureFiles(
                    "query", "clip_text_features/qid{qid}", "last_hidden_state", 512
                ),
                clip_length=1.0,
                **_COMMON,
            ),
        ),
        FeatureConfig(
            name="vgg",
            description="VGG features of the frames, GloVe vectors of the words.",
            layout=Layout(
                streams=(
                    FeatureFiles(
                        "vgg",
                        "vgg_features/rgb_features/{vid}",
                        "features",
                        4096,
                        ".npy",
                        also=(("rgb_features/{vid}", "features"),),  # UMT's pack
                    ),
                ),
                query=GloveWords("query", "glove.6B.300d.txt", 300, released=(400000, 300)),
                clip_length=0.166666,  # every fourth of 24 frames a second, as the authors round it
                **_COMMON,
            ),
        ),
        FeatureConfig(
            name="internvideo2",
            description="InternVideo2 (6B) features of the clips, LLaMA features of the words.",
            layout=Layout(
                streams=(
                    FeatureFiles("internvideo2", "charade_sta_6b/{vid}", "features", 768, ".pt"),
                ),
                query=FeatureFiles(
                    "query",
                    "charade_sta_llama_text_feature/qid{qid}",
                    "last_hidden_state",
                    4096,
                    ".pt",
                ),
                clip_length=1.0,
                **_COMMON,
            ),
        ),
    ]

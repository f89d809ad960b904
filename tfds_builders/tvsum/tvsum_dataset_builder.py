"""TVSum with SlowFast and CLIP, or I3D features."""

import tensorflow_datasets as tfds

from flashvtg_jax.data.build.dataset_builder import FeatureConfig, FeatureDatasetBuilder
from flashvtg_jax.data.build.layout import FeatureFiles, Layout

_TEXT = ("txt_clip/{qid}", "last_hidden_state")
_TEXT_OF_UMT = ("query_features/{qid}", "token")

_COMMON = {
    "annotations": {"train": ("tvsum_train.jsonl",), "val": ("tvsum_val.jsonl",)},
    "clip_length": 2.0,
    "labels": "ratings",
    "released_rows": {"train": 40, "val": 10},
    "domains": ("BK", "BT", "DS", "FM", "GA", "MS", "PK", "PR", "VT", "VU"),
}


class Builder(FeatureDatasetBuilder):
    """Builder of TVSum; see README.md beside this file for the files."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's convention)
        FeatureConfig(
            name="slowfast_clip",
            description="SlowFast and CLIP features of the clips, CLIP features of the words.",
            layout=Layout(
                streams=(
                    FeatureFiles("slowfast", "vid_slowfast/{vid}", "features", 2304),
                    FeatureFiles("clip", "vid_clip/{vid}", "features", 512),
                ),
                query=FeatureFiles("query", *_TEXT, 512),
                **_COMMON,
            ),
        ),
        FeatureConfig(
            name="i3d_clip",
            description="I3D features of frames and optical flow, CLIP features of the words.",
            layout=Layout(
                streams=(
                    FeatureFiles(
                        "i3d",
                        "video_features/{vid}",
                        "features",
                        2048,
                        ".npy",
                        parts=("_rgb", "_opt"),
                    ),
                ),
                query=FeatureFiles("query", *_TEXT_OF_UMT, 512, also=(_TEXT,)),
                **_COMMON,
            ),
        ),
    ]

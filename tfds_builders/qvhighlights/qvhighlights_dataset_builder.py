"""QVHighlights with SlowFast and CLIP, or InternVideo2 features."""

import tensorflow_datasets as tfds

from flashvtg_jax.data.build.dataset_builder import FeatureConfig, FeatureDatasetBuilder
from flashvtg_jax.data.build.layout import FeatureFiles, Layout

_COMMON = {
    "annotations": {
        "train": ("highlight_train_release.jsonl",),
        "val": ("highlight_val_release.jsonl",),
        # The first one has the ground truth, which was public only years after the second.
        "test": ("highlight_test_with_gt.jsonl", "highlight_test_release.jsonl"),
    },
    "clip_length": 2.0,
    "labels": "qvhighlights",
    "unlabelled_splits": ("test",),
    "released_rows": {"train": 7218, "val": 1550, "test": 1542},
}


class Builder(FeatureDatasetBuilder):
    """Builder of QVHighlights; see README.md beside this file for the files."""

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
                **_COMMON,
            ),
        ),
        FeatureConfig(
            name="internvideo2",
            description="InternVideo2 (6B) features of the clips, LLaMA features of the words.",
            layout=Layout(
                streams=(
                    FeatureFiles("internvideo2", "qvhighlight_6b/{vid}", "features", 768, ".pt"),
                ),
                query=FeatureFiles(
                    "query",
                    "qvhighlight_llama_text_feature/qid{qid}",
                    "last_hidden_state",
                    4096,
                    ".pt",
                ),
                **_COMMON,
            ),
        ),
    ]

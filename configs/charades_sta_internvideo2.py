"""Charades-STA with InternVideo2 features of clips of 1 s and LLaMA features of words.

    flashvtg build --dataset=charades_sta/internvideo2 --manual_dir=DIR --data_dir=data
    flashvtg train --config=charades_sta_internvideo2 --workdir=runs/charades_sta_internvideo2

Published for FlashVTG, as later papers report it:

    R1@0.3  R1@0.5  R1@0.7   mIoU
     80.65   70.32   49.87  59.61
"""

from ml_collections import ConfigDict

from flashvtg_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The authors' settings; they select the best checkpoint on the test split. No argument."""
    config = common.get_common()
    config.name = "charades_sta_internvideo2"  # of the experiment
    common.refuse_argument(config.name, arg)
    config.clip_length = 1.0  # seconds

    config.model.kernel_size = 7  # of the convolutions of the score heads
    config.model.num_conv_layers = 2  # convolutions of each score head
    config.model.num_mlp_layers = 3  # dense layers of each score head
    config.loss.lw_sal = 0.01  # weight of the alignment of clips with their query
    config.loss.label_loss_coef = 0.1  # weight of the clip-aware score loss

    config.data.dataset = "charades_sta/internvideo2"  # TFDS name: builder/config
    config.data.val_split = "test"  # the only other split there is
    config.data.video_streams = ("internvideo2",)  # the only features of a clip
    config.data.video_widths = ConfigDict()  # width of each stream
    config.data.video_widths.internvideo2 = 768  # InternVideo2 6B
    config.data.query_width = 4096  # width of a word's features: LLaMA
    config.data.max_clips = None  # no limit
    config.data.max_words = 23  # longer queries are cut
    config.data.buckets = None  # lengths chosen by the split
    config.data.labels = "windows"  # saliency labels are made from the moments
    config.data.source_video = "vid"  # what excerpts of one source video share

    config.optimizer.learning_rate = 1.5e-4  # of AdamW
    config.train.batch_size = 32  # queries in a step
    config.train.epochs = 50  # passes over the training split
    # Metrics whose mean selects the best checkpoint; without NMS.
    config.train.selection_metrics = ("MR-full-R1@0.5", "MR-full-R1@0.7")
    return config

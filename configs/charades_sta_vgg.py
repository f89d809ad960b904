"""Charades-STA with VGG features of the frames and GloVe vectors of the words: clips of 1/6 s.

    flashvtg build --dataset=charades_sta/vgg --manual_dir=DIR --data_dir=data
    flashvtg train --config=charades_sta_vgg --workdir=runs/charades_sta_vgg

We know of no published numbers of FlashVTG with these features.
"""

from ml_collections import ConfigDict

from flashvtg_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The authors' settings, but for the epochs: their script says 1. Takes no argument."""
    config = common.get_common()
    config.name = "charades_sta_vgg"  # of the experiment
    common.refuse_argument(config.name, arg)
    config.clip_length = 0.166666  # seconds, rounded as the authors do

    config.model.kernel_size = 3  # of the convolutions of the score heads
    config.model.num_conv_layers = 2  # convolutions of each score head
    config.loss.lw_sal = 0.01  # weight of the alignment of clips with their query
    config.loss.label_loss_coef = 0.1  # weight of the clip-aware score loss

    config.data.dataset = "charades_sta/vgg"  # TFDS name: builder/config
    config.data.val_split = "test"  # the only other split there is
    config.data.video_streams = ("vgg",)  # the only features of a clip
    config.data.video_widths = ConfigDict()  # width of each stream
    config.data.video_widths.vgg = 4096  # VGG, of the RGB frames
    config.data.query_width = 300  # width of a word's features: GloVe
    config.data.normalize_query = False  # the authors use GloVe's vectors as they are
    config.data.max_clips = None  # no limit
    config.data.max_words = 100  # longer queries are cut
    config.data.buckets = None  # lengths chosen by the split
    config.data.labels = "windows"  # saliency labels are made from the moments
    config.data.source_video = "vid"  # what excerpts of one source video share

    config.optimizer.learning_rate = 1e-4  # of AdamW
    config.train.batch_size = 16  # queries in a step
    config.train.epochs = 50  # passes over the training split, as with other features
    # Metrics whose mean selects the best checkpoint; without NMS.
    config.train.selection_metrics = ("MR-full-R1@0.5", "MR-full-R1@0.7")
    config.evaluation.batch_size = 16  # queries in a batch: videos are long
    config.evaluation.window_range = (0.0, 360.0)  # of moments, in seconds
    return config

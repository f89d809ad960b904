"""TACoS with SlowFast and CLIP features: cooking videos of up to 700 clips of 2 s.

    flashvtg build --dataset=tacos/slowfast_clip --manual_dir=DIR --data_dir=data
    flashvtg train --config=tacos_slowfast_clip --workdir=runs/tacos

Published for FlashVTG, as later papers report it:

    R1@0.3  R1@0.5  R1@0.7   mIoU
     53.71   41.76   24.74  37.61

These are of the test split, on which the authors also select the best checkpoint. To select on the
validation split instead, add --config.data.val_split=val, and evaluate the test split afterwards.
"""

from ml_collections import ConfigDict

from flashvtg_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The authors' settings. Takes no argument."""
    config = common.get_common()
    config.name = "tacos_slowfast_clip"  # of the experiment
    common.refuse_argument(config.name, arg)

    config.model.t2v_layers = 8  # layers of adaptive cross attention
    config.model.dummy_layers = 3  # layers of the encoder of dummy tokens
    config.model.num_dummies = 35  # dummy tokens
    config.model.num_conv_layers = 2  # convolutions of each score head
    config.model.dropout = 0.0  # on attention weights and in feed-forward blocks
    config.model.drop_path = 0.0  # the authors' --dropout is both; their dummy encoder keeps 0.1
    config.loss.lw_sal = 0.05  # weight of the alignment of clips with their query

    config.data.dataset = "tacos/slowfast_clip"  # TFDS name: builder/config
    config.data.val_split = "test"  # as the authors; "val" is there as well
    config.data.max_clips = None  # no limit
    config.data.max_words = 100  # longer queries are cut
    config.data.buckets = None  # lengths chosen by the split
    config.data.labels = "windows"  # saliency labels are made from the moments
    config.data.source_video = "vid"  # what excerpts of one source video share

    config.optimizer.learning_rate = 2e-4  # of AdamW
    config.train.batch_size = 32  # queries in a step
    config.train.epochs = 150  # passes over the training split
    config.train.evaluate_every_epochs = 3  # epochs between evaluations
    config.train.selection_metrics = ("MR-full-R1@0.3",)  # selects the best checkpoint
    config.evaluation.batch_size = 16  # queries in a batch: videos are long
    config.evaluation.window_range = None  # moments end with their video
    return config

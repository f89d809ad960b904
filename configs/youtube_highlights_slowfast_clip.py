"""YouTube Highlights with CLIP and SlowFast features: highlights in six domains.

    flashvtg build --dataset=youtube_highlights/slowfast_clip --manual_dir=DIR --data_dir=data
    flashvtg train --config=youtube_highlights_slowfast_clip --workdir=runs/youtube_highlights
    flashvtg train --config=youtube_highlights_slowfast_clip:dog --workdir=runs/youtube_highlights

A model for each domain, or for the one that the argument names. Results vary with the seed:
--config.seeds=2023,2024,2025 runs several. The authors' script trains two of the domains, for five
epochs. We know of no published numbers.
"""

from ml_collections import ConfigDict

from flashvtg_jax.configs import common

DOMAINS = ("dog", "gymnastics", "parkour", "skating", "skiing", "surfing")


def get_config(arg: str | None = None) -> ConfigDict:
    """The authors' settings. The argument is a domain; without, all of them."""
    config = common.get_highlights()
    config.name = "youtube_highlights_slowfast_clip"  # of the experiment
    config.data.domains = common.choose_domains(config.name, DOMAINS, arg)  # a model each
    config.clip_length = 1.0  # seconds, nominally: labelled clips last 1.7 s and more

    config.model.num_dummies = 1  # dummy token
    config.model.kernel_size = 5  # of the convolutions of the score heads
    config.model.num_conv_layers = 2  # convolutions of each score head
    config.loss.lw_cls = 0.6  # weight of the classification of clips
    config.loss.lw_sal = 0.5  # weight of the alignment of clips with their query
    config.loss.lw_saliency = 0.7  # weight of the saliency losses
    config.loss.label_loss_coef = 5.0  # weight of the clip-aware score loss
    config.loss.negative_pair_weight = 0.0  # a domain's videos share their query: no negatives

    config.data.dataset = "youtube_highlights/slowfast_clip"  # TFDS name: builder/config
    config.data.video_streams = ("clip", "slowfast")  # the authors' order
    config.data.labels = "binary"  # saliency labels are the highlights themselves

    config.optimizer.learning_rate = 2e-4  # of AdamW
    config.train.epochs = 5  # passes over the training split, as the authors' script says
    config.train.drop_last = True  # leave out the last batch of an epoch if it is not full
    config.evaluation.batch_size = 1  # queries in a batch: lengths differ much
    return config

"""TVSum with SlowFast and CLIP features: highlights in ten domains, four training videos in each.

    flashvtg build --dataset=tvsum/slowfast_clip --manual_dir=DIR --data_dir=data
    flashvtg train --config=tvsum_slowfast_clip --workdir=runs/tvsum
    flashvtg train --config=tvsum_slowfast_clip:BK --workdir=runs/tvsum
    flashvtg train --config=tvsum_slowfast_clip --workdir=runs/tvsum --config.seeds=2023,2024,2025

A model for each domain, or for the one that the argument names. Results vary with the seed, and the
checkpoint is selected on the only test video of a domain, as the authors do. We know of no
published numbers.
"""

from ml_collections import ConfigDict

from flashvtg_jax.configs import common

DOMAINS = ("BK", "BT", "DS", "FM", "GA", "MS", "PK", "PR", "VT", "VU")


def get_config(arg: str | None = None) -> ConfigDict:
    """The authors' settings. The argument is a domain; without, all of them."""
    config = common.get_highlights()
    config.name = "tvsum_slowfast_clip"  # of the experiment
    config.data.domains = common.choose_domains(config.name, DOMAINS, arg)  # a model each

    config.model.num_dummies = 3  # dummy tokens
    config.model.kernel_size = 3  # of the convolutions of the score heads
    config.model.num_conv_layers = 3  # convolutions of each score head

    config.data.dataset = "tvsum/slowfast_clip"  # TFDS name: builder/config
    config.data.labels = "ratings"  # saliency labels are made from annotators' ratings

    config.optimizer.learning_rate = 1e-3  # of AdamW
    config.optimizer.weight_decay = 0.05  # of AdamW, on all parameters
    config.train.epochs = 600  # passes over the four videos, a step each
    config.train.checkpoint_every_epochs = 50  # epochs between checkpoints
    config.evaluation.batch_size = 1  # queries in a batch: a domain has one
    return config

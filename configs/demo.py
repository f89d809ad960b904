"""A small model on a synthetic data set: the whole program in minutes, on two CPU cores.

    flashvtg train --config=demo --workdir=runs/demo

Synthesises features with planted moments, builds them as the real ones are built, trains and
evaluates. The metrics show that the program works and say nothing about real videos; there are no
published ones.
"""

from ml_collections import ConfigDict

from flashvtg_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Small widths, a few hundred queries, less regularisation. Takes no argument."""
    config = common.get_common()
    config.name = "demo"  # of the experiment
    common.refuse_argument(config.name, arg)

    synthetic = config.synthetic = ConfigDict()  # a data set to make before training
    synthetic.num_train = 400  # training queries
    synthetic.num_val = 100  # validation queries
    synthetic.strength = 1.0  # of the planted moments against the noise; 0: nothing to learn

    config.model.hidden_dim = 64  # D, the width of every token
    config.model.num_heads = 4  # attention heads
    config.model.ffn_dim = 128  # hidden width of the feed-forward blocks
    config.model.t2v_layers = 2  # layers of adaptive cross attention
    config.model.enc_layers = 1  # layers of the clip encoder
    config.model.dummy_layers = 1  # layers of the encoder of dummy tokens
    config.model.num_dummies = 8  # dummy tokens
    config.model.num_mlp_layers = 3  # dense layers of each score head
    config.model.input_dropout = 0.1  # on the features: they are narrow
    config.model.dropout = 0.0  # the training is too short to overfit
    config.model.drop_path = 0.0  # likewise
    config.model.dummy_dropout = 0.0  # likewise
    config.model.dummy_drop_path = 0.0  # likewise

    config.data.data_dir = None  # in the work directory, apart from real data sets
    config.data.video_widths.slowfast = 64  # width of the synthetic SlowFast features
    config.data.video_widths.clip = 32  # width of the synthetic CLIP features
    config.data.query_width = 32  # width of the synthetic words' features
    config.data.num_threads = 2  # that read examples: one a core

    config.optimizer.learning_rate = 2e-3  # higher: the model is small, the training short
    config.optimizer.gradient_clip_norm = 1.0  # higher, for the same reason

    config.train.batch_size = 32  # queries in a step
    config.train.epochs = 25  # passes over the training split
    config.train.log_every_steps = 10  # steps between lines of the log
    config.train.evaluate_every_epochs = 5  # epochs between evaluations
    config.train.evaluate_untrained = True  # to show what training gains
    config.train.checkpoint_every_epochs = 5  # epochs between checkpoints
    config.evaluation.batch_size = 32  # queries in a batch
    return config

"""The configuration of `--smoke`: as small as a model can be, to see that a benchmark runs."""

from ml_collections import ConfigDict

from flashvtg_jax.configs import demo


def get_config(arg: str | None = None) -> ConfigDict:
    """The demo's configuration with one of everything. Takes no argument."""
    config = demo.get_config(arg)
    config.name = "smoke"  # of the experiment

    config.model.hidden_dim = 16  # D, the width of every token
    config.model.num_heads = 2  # attention heads
    config.model.ffn_dim = 32  # hidden width of the feed-forward blocks
    config.model.n_input_proj = 1  # blocks of the input projections
    config.model.t2v_layers = 1  # layers of adaptive cross attention
    config.model.num_dummies = 2  # dummy tokens
    config.model.num_mlp_layers = 1  # dense layers of each score head
    config.model.strides = (1.0, 2.0)  # of the pyramid's levels
    return config

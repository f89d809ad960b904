"""A small model and random batches for the tests of this folder."""

import functools

import jax
import numpy as np
import pytest

from flashvtg_jax.models import FlashVTG
from tests import reference

SMALL = {
    "hidden_dim": 16,
    "num_heads": 2,
    "ffn_dim": 32,
    "t2v_layers": 2,
    "enc_layers": 1,
    "dummy_layers": 1,
    "num_dummies": 3,
    "num_mlp_layers": 2,
    "num_conv_layers": 2,
}


def make_model(**fields) -> FlashVTG:
    return reference.make_model(**{**SMALL, **fields})


def make_batch(lengths, words, clips, num_words, seed=0):
    """video, video_mask, query, query_mask with noise where padded; widths 10 and 6."""
    rng = np.random.default_rng(seed)
    video_mask = np.arange(clips) < np.asarray(lengths)[:, None]
    query_mask = np.arange(num_words) < np.asarray(words)[:, None]
    video = rng.standard_normal((len(lengths), clips, 10)).astype(np.float32)
    query = rng.standard_normal((len(lengths), num_words, 6)).astype(np.float32)
    return video, video_mask, query, query_mask


@functools.cache
def init(model: FlashVTG):
    """Parameters of a small model, none with a symmetric value."""
    return random_params(model, *make_batch([3], [2], 4, 3))


def random_params(model: FlashVTG, *batch):
    """Noise in the shapes of the parameters, around 1 for scales. Initializers compile for long."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *batch)["params"]
    rng = np.random.default_rng(1)

    def noise(path, leaf):
        centre = float(path[-1].key in ("scale", "level_factor"))
        return (centre + 0.3 * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(noise, shapes)


@functools.cache
def compiled(model: FlashVTG, **options):
    """The model as a compiled function of parameters and batch."""
    return jax.jit(lambda params, *batch: model.apply({"params": params}, *batch, **options))


@pytest.fixture
def small():
    """make_model, make_batch, init, random_params and compiled, as attributes."""

    class Small:
        pass

    Small.make_model = staticmethod(make_model)
    Small.make_batch = staticmethod(make_batch)
    Small.init = staticmethod(init)
    Small.random_params = staticmethod(random_params)
    Small.compiled = staticmethod(compiled)
    return Small

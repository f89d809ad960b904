"""Moment queries learn: they find moments of videos never seen, which no untrained model does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.decoding import decode_moments
from flashvtg_jax.losses import Targets
from flashvtg_jax.metrics.moment_retrieval import temporal_iou
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.state import init_state
from flashvtg_jax.training.step import make_train_step

ROWS, CLIPS, WIDTH = 16, 16, 8
FIELDS = {
    "model.moment_head": "queries",
    "model.num_moment_queries": 4,
    "model.hidden_dim": 16,
    "model.num_heads": 2,
    "model.ffn_dim": 32,
    "model.t2v_layers": 1,
    "model.num_dummies": 2,
    "model.input_dropout": 0.0,
}


def make_batch(key) -> Batch:
    """Videos of 12 to 16 clips of 2 s, with one or two moments that their clips tell of."""
    keys = jax.random.split(key, 5)
    num_clips = jax.random.randint(keys[0], (ROWS, 1), 12, CLIPS + 1)
    start = jax.random.randint(keys[1], (ROWS, 2), 0, 4) + jnp.array([0, 7])
    length = jax.random.randint(keys[2], (ROWS, 2), 2, 5)
    end = jnp.minimum(start + length, num_clips)
    there = jnp.stack([jnp.ones(ROWS, bool), jax.random.bernoulli(keys[3], 0.5, (ROWS,))], axis=1)
    clip = jnp.arange(CLIPS)
    inside = (start[..., None] <= clip) & (clip < end[..., None]) & there[..., None]
    inside = inside.any(axis=1)
    video_mask = clip < num_clips
    video = 0.3 * jax.random.normal(keys[4], (ROWS, CLIPS, WIDTH))
    video = video.at[..., 0].add(inside)
    return Batch(
        video=jnp.where(video_mask[..., None], video, 0),
        video_mask=video_mask,
        query=jnp.ones((ROWS, 3, WIDTH)),
        query_mask=jnp.ones((ROWS, 3), bool),
        duration=2.0 * num_clips[:, 0],
        example=jnp.arange(ROWS),
        targets=Targets(
            windows=2.0 * jnp.stack([start, end], axis=-1),
            window_mask=there,
            saliency_labels=12.0 * inside,
            positive_clips=inside.argmax(axis=1, keepdims=True),
            negative_clips=(~inside).argmax(axis=1, keepdims=True),
            video_id=jnp.arange(ROWS),
        ),
    )


@pytest.mark.slow
def test_moments_of_videos_never_seen_are_found():
    config = load_config("demo", FIELDS)
    model = build_model(config.model)
    optimizer = optax.adam(3e-3)
    state = init_state(model, optimizer, WIDTH, WIDTH, seed=0)
    step = make_train_step(model, optimizer, config.loss)

    @jax.jit
    def repeat(state):
        keys = jax.random.split(jax.random.key(1), 600)
        return jax.lax.scan(lambda state, key: step(state, make_batch(key)), state, keys)

    batch = jax.jit(make_batch)(jax.random.key(2))

    @jax.jit
    def decode(params):
        arrays = (batch.video, batch.video_mask, batch.query, batch.query_mask)
        return decode_moments(model.apply({"params": params}, *arrays), batch.duration)

    def mean_iou(params):
        """Of the best moment of each video with the nearest of its windows."""
        iou = temporal_iou(np.asarray(decode(params))[:, :1, :2], np.asarray(batch.targets.windows))
        return np.where(batch.targets.window_mask, iou[:, 0], 0).max(axis=1).mean()

    untrained = mean_iou(state.params)
    state, metrics = repeat(state)
    assert jnp.isfinite(metrics["loss"]).all()
    assert mean_iou(state.params) > 0.6 and untrained < 0.3

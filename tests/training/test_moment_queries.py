"""Moment queries learn: from a batch they find its moments, which an untrained model does not."""

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

CLIPS, WIDTH = 16, 8
WINDOWS = np.array([[2, 8], [10, 30], [4, 24], [20, 26]], np.float32)  # seconds, of clips of 2 s
FIELDS = {
    "model.moment_head": "queries",
    "model.num_queries": 3,
    "model.hidden_dim": 16,
    "model.num_heads": 2,
    "model.ffn_dim": 32,
    "model.t2v_layers": 1,
    "model.num_dummies": 2,
    "model.input_dropout": 0.0,
}


def make_batch() -> Batch:
    """Four videos whose clips say whether they are in the moment."""
    B = len(WINDOWS)
    rng = np.random.default_rng(0)
    middle = 2 * np.arange(CLIPS) + 1
    inside = (WINDOWS[:, :1] < middle) & (middle < WINDOWS[:, 1:])
    video = 0.1 * rng.standard_normal((B, CLIPS, WIDTH)).astype(np.float32)
    video[..., 0] += inside
    positive, negative = ([np.flatnonzero(r)[:1] for r in rows] for rows in (inside, ~inside))
    return Batch(
        video=video,
        video_mask=np.ones((B, CLIPS), bool),
        query=rng.standard_normal((B, 3, WIDTH)).astype(np.float32),
        query_mask=np.ones((B, 3), bool),
        duration=np.full(B, 2.0 * CLIPS, np.float32),
        example=np.arange(B, dtype=np.int32),
        targets=Targets(
            windows=WINDOWS[:, None],
            window_mask=np.ones((B, 1), bool),
            saliency_labels=12.0 * inside.astype(np.float32),
            positive_clips=np.array(positive, np.int32),
            negative_clips=np.array(negative, np.int32),
            video_id=np.arange(B, dtype=np.int32),
        ),
    )


@pytest.mark.slow
def test_a_batch_is_learned():
    config = load_config("demo", FIELDS)
    model, batch = build_model(config.model), make_batch()
    optimizer = optax.adam(3e-3)
    state = init_state(model, optimizer, WIDTH, WIDTH, seed=0)
    step = make_train_step(model, optimizer, config.loss)

    @jax.jit
    def repeat(state):
        return jax.lax.scan(lambda state, _: step(state, batch), state, None, length=300)

    @jax.jit
    def best_iou(params):
        arrays = (batch.video, batch.video_mask, batch.query, batch.query_mask)
        return decode_moments(model.apply({"params": params}, *arrays), batch.duration)[:, 0]

    def ious(params):
        best = np.asarray(best_iou(params))[:, None, :2]
        return temporal_iou(best, WINDOWS[:, None])[:, 0, 0]

    untrained = ious(state.params)
    state, metrics = repeat(state)
    assert jnp.isfinite(metrics["loss"]).all()
    assert metrics["generalized_iou"][-1] < 0.5 * metrics["generalized_iou"][0]
    assert (ious(state.params) > 0.7).all() and untrained.mean() < 0.5

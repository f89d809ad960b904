"""Temporal feature layering and score refinement inside a linen model of another shape.

    python examples/linen_model.py

Sound events of 1 to 8 frames are to be found in recordings of up to 96 frames of 20 bands: a model
with a convolution of its own, four levels of width 48, and one score for each point of the pyramid,
"an event of my length lies here". Recordings differ in length: masks say how.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import flashvtg_jax as fv

NUM_FRAMES, NUM_BANDS = 96, 20
STRIDES = (1, 2, 4, 8)  # frames that a point of each level covers


class EventDetector(nn.Module):
    """Frames [B, L, 20] and their mask [B, L] -> logits [B, P] and their mask [B, P]."""

    width: int = 48

    @nn.compact
    def __call__(self, frames, mask):
        x = jnp.where(mask[..., None], frames, 0)
        x = nn.gelu(nn.Conv(self.width, (5,), name="stem")(x))
        levels = fv.TemporalFeatureLayering(strides=STRIDES, name="pyramid")(x)
        levels = [nn.LayerNorm(name=f"norm_{k}")(level) for k, level in enumerate(levels)]
        masks = fv.make_point_mask(mask, STRIDES)
        refinement = fv.AdaptiveScoreRefinement(
            kernel_size=3, num_conv_layers=2, num_mlp_layers=2, name="scores"
        )
        logits, _, _ = refinement(levels, masks)
        return logits, jnp.concatenate(masks, axis=1)


@partial(jax.jit, static_argnames="batch")
def make_batch(key, batch=16):
    """Frames [B, 96, 20], mask [B, 96] and for each point whether an event fills it [B, P].

    One event in each recording: it raises the bands from 10 on, for 1, 2, 4 or 8 frames that begin
    at a multiple of their number.
    """
    length_key, level_key, place_key, noise_key = jax.random.split(key, 4)
    num_frames = jax.random.randint(length_key, (batch, 1), 48, NUM_FRAMES + 1)
    mask = jnp.arange(NUM_FRAMES) < num_frames
    level = jax.random.randint(level_key, (batch, 1), 0, len(STRIDES))
    stride = jnp.asarray(STRIDES)[level]
    place = (jax.random.uniform(place_key, (batch, 1)) * (num_frames // stride)).astype(int)
    inside = jnp.arange(NUM_FRAMES) // stride == place
    raised = inside[..., None] & (jnp.arange(NUM_BANDS) >= 10)
    frames = raised + 0.5 * jax.random.normal(noise_key, (batch, NUM_FRAMES, NUM_BANDS))
    filled = [(jnp.arange(NUM_FRAMES // s) == place) & (level == k) for k, s in enumerate(STRIDES)]
    return frames, mask, jnp.concatenate(filled, axis=1)


def main(num_steps: int = 60) -> list[float]:
    """Trains and shows; returns the losses."""
    model, optimizer = EventDetector(), optax.adam(1e-3)

    def loss_function(params, batch):
        frames, mask, filled = batch
        logits, point_mask = model.apply({"params": params}, frames, mask)
        # One point of each recording is right: which?
        logits = jnp.where(point_mask, logits, -jnp.inf)
        return optax.softmax_cross_entropy(logits, filled, where=point_mask).mean()

    @jax.jit
    def train_step(params, state, key):
        loss, gradient = jax.value_and_grad(loss_function)(params, make_batch(key))
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    frames, mask, filled = make_batch(jax.random.key(1), batch=200)
    params = jax.jit(model.init)(jax.random.key(0), frames[:1], mask[:1])["params"]
    shapes = {name: len(jax.tree.leaves(part)) for name, part in params.items()}
    print(f"arrays of each part: {shapes}")
    state, losses = optimizer.init(params), []
    for step, key in enumerate(jax.random.split(jax.random.key(2), num_steps)):
        params, state, loss = train_step(params, state, key)
        losses.append(float(loss))
        if step % 15 == 0 or step == num_steps - 1:
            print(f"step {step:3d}: loss {loss:.3f}")

    logits, point_mask = jax.jit(model.apply)({"params": params}, frames, mask)
    best = jnp.where(point_mask, logits, -jnp.inf).argmax(1)
    right = jnp.take_along_axis(filled, best[:, None], axis=1)
    print(f"place and length of the event, both right: {right.mean():.1%} of new recordings")
    return losses


if __name__ == "__main__":
    main()

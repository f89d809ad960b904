"""The same linen modules inside a Flax NNX model, by `nnx.bridge.ToNNX`.

    python examples/nnx_model.py

A text of 48 sentences, each an embedding of width 24, falls into sections about one topic each; the
model says after each sentence whether a section ends. A pyramid of three levels sees how sentences
around it agree, its scores at level 1 are the answer.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import flashvtg_jax as fv

NUM_SENTENCES, WIDTH, STRIDES = 48, 24, (1, 2, 4)


class Segmenter(nnx.Module):
    """Sentences [B, 48, 24] and their mask [B, 48] -> logits [B, 48] that a section ends there."""

    def __init__(self, rngs: nnx.Rngs):
        self.encoder = nnx.Linear(3 * WIDTH, 64, rngs=rngs)
        pyramid = fv.TemporalFeatureLayering(strides=STRIDES)
        refinement = fv.AdaptiveScoreRefinement(kernel_size=5, num_conv_layers=1, num_mlp_layers=2)
        # Linen learns its shapes from arrays: these are never computed with again.
        memory, mask = jnp.zeros((1, NUM_SENTENCES, 64)), jnp.ones((1, NUM_SENTENCES), bool)
        self.pyramid = nnx.bridge.ToNNX(pyramid, rngs=rngs).lazy_init(memory)
        levels, masks = self.pyramid(memory), fv.make_point_mask(mask, STRIDES)
        self.refinement = nnx.bridge.ToNNX(refinement, rngs=rngs).lazy_init(levels, masks)

    def __call__(self, sentences: jax.Array, mask: jax.Array) -> jax.Array:
        sentences = jnp.where(mask[..., None], sentences, 0)
        following = jnp.roll(sentences, -1, axis=1)
        together = jnp.concatenate([sentences, following, sentences * following], axis=-1)
        levels = self.pyramid(nnx.relu(self.encoder(together)))
        logits, _, _ = self.refinement(levels, fv.make_point_mask(mask, STRIDES))
        return logits[:, :NUM_SENTENCES]  # the points of level 1 come first


@partial(jax.jit, static_argnames="batch")
def make_batch(key, batch=16):
    """Sentences [B, 48, 24], mask [B, 48], section ends [B, 48] (the last one is not asked for)."""
    length_key, end_key, topic_key, noise_key = jax.random.split(key, 4)
    num_sentences = jax.random.randint(length_key, (batch, 1), 24, NUM_SENTENCES + 1)
    mask = jnp.arange(NUM_SENTENCES) < num_sentences
    ends = jax.random.bernoulli(end_key, 0.2, (batch, NUM_SENTENCES))
    section = jnp.cumsum(ends, axis=1) - ends  # a section ends with its last sentence
    topics = jax.random.normal(topic_key, (batch, NUM_SENTENCES, WIDTH))
    sentences = jnp.take_along_axis(topics, section[..., None], axis=1)
    sentences += 0.5 * jax.random.normal(noise_key, sentences.shape)
    asked = jnp.arange(NUM_SENTENCES) < num_sentences - 1
    return sentences, mask, ends, asked


@nnx.jit
def train_step(model: Segmenter, optimizer: nnx.Optimizer, key: jax.Array) -> jax.Array:
    sentences, mask, ends, asked = make_batch(key)

    def loss_function(model):
        losses = optax.sigmoid_binary_cross_entropy(model(sentences, mask), ends)
        return losses.mean(where=asked)

    loss, gradient = nnx.value_and_grad(loss_function)(model)
    optimizer.update(model, gradient)
    return loss


@nnx.jit
def predict(model: Segmenter, sentences: jax.Array, mask: jax.Array) -> jax.Array:
    return model(sentences, mask)


def main(num_steps: int = 60) -> list[float]:
    """Trains and shows; returns the losses."""
    model = nnx.jit(lambda: Segmenter(nnx.Rngs(0)))()
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    print(f"{count} parameters, all of them nnx.Param")
    losses = []
    for step, key in enumerate(jax.random.split(jax.random.key(1), num_steps)):
        losses.append(float(train_step(model, optimizer, key)))
        if step % 15 == 0 or step == num_steps - 1:
            print(f"step {step:3d}: loss {losses[-1]:.3f}")

    sentences, mask, ends, asked = make_batch(jax.random.key(2), batch=200)
    right = (predict(model, sentences, mask) > 0) == ends
    print(f"sections that end, or do not, right: {right.mean(where=asked):.1%} (never: 80%)")
    return losses


if __name__ == "__main__":
    main()

"""Adaptive cross attention in a plain JAX program: parameters in a dictionary, a step by hand.

    python examples/plain_jax.py

A sequence of 24 sounds is to be read with a list of 5 words in mind: which sounds does one of them
name? Half of the sounds are named by none, and learn to leave the words alone.
"""

from functools import partial

import jax
import jax.numpy as jnp

import flashvtg_jax as fv

WIDTH, NUM_SOUNDS, NUM_WORDS, NUM_DUMMIES = 32, 24, 5, 4
LEARNING_RATE, MOMENTUM = 0.1, 0.9

attention = fv.AdaptiveCrossAttention(
    num_layers=2, num_heads=4, ffn_dim=64, dropout=0.1, drop_path=0.1
)


@partial(jax.jit, static_argnames="batch")
def make_batch(key, names, batch=32):
    """Sounds [B, 24, 32], words [B, 5, 32], word_mask [B, 5] and which sounds are named [B, 24]."""
    chosen_key, length_key, which_key, noise_key = jax.random.split(key, 4)
    order = jax.vmap(lambda key: jax.random.permutation(key, len(names)))(
        jax.random.split(chosen_key, batch)
    )
    num_words = jax.random.randint(length_key, (batch, 1), 2, NUM_WORDS + 1)
    word_mask = jnp.arange(NUM_WORDS) < num_words  # [B, 5]: lists differ in length
    words = names[order[:, :NUM_WORDS]]
    # Among the first `num_words` of the order, or among those that no list of this row has.
    low, high = jax.random.uniform(which_key, (2, batch, NUM_SOUNDS))
    named = low < 0.5
    place = jnp.where(
        named,
        high * num_words,
        NUM_WORDS + high * (len(names) - NUM_WORDS),
    ).astype(int)
    sounds = names[jnp.take_along_axis(order, place, axis=1)]
    sounds += 0.3 * jax.random.normal(noise_key, sounds.shape)
    return sounds, words, word_mask, named


def init(key):
    """All parameters: of the attention as linen makes them, the rest by hand."""
    attention_key, dummy_key = jax.random.split(key)
    sounds, words = jnp.zeros((1, NUM_SOUNDS, WIDTH)), jnp.zeros((1, NUM_WORDS, WIDTH))
    mask, dummies = jnp.ones((1, NUM_WORDS), bool), jnp.zeros((1, NUM_DUMMIES, WIDTH))
    variables = attention.init(attention_key, sounds, sounds, words, mask, dummies)
    return {
        "attention": variables["params"],
        "dummies": jax.random.normal(dummy_key, (NUM_DUMMIES, WIDTH)),
        "readout": {"kernel": jnp.zeros(WIDTH + 1), "bias": jnp.zeros(())},
    }


def predict(params, sounds, words, word_mask, dropout_key=None):
    """Logits [B, 24] of being named, and how much of the attention reached words [B, 24]."""
    dummies = jnp.broadcast_to(params["dummies"], (len(sounds), NUM_DUMMIES, WIDTH))
    train = dropout_key is not None
    read, on_words = attention.apply(
        {"params": params["attention"]},
        sounds,
        jnp.zeros_like(sounds),  # order does not matter here: no positions
        words,
        word_mask,
        dummies,
        train=train,
        rngs={"dropout": dropout_key} if train else None,
    )
    features = jnp.concatenate([read, on_words[..., None]], axis=-1)
    return features @ params["readout"]["kernel"] + params["readout"]["bias"], on_words


def loss_function(params, batch, dropout_key):
    sounds, words, word_mask, named = batch
    logits, _ = predict(params, sounds, words, word_mask, dropout_key)
    return jnp.mean(jnp.logaddexp(0, jnp.where(named, -logits, logits)))


@jax.jit
def train_step(params, velocity, key, names):
    """Stochastic gradient descent with momentum, written out."""
    batch_key, dropout_key = jax.random.split(key)
    batch = make_batch(batch_key, names)
    loss, gradient = jax.value_and_grad(loss_function)(params, batch, dropout_key)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
    params = jax.tree.map(lambda p, v: p - LEARNING_RATE * v, params, velocity)
    return params, velocity, loss


def main(num_steps: int = 80) -> list[float]:
    """Trains and shows; returns the losses."""
    names = jax.random.normal(jax.random.key(1), (40, WIDTH))  # what a sound of each kind is like
    params = jax.jit(init)(jax.random.key(0))
    velocity = jax.tree.map(jnp.zeros_like, params)
    losses = []
    for step, key in enumerate(jax.random.split(jax.random.key(2), num_steps)):
        params, velocity, loss = train_step(params, velocity, key, names)
        losses.append(float(loss))
        if step % 20 == 0 or step == num_steps - 1:
            print(f"step {step:3d}: loss {loss:.3f}")

    sounds, words, word_mask, named = make_batch(jax.random.key(3), names, batch=256)
    logits, on_words = jax.jit(predict)(params, sounds, words, word_mask)
    print(f"named or not, right: {((logits > 0) == named).mean():.1%}")
    print(
        "attention that reaches words: "
        f"{on_words[named].mean():.0%} of a named sound's, {on_words[~named].mean():.0%} of others'"
    )
    return losses


if __name__ == "__main__":
    main()

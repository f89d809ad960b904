"""The weighted sum, its contract, and how it compiles."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.losses import objective
from flashvtg_jax.losses.moment import rating_classification

TERMS = {"classification", "regression", "alignment", "saliency", "clip_aware"}
LENGTHS = (16, 9, 5, 11)  # the shapes of the other tests, compiled once for all
WEIGHTS = dict(lw_cls=2.0, lw_reg=3.0, lw_sal=5.0, lw_saliency=7.0, label_loss_coef=11.0)


def test_loss_is_the_weighted_sum_of_its_terms(
    random_batch, loss_config, loss_and_terms, loss_and_gradients
):
    batch = random_batch(LENGTHS)
    loss, terms = loss_and_terms(*batch, loss_config(**WEIGHTS))
    assert set(terms) == TERMS
    weights = dict(classification=2, regression=3, alignment=5, saliency=7, clip_aware=11)
    np.testing.assert_allclose(loss, sum(weights[k] * terms[k] for k in terms), rtol=1e-6)
    chex.assert_shape([loss, *terms.values()], ())
    chex.assert_type([loss, *terms.values()], jnp.float32)
    chex.assert_trees_all_close(terms, loss_and_gradients(*batch, loss_config())[0][1], rtol=1e-5)


def test_highlight_detection_classifies_ratings_and_regresses_nothing(
    random_batch, loss_config, loss_and_gradients
):
    out, targets = random_batch(LENGTHS, strides=(1,))
    config = loss_config(
        classification="binary_cross_entropy", regression=False, alignment_directions=("row",)
    )
    (_, terms), _ = loss_and_gradients(out, targets, config)
    expected = rating_classification(out.logits, targets.saliency_labels, out.video_mask)
    np.testing.assert_allclose(terms["classification"], expected, rtol=1e-6)
    assert terms["regression"] == 0


def test_bfloat16_outputs_give_float32_losses(
    random_batch, loss_config, loss_and_terms, loss_and_gradients
):
    out, targets = random_batch(LENGTHS)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == np.float32 else x, out)
    half = half.replace(points=out.points)
    loss, terms = loss_and_terms(half, targets, loss_config())
    chex.assert_type([loss, *terms.values()], jnp.float32)
    (expected, _), _ = loss_and_gradients(out, targets, loss_config())
    np.testing.assert_allclose(loss, expected, rtol=2e-2)


def test_gradients_are_those_of_finite_differences(random_batch, loss_config, loss_and_gradients):
    out, targets = random_batch(LENGTHS, video_id=(0, 0, 1, 2), seed=4)
    # All memories positive: the cosine of an all-zero clip has no derivative.
    out, config = out.replace(memory=out.memory + 0.1), loss_config()
    _, gradients = loss_and_gradients(out, targets, config)
    rng, step = np.random.default_rng(0), 1e-3
    for name, gradient in gradients.items():
        # The direction of steepest ascent, somewhat disturbed: a slope well above rounding.
        direction = gradient / np.abs(gradient).max()
        direction += 0.1 * rng.standard_normal(direction.shape).astype(np.float32)
        moved = [
            out.replace(**{name: getattr(out, name) + sign * step * direction}) for sign in (1, -1)
        ]
        ahead, behind = (loss_and_gradients(m, targets, config)[0][0] for m in moved)
        slope = (gradient * direction).sum()
        np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=2e-2, err_msg=name)


def test_compiles_once_for_all_batches_of_a_shape(random_batch, loss_config):
    chex.clear_trace_counter()
    config = loss_config()
    compiled = jax.jit(
        chex.assert_max_traces(lambda out, targets: objective(out, targets, config)[0], n=1)
    )
    for lengths in ((9, 4, 9), (1, 0, 2), (0, 0, 0)):
        out, targets = random_batch(lengths, clips=9, video_id=np.minimum(lengths, 4))
        assert np.isfinite(compiled(out, targets))


def test_batches_can_be_vmapped(random_batch, loss_config, loss_and_gradients):
    config = loss_config()
    batches = [random_batch(LENGTHS, seed=s) for s in range(3)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    losses = jax.jit(jax.vmap(lambda out, targets: objective(out, targets, config)[0]))(*stacked)
    expected = [loss_and_gradients(*batch, config)[0][0] for batch in batches]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_targets_of_another_batch_are_refused(random_batch, loss_config):
    out, _ = random_batch((9, 4))
    _, targets = random_batch((8, 4))
    with pytest.raises(AssertionError):
        objective(out, targets, loss_config())


def test_unknown_classification_is_a_clear_error(random_batch, loss_config):
    with pytest.raises(ConfigError, match=r"hinge.*focal"):
        jax.eval_shape(
            lambda out, targets: objective(out, targets, loss_config(classification="hinge")),
            *random_batch((3,)),
        )

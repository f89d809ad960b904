"""Clip-Aware Score loss."""

import jax
import numpy as np
import pytest

from flashvtg_jax.losses.clip_aware import clip_aware_loss


def points_of(*strides):
    """Points [P, 4] with these strides; only the stride is read."""
    return np.array([[0, 0, np.inf, stride] for stride in strides], np.float32)


LOGITS = np.array([[1, 2, 3], [5, 3, 77]], np.float32)
LABELS = np.array([[0, 6, 12], [3, 0, 99]], np.float32)
MASK = np.array([[True, True, True], [True, True, False]])
# Logits from 1 to 5, labels from 0 to 12: 0, 1/4, 1/2, 1, 1/2 against 0, 1/2, 1, 1/4, 0.
EXPECTED = (0 + 1 / 16 + 1 / 4 + 9 / 16 + 1 / 4) / 5


def test_by_hand():
    loss = clip_aware_loss(LOGITS, points_of(1, 1, 1), LABELS, MASK)
    np.testing.assert_allclose(loss, EXPECTED, rtol=1e-6)


def test_level_of_stride_one_is_found_wherever_it_is():
    other = np.full((2, 2), -50, np.float32)
    logits = np.concatenate([other, LOGITS, other], axis=1)
    loss = clip_aware_loss(logits, points_of(0.5, 0.5, 1, 1, 1, 2, 2), LABELS, MASK)
    np.testing.assert_allclose(loss, EXPECTED, rtol=1e-6)


@pytest.mark.parametrize("strides", [(2, 2, 2), (2,), (0.5,) * 6])
def test_without_such_a_level_the_loss_is_zero(strides):
    logits = np.ones((2, len(strides)), np.float32)
    assert clip_aware_loss(logits, points_of(*strides), LABELS, MASK) == 0


@pytest.mark.parametrize(
    "logits, labels, mask",
    [
        (LOGITS, np.ones_like(LABELS), MASK),
        (np.ones_like(LOGITS), LABELS, MASK),
        (np.ones_like(LOGITS), np.ones_like(LABELS), MASK),
        (LOGITS, LABELS, np.zeros_like(MASK)),
    ],
    ids=["equal labels", "equal logits", "both equal", "no clip"],
)
def test_without_contrast_the_loss_is_zero(logits, labels, mask):
    loss, gradient = jax.value_and_grad(clip_aware_loss)(logits, points_of(1, 1, 1), labels, mask)
    assert loss == 0 and not gradient.any()

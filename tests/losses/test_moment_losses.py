"""Classification and regression of points."""

import jax
import numpy as np
import pytest

from flashvtg_jax.losses.moment import (
    boundary_regression,
    focal_classification,
    rating_classification,
)

LOG_2 = np.log(2)


def test_focal_loss_by_hand():
    # Logit 0: probability 1/2, loss (1/2)^2 log 2. Logit log 3: probability 3/4, loss
    # (1/4)^2 log(4/3) of a positive point and (3/4)^2 log 4 of a negative one.
    logits = np.array([[0, np.log(3), np.log(3), 99]], np.float32)
    positive = np.array([[True, True, False, True]])
    mask = np.array([[True, True, True, False]])
    expected = (LOG_2 / 4 + np.log(4 / 3) / 16 + np.log(4) * 9 / 16) / 3
    loss = focal_classification(logits, positive, mask, gamma=2.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_focal_loss_without_focus_is_cross_entropy():
    logits = np.linspace(-3, 3, 7, dtype=np.float32)[None]
    positive = np.arange(7)[None] % 2 == 0
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(positive, probability, 1 - probability)).mean()
    loss = focal_classification(logits, positive, np.ones((1, 7), bool), gamma=0.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_saturated_logits_is_finite(gamma):
    logits = np.array([[-200, 200, -200, 200]], np.float32)
    positive = np.array([[True, True, False, False]])
    loss, gradient = jax.value_and_grad(focal_classification)(
        logits, positive, np.ones((1, 4), bool), gamma=gamma
    )
    np.testing.assert_allclose(loss, 100)  # two points that are wrong by 200
    np.testing.assert_allclose(gradient, [[-0.25, 0, 0, 0.25]], atol=1e-6)


def test_ratings_by_hand():
    # Logit 0: log 2 whatever the label. Logit log 3 against 2: log 4 - 2 log 3.
    logits = np.array([[0, np.log(3), 5]], np.float32)
    labels = np.array([[7, 2, 1]], np.float32)
    loss = rating_classification(logits, labels, np.array([[True, True, False]]))
    np.testing.assert_allclose(loss, (LOG_2 + np.log(4) - 2 * np.log(3)) / 2, rtol=1e-6)


def test_regression_by_hand():
    offsets = np.array([[[1, 2], [5, 5], [3, 3]], [[0, 4], [1, 1], [1, 1]]], np.float32)
    target = np.array([[[2, 2], [0, 0], [1, 6]], [[9, 9], [1, 1], [1, 1]]], np.float32)
    positive = np.array([[True, False, True], [False, False, False]])
    # |1 - 2| + |2 - 2| + |3 - 1| + |3 - 6| over 2 x 2 numbers.
    np.testing.assert_allclose(boundary_regression(offsets, target, positive), 6 / 4)


def test_regression_without_positive_points_is_zero():
    zeros = np.zeros((1, 3, 2), np.float32)
    loss, gradient = jax.value_and_grad(boundary_regression)(
        zeros, zeros + np.nan, np.zeros((1, 3), bool)
    )
    assert loss == 0 and not gradient.any()

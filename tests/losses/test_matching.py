"""Moment queries: matching against scipy, losses against values worked out by hand."""

from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from flashvtg_jax.losses import Targets, objective
from flashvtg_jax.losses.matching import (
    generalized_iou,
    match_queries,
    matched_losses,
    overlap_loss,
    query_classification,
    span_distance,
)
from flashvtg_jax.models.output import FlashVTGOutput

CONFIG = SimpleNamespace(
    clip_length=2.0,
    match_class_weight=4.0,
    match_span_weight=10.0,
    match_giou_weight=1.0,
    background_weight=0.1,
)


def plain_cost(logits, proposed, windows):
    """The cost of each pair, one by one: [N, M] float64."""
    cost = np.zeros((len(logits), len(windows)))
    for n, (logit, (a, b)) in enumerate(zip(logits, proposed, strict=True)):
        for m, (c, d) in enumerate(windows):
            lap = max(0.0, min(b, d) - max(a, c))
            union, hull = (b - a) + (d - c) - lap, max(b, d) - min(a, c)
            distance = abs((a + b) / 2 - (c + d) / 2) + abs((b - a) - (d - c))
            overlap = lap / union - (hull - union) / hull
            cost[n, m] = -4 / (1 + np.exp(-logit)) + 10 * distance - overlap
    return cost


def random_spans(rng, *shape):
    return np.sort(rng.uniform(size=(*shape, 2)), axis=-1).astype(np.float32)


@pytest.mark.parametrize("num_windows", [1, 4, 10, 17])
def test_the_match_costs_as_little_as_scipys(num_windows):
    rng = np.random.default_rng(num_windows)
    queries, rows = 10, 40
    logits = rng.standard_normal((rows, queries)).astype(np.float32)
    proposed = random_spans(rng, rows, queries)
    windows = random_spans(rng, rows, num_windows)
    # Any number of windows, none too, anywhere in the row.
    mask = rng.random((rows, num_windows)) < rng.random((rows, 1))
    match = jax.jit(lambda *arrays: match_queries(*arrays, CONFIG))(logits, proposed, windows, mask)
    for b in range(rows):
        cost = plain_cost(logits[b], proposed[b], windows[b][mask[b]])
        expected = linear_sum_assignment(cost)
        matched = np.flatnonzero(match.matched[b])
        chosen = np.asarray(match.window[b])[matched]
        assert len(matched) == len(set(chosen)) == min(queries, mask[b].sum())
        assert mask[b][chosen].all()
        columns = np.cumsum(mask[b])[chosen] - 1
        np.testing.assert_allclose(
            cost[matched, columns].sum(), cost[expected].sum(), rtol=1e-5, atol=1e-5
        )


def test_a_cost_that_is_not_finite_ends_the_search_all_the_same():
    logits = jnp.array([[jnp.nan, 0.0]])
    spans = jnp.array([[[0.0, 0.5], [0.5, 1.0]]])
    match = match_queries(logits, spans, spans[:, 1:], jnp.ones((1, 1), bool), CONFIG)
    np.testing.assert_array_equal(match.matched, [[False, True]])


def test_generalized_iou_of_windows():
    first = jnp.array([[0.0, 0.2], [0.5, 1.0]])
    second = jnp.array([[0.0, 0.3], [0.0, 1.0], [0.1, 0.1]])
    expected = [
        # A part of it; a part again; an instant within it, which has no length.
        [0.2 / 0.3, 0.2, 0.0],
        # Apart: of the hull of 1, 0.2 is covered by neither; a half; 0.4 of the hull of 0.9.
        [-0.2, 0.5, -0.4 / 0.9],
    ]
    np.testing.assert_allclose(generalized_iou(first, second), expected, atol=1e-6)
    # Instants cover nothing of their hull.
    np.testing.assert_allclose(generalized_iou(second[2:], first[:1, 1:] + jnp.zeros(2)), [[-1]])


def test_generalized_iou_of_instants_is_0_with_finite_gradients():
    point = jnp.array([[0.3, 0.3]])
    value, gradient = jax.value_and_grad(lambda x: generalized_iou(x, point).sum())(point)
    assert value == 0
    chex.assert_tree_all_finite(gradient)


def test_unmatched_queries_weigh_a_tenth():
    logits = jnp.array([[0.0, np.log(3.0)]])  # probabilities 1/2 and 3/4
    matched, rows = jnp.array([[True, False]]), jnp.array([True])
    loss = query_classification(logits, matched, rows, background_weight=0.1)
    np.testing.assert_allclose(loss, (np.log(2) + 0.1 * np.log(4)) / 2, rtol=1e-6)


def test_span_distance_is_the_mean_over_centres_and_widths_of_matched_queries():
    proposed = jnp.array([[[0.0, 0.4], [0.0, 1.0]]])  # centre 0.2, width 0.4
    windows = jnp.array([[[0.3, 0.9], [0.0, 0.1]]])  # centre 0.6, width 0.6
    matched = jnp.array([[True, False]])
    np.testing.assert_allclose(span_distance(proposed, windows, matched), (0.4 + 0.2) / 2, 1e-6)
    # Lap 0.1, union 0.9, which is the hull.
    np.testing.assert_allclose(overlap_loss(proposed, windows, matched), 1 - 0.1 / 0.9, 1e-6)
    nothing = jnp.array([[False, False]])
    assert span_distance(proposed, windows, nothing) == overlap_loss(proposed, windows, nothing)
    assert overlap_loss(proposed, windows, nothing) == 0


def output_of(starts_ends, logits, num_clips, clips=10, auxiliary=None):
    """What the model gives for moment queries: windows in clips [B, N, 2], logits [B, N]."""
    logits = jnp.asarray(logits, jnp.float32)
    B, N = logits.shape
    offsets = jnp.asarray(starts_ends, jnp.float32) * jnp.array([-1.0, 1.0])
    video_mask = jnp.arange(clips) < jnp.asarray(num_clips)[:, None]
    zeros = jnp.zeros((B, clips))
    if auxiliary is None:
        auxiliary = (jnp.zeros((B, 0, N)), jnp.zeros((B, 0, N, 2)))
    return FlashVTGOutput(
        memory=jnp.ones((B, clips, 4)),
        query_embedding=jnp.ones((B, 4)),
        intra_scale_logits=None,
        inter_scale_logits=None,
        logits=logits,
        offsets=offsets,
        points=jnp.broadcast_to(jnp.array([0.0, 0.0, jnp.inf, 1.0]), (N, 4)),
        point_mask=jnp.broadcast_to(video_mask.any(-1, keepdims=True), (B, N)),
        saliency=zeros,
        query_attention=zeros,
        video_mask=video_mask,
        auxiliary_logits=auxiliary[0],
        auxiliary_offsets=auxiliary[1],
    )


def targets_of(windows, window_mask, clips=10):
    B = len(windows)
    return Targets(
        windows=jnp.asarray(windows, jnp.float32),
        window_mask=jnp.asarray(window_mask),
        saliency_labels=jnp.zeros((B, clips)),
        positive_clips=jnp.zeros((B, 1), jnp.int32),
        negative_clips=jnp.zeros((B, 1), jnp.int32),
        video_id=jnp.arange(B),
    )


def test_terms_of_two_queries_by_hand():
    # A video of 10 clips of 2 s. The window, 4 to 8 s, is 0.2 to 0.4 of it; the first query says
    # just that, the second one 0.5 to 1.
    out = output_of([[[2.0, 4.0], [5.0, 10.0]]], [[0.0, 0.0]], [10])
    targets = targets_of([[[4.0, 8.0]]], [[True]])
    terms = matched_losses(out, targets, CONFIG)
    np.testing.assert_allclose(terms["classification"], (1 + 0.1) * np.log(2) / 2, rtol=1e-6)
    np.testing.assert_allclose(terms["regression"], 0, atol=1e-6)
    np.testing.assert_allclose(terms["generalized_iou"], 0, atol=1e-6)

    off = output_of([[[2.0, 6.0], [5.0, 10.0]]], [[0.0, -50.0]], [10])  # 0.2 to 0.6
    terms = matched_losses(off, targets, CONFIG)
    np.testing.assert_allclose(terms["classification"], np.log(2) / 2, rtol=1e-6)
    np.testing.assert_allclose(terms["regression"], (0.1 + 0.2) / 2, rtol=1e-5)
    np.testing.assert_allclose(terms["generalized_iou"], 1 - 0.5, rtol=1e-5)


def test_earlier_layers_add_their_own_losses():
    windows, logits = [[[2.0, 4.0], [5.0, 10.0]]], [[0.0, 0.0]]
    targets = targets_of([[[4.0, 8.0]]], [[True]])
    alone = matched_losses(output_of(windows, logits, [10]), targets, CONFIG)
    # An earlier layer whose queries are the other way round has a match of its own.
    turned = jnp.asarray(windows)[:, None, ::-1] * jnp.array([-1.0, 1.0])
    out = output_of(windows, logits, [10], auxiliary=(jnp.zeros((1, 1, 2)), turned))
    chex.assert_trees_all_close(
        matched_losses(out, targets, CONFIG), jax.tree.map(lambda x: 2 * x, alone), atol=1e-6
    )


def test_padding_changes_nothing():
    windows = [[[2.0, 4.0], [1.0, 7.0]]]
    targets = targets_of([[[4.0, 8.0], [0.0, 2.0]]], [[True, True]], clips=8)
    expected = matched_losses(output_of(windows, [[0.3, -1.0]], [8], clips=8), targets, CONFIG)

    noise = jnp.array([[[np.nan, np.nan], [5.0, 1.0]]])
    out = output_of(jnp.concatenate([jnp.array(windows), noise]), [[0.3, -1.0], [9.0, 9.0]], [8, 0])
    padded = targets_of(
        [[[4.0, 8.0], [5.0, 5.0], [0.0, 2.0]], [[1.0, 2.0]] * 3],
        [[True, False, True], [True, True, True]],
    )
    chex.assert_trees_all_close(matched_losses(out, padded, CONFIG), expected, rtol=1e-6)


def test_what_padding_windows_hold_reaches_no_gradient():
    targets = targets_of([[[np.nan, np.nan], [4.0, 8.0]]], [[False, True]])
    logits = jnp.array([[0.3, -1.0]])

    def loss(windows):
        return sum(matched_losses(output_of(windows, logits, [10]), targets, CONFIG).values())

    gradient = jax.grad(loss)(jnp.array([[[2.0, 6.0], [5.0, 10.0]]]))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_without_windows_every_query_is_background():
    out = output_of([[[2.0, 4.0], [5.0, 10.0]]], [[0.0, 0.0]], [10])
    terms = matched_losses(out, targets_of(np.zeros((1, 0, 2)), np.zeros((1, 0), bool)), CONFIG)
    np.testing.assert_allclose(terms["classification"], 0.1 * np.log(2), rtol=1e-6)
    assert terms["regression"] == terms["generalized_iou"] == 0


def test_a_window_after_the_last_clip_is_nobodys():
    # 10 clips of 2 s: the video was cut at 20 s.
    out = output_of([[[2.0, 4.0], [9.0, 10.0]]], [[0.0, 0.0]], [10])
    alone = matched_losses(out, targets_of([[[4.0, 8.0]]], [[True]]), CONFIG)
    both = targets_of([[[4.0, 8.0], [20.0, 26.0]]], [[True, True]])
    chex.assert_trees_all_close(matched_losses(out, both, CONFIG), alone)


def test_the_objective_of_moment_queries_is_the_weighted_sum(loss_config):
    config = loss_config(lw_sal=5.0, lw_saliency=7.0, **vars(CONFIG))
    out = output_of([[[2.0, 6.0], [5.0, 10.0]]], [[0.5, -1.0]], [10])
    loss, terms = objective(out, targets_of([[[4.0, 8.0]]], [[True]]), config)
    weights = dict(classification=4, regression=10, generalized_iou=1, alignment=5, saliency=7)
    assert set(terms) == set(weights)
    np.testing.assert_allclose(loss, sum(weights[k] * terms[k] for k in terms), rtol=1e-6)

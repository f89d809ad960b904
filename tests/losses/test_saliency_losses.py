"""Saliency losses on scores and on attention, with and without negative pairs."""

import jax
import numpy as np
import pytest

from flashvtg_jax.losses.saliency import (
    attention_cross_entropy,
    margin_loss,
    negative_attention_loss,
    negative_saliency_loss,
    rank_loss,
    rows_with_negatives,
    saliency_loss,
)

ONE_ROW = np.array([True])


def naive_rank(lists):
    """Rank contrastive loss of [(scores, labels)], one list per sample, clip by clip."""
    total = 0.0
    for threshold in range(1, 12):
        for scores, labels in lists:
            scaled = np.asarray(scores, np.float64) / 0.5
            scaled -= scaled.max()
            log_total = np.log(np.exp(scaled).sum() + 1e-6)
            reached = [
                s - log_total for s, label in zip(scaled, labels, strict=True) if label >= threshold
            ]
            total -= sum(reached) / (len(reached) + 1e-6) / len(lists)
    return total / 12


def naive_saliency(out, targets, pair_weight=1.0, attention_weight=1.0):
    """All terms of both kinds of scores, sample by sample."""
    rows = [b for b in range(len(out.video_mask)) if out.video_mask[b].any()]
    clips = {b: np.flatnonzero(out.video_mask[b]) for b in rows}
    video, rolled = targets.video_id, rows[1:] + rows[:1]
    pairs = [
        b
        for b, other in zip(rows, rolled, strict=True)
        if out.negative_saliency is not None and video[b] != video[other]
    ]

    def one_kind(scores, negative_scores, penalty, is_attention):
        loss = 0.0
        for b in rows:
            for p, n in zip(targets.positive_clips[b], targets.negative_clips[b], strict=True):
                loss += 2 * max(0.2 + scores[b, n] - scores[b, p], 0) / (2 * len(rows))
        labels = {b: targets.saliency_labels[b, clips[b]] for b in rows}
        if pairs:
            loss += naive_rank(
                [
                    (
                        np.concatenate([scores[b, clips[b]], negative_scores[b, clips[b]]]),
                        np.concatenate([labels[b], np.zeros(len(clips[b]))]),
                    )
                    for b in pairs
                ]
            )
            for b in pairs:
                loss += pair_weight * penalty(negative_scores[b, clips[b]]).sum() / len(pairs)
        alone = [b for b in rows if b not in pairs]
        if alone and not (pairs and (is_attention or len(alone) == 1)):
            loss += naive_rank([(scores[b, clips[b]], labels[b]) for b in alone])
        if is_attention:
            a = np.concatenate([scores[b, clips[b]] for b in rows])
            t = np.minimum(np.concatenate([labels[b] for b in rows]), 1)
            loss -= (t * np.log(a) + (1 - t) * np.log(1 - a)).mean()
        return loss

    return one_kind(
        out.saliency, out.negative_saliency, lambda x: np.log1p(np.exp(x)), False
    ) + attention_weight * one_kind(
        out.query_attention, out.negative_query_attention, lambda a: -np.log(1 - a), True
    )


@pytest.mark.parametrize(
    "lengths, video_id",
    [
        ((16, 16, 16, 16), (0, 1, 2, 3)),
        ((16, 16, 16, 16), (0, 1, 1, 2)),  # one same-video pair: not ranked by itself
        ((16, 16, 16, 16), (0, 1, 1, 1)),  # two of them
        ((9, 16, 1, 7), (0, 1, 1, 1)),
        ((9, 16, 1, 7), (0, 1, 1, 0)),  # the last sample's negative is the first
        ((0, 5, 0, 8), (4, 9, 4, 6)),
        ((5, 0, 8, 0), (4, 9, 4, 6)),  # no negative pair at all
        ((0, 7, 0, 0), (3, 3, 1, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("with_negatives", [True, False])
def test_agrees_with_the_definition(
    random_batch, loss_config, loss_and_gradients, lengths, video_id, with_negatives
):
    out, targets = random_batch(
        lengths, clips=16, video_id=video_id, with_negatives=with_negatives, seed=sum(lengths)
    )
    (_, terms), _ = loss_and_gradients(out, targets, loss_config())
    np.testing.assert_allclose(terms["saliency"], naive_saliency(out, targets), rtol=2e-5)


def test_weights_of_negative_pairs_and_attention(random_batch, loss_config):
    out, targets = random_batch((9, 16, 1, 7), video_id=(0, 1, 1, 2))
    config = loss_config(negative_pair_weight=0.7, lw_wattn=0.5)
    loss = jax.jit(lambda out, targets: saliency_loss(out, targets, config))(out, targets)
    np.testing.assert_allclose(loss, naive_saliency(out, targets, 0.7, 0.5), rtol=2e-5)


def test_a_single_same_video_pair_is_not_ranked_by_itself(random_batch, loss_config):
    # The negative query of row 1, that of row 2, is about the same video; then row 2 has one, too.
    def rank_terms(video_id):
        out, targets = random_batch((16, 16, 16, 16), clips=16, video_id=video_id)
        config = loss_config(lw_wattn=0.0, negative_pair_weight=0.0, saliency_margin=-1e3)
        loss = jax.jit(lambda out, targets: saliency_loss(out, targets, config))(out, targets)
        rows = range(4)
        paired = [b for b in rows if video_id[b] != video_id[(b + 1) % 4]]
        labels, zeros = targets.saliency_labels, np.zeros(16)
        in_pairs = naive_rank(
            [
                (
                    np.concatenate([out.saliency[b], out.negative_saliency[b]]),
                    np.concatenate([labels[b], zeros]),
                )
                for b in paired
            ]
        )
        alone = [(out.saliency[b], labels[b]) for b in rows if b not in paired]
        return loss, in_pairs, naive_rank(alone)

    loss, in_pairs, _ = rank_terms((0, 1, 1, 2))
    np.testing.assert_allclose(loss, in_pairs, rtol=2e-5)
    loss, in_pairs, alone = rank_terms((0, 1, 1, 1))
    np.testing.assert_allclose(loss, in_pairs + alone, rtol=2e-5)


def test_margin_by_hand():
    scores = np.array([[1.0, 0.9, 3.0], [0, 0, 0], [5, 5, 5]], np.float32)
    positive, negative = np.array([[0, 2], [0, 1], [0, 0]]), np.array([[1, 0], [2, 2], [2, 2]])
    rows = np.array([True, True, False])
    # Shortfalls 0.1, 0 (the lead is 2), 0.2, 0.2 over four pairs, doubled.
    loss = margin_loss(scores, positive, negative, rows, margin=0.2)
    np.testing.assert_allclose(loss, 2 * 0.5 / 4, rtol=1e-6)


def test_rank_by_hand():
    # Scores / tau: log 1, log 2, log 5, so probabilities 1/8, 2/8, 5/8. Label 2 reaches the
    # thresholds 1 and 2, label 1 the first: there the mean of both.
    scores = np.log(np.array([[1, 2, 5]], np.float32)) / 2
    labels, mask = np.array([[0, 1, 2]], np.float32), np.ones((1, 3), bool)
    expected = (-(np.log(2 / 8) + np.log(5 / 8)) / 2 - np.log(5 / 8)) / 12
    loss = rank_loss(scores, labels, mask, ONE_ROW, temperature=0.5)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_rank_counts_samples_without_positives_as_zero():
    scores = np.log(np.array([[1, 3], [1, 3]], np.float32)) / 2
    labels, mask = np.array([[0, 1], [0, 0]], np.float32), np.ones((2, 2), bool)
    loss = rank_loss(scores, labels, mask, np.array([True, True]), temperature=0.5)
    np.testing.assert_allclose(loss, -np.log(3 / 4) / 12 / 2, rtol=1e-5)


def test_rank_of_distant_scores_is_finite():
    scores = np.array([[-3e4, 3e4, 0]], np.float32)
    labels, mask = np.array([[12, 0, 0]], np.float32), np.ones((1, 3), bool)
    loss, gradient = jax.jit(jax.value_and_grad(rank_loss), static_argnames="temperature")(
        scores, labels, mask, ONE_ROW, temperature=0.5
    )
    np.testing.assert_allclose(loss, 1.2e5 * 11 / 12, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_negative_pairs_need_two_videos():
    video_id, next_row = np.array([0, 0, 1, 7, 1]), np.array([1, 2, 4, 3, 0])
    rows = np.array([True, True, True, False, True])
    expected = [False, True, False, False, True]
    np.testing.assert_array_equal(rows_with_negatives(video_id, next_row, rows), expected)


def test_negative_scores_by_hand():
    mask = np.array([[True, True], [True, False], [True, True]])
    pairs = np.array([True, True, False])
    scores = np.log(np.array([[1, 3], [1, 9], [9, 9]], np.float32))  # sigmoid: 1/2, 3/4
    expected = (np.log(2) + np.log(4) + np.log(2)) / 2
    np.testing.assert_allclose(negative_saliency_loss(scores, mask, pairs), expected, rtol=1e-6)
    attention = np.array([[0.5, 0.75], [0.5, 1], [1, 1]], np.float32)
    np.testing.assert_allclose(negative_attention_loss(attention, mask, pairs), expected, rtol=1e-6)


def test_attention_cross_entropy_by_hand():
    attention = np.array([[0.5, 0.25, 0.9]], np.float32)
    labels, mask = np.array([[9, 0, 1]], np.float32), np.array([[True, True, False]])
    expected = (np.log(2) - np.log(0.75)) / 2
    loss = attention_cross_entropy(attention, labels, mask)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_saturated_attention_is_finite_and_still_pushed_back():
    attention, mask = np.array([[0, 1, 0, 1]], np.float32), np.ones((1, 4), bool)
    labels = np.array([[1, 0, 0, 1]], np.float32)
    loss, gradient = jax.jit(jax.value_and_grad(attention_cross_entropy))(attention, labels, mask)
    # Two clips wrong as can be: log 1e-7 each.
    np.testing.assert_allclose(loss, -np.log(1e-7) / 2, rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert gradient[0, 0] < -1e5 and gradient[0, 1] > 1e5

    loss, gradient = jax.jit(jax.value_and_grad(negative_attention_loss))(attention, mask, ONE_ROW)
    np.testing.assert_allclose(loss, -2 * np.log(1e-7), rtol=1e-5)
    assert np.isfinite(gradient).all() and gradient[0, 1] > 1e5

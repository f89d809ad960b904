"""Alignment of clips and queries."""

import jax
import numpy as np
import pytest

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.losses.alignment import alignment_loss

BOTH = ("row", "column")
HIGHLIGHTS = dict(
    classification="binary_cross_entropy", regression=False, alignment_directions=("row",)
)


def naive_alignment(out, targets, temperature, directions):
    """The definition, clip by clip, in float64."""
    memory, query = out.memory.astype(np.float64), out.query_embedding.astype(np.float64)
    mask, labels, positive = out.video_mask, targets.saliency_labels, targets.positive_clips[:, 0]
    rows = [b for b in range(len(mask)) if mask[b].any()]

    def takes_part(b, clip):
        return mask[b, clip] and labels[b, clip] <= labels[b, positive[b]]

    def similarity(b, clip):
        norms = np.linalg.norm(memory[b, clip]), np.linalg.norm(query[b])
        return memory[b, clip] @ query[b] / (max(norms[0], 1e-8) * max(norms[1], 1e-8))

    losses = []
    for b in rows:
        if "row" in directions:
            rivals = [(b, clip) for clip in range(mask.shape[1]) if takes_part(b, clip)]
            losses.append((rivals, (b, positive[b])))
        if "column" in directions:
            rivals = [(other, positive[b]) for other in rows if takes_part(other, positive[b])]
            losses.append((rivals, (b, positive[b])))
    total = 0.0
    for rivals, own in losses:
        total += np.log(sum(np.exp(similarity(*rival) / temperature) for rival in rivals))
        total -= similarity(*own) / temperature
    return total / len(rows)


@pytest.mark.parametrize("lengths", [(16, 16, 16, 16), (9, 0, 2, 1), (0, 0, 7, 0)], ids=str)
@pytest.mark.parametrize("highlights", [False, True])
def test_agrees_with_the_definition(
    random_batch, loss_config, loss_and_gradients, lengths, highlights
):
    config, strides = loss_config(), (1, 2, 4, 8)
    if highlights:
        config, strides = loss_config(**HIGHLIGHTS), (1,)
    out, targets = random_batch(lengths, clips=16, strides=strides, seed=sum(lengths))
    (_, terms), _ = loss_and_gradients(out, targets, config)
    expected = naive_alignment(out, targets, 0.07, config.alignment_directions)
    np.testing.assert_allclose(terms["alignment"], expected, rtol=1e-5)


def by_hand(directions, labels=((0, 1), (0, 1))):
    """Two samples of two clips; cosines 0 and 1 in the first, 0.6 and -1 in the second."""
    memory = np.array([[[0, 2], [3, 0]], [[3, 4], [-1, 0]]], np.float32)
    query = np.array([[5, 0], [1, 0]], np.float32)
    positive = np.array([[1, 0], [0, 0]], np.int32)
    mask, labels = np.ones((2, 2), bool), np.array(labels, np.float32)
    return alignment_loss(
        memory, query, mask, labels, positive, temperature=1.0, directions=directions
    )


def test_row_term_by_hand():
    # First sample: clip 1 against both. Second: clip 0 (label 0) alone, clip 1 is more salient.
    np.testing.assert_allclose(by_hand(("row",)), np.log(1 + np.exp(-1)) / 2, rtol=1e-6)


def test_column_term_by_hand():
    # At clip 1: the second sample's clip 1 outranks its positive, so the first stands alone.
    # At clip 0: cosine 0.6 against the first sample's 0.
    np.testing.assert_allclose(by_hand(("column",)), np.log(1 + np.exp(-0.6)) / 2, rtol=1e-6)


def test_equally_salient_clips_are_rivals():
    second = np.log(1 + np.exp(-1.6))  # cosines 0.6 and -1
    expected = (np.log(1 + np.exp(-1)) + second) / 2
    np.testing.assert_allclose(by_hand(("row",), [[0, 1], [1, 1]]), expected, rtol=1e-6)


def test_terms_add_up():
    np.testing.assert_allclose(by_hand(BOTH), by_hand(("row",)) + by_hand(("column",)), rtol=1e-6)


def test_unknown_direction_is_a_clear_error():
    with pytest.raises(ConfigError, match="diagonal"):
        by_hand(("row", "diagonal"))


def test_clips_without_any_activation(random_batch):
    """After a ReLU a clip may be all zeros: similarity 0, and a finite gradient."""
    out, targets = random_batch((5, 3))

    def loss(memory):
        return alignment_loss(
            memory,
            out.query_embedding,
            out.video_mask,
            targets.saliency_labels,
            targets.positive_clips,
            temperature=0.07,
            directions=BOTH,
        )

    silent = out.replace(memory=np.zeros_like(out.memory))
    value, gradient = jax.jit(jax.value_and_grad(loss))(silent.memory)
    np.testing.assert_allclose(value, naive_alignment(silent, targets, 0.07, BOTH), rtol=1e-6)
    assert np.isfinite(gradient).all()

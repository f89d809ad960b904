"""Batches that offer little or nothing to learn from: finite losses and gradients."""

import chex
import numpy as np
import pytest


def equal_labels(out, targets):
    return out, targets.replace(saliency_labels=np.full_like(targets.saliency_labels, 3))


def no_relevant_clip(out, targets):
    return out, targets.replace(saliency_labels=np.zeros_like(targets.saliency_labels))


def no_window(out, targets):
    return out, targets.replace(window_mask=np.zeros_like(targets.window_mask))


def one_video(out, targets):
    return out, targets.replace(video_id=np.zeros_like(targets.video_id))


def all_scores_equal(out, targets):
    fields = ("logits", "saliency", "query_attention", "memory", "query_embedding")
    return out.replace(**{name: np.zeros_like(getattr(out, name)) for name in fields}), targets


def saturated_attention(out, targets):
    ones = np.ones_like(out.query_attention)
    return out.replace(query_attention=ones, negative_query_attention=ones), targets


def extreme_scores(out, targets):
    fields = ("logits", "saliency", "negative_saliency", "memory")
    return out.replace(**{name: 1e4 * getattr(out, name) for name in fields}), targets


def no_negative_pass(out, targets):
    fields = ("negative_saliency", "negative_query_attention", "negative_index")
    return out.replace(**dict.fromkeys(fields)), targets


CHANGES = [
    equal_labels,
    no_relevant_clip,
    no_window,
    one_video,
    all_scores_equal,
    saturated_attention,
    extreme_scores,
    no_negative_pass,
]


# One sample of one clip, whether alone or among padding, sees all that keeps the shapes.
CASES = [
    (lengths, clips, change)
    for change in CHANGES
    for lengths, clips in (((6, 16, 2, 9), 16), ((0, 9, 0, 0), 16), ((0, 0, 1, 0), 16), ((1,), 1))
    if clips > 1 or change is not no_negative_pass
]


@pytest.mark.parametrize("lengths, clips, change", CASES)
def test_loss_and_gradients_are_finite(
    random_batch, loss_config, loss_and_gradients, lengths, clips, change
):
    out, targets = change(*random_batch(lengths, clips=clips))
    (loss, terms), gradients = loss_and_gradients(out, targets, loss_config())
    chex.assert_tree_all_finite((loss, terms, gradients))
    if change in (equal_labels, no_relevant_clip, all_scores_equal):
        assert terms["clip_aware"] == 0
    if change is no_window:
        assert terms["regression"] == 0


def test_batch_of_padding_alone_costs_nothing(random_batch, loss_config, loss_and_gradients):
    out, targets = random_batch((0, 0, 0, 0), clips=16)
    (loss, terms), gradients = loss_and_gradients(out, targets, loss_config())
    assert loss == 0 and not any(terms.values())
    for name, gradient in gradients.items():
        assert not gradient.any(), name

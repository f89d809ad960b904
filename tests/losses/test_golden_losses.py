"""The losses that the authors' code computes from the same model outputs.

Their batches hold no padding. The memory is not among the saved values, so the alignment loss is
compared where the model runs end to end; here it is taken from the file.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from flashvtg_jax.losses import Targets
from flashvtg_jax.losses.assignment import assign_points
from flashvtg_jax.models.output import FlashVTGOutput

GOLDEN = Path(__file__).parents[1] / "golden"
RATINGS = dict(
    classification="binary_cross_entropy",
    regression=False,
    alignment_directions=("row",),
    lw_reg=0.2,
)
CASES = {
    "qvhighlights_slowfast_clip.train.s11.l75.q20": dict(clip_length=2.0),
    "charades_sta_vgg.train.s12.l64.q10": dict(
        clip_length=0.166666, lw_sal=0.01, label_loss_coef=0.1
    ),
    "tvsum_slowfast_clip.train.s13.l48.q8": RATINGS,
    "qvhighlights_slowfast_clip.train.s14.l40.q12": dict(clip_length=2.0),
    "tacos_slowfast_clip.train.s15.l48.q9": dict(clip_length=2.0, lw_sal=0.05),
    "qvhighlights_slowfast_clip.train.s16.l40.q12": dict(clip_length=2.0),
}
LOSSES = {
    "classification": "loss_cls",
    "regression": "loss_reg",
    "saliency": "loss_saliency",
    "clip_aware": "loss_label",
}


@pytest.fixture(params=CASES)
def case(request, loss_config, pyramid_points):
    """(saved values, output, targets, config) of one file."""
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        saved = dict(file)
    config = loss_config(**CASES[request.param])
    B, L = saved["saliency_scores"].shape
    points = pyramid_points(L, (1, 2, 4, 8) if config.regression else (1,))
    _, video_id = np.unique(saved["video"], return_inverse=True)
    next_row = (np.arange(B, dtype=np.int32) + 1) % B
    is_pair = video_id != video_id[next_row]

    def every_row(of_pairs):
        rows = np.full((B, L), np.nan, np.float32)  # must not be looked at
        rows[is_pair] = of_pairs
        return rows

    rng = np.random.default_rng(0)
    out = FlashVTGOutput(
        memory=rng.standard_normal((B, L, 4)).astype(np.float32),
        query_embedding=rng.standard_normal((B, 4)).astype(np.float32),
        intra_scale_logits=saved["logits"],
        inter_scale_logits=saved["logits"],
        logits=saved["logits"],
        offsets=saved["coords"],
        points=points,
        point_mask=np.ones((B, len(points)), bool),
        saliency=saved["saliency_scores"],
        query_attention=saved["attention_to_query"],
        video_mask=np.ones((B, L), bool),
        negative_saliency=every_row(saved["saliency_scores_neg"]),
        negative_query_attention=every_row(saved["attention_to_query_neg"]),
        negative_index=next_row,
    )
    targets = Targets(
        windows=saved["windows"],
        window_mask=saved["windows"][..., 0] >= 0,
        saliency_labels=saved["saliency_labels"],
        positive_clips=saved["pos"].astype(np.int32),
        negative_clips=saved["neg"].astype(np.int32),
        video_id=video_id.astype(np.int32),
    )
    return saved, out, targets, config


def test_losses_are_those_of_the_authors(case, loss_and_terms):
    saved, out, targets, config = case
    loss, terms = loss_and_terms(out, targets, config)
    for term, name in LOSSES.items():
        expected = saved.get(name, 0.0)  # the file of a configuration without regression has none
        np.testing.assert_allclose(terms[term], expected, rtol=1e-4, err_msg=term)
    # The first loss of their training run is the weighted sum.
    loss += config.lw_sal * (saved["loss_sal"] - terms["alignment"])
    np.testing.assert_allclose(loss, saved["trajectory_loss"][0], rtol=1e-4)


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c] is not RATINGS], indirect=True)
def test_targets_are_those_of_the_authors(case):
    saved, out, targets, config = case
    positive, offsets = jax.jit(
        lambda: assign_points(
            out.points,
            out.point_mask,
            targets.windows,
            targets.window_mask,
            clip_length=config.clip_length,
            sample_radius=config.sample_radius,
        )
    )()
    np.testing.assert_array_equal(positive, saved["target_cls"] == 1)
    np.testing.assert_allclose(offsets, saved["target_reg"], rtol=1e-6)

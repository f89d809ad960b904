"""Padding changes no loss and receives no gradient, whatever it holds."""

import dataclasses

import numpy as np
import pytest

from flashvtg_jax.models.output import FlashVTGOutput

CONFIGS = {
    "moments": {},
    "highlights": dict(
        classification="binary_cross_entropy", regression=False, alignment_directions=("row",)
    ),
}
# Which slots of the padded batch hold the samples.
PLACES = {"after": (0, 1, 2, 3), "between": (1, 2, 4, 6), "shards": (0, 1, 4, 5)}


def scatter(values, shape, index, fill):
    """An array of `shape` full of `fill`, with `values` at `index`."""
    result = np.full(shape, fill, values.dtype)
    result[index] = values
    return result


def pad_batch(out, targets, places, rows, clips, strides, pyramid_points, next_valid_row):
    """The same samples at `places` of a batch of `rows` x `clips`, with NaN everywhere else.

    Returns the padded output and targets, and the index of each output field in its padded form.
    """
    L = out.video_mask.shape[1]
    points = pyramid_points(clips, strides)
    old = {tuple(point[[0, 3]]): p for p, point in enumerate(out.points)}
    kept = [p for p, point in enumerate(points) if tuple(point[[0, 3]]) in old]
    assert [old[tuple(points[p, [0, 3]])] for p in kept] == list(range(len(out.points)))
    places = np.array(places)
    by_row, by_clip, by_point = (places,), np.ix_(places, range(L)), np.ix_(places, kept)

    fields, where = {}, {}
    for field in dataclasses.fields(FlashVTGOutput):
        value = getattr(out, field.name)
        if field.name in ("points", "negative_index") or value is None:
            continue
        width = value.shape[2:]
        if field.name == "query_embedding":
            index, shape = by_row, (rows, value.shape[1])
        elif value.shape[1] == L:
            index, shape = by_clip, (rows, clips, *width)
        else:
            index, shape = by_point, (rows, len(points), *width)
        fill = False if value.dtype == bool else np.nan
        fields[field.name], where[field.name] = scatter(value, shape, index, fill), index
    padded = FlashVTGOutput(
        points=points, negative_index=next_valid_row(fields["video_mask"].sum(1)), **fields
    )

    M, K = targets.windows.shape[1], targets.positive_clips.shape[1]
    by_window = np.ix_(places, range(M))
    return (
        padded,
        targets.replace(
            windows=scatter(targets.windows, (rows, M + 2, 2), by_window, np.nan),
            window_mask=scatter(targets.window_mask, (rows, M + 2), by_window, False),
            saliency_labels=scatter(targets.saliency_labels, (rows, clips), by_clip, np.nan),
            positive_clips=scatter(targets.positive_clips, (rows, K), by_row, 0),
            negative_clips=scatter(targets.negative_clips, (rows, K), by_row, 0),
            video_id=scatter(targets.video_id, (rows,), by_row, 0),
        ),
        where,
    )


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("lengths", [(16, 16, 16, 16), (1, 16, 7, 3)], ids=str)
@pytest.mark.parametrize("video_id", [(0, 1, 2, 0), (0, 0, 1, 2), (0, 0, 0, 0)], ids=str)
def test_padding_changes_nothing(
    random_batch,
    loss_config,
    loss_and_gradients,
    pyramid_points,
    next_valid_row,
    places,
    config,
    lengths,
    video_id,
):
    strides = (1, 2, 4, 8) if config == CONFIGS["moments"] else (1,)
    config = loss_config(**config)
    out, targets = random_batch(lengths, strides=strides, video_id=video_id, seed=7)
    (loss, terms), gradients = loss_and_gradients(out, targets, config)
    padded_out, padded_targets, where = pad_batch(
        out, targets, places, 8, 21, strides, pyramid_points, next_valid_row
    )
    (padded_loss, padded_terms), padded = loss_and_gradients(padded_out, padded_targets, config)

    np.testing.assert_allclose(padded_loss, loss, rtol=2e-6)
    for term in terms:
        np.testing.assert_allclose(padded_terms[term], terms[term], rtol=5e-6, err_msg=term)
    for name, gradient in gradients.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(
            padded[name][where[name]], gradient, rtol=1e-4, atol=1e-6 * scale, err_msg=name
        )
        padded[name][where[name]] = 0
        assert not padded[name].any(), name

"""Batches and configurations for the tests of the losses."""

import functools
from collections.abc import Callable
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from flashvtg_jax.losses import Targets, objective
from flashvtg_jax.models.output import FlashVTGOutput

FLOAT_FIELDS = (
    "memory",
    "query_embedding",
    "logits",
    "offsets",
    "saliency",
    "query_attention",
    "negative_saliency",
    "negative_query_attention",
)


def _loss_config(**overrides) -> SimpleNamespace:
    """The `loss` section of qvhighlights_slowfast_clip, with changes."""
    config = dict(
        lw_cls=5.0,
        lw_reg=1.0,
        lw_sal=0.1,
        lw_saliency=0.8,
        lw_wattn=1.0,
        label_loss_coef=4.0,
        clip_length=2.0,
        sample_radius=1.5,
        nearest_point=False,
        saliency_margin=0.2,
        temperature=0.07,
        focal_gamma=2.0,
        classification="focal",
        regression=True,
        alignment_directions=("row", "column"),
        negative_pair_weight=1.0,
        rank_temperature=0.5,
    )
    return SimpleNamespace(**(config | overrides))


def _pyramid_points(clips: int, strides=(1, 2, 4, 8)) -> np.ndarray:
    """Points [P, 4] of all levels over `clips` clips."""
    edges = [0, *strides[1:], np.inf]
    return np.array(
        [
            (i * stride, low, high, stride)
            for stride, low, high in zip(strides, edges[:-1], edges[1:], strict=True)
            for i in range(int(clips // stride))
        ],
        np.float32,
    ).reshape(-1, 4)


def _point_mask(points: np.ndarray, lengths) -> np.ndarray:
    """Points [B, P] that a video of so many clips has."""
    return points[None, :, 0] + points[None, :, 3] <= np.asarray(lengths)[:, None]


def _next_valid_row(lengths) -> np.ndarray:
    """The next row that holds a sample, cyclically; padding rows name themselves."""
    index = np.arange(len(lengths), dtype=np.int32)
    rows = [b for b, length in enumerate(lengths) if length > 0]
    for i, b in enumerate(rows):
        index[b] = rows[(i + 1) % len(rows)]
    return index


def _random_batch(
    lengths,
    *,
    clips: int | None = None,
    strides=(1, 2, 4, 8),
    video_id=None,
    with_negatives: bool = True,
    seed: int = 0,
    width: int = 6,
    clip_length: float = 2.0,
) -> tuple[FlashVTGOutput, Targets]:
    """Output and targets of samples with `lengths` clips (0: a padding row) in `clips` slots."""
    rng = np.random.default_rng(seed)
    B, L = len(lengths), clips or max(lengths)
    points = _pyramid_points(L, strides)
    P = len(points)

    def noise(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def attention():
        return rng.uniform(0.05, 0.95, (B, L)).astype(np.float32)

    windows, window_mask = np.full((B, 3, 2), -1, np.float32), np.zeros((B, 3), bool)
    labels = np.zeros((B, L), np.float32)
    positive_clips, negative_clips = np.zeros((2, B, 2), np.int32)
    for b, length in enumerate(lengths):
        if not length:
            continue
        for m in range(rng.integers(1, 4)):
            start = int(rng.integers(0, length))
            windows[b, m] = start, rng.integers(start, length) + 1
            window_mask[b, m] = True
        labels[b, :length] = rng.integers(0, 13, length) * (rng.uniform(size=length) < 0.6)
        positive_clips[b] = labels[b, :length].argmax(), rng.integers(0, length)
        negative_clips[b] = labels[b, :length].argmin(), rng.integers(0, length)

    out = FlashVTGOutput(
        memory=np.maximum(noise(B, L, width), 0),
        query_embedding=noise(B, width),
        intra_scale_logits=noise(B, P),
        inter_scale_logits=noise(B, P),
        logits=noise(B, P),
        offsets=np.exp(noise(B, P, 2)),
        points=points,
        point_mask=_point_mask(points, lengths),
        saliency=noise(B, L),
        query_attention=attention(),
        video_mask=np.arange(L) < np.asarray(lengths)[:, None],
        negative_saliency=noise(B, L) if with_negatives else None,
        negative_query_attention=attention() if with_negatives else None,
        negative_index=_next_valid_row(lengths) if with_negatives else None,
    )
    targets = Targets(
        windows=np.where(window_mask[..., None], windows * np.float32(clip_length), windows),
        window_mask=window_mask,
        saliency_labels=labels,
        positive_clips=positive_clips,
        negative_clips=negative_clips,
        video_id=np.arange(B, dtype=np.int32) if video_id is None else np.int32(video_id),
    )
    return out, targets


@functools.cache
def _compiled(config: tuple, with_gradients: bool) -> Callable:
    """The objective, compiled once for all tests that share a configuration and shapes."""

    def evaluate(fields, rest, targets):
        return objective(rest.replace(**fields), targets, SimpleNamespace(**dict(config)))

    # Compiling is what these tests wait for, so it need not optimise.
    return jax.jit(
        jax.value_and_grad(evaluate, has_aux=True) if with_gradients else evaluate,
        compiler_options={"xla_backend_optimization_level": 0},
    )


def _evaluate(out: FlashVTGOutput, targets: Targets, config, with_gradients: bool):
    fields = {name: getattr(out, name) for name in FLOAT_FIELDS}
    evaluate = _compiled(tuple(vars(config).items()), with_gradients)
    return jax.tree.map(np.array, evaluate(fields, out, targets))  # copies, to be written to


def _loss_and_terms(out: FlashVTGOutput, targets: Targets, config):
    """(loss, terms), compiled."""
    return _evaluate(out, targets, config, with_gradients=False)


def _loss_and_gradients(out: FlashVTGOutput, targets: Targets, config):
    """((loss, terms), gradient of the loss by each float field), compiled."""
    value, gradients = _evaluate(out, targets, config, with_gradients=True)
    return value, {name: g for name, g in gradients.items() if g is not None}


@pytest.fixture
def loss_config() -> Callable:
    return _loss_config


@pytest.fixture
def pyramid_points() -> Callable:
    return _pyramid_points


@pytest.fixture
def point_mask() -> Callable:
    return _point_mask


@pytest.fixture
def next_valid_row() -> Callable:
    return _next_valid_row


@pytest.fixture
def random_batch() -> Callable:
    return _random_batch


@pytest.fixture
def loss_and_terms() -> Callable:
    return _loss_and_terms


@pytest.fixture
def loss_and_gradients() -> Callable:
    return _loss_and_gradients

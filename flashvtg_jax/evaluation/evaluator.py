"""A trained model over a split: predictions in the field's format, and their metrics."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import chex
import flax.struct
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from flashvtg_jax.config import apply_overrides
from flashvtg_jax.data.batch import Batch, stream_widths
from flashvtg_jax.data.device_cache import (
    CachedSplit,
    DeviceCache,
    Draw,
    TakeBatch,
    evaluation_draws,
)
from flashvtg_jax.data.perturbation import (
    Perturbation,
    check_perturbation,
    check_strength,
    perturb_split,
)
from flashvtg_jax.data.pipeline import evaluation_batches, evaluation_plan
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.decoding import decode_as_evaluated, non_max_suppression, num_moments
from flashvtg_jax.distributed.processes import from_first, is_first
from flashvtg_jax.distributed.sharding import put_batch, replicated, split_rows
from flashvtg_jax.distributed.stop_signal import StoppedError
from flashvtg_jax.evaluation.results import Metrics, Predictions, Results, has_ground_truth
from flashvtg_jax.metrics import evaluate_predictions
from flashvtg_jax.metrics.scoring_settings import configured_scoring
from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.system.progress import progress_bar


@flax.struct.dataclass
class Decoded:
    """What evaluation brings back from the device for a batch.

    Without moments (highlight detection) all but `saliency` is None.
    """

    saliency: chex.Array  # [B, L]
    moments: chex.Array | None  # [B, K, 3] start, end (seconds), score; best first
    suppressed: chex.Array | None  # [B, K, 3] the same after non-maximum suppression
    num_moments: chex.Array | None  # [B] rows that are real


@flax.struct.dataclass
class _Found:
    """What is brought back for a batch, of the rows of all processes."""

    decoded: Decoded
    example: chex.Array  # [B] row of the split, -1 for padding rows
    num_clips: chex.Array  # [B]


class Evaluator:
    """Predicts and scores splits with one compiled program per length bucket.

    With several processes each reads and computes a part of every batch; the lead host has all the
    predictions and scores them.
    """

    def __init__(self, model: FlashVTG, config: ml_collections.ConfigDict, mesh: Mesh):
        # Padding rows change nothing, so any batch size can be spread evenly over the devices.
        rows = -(-config.evaluation.batch_size // mesh.size) * mesh.size
        self.config = apply_overrides(config, {"evaluation.batch_size": rows})
        self.mesh = mesh
        self._share = (jax.process_index(), jax.process_count())

        def find(params: Any, batch: Batch, perturbation: Perturbation | None) -> _Found:
            if perturbation is not None:
                batch = perturb_split(batch, perturbation, stream_widths(config.data))
            decoded = apply_and_decode(model, config, params, batch)
            return _Found(decoded, batch.example, batch.video_mask.sum(-1))

        def take_and_find(
            params: Any,
            split: CachedSplit,
            draw: Draw,
            perturbation: Perturbation | None,
            take: TakeBatch,
        ) -> _Found:
            batch = jax.lax.with_sharding_constraint(take(split, draw), split_rows(mesh))
            return find(params, batch, perturbation)

        compiled = partial(jax.jit, out_shardings=replicated(mesh))
        self._find = compiled(find)
        self._take_and_find = compiled(take_and_find, static_argnums=4)

    def evaluate(
        self,
        params: Any,
        source: SplitSource,
        *,
        cache: DeviceCache | None = None,
        perturbation: Perturbation | None = None,
        show_progress: bool = False,
        stop: Callable[[], bool] | None = None,
    ) -> Results:
        """Predictions for every row of a split, in its order, and their metrics.

        Args:
          params: on every device of the mesh.
          source: the split.
          cache: the split that the source is of, if it is kept on the devices.
          perturbation: of the videos; one compiled program serves each kind of it.
          show_progress: whether to show a bar.
          stop: asked between batches.

        Raises:
          ConfigError: the perturbation does not fit the videos.
          StoppedError: `stop` returned True.
        """
        if perturbation is not None:
            perturbation = self._checked(perturbation)
        total = evaluation_plan(source, self.config).steps_per_epoch
        predictions = _Predictions(source)
        started = self._started(params, source, cache, perturbation)
        with contextlib.closing(started):
            rows = _read_behind(started, stop)
            for found in progress_bar(rows, total, "evaluating", show_progress):
                predictions.add(found)
        return predictions.scored(configured_scoring(self.config))

    def _checked(self, perturbation: Perturbation) -> Perturbation:
        """The perturbation with arrays: one program serves all strengths. Raises ConfigError."""
        streams = self.config.data.video_streams
        check_perturbation(perturbation.kind, len(streams), name="perturbation.kind")
        check_strength(perturbation.strength, name="perturbation.strength")
        return perturbation.replace(
            strength=np.float32(perturbation.strength), seed=np.uint32(perturbation.seed)
        )

    def _started(
        self,
        params: Any,
        source: SplitSource,
        cache: DeviceCache | None,
        perturbation: Perturbation | None,
    ) -> Iterator[_Found]:
        """What is found for each batch, dispatched and not waited for."""
        put = partial(put_batch, mesh=self.mesh)
        if cache is not None:
            for clips, draw in evaluation_draws(source, self.config, cache, *self._share):
                taking = cache.taking(clips)
                yield self._take_and_find(params, cache.split, put(draw), perturbation, taking)
            return
        with contextlib.closing(evaluation_batches(source, self.config, *self._share)) as batches:
            for batch in batches:
                yield self._find(params, put(batch.replace(targets=None)), perturbation)


def _read_behind(started: Iterable[_Found], stop: Callable[[], bool] | None) -> Iterator[_Found]:
    """Start each batch before the previous one is read back, so that neither side waits."""
    waiting = None
    for found in started:
        if waiting is not None:
            yield jax.device_get(waiting)
        waiting = found
        if stop is not None and stop():
            raise StoppedError
    if waiting is not None:
        yield jax.device_get(waiting)


def apply_and_decode(
    model: FlashVTG, config: ml_collections.ConfigDict, params: Any, batch: Batch
) -> Decoded:
    """The model and its decoding as one program, in the order of the official evaluation."""
    settings = config.evaluation
    output = model.apply(
        {"params": params}, batch.video, batch.video_mask, batch.query, batch.query_mask
    )
    if not config.loss.regression:  # boundaries were not learned
        return Decoded(output.saliency, None, None, None)
    moments = decode_as_evaluated(output, batch.duration, config.clip_length, settings)
    return Decoded(
        saliency=output.saliency,
        moments=moments,
        suppressed=non_max_suppression(moments, settings.nms_threshold, settings.nms_type),
        num_moments=num_moments(output, settings.max_moments),
    )


class _Predictions:
    """The predictions for a split, filled batch by batch, on the lead host."""

    def __init__(self, source: SplitSource):
        self._annotations = source.annotations()
        size = len(source) if is_first() else 0
        self._plain: Predictions = [{}] * size
        self._suppressed: Predictions = [{}] * size

    def add(self, found: _Found) -> None:
        """Takes what was found for the rows of a batch, padding rows aside."""
        if not is_first():
            return
        # The official scores rank rounded saliency where moments are predicted, else raw scores.
        decimals = 4 if found.decoded.moments is not None else 8
        decoded = jax.tree.map(partial(_rounded, decimals=decimals), found.decoded)
        for b in np.flatnonzero(found.example >= 0):
            example = int(found.example[b])
            about = {key: self._annotations[example][key] for key in ("qid", "query", "vid")}
            clips = int(found.num_clips[b])
            shared = {"pred_saliency_scores": decoded.saliency[b, :clips].tolist()}
            if decoded.moments is None:
                self._plain[example] = about | shared
                continue
            # Suppressed rows score 0 as padding does, but padding sorts behind: the first are real.
            count = int(decoded.num_moments[b])
            for rows, moments in (
                (self._plain, decoded.moments),
                (self._suppressed, decoded.suppressed),
            ):
                windows = moments[b, :count].tolist()
                rows[example] = {**about, "pred_relevant_windows": windows, **shared}

    def scored(self, arguments: dict[str, Any]) -> Results:
        """The predictions with their scores, where there is ground truth.

        `arguments` are those of `evaluate_predictions`.
        """
        with_moments = bool(self._plain) and "pred_relevant_windows" in self._plain[0]
        suppressed = self._suppressed if with_moments else None

        def score() -> list[Metrics]:
            return [
                evaluate_predictions(predictions, self._annotations, **arguments)
                if predictions and has_ground_truth(self._annotations)
                else {}
                for predictions in (self._plain, suppressed)
            ]

        metrics, metrics_nms = from_first(score)
        return Results(metrics, metrics_nms, self._plain, suppressed)


def _rounded(array: np.ndarray, decimals: int) -> np.ndarray:
    """Numbers as JSON will show them."""
    return np.round(array.astype(np.float64), decimals) if array.dtype.kind == "f" else array

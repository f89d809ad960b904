"""A trained model over a split: predictions in the field's format, and their scores."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import chex
import flax.struct
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from flashvtg_jax.config import apply_overrides, config_from_json
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.pipeline import evaluation_batches, evaluation_plan
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.decoding import decode_moments, num_moments, suppress
from flashvtg_jax.errors import CheckpointError, DataError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.json_lines import write_json_lines
from flashvtg_jax.metrics import evaluate_predictions
from flashvtg_jax.models.flashvtg import FlashVTG, build_model
from flashvtg_jax.progress import progress_bar
from flashvtg_jax.training.checkpoints import Checkpoints
from flashvtg_jax.training.parallel import make_mesh, put_batch, replicated
from flashvtg_jax.training.state import feature_widths, init_params

Predictions = list[dict[str, Any]]
Numbers = dict[str, float]


@flax.struct.dataclass
class Decoded:
    """What evaluation brings back from the device for a batch."""

    moments: chex.Array  # [B, K, 3] start, end (seconds), score; best first
    suppressed: chex.Array  # [B, K, 3] the same after non-maximum suppression
    num_moments: chex.Array  # [B] rows that are real
    saliency: chex.Array  # [B, L]


class Evaluator:
    """Predicts and scores splits with one compiled program per length bucket."""

    def __init__(self, model: FlashVTG, config: ml_collections.ConfigDict, mesh: Mesh):
        # Padding rows change nothing, so any batch size can be spread evenly over the devices.
        rows = -(-config.evaluation.batch_size // mesh.size) * mesh.size
        self.config = apply_overrides(config, {"evaluation.batch_size": rows})
        self.mesh = mesh
        self._apply = jax.jit(partial(apply_and_decode, model, config))

    def predict(
        self, params: Any, source: SplitSource, *, show_progress: bool = False
    ) -> tuple[Predictions, Predictions]:
        """Predictions for every row of a split, in its order: without and with NMS."""
        plain: Predictions = [{}] * len(source)
        suppressed: Predictions = [{}] * len(source)
        total = evaluation_plan(source, self.config).steps_per_epoch
        batches = evaluation_batches(source, self.config)
        annotations = source.annotations()
        try:
            for batch, decoded in progress_bar(
                self._decode_ahead(params, batches), total, "evaluating", show_progress
            ):
                for row, *found in _rows(batch, decoded):
                    about = {key: annotations[row][key] for key in ("qid", "query", "vid")}
                    windows, windows_nms, saliency = found
                    shared = {"pred_saliency_scores": saliency}
                    plain[row] = {**about, "pred_relevant_windows": windows, **shared}
                    suppressed[row] = {**about, "pred_relevant_windows": windows_nms, **shared}
        finally:
            batches.close()
        return plain, suppressed

    def _decode_ahead(self, params: Any, batches: Iterable[Batch]) -> Iterable[tuple[Batch, Any]]:
        """Start each batch before the previous one is read back, so that neither side waits."""
        waiting = None
        for batch in batches:
            inputs = put_batch(batch.replace(targets=None), self.mesh)
            started = (batch, self._apply(params, inputs))
            if waiting:
                yield waiting[0], jax.device_get(waiting[1])
            waiting = started
        if waiting:
            yield waiting[0], jax.device_get(waiting[1])

    def score(
        self, params: Any, source: SplitSource, *, show_progress: bool = False
    ) -> tuple[Numbers, Numbers, Predictions, Predictions]:
        """Numbers without and with NMS, and the predictions they stand for."""
        plain, suppressed = self.predict(params, source, show_progress=show_progress)
        annotations = source.annotations()
        clip_length = self.config.clip_length
        numbers, numbers_nms = (
            evaluate_predictions(predictions, annotations, clip_length=clip_length)
            for predictions in (plain, suppressed)
        )
        return numbers, numbers_nms, plain, suppressed


def apply_and_decode(
    model: FlashVTG, config: ml_collections.ConfigDict, params: Any, batch: Batch
) -> Decoded:
    """The model and its decoding as one program, in the order of the official evaluation."""
    settings = config.evaluation
    output = model.apply(
        {"params": params}, batch.video, batch.video_mask, batch.query, batch.query_mask
    )
    window_range = settings.window_range
    moments = decode_moments(
        output,
        batch.duration,
        config.clip_length,
        settings.max_moments,
        window_range=None if window_range is None else tuple(window_range),
        round_decimals=True,
        round_to_clips=settings.round_to_clip_length,
    )
    return Decoded(
        moments=moments,
        suppressed=suppress(moments, settings.nms_threshold, settings.nms_type),
        num_moments=num_moments(output, settings.max_moments),
        saliency=output.saliency,
    )


def _rows(batch: Batch, decoded: Decoded) -> Iterable[tuple[int, list, list, list]]:
    """Example, moments, moments after NMS, saliency of each real row, rounded to 4 decimals."""
    moments, suppressed, saliency = (
        np.round(a.astype(np.float64), 4)
        for a in (decoded.moments, decoded.suppressed, decoded.saliency)
    )
    for b in np.flatnonzero(batch.example >= 0):
        count, clips = decoded.num_moments[b], batch.video_mask[b].sum()
        # Suppressed rows have score 0 as padding has, but padding sorts behind: the first are real.
        yield (
            int(batch.example[b]),
            moments[b, :count].tolist(),
            suppressed[b, :count].tolist(),
            saliency[b, :clips].tolist(),
        )


def evaluate(
    workdir: str | Path,
    *,
    split: str | None = None,
    step: int | None = None,
    data_dir: str | None = None,
    output: str | Path | None = None,
    show_progress: bool = True,
) -> tuple[Numbers, Numbers]:
    """Score a run's best checkpoint on a split; write predictions and numbers.

    Args:
      workdir: of `flashvtg train`.
      split: of the data set; None: the validation split.
      step: of the checkpoint; None: the best one, or the latest if none was scored.
      data_dir: where the data set is; None: where training found it.
      output: folder for predictions.jsonl, predictions_nms.jsonl and metrics.json; None: workdir.

    Returns the numbers without and with NMS; both empty for a split without ground truth.
    Raises CheckpointError if there is no such checkpoint, DataError if the split is not built or
    `output` cannot be written.
    """
    workdir = Path(workdir).expanduser().absolute()
    if not any((workdir / folder).is_dir() for folder in ("checkpoints", "best")):
        raise CheckpointError(
            f"{workdir}: no checkpoints here; train first: "
            f"flashvtg train --config=NAME --workdir={workdir}"
        )
    output = Path(output).expanduser() if output else workdir
    check_writable(output)  # now, not after the work
    checkpoints = Checkpoints(workdir, read_only=True)
    if step is None:
        step = checkpoints.best_step()
    if step is None:
        step = checkpoints.latest_step()
    if step is None:
        raise CheckpointError(f"{workdir}: no finished checkpoint yet")
    config = config_from_json(json.dumps(checkpoints.read_meta(step)["config"]))
    data_dir = data_dir or config.data.data_dir or workdir / "data"
    split = split or config.data.val_split
    source = open_split(data_dir, config.data.dataset, split)

    model, mesh = build_model(config.model), make_mesh()
    widths = feature_widths(config.data)
    shapes = jax.eval_shape(lambda key: init_params(model, key, *widths), jax.random.key(0))
    target = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated(mesh)), shapes
    )
    params = checkpoints.restore_params(step, target)
    checkpoints.close()
    evaluator = Evaluator(model, config, mesh)
    if not has_ground_truth(source.annotations()):
        plain, suppressed = evaluator.predict(params, source, show_progress=show_progress)
        write_results(output, {}, {}, {}, plain, suppressed)
        return {}, {}
    results = evaluator.score(params, source, show_progress=show_progress)
    write_results(output, {"split": split, "step": step}, *results)
    return results[0], results[1]


def check_writable(folder: Path) -> None:
    """Raises DataError if no file can be written into the folder, which is made if need be."""
    probe = folder / ".flashvtg_probe"
    write_atomically(probe, "")
    probe.unlink()


def has_ground_truth(annotations: Iterable[dict[str, Any]]) -> bool:
    """Whether the rows of a split can be scored. Raises DataError if only some of them can."""
    known = [row.get("relevant_windows") is not None for row in annotations]
    if any(known) and not all(known):
        raise DataError(
            f"{known.count(False)} of {len(known)} rows of this split have no relevant_windows; "
            "build it from annotations that have them all, or none"
        )
    return bool(known) and known[0]


def write_results(
    folder: Path,
    about: dict[str, Any],
    numbers: Numbers,
    numbers_nms: Numbers,
    plain: Predictions,
    suppressed: Predictions,
) -> None:
    """predictions.jsonl and predictions_nms.jsonl; metrics.json where there are numbers.

    In metrics.json stands what the numbers are `about`, under the official keys the numbers without
    NMS, and under "with_nms" the others. Raises DataError if a file cannot be written.
    """
    write_json_lines(folder / "predictions.jsonl", plain)
    write_json_lines(folder / "predictions_nms.jsonl", suppressed)
    if numbers:
        result = {**about, **numbers, "with_nms": numbers_nms}
        write_atomically(folder / "metrics.json", json.dumps(result, indent=2) + "\n")
    else:
        (folder / "metrics.json").unlink(missing_ok=True)  # it would be of other predictions

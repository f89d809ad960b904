"""A trained model over a split: predictions in the field's format, and their scores."""

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import chex
import flax.struct
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from flashvtg_jax.checkpoints.restore import restore
from flashvtg_jax.config import apply_overrides, config_to_json
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
from flashvtg_jax.data.pipeline import (
    evaluation_batches,
    joint_evaluation_batches,
    joint_evaluation_steps,
)
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.decoding import decode_as_evaluated, non_max_suppression, num_moments
from flashvtg_jax.distributed.preemption import StoppedError, Stopping
from flashvtg_jax.distributed.processes import (
    all_or_none,
    by_first,
    check_same,
    from_first,
    is_first,
)
from flashvtg_jax.distributed.sharding import make_mesh, put_batch, replicated, split_rows
from flashvtg_jax.errors import CheckpointError, DataError
from flashvtg_jax.experiments.runs import find_runs, write_summary
from flashvtg_jax.files import write_atomically
from flashvtg_jax.json_lines import write_json_lines
from flashvtg_jax.metrics import evaluate_predictions
from flashvtg_jax.metrics.scoring_settings import configured_scoring
from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.system.progress import progress_bar

Predictions = list[dict[str, Any]]
Numbers = dict[str, float]


@flax.struct.dataclass
class Decoded:
    """What evaluation brings back from the device for a batch.

    Without moments (highlight detection) all but `saliency` is None.
    """

    saliency: chex.Array  # [B, L]
    moments: chex.Array | None  # [B, K, 3] start, end (seconds), score; best first
    suppressed: chex.Array | None  # [B, K, 3] the same after non-maximum suppression
    num_moments: chex.Array | None  # [B] rows that are real


@dataclasses.dataclass(frozen=True)
class Results:
    """What an evaluation finds.

    Attributes:
      numbers: scores without NMS; empty where there is no ground truth.
      numbers_nms: with NMS; empty where there are no moments.
      predictions: a row for each query of the split, in its order; without NMS. Of several
        processes, the first one has them; the others have none.
      predictions_nms: the same with NMS; None where there are no moments.
    """

    numbers: Numbers
    numbers_nms: Numbers
    predictions: Predictions
    predictions_nms: Predictions | None


@flax.struct.dataclass
class _Found:
    """What is brought back for a batch, of the rows of all processes."""

    decoded: Decoded
    example: chex.Array  # [B] row of the split, -1 for padding rows
    num_clips: chex.Array  # [B]


class Evaluator:
    """Predicts and scores splits with one compiled program per length bucket.

    Of several processes each reads and computes a part of every batch; the first one has all the
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

        find_together = jax.vmap(find, in_axes=(0, 0, None))

        def take_and_find(
            params: Any,
            split: CachedSplit,
            draw: Draw,
            perturbation: Perturbation | None,
            take: TakeBatch,
        ) -> _Found:
            batch = jax.lax.with_sharding_constraint(take(split, draw), split_rows(mesh))
            return find(params, batch, perturbation)

        def take_and_find_together(
            params: Any,
            split: CachedSplit,
            draw: Draw,
            perturbation: Perturbation | None,
            take: TakeBatch,
        ) -> _Found:
            batches = jax.vmap(take, in_axes=(None, 0))(split, draw)
            batches = jax.lax.with_sharding_constraint(batches, split_rows(mesh, 1))
            return find_together(params, batches, perturbation)

        compiled = partial(jax.jit, out_shardings=replicated(mesh))
        # By whether the runs are along a first axis.
        self._find = {False: compiled(find), True: compiled(find_together)}
        self._take_and_find = {
            False: compiled(take_and_find, static_argnums=4),
            True: compiled(take_and_find_together, static_argnums=4),
        }

    def evaluate(self, params: Any, source: SplitSource, **watch: Any) -> Results:
        """Predictions for every row of a split, in its order, and their scores.

        Args:
          params: on every device of the mesh.
          source: the split.
          watch: as in `evaluate_together`.
        """
        return self._evaluate(params, [source], together=False, **watch)[0]

    def evaluate_together(
        self, params: Any, sources: Sequence[SplitSource], **watch: Any
    ) -> list[Results]:
        """`evaluate` of several runs as one program.

        Args:
          params: of all runs, stacked along a first axis.
          sources: the split of each run.
          watch: `cache`, the split that the sources are of, if it is kept on the devices;
            `perturbation` of the videos, one compiled program for each kind: ConfigError is raised
            if it does not fit them; `show_progress`, to show a bar; `stop`, asked between batches:
            StoppedError is raised when it says so.
        """
        return self._evaluate(params, sources, together=True, **watch)

    def _evaluate(
        self,
        params: Any,
        sources: Sequence[SplitSource],
        *,
        together: bool,
        cache: DeviceCache | None = None,
        perturbation: Perturbation | None = None,
        show_progress: bool = False,
        stop: Callable[[], bool] | None = None,
    ) -> list[Results]:
        if perturbation is not None:
            perturbation = self._checked(perturbation)
        total = joint_evaluation_steps(sources, [self.config] * len(sources))
        collected = [_Predictions(source) for source in sources]
        started = self._started(params, sources, together, cache, perturbation)
        with contextlib.closing(started):
            rows = _read_behind(started, stop)
            for found in progress_bar(rows, total, "evaluating", show_progress):
                for run, predictions in enumerate(collected):
                    own = jax.tree.map(lambda a, run=run: a[run], found) if together else found
                    predictions.add(own)
        arguments = configured_scoring(self.config)
        return [predictions.scored(arguments) for predictions in collected]

    def _checked(self, perturbation: Perturbation) -> Perturbation:
        """The same in arrays, that one program serves all strengths. Raises ConfigError."""
        streams = self.config.data.video_streams
        check_perturbation(perturbation.kind, len(streams), name="perturbation.kind")
        check_strength(perturbation.strength, name="perturbation.strength")
        return perturbation.replace(
            strength=np.float32(perturbation.strength), seed=np.uint32(perturbation.seed)
        )

    def _started(
        self,
        params: Any,
        sources: Sequence[SplitSource],
        together: bool,
        cache: DeviceCache | None,
        perturbation: Perturbation | None,
    ) -> Iterator[_Found]:
        """What is found for each batch, not waited for."""
        put = partial(put_batch, mesh=self.mesh, axis=int(together))
        if cache is not None:
            find = self._take_and_find[together]
            for clips, draws in evaluation_draws(sources, self.config, cache, *self._share):
                draw = jax.tree.map(lambda *rows: np.stack(rows), *draws) if together else draws[0]
                yield find(params, cache.split, put(draw), perturbation, cache.taking(clips))
            return
        if together:
            configs = [self.config] * len(sources)
            batches = joint_evaluation_batches(sources, configs, *self._share)
        else:
            batches = evaluation_batches(sources[0], self.config, *self._share)
        with contextlib.closing(batches):
            for batch in batches:
                yield self._find[together](params, put(batch.replace(targets=None)), perturbation)


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
    """The predictions for a split, filled batch by batch, in the first process."""

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

        def score() -> list[Numbers]:
            return [
                evaluate_predictions(predictions, self._annotations, **arguments)
                if predictions and has_ground_truth(self._annotations)
                else {}
                for predictions in (self._plain, suppressed)
            ]

        numbers, numbers_nms = from_first(score)
        return Results(numbers, numbers_nms, self._plain, suppressed)


def _rounded(array: np.ndarray, decimals: int) -> np.ndarray:
    """Numbers as JSON will show them."""
    return np.round(array.astype(np.float64), decimals) if array.dtype.kind == "f" else array


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
      workdir: of `flashvtg train`. If it holds the runs of several domains or seeds, each is
        evaluated, and their means are the numbers.
      split: of the data set; None: the validation split.
      step: of the checkpoint; None: the best one, or the latest if none was scored.
      data_dir: where the data set is; None: where training found it.
      output: folder for predictions.jsonl, predictions_nms.jsonl and metrics.json; None: workdir.

    Returns the numbers without and with NMS; both empty for a split without ground truth. Several
    processes (`flashvtg_jax.distributed.processes.connect`) share the work; the first one writes.
    Raises CheckpointError if there is no such checkpoint, DataError if the split is not built or
    `output` cannot be written. SIGTERM to one of several processes ends all with StoppedError.
    """
    workdir = Path(workdir).expanduser().absolute()
    output = Path(output).expanduser() if output else workdir
    with all_or_none():
        names = find_runs(workdir)
        if not names:
            raise CheckpointError(
                f"{workdir}: no checkpoints here; train first: "
                f"flashvtg train --config=NAME --workdir={shlex.quote(str(workdir))}"
            )
    check_same("list of runs", names)
    by_first(lambda: [check_writable(output / name) for name in names])  # now, not after the work
    show_progress = show_progress and is_first()
    mesh = make_mesh()
    evaluators: dict[str, Evaluator] = {}  # runs that differ in seed and domain share programs
    # None of several processes may end alone; a single one is simply ended, with nothing to save.
    with Stopping() if jax.process_count() > 1 else contextlib.nullcontext() as stopping:
        for name in names:
            if name and show_progress:
                print(f"evaluating {name}", file=sys.stderr)
            with all_or_none():
                restored = restore(workdir / name, step=step, sharding=replicated(mesh))
                data = restored.config.data
                split = split or data.val_split
                source = open_split(
                    data_dir or data.data_dir or workdir / "data",
                    data.dataset,
                    split,
                    domains=data.domains,
                    cache=data.cache,
                )
            shared = apply_overrides(restored.config, {"seed": 0, "data.domains": ()})
            evaluator = evaluators.setdefault(
                config_to_json(shared), Evaluator(restored.model, shared, mesh)
            )
            results = evaluator.evaluate(
                restored.params,
                source,
                show_progress=show_progress,
                stop=stopping and stopping.requested,
            )
            about = {"split": split, "step": restored.step}
            by_first(partial(write_results, output / name, about, results))
    if names == [""]:
        return results.numbers, results.numbers_nms
    if not results.numbers:
        by_first(partial((output / "metrics.json").unlink, missing_ok=True))
        return {}, {}
    return tuple(from_first(partial(write_summary, output, split, names)))


def check_writable(folder: Path) -> None:
    """Raises DataError if no file can be written into the folder, which is made if need be."""
    probe = folder / ".flashvtg_probe"
    write_atomically(probe, "")
    probe.unlink()


def has_ground_truth(annotations: Iterable[dict[str, Any]]) -> bool:
    """Whether the rows of a split can be scored. Raises DataError if only some of them can."""
    known = [
        row.get("relevant_windows") is not None or row.get("label") is not None
        for row in annotations
    ]
    if any(known) and not all(known):
        raise DataError(
            f"{known.count(False)} of {len(known)} rows of this split have no ground truth; "
            "build it from annotations that have it on all lines, or on none"
        )
    return bool(known) and known[0]


def write_results(folder: Path, about: dict[str, Any], results: Results) -> None:
    """predictions.jsonl and predictions_nms.jsonl; metrics.json where there are numbers.

    In metrics.json stands what the numbers are `about`, under the official keys the numbers without
    NMS, and under "with_nms" the others. What an earlier evaluation wrote and this one has not is
    removed. Raises DataError if a file cannot be written.
    """
    write_json_lines(folder / "predictions.jsonl", results.predictions)
    if results.predictions_nms is None:
        (folder / "predictions_nms.jsonl").unlink(missing_ok=True)
    else:
        write_json_lines(folder / "predictions_nms.jsonl", results.predictions_nms)
    if results.numbers:
        with_nms = {"with_nms": results.numbers_nms} if results.numbers_nms else {}
        content = {**about, **results.numbers, **with_nms}
        write_atomically(folder / "metrics.json", json.dumps(content, indent=2) + "\n")
    else:
        (folder / "metrics.json").unlink(missing_ok=True)

"""`evaluate`: the best checkpoint of a run, or of each of several, on a split."""

import contextlib
import sys
from functools import partial
from pathlib import Path

import jax

from flashvtg_jax.checkpoints.folders import find_runs
from flashvtg_jax.checkpoints.restore import check_has_runs, restore
from flashvtg_jax.config import apply_overrides, config_to_json
from flashvtg_jax.data.source import open_split
from flashvtg_jax.distributed.processes import (
    all_or_none,
    check_same,
    from_lead_host,
    is_lead_host,
    on_lead_host,
)
from flashvtg_jax.distributed.sharding import make_mesh, replicated
from flashvtg_jax.distributed.stop_signal import StopSignal
from flashvtg_jax.evaluation.evaluator import Evaluator
from flashvtg_jax.evaluation.results import EvaluationResult, check_writable, write_results
from flashvtg_jax.experiments.runs import write_summary


def evaluate(
    workdir: str | Path,
    *,
    split: str | None = None,
    step: int | None = None,
    data_dir: str | None = None,
    output: str | Path | None = None,
    show_progress: bool = True,
) -> EvaluationResult:
    """Evaluate a run's best checkpoint on a split; write predictions and metrics.

    Args:
      workdir: of `flashvtg train`. If it holds the runs of several domains or seeds, each is
        evaluated, and the result holds their means.
      split: of the data set; None: the validation split.
      step: of the checkpoint; None: the best one, or the latest if none was scored.
      data_dir: where the data set is; None: where training found it.
      output: folder for predictions.jsonl, predictions_nms.jsonl and metrics.json; None: workdir.

    With several processes (`flashvtg_jax.distributed.processes.connect`) all share the work and the
    lead host writes; SIGTERM to one of them ends all with StoppedError.

    Raises:
      CheckpointError: there is no such checkpoint.
      DataError: the split is not built, or `output` cannot be written.
    """
    workdir = Path(workdir).expanduser().absolute()
    output = Path(output).expanduser() if output else workdir
    with all_or_none():
        names = find_runs(workdir)
        check_has_runs(workdir, names)
    check_same("list of runs", names)
    # Now, not after the work.
    on_lead_host(lambda: [check_writable(output / name) for name in names])
    show_progress = show_progress and is_lead_host()
    mesh = make_mesh()
    evaluators: dict[str, Evaluator] = {}  # runs that differ in seed and domain share programs
    # Several processes end together; a single one has nothing to save and is simply ended.
    with StopSignal() if jax.process_count() > 1 else contextlib.nullcontext() as stop:
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
                stop=stop and stop.requested,
            )
            about = {"split": split, "step": restored.step}
            on_lead_host(partial(write_results, output / name, about, results))
    if names == [""]:
        return EvaluationResult(results.metrics, results.metrics_nms)
    if not results.metrics:
        on_lead_host(partial((output / "metrics.json").unlink, missing_ok=True))
        return EvaluationResult({}, {})
    return EvaluationResult(*from_lead_host(partial(write_summary, output, split, names)))

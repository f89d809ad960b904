"""Steps whose loss or gradient is not finite: reported with their batch, or skipped."""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.pipeline import train_pipeline
from flashvtg_jax.data.source import SplitSource
from flashvtg_jax.distributed.processes import from_first
from flashvtg_jax.errors import DataError, FlashVTGError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.training.hooks.hook import Hook, Training
from flashvtg_jax.training.run import OpenRun

_LEAST_PATIENCE = 20  # steps


class NonfiniteWatch(Hook):
    """Checks the metrics of each step of a run, in order; the first bad batch is saved.

    With `config.train.on_nan="stop"` the first such step raises FlashVTGError. With "skip" (the
    step itself has changed nothing then) they are counted, until a whole epoch, and at least twenty
    steps in a row, were not finite.

    Attributes:
      skipped: steps that were left out since the run began.
    """

    def __init__(self, skipped: int = 0):
        self.skipped = skipped
        self._in_a_row = 0
        self._saved = ""  # where the first bad batch of this process is

    def on_metrics(
        self, training: Training, steps: Sequence[int], metrics: Mapping[str, np.ndarray]
    ) -> None:
        for index, step in enumerate(steps):
            values = {name: float(array[index]) for name, array in metrics.items()}
            self._check(training.run, step, values)

    def _check(self, run: OpenRun, step: int, metrics: Mapping[str, float]) -> None:
        """Raises FlashVTGError if training ends here: what is wrong, where, and what to do."""
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if not broken:
            self._in_a_row = 0
            return
        if not self._saved:
            self._saved = from_first(lambda: _save(run, step))
        skips = run.config.train.on_nan == "skip"
        if skips:
            self.skipped += 1
            self._in_a_row += 1
            if self._in_a_row < max(_LEAST_PATIENCE, run.plan.steps_per_epoch):
                return
        listing = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        raise FlashVTGError(
            f"{run.workdir}: step {step}: {', '.join(broken)} not finite ({listing}); training "
            + (f"stopped after {self._in_a_row} such steps in a row" if skips else "stopped")
            + f", earlier checkpoints are intact. {self._saved} The usual remedy is a smaller "
            "config.optimizer.learning_rate, in another --workdir; "
            + ("" if skips else "--config.train.on_nan=skip leaves out such steps; ")
            + "of several runs, the others continue if this seed or domain is left out of the "
            "command"
        )


def _save(run: OpenRun, step: int) -> str:
    """Writes the batch of a step into the run's folder; returns a sentence about it."""
    path = run.workdir / "nonfinite" / f"step{step}.npz"
    try:
        save_batch(path, run.train_source, run.config, step)
    except (DataError, OSError) as error:  # no space left: the rest is still worth reporting
        return f"(Its batch could not be saved: {error}.)"
    return f"The batch is in {path}."


def save_batch(
    path: Path, source: SplitSource, config: ml_collections.ConfigDict, step: int
) -> None:
    """Writes the batch that a step is computed from, rows of all processes, as an .npz file.

    Its arrays are the fields of `Batch` and of its targets, and `qid`, "" for padding rows. Raises
    DataError if the file cannot be written.
    """
    batches = train_pipeline(source, config, start_step=step - 1)
    try:
        batch: Batch = next(batches)
    finally:
        batches.close()
    annotations = source.annotations()
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    targets = fields.pop("targets")
    fields |= {field.name: getattr(targets, field.name) for field in dataclasses.fields(targets)}
    fields["qid"] = np.array([str(annotations[i]["qid"]) if i >= 0 else "" for i in batch.example])
    content = io.BytesIO()
    np.savez(content, **fields)
    write_atomically(path, content.getvalue())

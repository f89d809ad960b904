"""The log files of a run: JSON lines and TensorBoard events."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from flashvtg_jax.distributed.processes import all_or_none, is_first
from flashvtg_jax.errors import CheckpointError, DataError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.training.hooks.hook import Hook, Training


class LogFiles(Hook):
    """Writes `train.jsonl`, `evaluations.jsonl` and `tensorboard/`; the lead host does.

    `train.jsonl` gets a line for each step, `evaluations.jsonl` one for each evaluation, and
    `tensorboard/` the means of the logging intervals. A resumed run first drops the lines of steps
    after `start_step` and of evaluations after `last_evaluation`: it will repeat them. Raises
    CheckpointError if the files cannot be written.
    """

    def __init__(self, workdir: Path, *, start_step: int, last_evaluation: int):
        self._workdir = workdir
        self._writes = is_first()
        self._files = {}
        with all_or_none():
            if self._writes:
                self._open(start_step, last_evaluation)

    def _open(self, start_step: int, last_evaluation: int) -> None:
        with _clear_write_errors(self._workdir):
            for name, last_step in (("train", start_step), ("evaluations", last_evaluation)):
                path = self._workdir / f"{name}.jsonl"
                _keep_steps(path, last_step)
                self._files[name] = path.open("a", encoding="utf-8")
            self._events = _EventFile(self._workdir / "tensorboard", start_step)

    def on_metrics(
        self, training: Training, steps: Sequence[int], metrics: Mapping[str, np.ndarray]
    ) -> None:
        steps_per_epoch = training.run.plan.steps_per_epoch
        with self._writing() as writes:
            if not writes:
                return
            for index, step in enumerate(steps):
                values = {name: _or_none(float(array[index])) for name, array in metrics.items()}
                epoch = (step - 1) // steps_per_epoch + 1
                self._write_line("train", {"step": step, "epoch": epoch, **values})
            for name, array in metrics.items():
                self._events.add_scalar(f"train/{name}", float(np.mean(array)), steps[-1])
            if training.samples_per_second is not None:
                rate = training.samples_per_second
                self._events.add_scalar("samples_per_second", rate, steps[-1])

    def on_evaluation(
        self, training: Training, metrics: Mapping[str, float], metrics_nms: Mapping[str, float]
    ) -> None:
        with self._writing() as writes:
            if not writes:
                return
            with_nms = {"with_nms": dict(metrics_nms)} if metrics_nms else {}
            self._write_line("evaluations", {"step": training.step, **metrics, **with_nms})
            for name, value in metrics.items():
                self._events.add_scalar(f"val/{name}", value, training.step)

    def close(self) -> None:
        for file in (self._events, *self._files.values()) if self._writes else ():
            with contextlib.suppress(OSError):  # what was not written was reported already
                file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[bool]:
        """Whether this process writes; an error of the lead host is raised in all processes."""
        with all_or_none(), _clear_write_errors(self._workdir):
            yield self._writes

    def _write_line(self, name: str, row: Mapping[str, Any]) -> None:
        self._files[name].write(json.dumps(row, allow_nan=False) + "\n")
        self._files[name].flush()


class _EventFile:
    """TensorBoard events, written as they come.

    tensorboardX's own SummaryWriter passes them to a thread; after a failed write, on a full disk,
    it blocks its callers for ever.
    """

    def __init__(self, folder: Path, start_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{start_step}")
        if start_step:  # hides events of an earlier process after this step: they will be repeated
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=start_step + 1, session_log=start))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if math.isfinite(value):
            self._write(Event(step=step, summary=scalar(name, value)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _keep_steps(path: Path, last_step: int) -> None:
    """Drop the lines of steps beyond `last_step`, and a last line that a crash cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            step = json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError):
            continue
        if step <= last_step:
            kept.append(line + "\n")
    try:
        write_atomically(path, "".join(kept))
    except DataError as error:
        raise CheckpointError(str(error)) from error


@contextlib.contextmanager
def _clear_write_errors(workdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{workdir}: its logs cannot be written ({error}); make space or fix the folder, then "
            "run the same command again"
        ) from error

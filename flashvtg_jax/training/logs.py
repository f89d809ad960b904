"""What a run tells: JSON lines and TensorBoard events in files, progress on the screen."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from flashvtg_jax.distributed.processes import all_or_none
from flashvtg_jax.errors import CheckpointError, DataError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.system.progress import is_terminal

Metrics = Mapping[str, Any]
Watch = Callable[[int, Mapping[str, float]], None]  # of the metrics of a step

_QUIET_SECONDS = 5.0  # between lines about evaluations that are not better


class RunLog:
    """The files of one run.

    `train.jsonl` gets a line for each step, `evaluations.jsonl` one for each evaluation, and
    `tensorboard/` the means of the logging intervals. A resumed run first drops the lines of steps
    after `start_step` and of evaluations after `last_evaluation`: it will repeat them. Raises
    CheckpointError if the files cannot be written.
    """

    def __init__(self, workdir: Path, *, start_step: int, last_evaluation: int):
        self.workdir = workdir
        self._files = {}
        for name, last_step in (("train", start_step), ("evaluations", last_evaluation)):
            path = workdir / f"{name}.jsonl"
            with _clear_write_errors(workdir):
                _keep_steps(path, last_step)
                self._files[name] = path.open("a", encoding="utf-8")
        with _clear_write_errors(workdir):
            self._events = _EventFile(workdir / "tensorboard", start_step)

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a step; those that are not finite as null."""
        told = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._write("train", {"step": step, "epoch": epoch, **told})

    def evaluation(self, step: int, numbers: Mapping[str, float], nms: Mapping[str, float]) -> None:
        """Write the numbers of an evaluation, without and with NMS (where there are moments)."""
        with_nms = {"with_nms": dict(nms)} if nms else {}
        self._write("evaluations", {"step": step, **numbers, **with_nms})
        for name, value in numbers.items():
            self.event(f"val/{name}", value, step)

    def event(self, name: str, value: float, step: int) -> None:
        """Write a number for TensorBoard, if it is one."""
        if not math.isfinite(value):
            return
        with _clear_write_errors(self.workdir):
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Close all files."""
        for file in (self._events, *self._files.values()):
            with contextlib.suppress(OSError):  # what was not written has been told already
                file.close()

    def _write(self, name: str, row: Mapping[str, Any]) -> None:
        with _clear_write_errors(self.workdir):
            self._files[name].write(json.dumps(row, allow_nan=False) + "\n")
            self._files[name].flush()


class SilentLog(RunLog):
    """The log of a process that is not the first one: nothing is written."""

    def __init__(self) -> None:
        pass

    def event(self, name: str, value: float, step: int) -> None:
        pass

    def close(self) -> None:
        pass

    def _write(self, name: str, row: Mapping[str, Any]) -> None:
        pass


class TrainingLog:
    """The metrics of steps, left on the device and written once per logging interval; a bar.

    Of several runs trained together, the metrics of a step are arrays with a value for each.
    `watches`, one for each run or none at all, look at the metrics after they are written, and may
    raise. Use as a context manager, which closes the runs' files.
    """

    def __init__(
        self,
        runs: Sequence[RunLog],
        watches: Sequence[Watch] = (),
        *,
        start_step: int,
        num_steps: int,
        steps_per_epoch: int,
        rows_per_step: int,
        interval: int,
        show_progress: bool,
    ):
        self._runs = runs
        self._watches = watches
        self._steps_per_epoch = steps_per_epoch
        self._num_epochs = num_steps // steps_per_epoch
        self._rows_per_step = rows_per_step
        self._interval = interval
        self._pending: list[tuple[range, Metrics]] = []
        self._started = None  # the first interval of a process would count the compilation
        self._told = -math.inf  # when the last evaluation was
        self._show = show_progress
        self._bar = tqdm(
            total=num_steps,
            initial=start_step,
            desc="train",
            unit="step",
            disable=not show_progress or not is_terminal(),
        )

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._bar.close()
            for run in self._runs:
                run.close()

    def add(self, step: int, metrics: Metrics, count: int = 1) -> None:
        """Take the metrics of the `count` steps up to `step`: device arrays, not waited for.

        They are [S, ...], the first `count` rows being real.
        """
        first = step - count + 1
        self._pending.append((range(first, step + 1), metrics))
        self._bar.update(count)
        if step // self._interval > (first - 1) // self._interval:
            self._flush(len(self._pending) - 1)  # the device may be busy with the last ones

    def flush(self) -> None:
        """Copy pending metrics to the host, write them and let the watches look.

        Raises CheckpointError if they cannot be written, and what the watches raise.
        """
        self._flush(len(self._pending))

    def _flush(self, num_dispatches: int) -> None:
        if not num_dispatches:
            return
        taken, self._pending = self._pending[:num_dispatches], self._pending[num_dispatches:]
        steps = [step for numbers, _ in taken for step in numbers]
        metrics = [
            {name: value[: len(numbers)] for name, value in values.items()}
            for (numbers, _), values in zip(
                taken, jax.device_get([values for _, values in taken]), strict=True
            )
        ]
        now = time.perf_counter()
        rate = None
        if self._started is not None:
            rate = len(steps) * self._rows_per_step / (now - self._started)
        self._started = now
        # [steps, runs] of each metric
        values = {
            name: np.concatenate([rows[name] for rows in metrics]).reshape(len(steps), -1)
            for name in metrics[0]
        }
        with all_or_none():  # one process writes, and the disk may be full
            for index, run in enumerate(self._runs):
                self._write(run, steps, {n: v[:, index] for n, v in values.items()}, rate)
        for index, watch in enumerate(self._watches):
            for position, step in enumerate(steps):
                watch(step, {name: float(v[position, index]) for name, v in values.items()})
        shown = {"loss": f"{np.mean(values['loss']):.3f}"}
        if rate is not None:
            shown["samples/s"] = f"{rate:.0f}"
        self._bar.set_postfix(shown)
        epochs = steps[-1] // self._steps_per_epoch
        if self._show and self._bar.disable and epochs > (steps[0] - 1) // self._steps_per_epoch:
            told = ", ".join(f"{name} {value}" for name, value in shown.items())
            self.say(f"epoch {epochs}/{self._num_epochs}: {told}")

    def _write(
        self,
        run: RunLog,
        steps: Sequence[int],
        values: Mapping[str, np.ndarray],
        rate: float | None,
    ) -> None:
        """Write the metrics [steps] of a run."""
        for position, step in enumerate(steps):
            epoch = (step - 1) // self._steps_per_epoch + 1
            run.step(step, epoch, {name: float(v[position]) for name, v in values.items()})
        for name, value in values.items():
            run.event(f"train/{name}", float(np.mean(value)), steps[-1])
        if rate is not None:
            run.event("samples_per_second", rate, steps[-1])

    def evaluated(self, text: str, *, news: bool) -> None:
        """Tell of an evaluation, unless it brings nothing new a moment after the last one."""
        now = time.monotonic()
        if news or now - self._told > _QUIET_SECONDS:
            self._told = now
            self.say(text)
        self._started = time.perf_counter()  # the evaluation's time is not the training's

    def say(self, text: str) -> None:
        """One line for the person who watches, above the bar."""
        if self._show:
            self._bar.write(text, file=sys.stderr)
            sys.stderr.flush()


class _EventFile:
    """TensorBoard events, written as they come.

    tensorboardX's own SummaryWriter hands them to a thread; after a failed write, on a full disk,
    it blocks its callers for ever.
    """

    def __init__(self, folder: Path, start_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{start_step}")
        if start_step:  # hides events of an earlier process after this step: they will be repeated
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=start_step + 1, session_log=start))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._write(Event(step=step, summary=scalar(name, value)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


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
            f"{workdir}: its logs cannot be written ({error}); make space or mend the folder, then "
            "run the same command again"
        ) from error

"""Training that is killed, stopped, starved of disk space and damaged must end as if undisturbed.

    python -m tests.training.faults --runs=30 --seed=0 --output=faults.json

Trains a tiny model undisturbed, then again and again with faults drawn from the seed: each run is
started by its command, disturbed, and started again until it ends by itself. Then everything it
left is compared with the undisturbed run: bit by bit if the number of devices stayed the same,
within 1e-5 otherwise (norm of the difference of all parameters against their norm; each loss).
"""

import argparse
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashvtg_jax.config import load_config
from flashvtg_jax.data.preparation import prepare_data
from tests.training.conftest import TINY
from tests.training.fault_plans import KINDS, Disturbance, Plan, leave_behind, make_plan
from tests.training.run_comparison import compare_runs, finished_steps

ROOT = Path(__file__).parents[2]
TRAIN_ROWS, BATCH_SIZE = 20, 8  # 1, 2, 4 and 8 devices can share a batch; the last one is padded
STEPS_PER_EPOCH = 3
SETTINGS = {
    **TINY,
    "synthetic.num_train": TRAIN_ROWS,
    "train.batch_size": BATCH_SIZE,
    "evaluation.batch_size": BATCH_SIZE,
    # Less to trace and to compile at every start.
    "model.n_input_proj": 1,
    "model.num_mlp_layers": 1,
    "model.strides": (1.0,),
    # Scores that change from one evaluation to the next even with such a model.
    "train.selection_metrics": ("MR-full-mIoU", "HL-min-VeryGood-mAP"),
}
STATUSES = {"kill": -signal.SIGKILL, "event": -signal.SIGKILL, "sigterm": 128 + signal.SIGTERM}
_BEGINNING = re.compile(r"\d+ steps, .*device\(s\)(?:, resuming at step (\d+))?")


@dataclasses.dataclass
class Start:
    """One start of a run, and how it went.

    Attributes:
      devices: simulated ones.
      status: exit status; negative: the signal that ended it; None: it was still running when its
        time was over.
      seconds: it took.
      continued_at: step that it went on from; None if it did not come to say so.
      fault: what was meant to stop it, and where that happened.
      left_behind: what was damaged or added on disk afterwards.
      output: all that it printed.
    """

    devices: int
    status: int | None = None
    seconds: float = 0.0
    continued_at: int | None = None
    fault: str = ""
    left_behind: list[str] = dataclasses.field(default_factory=list)
    output: str = ""


@dataclasses.dataclass
class Outcome:
    """A run with faults: its starts, what is wrong with its end, and how far from undisturbed."""

    plan: Plan
    starts: list[Start] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    differences: dict[str, float] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)  # not wrong, worth knowing

    @property
    def seconds(self) -> float:
        """Of all its starts."""
        return sum(start.seconds for start in self.starts)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        document = dataclasses.asdict(self)
        largest = max(self.differences.values(), default=None)
        verdict = "wrong" if self.problems else "right"
        return {"verdict": verdict, "largest_difference": largest, **document}


class Harness:
    """Runs of one tiny configuration below a folder, each in a work directory of its own."""

    def __init__(self, folder: Path, *, epochs: int = 8, deadline: float = 180.0):
        """`deadline`: seconds that one start may take; what takes longer hangs."""
        self.folder = folder.absolute()
        self.num_steps = epochs * STEPS_PER_EPOCH
        self.deadline = deadline
        self._references: dict[int, Path] = {}
        settings = {**SETTINGS, "train.epochs": epochs, "data.data_dir": str(self.folder / "data")}
        self._overrides = [f"--config.{key}={value}" for key, value in settings.items()]
        config = load_config("demo", self._overrides)
        prepare_data(config, self.folder / "data", show_progress=False)

    def reference(self, devices: int = 1) -> Path:
        """Work directory of the undisturbed run on so many devices, trained when first asked for.

        Raises RuntimeError if that goes wrong.
        """
        if devices not in self._references:
            workdir = self.folder / f"undisturbed_{devices}"
            start = Start(devices)
            self._start(workdir, start, Disturbance("event", action="count"), keep=1)
            if start.status != 0:
                raise RuntimeError(f"undisturbed: status {start.status}\n{start.output}")
            self._references[devices] = workdir
        return self._references[devices]

    def events(self) -> Counter[str]:
        """How many file events the undisturbed run has in each place of its work directory."""
        lines = self.reference().with_suffix(".events").read_text().splitlines()
        return Counter(line.split("\t")[0] for line in lines)

    def run(self, plan: Plan) -> Outcome:
        """Carries out a plan, and compares the end with the undisturbed run's."""
        outcome = Outcome(plan)
        workdir = self.folder / plan.name
        devices = plan.devices
        damaged = None
        for disturbance in [*plan.disturbances, None]:
            start = Start(devices)
            outcome.starts.append(start)
            newest = max(finished_steps(workdir / "checkpoints"), default=0)
            self._start(workdir, start, disturbance, plan.keep)
            outcome.problems += self._check_start(start, disturbance, workdir, newest, damaged)
            if start.output.count("Traceback") and start.status is not None:
                count = start.output.count("Traceback")
                outcome.remarks.append(f"{count} tracebacks before status {start.status}")
            if start.status == 0 or start.status is None:
                break
            if start.continued_at is not None:  # it has seen what was damaged before
                damaged = None
            if disturbance and disturbance.leaves:
                start.left_behind, found = leave_behind(workdir, disturbance)
                damaged = found or damaged
            devices = (disturbance and disturbance.devices) or devices
        if outcome.starts[-1].status == 0:
            exact = len({start.devices for start in outcome.starts}) == 1
            reference = self.reference(devices if exact else 1)
            try:
                wrong, outcome.differences = compare_runs(reference, workdir, exact=exact)
            except (OSError, ValueError) as error:
                wrong = [f"the results cannot be read: {error!r}"]
            outcome.problems += wrong
        for pattern in ("*.partial", "*/*.orbax-checkpoint-tmp*", "damaged/*"):
            paths = sorted(str(path.relative_to(workdir)) for path in workdir.glob(pattern))
            outcome.remarks += [f"left in the folder: {path}" for path in paths]
        return outcome

    def _check_start(
        self,
        start: Start,
        disturbance: Disturbance | None,
        workdir: Path,
        newest: int,
        damaged: int | None,
    ) -> list[str]:
        """What is wrong with a start that stood before a newest checkpoint, damaged or not."""
        if start.status is None:
            return [f"hangs: {start.output[-6000:]}"]
        stop = disturbance.stop if disturbance else "nothing"
        problems = []
        allowed = {STATUSES.get(stop, 1 if disturbance else 0), 0}
        if stop == "sigterm" and (workdir / "metrics.json").exists():
            allowed.add(-signal.SIGTERM)  # all is written: nobody listens any more
        if start.status not in allowed:
            problems.append(f"status {start.status} after {stop}: {start.output[-3000:]}")
        elif start.status == 1:
            messages = re.findall(r"^flashvtg train: .*", start.output, re.MULTILINE)
            if len(messages) != 1:
                problems.append(f"{len(messages)} messages instead of one: {start.output[-3000:]}")
        if start.status == 0 and start.continued_at is None:
            problems.append(f"does not tell where it begins: {start.output[-3000:]}")
        if start.continued_at is None or start.continued_at >= newest:
            return problems
        # It began before the newest checkpoint that it found.
        if newest != damaged:
            problems.append(f"continued at {start.continued_at}: there was a checkpoint {newest}")
        elif f"checkpoints/{newest}" not in start.output:
            problems.append(f"no warning of damaged checkpoint {newest}: {start.output[-3000:]}")
        return problems

    def _start(
        self, workdir: Path, start: Start, disturbance: Disturbance | None, keep: int
    ) -> None:
        """Starts the command, disturbs it, waits for its end; fills in `start`."""
        module = ["flashvtg_jax"]
        log = workdir.with_suffix(".events")
        log.unlink(missing_ok=True)
        if disturbance and disturbance.action:
            path = workdir.with_suffix(".fault.json")
            path.write_text(json.dumps(disturbance.fault(workdir, log)))
            module = ["tests.training.faulty_train", str(path)]
        command = [sys.executable, "-m", *module, "train", "--config=demo", f"--workdir={workdir}"]
        began, wall = time.monotonic(), time.time()
        process = subprocess.Popen(
            [*command, *self._overrides, f"--config.train.keep_checkpoints={keep}"],
            env=self._environment(start.devices),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # not a file: a full disk must not silence it
            stderr=subprocess.STDOUT,
        )
        chunks: list[bytes] = []
        reader = threading.Thread(target=lambda: chunks.extend(iter(process.stdout.readline, b"")))
        reader.start()
        try:
            if disturbance and not disturbance.action:
                start.fault = _signal(process, workdir, disturbance, wall, began + self.deadline)
            start.status = process.wait(max(0.0, began + self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # Python prints where all threads are
            time.sleep(1)
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()
        start.seconds = time.monotonic() - began
        start.output = b"".join(chunks).decode(errors="replace")
        found = _BEGINNING.search(start.output)
        start.continued_at = int(found[1] or 0) if found else None
        if disturbance and disturbance.action:
            start.fault = f"{disturbance}: {_last_event(log, start.status)}"

    def _environment(self, devices: int) -> dict[str, str]:
        flags = "--xla_backend_optimization_level=0"  # compiles faster
        settings = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
            # Threads of XLA on the CPU, else as many as cores: two simulated devices that wait in
            # different collectives of one program would occupy two of two, and wait for ever.
            "NPROC": "16",
            "PYTHONFAULTHANDLER": "1",
        }
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        return {**settings, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _signal(
    process: subprocess.Popen, workdir: Path, disturbance: Disturbance, wall: float, until: float
) -> str:
    """Sends the signal when its moment has come; tells when that was."""
    while process.poll() is None and time.monotonic() < until:
        logged = _logged_step(workdir / "train.jsonl", wall)
        kept = len(finished_steps(workdir / "checkpoints"))
        if logged is not None and logged >= disturbance.step and kept >= disturbance.checkpoints:
            time.sleep(disturbance.delay)
            break
        time.sleep(0.002)
    if process.poll() is not None:
        return f"{disturbance}: ended before"
    name = signal.SIGTERM if disturbance.stop == "sigterm" else signal.SIGKILL
    process.send_signal(name)
    return f"{disturbance}: step {_logged_step(workdir / 'train.jsonl', wall)} was logged"


def _logged_step(path: Path, since: float) -> int | None:
    """The last step that a start logged: 0 if it has only opened the log, None if not even that."""
    try:
        if path.stat().st_mtime < since:
            return None  # of an earlier start
        lines = path.read_text().splitlines()
        return json.loads(lines[-1])["step"] if lines else 0
    except (OSError, ValueError):  # not there yet; just being written
        return None


def _last_event(log: Path, status: int | None) -> str:
    lines = log.read_text().splitlines() if log.exists() else []
    if status == 0 or not lines:
        return f"ended after {len(lines)} events"
    _, event, path = lines[-1].split("\t")
    return f"struck at event {len(lines)}, {event} {path}"


def summary(outcomes: list[Outcome]) -> Iterator[str]:
    """Lines of a table, and how often each kind of fault struck."""
    yield "run      fault      statuses             devices         s difference verdict"
    struck: Counter[str] = Counter()
    for outcome in outcomes:
        statuses = " ".join(str(start.status) for start in outcome.starts)
        devices = " ".join(str(start.devices) for start in outcome.starts)
        largest = max(outcome.differences.values(), default=float("nan"))
        yield (
            f"{outcome.plan.name:8} {outcome.plan.kind:10} {statuses:20} {devices:12} "
            f"{outcome.seconds:4.0f} {largest:10.1e} {'WRONG' if outcome.problems else 'right'}"
            + (f", {len(outcome.remarks)} remark(s)" if outcome.remarks else "")
        )
        for start, disturbance in zip(outcome.starts, outcome.plan.disturbances, strict=False):
            if start.status:
                struck[disturbance.stop] += 1
                struck.update(text.split(":")[0] for text in start.left_behind)
        counts = [start.devices for start in outcome.starts]
        struck["other devices"] += sum(a != b for a, b in itertools.pairwise(counts))
    yield "struck: " + ", ".join(f"{name} {count}" for name, count in sorted(struck.items()))
    wrong = sum(bool(outcome.problems) for outcome in outcomes)
    yield f"{len(outcomes) - wrong} of {len(outcomes)} ended as the undisturbed run"


def main() -> int:
    """The program; its exit status is 1 if a run ended wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.training.faults",
        description=__doc__.split("\n\n", 2)[2],
        epilog="example:\n  python -m tests.training.faults --runs=3 --seed=1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--runs", type=int, default=30, help="with faults (default %(default)s)")
    add("--seed", type=int, default=0, help="of the faults (default %(default)s)")
    add("--only", type=int, metavar="N", help="run number N of these alone, to look into it")
    add("--kind", choices=KINDS, help="runs with this fault alone (default: all in turn)")
    add("--epochs", type=int, default=8, help=f"of {STEPS_PER_EPOCH} steps (default %(default)s)")
    add("--deadline", type=float, default=180, help="seconds a start may take (%(default)s)")
    add("--folder", type=Path, metavar="DIR", help="keep all work directories there; new or empty")
    add("--output", type=Path, metavar="FILE", help="JSON with all that happened")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flashvtg_faults_") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            parser.error(f"{folder} is not empty")
        began = time.monotonic()
        harness = Harness(folder, epochs=options.epochs, deadline=options.deadline)
        events = harness.events()
        told = ", ".join(f"{place} {count}" for place, count in sorted(events.items()))
        print(f"undisturbed: {harness.num_steps} steps; file events: {told}", flush=True)
        outcomes = []
        for index in range(options.runs) if options.only is None else [options.only]:
            plan = make_plan(options.seed, index, harness.num_steps, events, kind=options.kind)
            outcome = harness.run(plan)
            outcomes.append(outcome)
            faults = "; ".join(_describe(start) for start in outcome.starts)
            print(f"{plan.name} {plan.kind}: {faults}", flush=True)
            for problem in outcome.problems:
                print(f"  WRONG: {problem}", flush=True)
            for remark in outcome.remarks:
                print(f"  remark: {remark}", flush=True)
            if options.output:  # each time: what is known so far outlives an interruption
                document = {
                    "seed": options.seed,
                    "steps": harness.num_steps,
                    "seconds": time.monotonic() - began,
                    "file_events": dict(events),
                    "runs": [outcome.to_json() for outcome in outcomes],
                }
                options.output.write_text(json.dumps(document, indent=1) + "\n")
        print("\n" + "\n".join(summary(outcomes)))
    return int(any(outcome.problems for outcome in outcomes))


def _describe(start: Start) -> str:
    parts = [f"{start.devices} device(s)", start.fault or "undisturbed", *start.left_behind]
    where = "" if start.continued_at is None else f" from {start.continued_at}"
    return f"[{', '.join(parts)} -> {start.status}{where}, {start.seconds:.0f} s]"


if __name__ == "__main__":
    sys.exit(main())

"""Which faults a run meets, drawn from a seed, and what lies on its disk after one of them."""

import dataclasses
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.training.run_comparison import finished_steps

# kill: SIGKILL at any time; event: SIGKILL while files are written; damage: SIGKILL, and the newest
# checkpoint is damaged; rubbish: SIGKILL, and halves of files lie about; devices: stopped, and
# started on another number of devices; sigterm; full_disk.
KINDS = ("kill", "event", "damage", "rubbish", "devices", "sigterm", "full_disk")
DAMAGES = ("cut", "deleted", "zeros")
RUBBISH = ("half_line", "partial_file", "unfinished_checkpoint")
DEVICE_COUNTS = (1, 2, 4, 8)
# Any file of a checkpoint, most of which nobody reads again, or one that is needed.
DAMAGED_FILES = ("*", "meta/metadata", "_METADATA", "manifest.ocdbt", "params/d/*", "rest/d/*")


@dataclasses.dataclass(frozen=True)
class Disturbance:
    """How one start of a run is stopped, and what happens before the next one.

    Attributes:
      stop: "kill" and "sigterm" are signals from outside; "event", "full_disk" and "quota" happen
        inside, at a file event.
      step: a signal comes when it is logged, and `checkpoints` are finished, after `delay` seconds.
      checkpoints: how many.
      delay: seconds, from that moment or from the event.
      action: what happens inside, as `faulty_train.Fault` names it; "": nothing.
      place: part of the work directory whose events are counted.
      number: of the event.
      size: bytes that a file may have, of a quota.
      leaves: what is done to the disk afterwards, of DAMAGES and RUBBISH.
      damages: pattern of the files of the checkpoint of which one is damaged.
      devices: for the next start; None: as many as before.
      seed: of what is done to the disk.
    """

    stop: str
    step: int = 0
    checkpoints: int = 0
    delay: float = 0.0
    action: str = ""
    place: str = ""
    number: int = 0
    size: int = 0
    leaves: tuple[str, ...] = ()
    damages: str = "*"
    devices: int | None = None
    seed: int = 0

    def __str__(self) -> str:
        delay = f" + {1000 * self.delay:.0f} ms" if self.delay else ""
        if not self.action:
            kept = f" and {self.checkpoints} checkpoints" if self.checkpoints else ""
            return f"{self.stop} at step {self.step}{kept}{delay}"
        size = f" of {self.size} bytes" if self.size else ""
        return f"{self.stop}{size} at {self.place}:{self.number}{delay}"

    def fault(self, workdir: Path, log: Path) -> dict[str, Any]:
        """The fields of `faulty_train.Fault`."""
        fields = {name: getattr(self, name) for name in ("action", "place", "number", "delay")}
        return {"workdir": str(workdir), "log": str(log), "size": self.size, **fields}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens to a run: its disturbances one after the other, then it is left alone.

    It begins on so many `devices`, and keeps so many checkpoints.
    """

    name: str
    kind: str
    disturbances: tuple[Disturbance, ...]
    devices: int = 1
    keep: int = 1


def make_plan(
    seed: int, index: int, num_steps: int, events: Mapping[str, int], *, kind: str | None = None
) -> Plan:
    """The plan of a run, a function of the arguments: one disturbance to three.

    Args:
      seed: of all runs.
      index: of this run; the kinds of faults come in turn.
      num_steps: of an undisturbed run.
      events: of an undisturbed run, by place.
      kind: the fault to have instead of the one whose turn it is.
    """
    rng = random.Random(f"{seed}/{index}")
    kind = kind or KINDS[index % len(KINDS)]
    count = rng.choices((1, 2, 3), (5, 4, 1))[0]
    kinds = [rng.choice(("kill", "event", "sigterm")) for _ in range(count)]
    kinds[rng.randrange(count)] = kind
    devices = rng.choices((1, 2), (5, 1))[0]
    start_devices = devices
    keep = 2 if kind == "damage" else rng.choices((1, 3), (3, 1))[0]
    disturbances = []
    for position, each in enumerate(kinds):
        # Later disturbances come later in the run.
        step = rng.randrange(position * num_steps // count, (position + 1) * num_steps // count + 1)
        stop = {"damage": "kill", "rubbish": "kill"}.get(each, each)
        if each == "devices":
            stop = rng.choice(("kill", "event", "sigterm"))
        fields: dict[str, Any] = {"seed": rng.randrange(2**32)}
        if each == "damage":
            fields |= {"leaves": (rng.choice(DAMAGES),), "damages": rng.choice(DAMAGED_FILES)}
            fields["checkpoints"] = 2
            step = min(step, num_steps // 2)
        elif each == "rubbish":
            fields["leaves"] = tuple(rng.sample(RUBBISH, rng.randint(1, len(RUBBISH))))
        elif each == "devices":
            devices = rng.choice([n for n in DEVICE_COUNTS if n != devices])
            fields["devices"] = devices
        if stop in ("kill", "sigterm"):
            fields |= {"step": step, "delay": 10 ** rng.uniform(-3, 0)}
        else:
            fields |= _draw_event(rng, stop, events, left=1 - position / count)
        disturbances.append(Disturbance(fields.pop("stop", stop), **fields))
    return Plan(f"run_{index}", kind, tuple(disturbances), start_devices, keep)


def _draw_event(
    rng: random.Random, stop: str, events: Mapping[str, int], left: float
) -> dict[str, Any]:
    """A moment among the file events: each place is as likely, and each event of a place.

    `left` is the part of the run that is still to come: the longer a start has been going, the
    fewer events it has.
    """
    place = rng.choice(sorted(events))
    if rng.random() < 0.5:
        place = "checkpoints"  # most of what is written
    count = events[place]
    number = rng.randint(1, max(1, int(count * left) if count > 10 else count))
    fields = {"action": "kill", "place": place, "number": number}
    if stop == "event":
        fields["delay"] = rng.choice((0.0, 0.0, rng.uniform(0, 0.03)))
    elif rng.random() < 0.5:
        fields |= {"action": "full_disk"}
    else:
        fields |= {"action": "quota", "stop": "quota", "size": int(10 ** rng.uniform(1, 4.5))}
    return fields


def leave_behind(workdir: Path, disturbance: Disturbance) -> tuple[list[str], int | None]:
    """Does to the disk what a disturbance leaves.

    Returns what was done, and the step of the checkpoint that was damaged, if one was.
    """
    rng = random.Random(disturbance.seed)
    done, damaged = [], None
    for name in disturbance.leaves:
        if name in DAMAGES:
            told, damaged = _damage(workdir, name, disturbance.damages, rng)
        elif name == "half_line":
            told = _halve_line(workdir, rng)
        elif name == "partial_file":
            told = _leave_partial(workdir, rng)
        else:
            told = _leave_unfinished(workdir, rng)
        done.append(f"{name}: {told}")
    return done, damaged


def _damage(workdir: Path, how: str, pattern: str, rng: random.Random) -> tuple[str, int | None]:
    steps = finished_steps(workdir / "checkpoints")
    if len(steps) < 2:
        return "nothing, there is no checkpoint to go back to", None
    folder = workdir / "checkpoints" / str(steps[-1])
    files = sorted(path for path in folder.rglob(pattern) if path.is_file() and path.stat().st_size)
    path = rng.choice(files)
    size = path.stat().st_size
    kept = rng.randrange(size)
    if how == "deleted":
        path.unlink()
        kept = 0
    else:
        content = path.read_bytes()[:kept]
        path.write_bytes(content + bytes(size - kept if how == "zeros" else 0))
    return f"{path.relative_to(workdir)}, {kept} of {size} bytes kept", steps[-1]


def _halve_line(workdir: Path, rng: random.Random) -> str:
    """Cuts the last line of the log, as a crash in the middle of writing it does."""
    path = workdir / "train.jsonl"
    if not path.exists():
        return "nothing, there is no log yet"
    lines = path.read_text().splitlines(keepends=True)
    newest = max(finished_steps(workdir / "checkpoints"), default=0)
    last = json.loads(lines[-1]) if lines else {"step": 0, "loss": 1.0}
    if last["step"] <= newest:  # was written long before: what was being written is the next one
        lines.append(json.dumps({**last, "step": last["step"] + 1}))
    lines[-1] = lines[-1][: rng.randrange(1, len(lines[-1]))]
    path.write_text("".join(lines))
    return f"line {len(lines)} ends with {lines[-1][-20:]!r}"


def _leave_partial(workdir: Path, rng: random.Random) -> str:
    names = ("config.json", "train.jsonl", "evaluations.jsonl", "metrics.json", "predictions.jsonl")
    path = workdir / f"{rng.choice(names)}.partial"
    path.write_text('{"step": 1, "lo'[: rng.randrange(16)])
    return path.name


def _leave_unfinished(workdir: Path, rng: random.Random) -> str:
    """A folder that Orbax had begun, with the step that is saved next or one already there."""
    parent = workdir / rng.choice(("checkpoints", "best"))
    step = max(finished_steps(workdir / "checkpoints"), default=0) + rng.choice((0, 3, 3, 1000))
    name = f"{step}.orbax-checkpoint-tmp" + rng.choice(("", f"-{rng.randrange(10**15)}"))
    folder = parent / name
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "params.orbax-checkpoint-tmp" / "d").mkdir(parents=True)
    (folder / "params.orbax-checkpoint-tmp" / "d" / "0").write_bytes(rng.randbytes(100))
    (folder / "_CHECKPOINT_METADATA").write_text('{"item_handl')
    return f"{parent.name}/{name}"

"""The step that a run resumes from: the newest checkpoint that is whole; damaged ones move aside.

Checkpoints are renamed into place, so that a killed program leaves no partial one. A power cut, a
failing disk or an interrupted copy can. The lead host checks them, alone.
"""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

from flashvtg_jax.checkpoints.folders import finished_steps
from flashvtg_jax.checkpoints.verification import read_or_damage
from flashvtg_jax.errors import CheckpointError

DAMAGED = "damaged"  # folder below the work directory
_ITEMS = {"checkpoints": ("params", "rest"), "best": ("params",)}


def find_start(workdir: Path, first_due: int) -> int:
    """The step to resume from, 0 for the beginning.

    A checkpoint can be used if it is whole and the best parameters it names are there. Damaged ones
    that would be needed are moved to `damaged/`, with a warning. If none can be used, a run that
    had not passed `first_due`, the step of its first checkpoint, starts again from the beginning.

    Raises CheckpointError if none can be used and the run was longer: a person has to decide; and
    for checkpoints of another version.
    """
    folders = {name: _Checked(workdir / name, items) for name, items in _ITEMS.items()}
    states, best = folders["checkpoints"], folders["best"]
    start = named = None
    for step in reversed(states.steps):
        selection = states.metas[step]["selection"] if step in states.metas else None
        if selection is None:
            continue
        named = selection["best_step"]
        if selection["best"] is None or named in {**states.metas, **best.metas}:
            start = step
            break
        states.damage.setdefault(step, f"the best parameters, of step {named}, are missing")
    if start is None:
        if max(states.steps, default=0) > first_due:
            damage = "\n  ".join(f"{states.folder / str(s)}: {d}" for s, d in states.damage.items())
            raise CheckpointError(
                f"{workdir}: none of its checkpoints can be used:\n  {damage}\nRepair the disk and "
                "run the same command again, or move these folders away to start from the beginning"
            )
        start = 0
    for found in folders.values():
        for step, damage in sorted(found.damage.items()):
            if start and (step < start if found is states else step != named):
                # Left by a program that was killed while it deleted what is no longer needed.
                shutil.rmtree(found.folder / str(step), ignore_errors=True)
            else:
                _put_aside(workdir, found.folder / str(step), damage, start)
    return start


@dataclasses.dataclass
class _Checked:
    """The checkpoints in a folder, read and checked."""

    folder: Path
    items: tuple[str, ...]

    def __post_init__(self) -> None:
        self.steps = finished_steps(self.folder)
        self.metas: dict[int, dict[str, Any]] = {}  # of those that are whole
        self.damage: dict[int, str] = {}  # what is wrong with the others
        for step in self.steps:
            found, damage = read_or_damage(self.folder / str(step), self.items)
            if damage:
                self.damage[step] = damage
            else:
                self.metas[step] = found["meta"]


def _put_aside(workdir: Path, folder: Path, damage: str, start: int) -> None:
    target = workdir / DAMAGED / f"{folder.parent.name}-{folder.name}"
    while target.exists():
        target = target.with_name(f"{target.name}-again")
    print(
        f"warning: {folder}: this checkpoint is damaged ({damage}); it is now in {target}, and "
        + (f"training resumes from step {start}" if start else "training starts again from step 0"),
        file=sys.stderr,
    )
    try:
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be moved to {target}: {error}") from error

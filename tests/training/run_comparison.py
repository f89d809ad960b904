"""How far two work directories of finished runs differ; reads files only, nothing of the package.

The arrays of a checkpoint are read with Orbax as numpy arrays, whatever devices they were saved on.
"""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

TOLERANCE = 1e-5  # relative, for runs that were on different numbers of devices
EXACT_FILES = ("metrics.json", "predictions.jsonl", "predictions_nms.jsonl")

Arrays = dict[str, np.ndarray]
Rows = list[dict[str, Any]]


def finished_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder that bear their final name, ascending."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def compare_runs(
    reference: Path, workdir: Path, *, exact: bool
) -> tuple[list[str], dict[str, float]]:
    """What is wrong with a run, and its largest differences from an undisturbed one.

    A difference of arrays is the norm of the difference over all of them, divided by the norm of
    the reference; that of numbers is relative as well.

    With `exact` everything must be equal, bit by bit. Without, parameters and losses must be within
    TOLERANCE; other differences are only told: moments change places when scores hardly differ.
    """
    problems: list[str] = []
    differences: dict[str, float] = {}
    for name, fields in (("train", ("loss",)), ("evaluations", None)):
        rows, found = (_read_rows(folder / f"{name}.jsonl") for folder in (reference, workdir))
        steps, found_steps = ([row["step"] for row in part] for part in (rows, found))
        if steps != found_steps:
            problems.append(f"{name}.jsonl: steps {found_steps}, not {steps}")
            continue
        differences[name] = max(map(_row_difference, rows, found, [fields] * len(rows)))
        if exact and rows != found:
            problems.append(f"{name}.jsonl: not equal, by up to {differences[name]:.1e}")
    if exact:
        for name in EXACT_FILES:
            if (reference / name).read_bytes() != (workdir / name).read_bytes():
                problems.append(f"{name}: not equal")

    for folder, items in (("checkpoints", ("params", "rest")), ("best", ("params",))):
        steps = [finished_steps(run / folder)[-1:] for run in (reference, workdir)]
        if steps[0] != steps[1]:
            if exact or folder == "checkpoints":
                problems.append(f"{folder}: the last is {steps[1]}, not {steps[0]}")
            continue
        one, other = (run / folder / str(steps[0][0]) for run in (reference, workdir))
        for item in items:
            name = f"{folder}/{item}"
            arrays, found_arrays = read_arrays(one / item), read_arrays(other / item)
            if {k: (a.shape, a.dtype) for k, a in arrays.items()} != {
                k: (a.shape, a.dtype) for k, a in found_arrays.items()
            }:
                problems.append(f"{name}: other arrays")
                continue
            differences[name] = _array_difference(arrays, found_arrays)
            same = all(arrays[key].tobytes() == found_arrays[key].tobytes() for key in arrays)
            if exact and not same:
                problems.append(f"{name}: not equal, by {differences[name]:.1e}")
        best = (_selection(other) or {}).get("best_step")
        if folder == "checkpoints" and best and best not in finished_steps(workdir / "best"):
            problems.append(f"best: the parameters of step {best}, which is the best, are missing")
        # That of the last state may be older: a signal saves before an evaluation that is due.
        if exact and folder == "best" and _selection(one) != _selection(other):
            problems.append(f"{folder}: another selection: {_selection(other)}")
    if not exact:
        for name in ("checkpoints/params", "best/params", "train"):
            if differences.get(name, 0) > TOLERANCE:
                problems.append(f"{name}: differs by {differences[name]:.1e}")
    return problems, differences


def read_arrays(folder: Path) -> Arrays:
    """The arrays that Orbax saved in a folder, by their place in the tree."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # it misses files of the folder above
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    try:
        tree = checkpointer.metadata(folder).item_metadata.tree
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=to_numpy))
    finally:
        checkpointer.close()
    leaves = jax.tree.leaves_with_path(restored)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _array_difference(one: Arrays, other: Arrays) -> float:
    def norm(arrays: Arrays) -> float:
        return float(np.sqrt(sum(np.sum(np.square(a)) for a in arrays.values())))

    # The step and the seed are whole numbers, and would outweigh everything.
    floats = {key: a.astype(np.float64) for key, a in one.items() if a.dtype.kind == "f"}
    return norm({key: a - other[key] for key, a in floats.items()}) / norm(floats)


def _row_difference(one: dict[str, Any], other: dict[str, Any], fields: Any) -> float:
    """The largest relative difference of some numbers of two rows, or of all."""
    pairs = [(one[name], other.get(name)) for name in fields or one]
    numbers = [pair for pair in pairs if all(isinstance(value, int | float) for value in pair)]
    return max((abs(a - b) / max(abs(a), abs(b)) for a, b in numbers if a != b), default=0.0)


def _selection(checkpoint: Path) -> Any:
    path = checkpoint / "meta" / "metadata"
    return json.loads(path.read_text()).get("selection") if path.exists() else None


def _read_rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]

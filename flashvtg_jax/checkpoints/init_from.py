"""`config.train.init_from`: a run that begins with the best parameters of another one."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from flashvtg_jax.checkpoints.folders import finished_steps
from flashvtg_jax.checkpoints.restore import checkpoint_folder, param_shapes
from flashvtg_jax.checkpoints.verification import read_or_damage
from flashvtg_jax.config import apply_overrides
from flashvtg_jax.distributed.processes import is_lead_host
from flashvtg_jax.errors import CheckpointError, ConfigError
from flashvtg_jax.models.flashvtg import build_model

_SHOWN = 10  # parameters in an error

Arrays = dict[str, np.ndarray]  # by path: "boundary_head/conv_0/kernel"


def absolute_init(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration with the absolute path of the folder."""
    if config.train.init_from is None:
        return config
    folder = Path(config.train.init_from).expanduser().resolve()
    return apply_overrides(config, {"train.init_from": str(folder)})


def check_init(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Raises CheckpointError if a run that has not started is to begin from what is not there."""
    folder = config.train.init_from
    if folder is not None and not finished_steps(workdir / "checkpoints"):
        _checkpoint(folder)


def _checkpoint(source: str) -> Path:
    """The folder of the checkpoint to begin from. Raises CheckpointError if there is none."""
    try:
        return checkpoint_folder(Path(source))
    except CheckpointError as error:
        raise CheckpointError(f"config.train.init_from: {error}") from error


def read_init(config: ml_collections.ConfigDict) -> Arrays:
    """The parameters to begin with, by path; parameters that are not among them keep their own.

    Reports on stderr what was taken, and what was not. `config` is complete, widths included.

    Raises:
      CheckpointError: there is no such checkpoint, or it is damaged.
      ConfigError: parameters differ in name or shape and `config.train.init_partial` is not set, or
        none is the same.
    """
    source = config.train.init_from
    folder = _checkpoint(source)
    read, damage = read_or_damage(folder, ("params",))
    if damage:
        raise CheckpointError(
            f"{folder}: config.train.init_from names this checkpoint, which is damaged ({damage})"
        )
    found = _flat(read["params"])
    shapes = param_shapes(build_model(config.model), config.data)
    expected = {path: leaf.shape for path, leaf in _flat(shapes).items()}
    differences = _differences(expected, {path: array.shape for path, array in found.items()})
    taken = {path: a for path, a in found.items() if expected.get(path) == a.shape}
    if differences and not (config.train.init_partial and taken):
        advice = (
            "Use the model's settings of that run, or begin with the parameters that fit and leave "
            "the others at their initial values: --config.train.init_partial=True"
            if taken
            else "None of them fits: it is another model"
        )
        shown = "\n  ".join(differences[:_SHOWN])
        if len(differences) > _SHOWN:
            shown += f"\n  ... and {len(differences) - _SHOWN} more"
        raise ConfigError(
            f"config.train.init_from={source}: its model has other parameters:\n  {shown}\n{advice}"
        )
    if is_lead_host():
        of = f"{len(taken)} of {len(expected)}" if differences else f"all {len(expected)}"
        note = f"{config.name}: begins with {of} parameter arrays of {folder}"
        if differences:
            kept = len(expected) - len(taken)
            note += "\n  ".join((f"; {kept} keep their initial values. Not taken:", *differences))
        print(note, file=sys.stderr)
    return taken


def begin_from(state: Any, arrays: Arrays) -> Any:
    """The `TrainState` before the first step with other parameters, sharded as its own are."""
    params = {
        path: _sharded_like(arrays[path], leaf) if path in arrays else leaf
        for path, leaf in _flat(state.params).items()
    }
    return state.replace(params=traverse_util.unflatten_dict(params, sep="/"))


def _sharded_like(array: np.ndarray, like: jax.Array) -> jax.Array:
    # Each process has the whole array and gives its devices their parts.
    array = array.astype(like.dtype)
    return jax.make_array_from_callback(array.shape, like.sharding, lambda index: array[index])


def _flat(params: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")


def _differences(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """A line for each parameter that is not the same in both, by path."""

    def show(shape: tuple[int, ...] | None) -> str:
        return "missing" if shape is None else str(list(shape))

    return [
        f"{path}: {show(expected.get(path))} here, {show(found.get(path))} there"
        for path in sorted({*expected, *found})
        if expected.get(path) != found.get(path)
    ]

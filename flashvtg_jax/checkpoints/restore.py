"""A trained model from a work directory: its configuration, module and parameters."""

import contextlib
import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import jax
import ml_collections
from jax.sharding import Sharding

from flashvtg_jax.checkpoints.folders import find_runs, finished_steps
from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.config import add_new_fields, config_from_json
from flashvtg_jax.data.batch import feature_widths
from flashvtg_jax.errors import CheckpointError, ConfigError
from flashvtg_jax.models.flashvtg import FlashVTG, build_model
from flashvtg_jax.models.init import init_params
from flashvtg_jax.version import __version__


@dataclasses.dataclass(frozen=True)
class Restored:
    """A trained model.

    Attributes:
      config: the configuration it was trained with.
      model: its module.
      params: its parameters, with the requested sharding.
      step: of the checkpoint.
    """

    config: ml_collections.ConfigDict
    model: FlashVTG
    params: Any
    step: int


def restore(
    workdir: str | Path, *, step: int | None = None, sharding: Sharding | None = None
) -> Restored:
    """Read a model from the work directory of a run (or from what `flashvtg convert` wrote).

    Args:
      workdir: of one run; of several runs, the folder of one of them.
      step: of the checkpoint; None: the best one, or the latest if none was scored.
      sharding: of the parameters; None: the first device.

    Raises:
      CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    workdir = Path(workdir).expanduser().absolute()
    default = checkpoint_folder(workdir)
    step = int(default.name) if step is None else step
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        meta = checkpoints.read_meta(step)
        try:
            config = add_new_fields(config_from_json(json.dumps(meta["config"])))
            model = build_model(config.model)
        except ConfigError as error:
            version = meta.get("versions", {}).get("flashvtg_jax", "another version")
            raise CheckpointError(
                f"{workdir}: the configuration of step {step} cannot be read ({error}). It was "
                f"saved by flashvtg-jax {version}, this is {__version__}: a newer one may be needed"
            ) from error
        shapes = param_shapes(model, config.data)
        target = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), shapes
        )
        params = checkpoints.restore_params(step, target)
    return Restored(config, model, params, step)


def load_params(workdir: str | Path, *, step: int | None = None) -> Any:
    """The parameters of a trained model on the first device, for `model.apply({"params": ...})`.

    Arguments and errors are those of `restore`.
    """
    return restore(workdir, step=step).params


def param_shapes(model: FlashVTG, data_config: ml_collections.ConfigDict) -> Any:
    """The parameters of a model as `jax.ShapeDtypeStruct`s; nothing is computed."""
    widths = feature_widths(data_config)
    return jax.eval_shape(lambda key: init_params(model, key, *widths), jax.random.key(0))


def checkpoint_folder(workdir: Path) -> Path:
    """The folder of the checkpoint to use: the best one, or the latest if none was scored.

    Raises CheckpointError if there is none, or if several runs are below the folder.
    """
    names = find_runs(workdir)
    check_has_runs(workdir, names)
    if names != [""]:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise CheckpointError(f"{workdir}: the folder of several runs; name one of them: {shown}")
    for folder in (workdir / "best", workdir / "checkpoints"):
        if steps := finished_steps(folder):
            return folder / str(steps[-1])
    raise CheckpointError(f"{workdir}: no finished checkpoint yet")


def check_has_runs(workdir: Path, names: list[str]) -> None:
    """Raises CheckpointError if no runs were found in a folder."""
    if not names:
        raise CheckpointError(
            f"{workdir}: no checkpoints here; train first: "
            f"flashvtg train --config=NAME --workdir={shlex.quote(str(workdir))}"
        )

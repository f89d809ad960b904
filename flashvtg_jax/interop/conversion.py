"""Checkpoint files of PyTorch to work directories, and back."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.checkpoints.restore import Restored, restore
from flashvtg_jax.config import config_from_json, config_to_json, load_config, save_config
from flashvtg_jax.data.build.layout import parse_widths
from flashvtg_jax.errors import CheckpointError, ConfigError
from flashvtg_jax.interop.pytorch import (
    IGNORED_NAMES,
    check_is_flashvtg,
    params_from_torch,
    params_to_torch,
    unread_entries,
    without_prefix,
)
from flashvtg_jax.interop.torch_files import TorchCheckpoint, read_torch_file, write_torch_file
from flashvtg_jax.interop.torch_options import config_from_options, config_from_shapes
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.selection import Selection
from flashvtg_jax.training.state import param_count

# In a converted work directory: entries of the file that the model does not read, for the way back.
UNREAD_FILE = "unread_in_pytorch.npz"


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
      config: the configuration of the model.
      num_params: how many parameters it has, as single numbers.
      epoch: after which the checkpoint was written, from 0; None if unknown.
    """

    config: ml_collections.ConfigDict
    num_params: int
    epoch: int | None


def from_torch_file(
    file: str | Path,
    output: str | Path,
    config: str | ml_collections.ConfigDict | None = None,
    widths: Mapping[str, int] | str | None = None,
) -> Converted:
    """Write the work directory of a checkpoint of PyTorch; evaluate, predict and export read it.

    Nothing in the file is run.

    Args:
      file: a checkpoint of the authors' program, one that `to_torch_file` wrote, or a state dict.
      output: the work directory; new, or an empty folder.
      config: the configuration to start from, or its name; None: that of the data set and features
        in the options of the file, which a state dict does not have.
      widths: of the features by name of the stream or "query", where they differ from the
        configuration's; or as text "slowfast=64,query=32".

    Raises:
      CheckpointError: the file cannot be used (unreadable, another model, unknown features),
        `output` exists, or PyTorch is missing.
      ConfigError: there is no such configuration, it does not fit the file, or one is needed.
    """
    file, output = Path(file).expanduser(), Path(output).expanduser().absolute()
    check_new(output)
    start = load_config(config) if isinstance(config, str) else config
    widths = parse_widths(widths) if isinstance(widths, str) else widths
    checkpoint = read_torch_file(file)
    state_dict = without_prefix(checkpoint.state_dict)
    shapes = {n: a.shape for n, a in state_dict.items() if not IGNORED_NAMES.match(n)}
    try:
        check_is_flashvtg(shapes)  # before asking for a configuration
        config = _choose_config(checkpoint, shapes, start, widths)
        params = params_from_torch(state_dict, build_model(config.model))
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{file}: {error}") from error
    if broken := [name for name in shapes if not np.isfinite(state_dict[name]).all()]:
        raise CheckpointError(
            f"{file}: {len(broken)} parameters hold numbers that are not finite, such as "
            f"{broken[0]}: that training had diverged"
        )
    unread = {name: array for name, array in state_dict.items() if name not in shapes}
    about = {"file": file.name, "epoch": checkpoint.epoch}
    _write_workdir(output, config, params, unread, about)
    return Converted(config, param_count(params), checkpoint.epoch)


def to_torch_file(workdir: str | Path, file: str | Path, step: int | None = None) -> Restored:
    """Write a trained model as a checkpoint that the authors' program loads.

    It holds the parameters under "model", and the configuration for `from_torch_file`.

    Args:
      workdir: of `flashvtg train` or `flashvtg convert`.
      file: to write; new.
      step: of the checkpoint; None: the best one.

    Returns what was written.
    Raises CheckpointError if there is no such checkpoint, the file exists or cannot be written, or
    PyTorch is missing; ConfigError for a model that the authors' program does not have.
    """
    restored = restore(workdir, step=step)
    config, model = restored.config, restored.model
    window, longest = model.attention_window, config.data.max_clips
    if window is not None and (longest is None or window < longest - 1):
        raise ConfigError(
            f"{workdir}: trained with config.model.attention_window={window}; the authors' program "
            "has no windows and would find other moments with these parameters. Train without one, "
            "or with one that covers config.data.max_clips"
        )
    try:
        state_dict = params_to_torch(jax.device_get(restored.params), model)
    except ConfigError as error:
        raise ConfigError(f"{workdir}: {error}") from error
    unread = unread_entries(model.hidden_dim, config.data.max_words)
    kept = Path(workdir).expanduser() / UNREAD_FILE
    if kept.is_file():
        try:
            with np.load(kept) as arrays:
                unread = dict(arrays)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{kept}: cannot be read ({error})") from error
    write_torch_file(file, state_dict | unread, config_to_json(config))
    return restored


def check_new(output: Path) -> None:
    """Raises CheckpointError if there is anything at `output` but an empty folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output}: exists and is not empty; give another --output")


def _choose_config(
    checkpoint: TorchCheckpoint,
    shapes: dict[str, tuple[int, ...]],
    start: ml_collections.ConfigDict | None,
    widths: Mapping[str, int] | None,
) -> ml_collections.ConfigDict:
    if checkpoint.options is not None:
        return config_from_options(checkpoint.options, shapes, start, widths)
    if start is None and checkpoint.config_json is not None:
        start = config_from_json(checkpoint.config_json)
    if start is None:
        raise ConfigError(
            "holds parameters without the options of their training; say which data set and "
            "features they are for: --config=NAME, e.g. qvhighlights_slowfast_clip"
        )
    return config_from_shapes(start, shapes, widths)


def _write_workdir(
    output: Path,
    config: ml_collections.ConfigDict,
    params: Any,
    unread: dict[str, np.ndarray],
    about: dict[str, Any],
) -> None:
    """Writes a work directory with best parameters alone, under another name first."""
    document = json.loads(config_to_json(config))
    batch_size = config.train.batch_size
    meta = {
        "config": document,
        "data": {"examples": 0, "batch_size": batch_size, "steps_per_epoch": 0},  # unknown
        "selection": dataclasses.asdict(Selection()),
        "converted_from": about,
    }
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        with contextlib.closing(Checkpoints(partial)) as checkpoints:
            checkpoints.save_best(0, params, meta)
        (partial / "checkpoints").rmdir()  # no state to resume from
        save_config(config, partial / "config.json")
        if unread:
            np.savez(partial / UNREAD_FILE, **unread)
        partial.rename(output)  # takes the place of an empty folder
    except OSError as error:
        raise CheckpointError(f"{output}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)

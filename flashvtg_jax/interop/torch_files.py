"""PyTorch checkpoint files, read without running anything in them, and written.

Such a file is a pickle, which may name any function to call. PyTorch's `weights_only` reader calls
only those it knows; three more classes, of the authors' options, are replaced by stand-ins that
keep values and do nothing. PyTorch is imported when it is needed.
"""

import collections
import contextlib
import dataclasses
import importlib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flashvtg_jax.data.feature_files import torch_problem
from flashvtg_jax.errors import CheckpointError

_CONFIG_KEY = "flashvtg_jax_config"  # in files that `write_torch_file` made


@dataclasses.dataclass(frozen=True)
class TorchCheckpoint:
    """What a file holds.

    Attributes:
      state_dict: the parameters by name, as they are stored; bfloat16 as float32.
      options: of the authors' training program, by name; None if the file has none.
      config_json: our configuration, in files of `write_torch_file`; else None.
      epoch: after which it was written, from 0; None if unknown.
    """

    state_dict: dict[str, np.ndarray]
    options: dict[str, Any] | None = None
    config_json: str | None = None
    epoch: int | None = None


class _Options:
    """Stands for `argparse.Namespace`: keeps what was stored in it."""

    values: Any = None

    def __setstate__(self, state: Any) -> None:
        self.values = state


class _ConfigNode:
    """Stands for the class of nncore's configurations, which are dictionaries."""

    # The reader fills only dictionaries of its own kinds.
    def __new__(cls) -> collections.OrderedDict:
        return collections.OrderedDict()


_STAND_INS = (
    (_Options, "argparse.Namespace"),
    (_ConfigNode, "nncore.utils.config.Config"),
    (_ConfigNode, "nncore.utils.config.CfgNode"),
)


def read_torch_file(path: str | os.PathLike[str]) -> TorchCheckpoint:
    """The parameters and options in a file of the authors' program, or in a plain state dict.

    Reads zip files and the older kind. Nothing in the file is run.

    Raises CheckpointError if there is no such file, it is damaged, holds something else or names
    anything that might run, or if PyTorch is missing or too old.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    torch = _import_torch()
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_STAND_INS)):
            warnings.simplefilter("ignore")  # about how to allow unknown classes
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises many kinds
        raise CheckpointError(f"{path}: {_explain(error)}") from error

    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds {_kind(found)}, not the parameters of a model")
    for key in ("model", "state_dict"):
        if isinstance(found.get(key), dict):
            weights, about = found[key], found
            break
    else:
        weights, about = found, {}
    if not weights:
        raise CheckpointError(f"{path}: holds no parameters")
    state_dict = {}
    for name, value in dict.items(weights):
        if not isinstance(value, torch.Tensor):
            where = "" if weights is found else f" of {key!r}"
            raise CheckpointError(
                f"{path}: entry {name!r}{where} is {_kind(value)}, not a tensor: these are not the "
                'parameters of a model, nor a checkpoint with them under "model"'
            )
        state_dict[str(name)] = _to_numpy(torch, value, path)

    options = about.get("opt")
    try:
        options = _plain(options.values if isinstance(options, _Options) else options)
    except RecursionError:
        raise CheckpointError(f'{path}: "opt" contains itself') from None
    if options is not None and not isinstance(options, dict):
        raise CheckpointError(f'{path}: "opt" is {_kind(options)}, not the options of a program')
    epoch, config_json = about.get("epoch"), about.get(_CONFIG_KEY)
    return TorchCheckpoint(
        state_dict,
        options,
        config_json if isinstance(config_json, str) else None,
        epoch if isinstance(epoch, int) else None,
    )


def write_torch_file(
    path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray], config_json: str
) -> None:
    """Write parameters as the authors' program reads them: as tensors, under "model".

    The configuration is added for `read_torch_file`; the authors' program ignores it. The file is
    written whole or not at all. Raises CheckpointError if it exists, cannot be written, or PyTorch
    is missing.
    """
    path = Path(path).expanduser()
    torch = _import_torch()
    if path.exists():
        raise CheckpointError(f"{path}: exists; give another --to_torch, or move it away")
    tensors = collections.OrderedDict(
        (name, torch.from_numpy(np.array(value, order="C"))) for name, value in state_dict.items()
    )
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save({"model": tensors, _CONFIG_KEY: config_json}, partial)
            os.replace(partial, path)
        except BaseException:  # Ctrl-C as well
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:  # PyTorch's own writer raises the latter
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def _import_torch() -> ModuleType:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise CheckpointError(
            f"files of PyTorch are read and written by PyTorch, which is not here ({error}); "
            "install it: pip install 'flashvtg-jax[torch]'"
        ) from error
    if problem := torch_problem(torch):
        raise CheckpointError(problem)
    return torch


def _explain(error: Exception) -> str:
    """Why PyTorch's reader failed."""
    text = str(error)
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"names {named[1]}, which no FlashVTG checkpoint needs. What a file names may do "
            "anything once it is called: it was not, and this file is not read"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Weights only load failed" in text:  # the reason is between advice and a link
        lines = [line for line in lines[1:] if "documentation" not in line][-1:]
    reason = lines[0][:200] if lines else type(error).__name__
    return f"not a checkpoint of PyTorch, or truncated or damaged ({reason})"


def _kind(value: Any) -> str:
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _to_numpy(torch: ModuleType, tensor: Any, path: Path) -> np.ndarray:
    try:
        tensor = tensor.detach()
        if tensor.is_floating_point() and tensor.dtype not in (
            torch.float16,
            torch.float32,
            torch.float64,
        ):
            tensor = tensor.to(torch.float32)  # numpy has no bfloat16
        return tensor.numpy()
    except (RuntimeError, TypeError, ValueError) as error:  # sparse, quantised, without data
        raise CheckpointError(f"{path}: holds a tensor that is no plain array ({error})") from error


def _plain(value: Any) -> Any:
    """Dictionaries of any kind as plain ones, recursively."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in dict.items(value)}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    return value

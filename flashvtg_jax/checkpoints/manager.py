"""Checkpoints of a work directory, kept by Orbax: the latest to resume from, the best to use.

`checkpoints/STEP` holds the whole state after a step, `best/STEP` the parameters of the step with
the highest selection score. Each is written beside its place and renamed: it is whole, or absent.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import optax
import orbax.checkpoint as ocp

from flashvtg_jax.checkpoints.verification import (
    FORMAT,
    LiteralPath,
    add_checksums,
    check_format,
    find_damage,
    read_or_damage,
)
from flashvtg_jax.distributed.processes import all_or_none, by_first, from_first, is_first
from flashvtg_jax.errors import CheckpointError
from flashvtg_jax.version import __version__

_SPARE_BYTES = 1 << 20  # for metadata
_META = {"meta": ocp.args.JsonRestore()}


def versions() -> dict[str, str]:
    """Versions that a checkpoint is written with."""
    modules = {"jax": jax, "flax": flax, "optax": optax, "orbax": ocp}
    return {"flashvtg_jax": __version__} | {n: m.__version__ for n, m in modules.items()}


class Checkpoints:
    """What a run has saved, and what it saves; saving is asynchronous.

    Beside the arrays stands `meta`, JSON-like: configuration, position in the data, versions. The
    first save in a folder is awaited and read back: a run whose checkpoints cannot be read fails
    at once, not when they are needed.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 1, read_only: bool = False):
        self._read_only = read_only
        self._latest = _manager(Path(workdir) / "checkpoints", keep, read_only)
        # Each state names its best step, whose parameters are written before that state: whichever
        # state a run resumes from, its best parameters are there.
        self._best = _manager(Path(workdir) / "best", keep + 1, read_only)

    def save(self, state: Any, meta: dict[str, Any]) -> None:
        """Begin to save a `TrainState` under its step; a step that is there already stays.

        Raises CheckpointError if this or the previous save cannot be written.
        """
        rest = {"step": state.step, "seed": state.seed, "opt_state": state.opt_state}
        items = {"params": state.params, "rest": rest}
        with _clear_write_errors(self._best):
            # This state may name the best step: that one must be on disk before.
            self._best.wait_until_finished()
        self._save(self._latest, int(state.step), items, meta)

    def save_best(self, step: int, params: Any, meta: dict[str, Any]) -> None:
        """Begin to save the parameters of a step as the best so far.

        Raises CheckpointError if this or the previous save cannot be written.
        """
        self._save(self._best, step, {"params": params}, meta)

    def drop_best_after(self, step: int) -> None:
        """Remove the best parameters of later steps than this.

        A run that was killed after it wrote best parameters and before it wrote the state that
        names them resumes from an earlier state, to which they do not belong.
        """
        for later in self._best.all_steps():
            if later > step:
                self._best.delete(later)

    def _save(self, manager: ocp.CheckpointManager, step: int, items: Any, meta: Any) -> None:
        # Shared disks show a file to some processes later: one decides for all.
        steps = from_first(partial(list, manager.all_steps()))
        if step in steps:
            return
        args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        content = {"format": FORMAT, "versions": versions(), **meta}
        meta = ocp.args.JsonSave(add_checksums(content, items))
        with all_or_none():
            check_space(
                Path(manager.directory), sum(leaf.nbytes for leaf in jax.tree.leaves(items))
            )
        with _clear_write_errors(manager):
            manager.save(step, args=ocp.args.Composite(meta=meta, **args), force=True)
            if not steps:
                manager.wait_until_finished()
        if not steps:
            by_first(partial(_read_back, Path(manager.directory) / str(step), tuple(items)))

    def wait(self) -> None:
        """Return when everything is on disk. Raises CheckpointError if it could not be written."""
        for manager in (self._latest, self._best):
            with _clear_write_errors(manager):
                manager.wait_until_finished()

    def latest_step(self) -> int | None:
        """The newest step to resume from, or None."""
        return self._latest.latest_step()

    def has_best(self, step: int) -> bool:
        """Whether the parameters of a step are kept as the best ones."""
        return step in self._best.all_steps()

    def best_step(self) -> int | None:
        """The step with the best parameters, or None if none was evaluated."""
        return self._best.latest_step()

    def read_meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays of a step.

        Raises CheckpointError if there is no such step, or it is of another version or damaged.
        """
        return self._restore(step)["meta"]

    def read_best_meta(self) -> dict[str, Any] | None:
        """What was saved beside the best parameters, or None if there are none yet."""
        step = self.best_step()
        return None if step is None else self._restore_from(self._best, step, {})["meta"]

    def restore(self, step: int, target: Any) -> Any:
        """The `TrainState` of a step, with the shapes and shardings of `target`.

        Raises CheckpointError if there is no such step, or it cannot be read or does not fit.
        """
        rest = {"step": target.step, "seed": target.seed, "opt_state": target.opt_state}
        found = self._restore(
            step,
            params=ocp.args.StandardRestore(target.params),
            rest=ocp.args.StandardRestore(rest),
        )
        return target.replace(params=found["params"], **found["rest"])

    def restore_params(self, step: int, target: Any) -> Any:
        """The parameters alone, with the shapes and shardings of `target`.

        Raises CheckpointError as `restore`.
        """
        return self._restore(step, params=ocp.args.StandardRestore(target))["params"]

    def _restore(self, step: int, **items: Any) -> Any:
        # Parameters and meta of a step are the same in both folders; the whole state is in one.
        managers = [m for m in (self._latest, self._best) if step in m.all_steps()]
        if not managers:
            steps = sorted({*self._latest.all_steps(), *self._best.all_steps()})
            known = ", ".join(map(str, steps)) or "none"
            raise CheckpointError(
                f"{self._latest.directory}: no checkpoint of step {step}; there are: {known}"
            )
        if len(managers) > 1 and "rest" not in items:
            with contextlib.suppress(CheckpointError):
                return self._restore_from(managers[0], step, items)
            managers.reverse()
        return self._restore_from(managers[0], step, items)

    @staticmethod
    def _restore_from(manager: ocp.CheckpointManager, step: int, items: dict[str, Any]) -> Any:
        folder = manager.directory / str(step)
        try:
            found = manager.restore(step, args=ocp.args.Composite(**items, **_META))
        except Exception as error:  # Orbax raises many kinds: the reader needs the folder
            raise CheckpointError(
                f"{folder}: this checkpoint cannot be read ({error}); it is damaged, or from "
                "another configuration or version. Move that folder away to use the one before it"
            ) from error
        check_format(folder, found["meta"])
        damage = find_damage(found)
        if damage:
            raise CheckpointError(
                f"{folder}: this checkpoint is damaged: {damage}. Move that folder away to use the "
                "one before it"
            )
        return found

    def close(self) -> None:
        """Finish pending saves and stop the background threads.

        Raises CheckpointError if a save could not be written; nothing of it is left behind.
        """
        try:
            self.wait()
        finally:
            for manager in (self._latest, self._best):
                with contextlib.suppress(OSError, ValueError):  # `wait` has raised it
                    manager.close()
                if not self._read_only:
                    _remove_unfinished(manager)


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its own preemption check.

    It would ask, by step, the service that `flashvtg_jax.distributed.stop_signal` asks by call.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def _manager(folder: Path, keep: int, read_only: bool) -> ocp.CheckpointManager:
    # Barriers of its own: several managers save at the same time.
    barriers = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=str(folder.absolute()))
    with _quiet(read_only):
        options = ocp.CheckpointManagerOptions(
            multiprocessing_options=barriers,
            max_to_keep=None if read_only else keep,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
        )
        return _Manager(LiteralPath(folder.absolute()), options=options)


@contextlib.contextmanager
def _quiet(read_only: bool) -> Iterator[None]:
    """Keeps Orbax from warning that what is opened to be read only is read only."""
    logger = logging.getLogger("absl")

    def is_news(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (read_only and ("read_only=True" in message or "is read only" in message))

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def _read_back(folder: Path, items: Sequence[str]) -> None:
    """Raises CheckpointError if what was just saved is damaged; nothing of it is left then."""
    _, damage = read_or_damage(folder, items)
    if damage:
        shutil.rmtree(folder, ignore_errors=True)
        raise CheckpointError(
            f"{folder}: the first checkpoint was written but cannot be read back ({damage}): "
            "nothing could be saved here. Check the disk, or use another folder"
        )


def check_space(folder: Path, size: int) -> None:
    """Raises CheckpointError if `size` bytes do not fit on the disk.

    Orbax would find out in many threads at once, each with a traceback of its own.
    """
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE_BYTES:
        raise CheckpointError(
            f"{folder}: a checkpoint could not be written: it takes "
            f"{size / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free; make space, then run the "
            "same command again: earlier checkpoints are intact"
        )


def _remove_unfinished(manager: ocp.CheckpointManager) -> None:
    if not is_first():
        return
    for unfinished in Path(manager.directory).glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _clear_write_errors(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise CheckpointError(
            f"{manager.directory}: the processes could not write a checkpoint together ({error}); "
            "start all of them again: earlier checkpoints are intact"
        ) from error
    except (OSError, ValueError) as error:
        folder = Path(manager.directory)
        _remove_unfinished(manager)
        raise CheckpointError(
            f"{folder}: a checkpoint could not be written ({error}); make space or fix the "
            "folder, then run the same command again: earlier checkpoints are intact"
        ) from error

"""Checkpoints of a work directory, kept by Orbax: the latest, and the best by selection score."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from flashvtg_jax.errors import CheckpointError
from flashvtg_jax.training.state import TrainState
from flashvtg_jax.version import __version__

FORMAT = 1  # of what a checkpoint holds


def versions() -> dict[str, str]:
    """Versions that a checkpoint was written with."""
    import flax
    import optax

    modules = {"jax": jax, "flax": flax, "optax": optax, "orbax": ocp}
    return {"flashvtg_jax": __version__} | {n: m.__version__ for n, m in modules.items()}


class Checkpoints:
    """The checkpoints below a folder, one sub-folder a step, each whole or not there at all.

    A checkpoint holds `params`, the rest of the state, and `meta`: position of the input pipeline,
    configuration, versions and score. Saving is asynchronous.
    """

    def __init__(self, folder: str | Path, *, keep: int = 1, read_only: bool = False):
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics["score"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self.folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def save(self, state: TrainState, meta: dict[str, Any], score: float | None = None) -> None:
        """Begin to save the state under its step; `meta` is JSON-like, `score` of its evaluation.

        Raises CheckpointError if this or the previous save cannot be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            if score is None:
                return
            self._manager.delete(step)  # saved by a signal just before its evaluation
        rest = {"step": state.step, "seed": state.seed, "opt_state": state.opt_state}
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave(rest),
            meta=ocp.args.JsonSave(
                {"format": FORMAT, "versions": versions(), "score": score, **meta}
            ),
        )
        try:
            self._manager.save(
                step, args=args, metrics=None if score is None else {"score": score}, force=True
            )
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error

    def wait(self) -> None:
        """Return when everything is on disk. Raises CheckpointError if it could not be written."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}: a checkpoint could not be written ({error}); free disk space or mend "
            "the folder and run the same command again: earlier checkpoints are intact"
        )

    def latest_step(self) -> int | None:
        """The newest step on disk, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the highest score (the earliest of equals), or None if none was scored."""
        scores = {step: self.score(step) for step in self._manager.all_steps()}
        scores = {step: score for step, score in scores.items() if score is not None}
        return min(scores, key=lambda step: (-scores[step], step)) if scores else None

    def score(self, step: int) -> float | None:
        """The selection score that was saved with a step, if it was evaluated."""
        return self.read_meta(step)["score"]

    def read_meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays: position, configuration, versions."""
        return self._restore(step, meta=ocp.args.JsonRestore())["meta"]

    def restore(self, step: int, target: TrainState) -> TrainState:
        """The state of a step, with the shapes and shardings of `target` (arrays or their shapes).

        Raises CheckpointError if it cannot be read or does not fit.
        """
        rest = {"step": target.step, "seed": target.seed, "opt_state": target.opt_state}
        found = self._restore(
            step,
            params=ocp.args.StandardRestore(target.params),
            rest=ocp.args.StandardRestore(rest),
        )
        return TrainState(params=found["params"], **found["rest"])

    def restore_params(self, step: int, target: Any) -> Any:
        """The parameters alone, with the shapes and shardings of `target`."""
        return self._restore(step, params=ocp.args.StandardRestore(target))["params"]

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises many kinds: the reader needs the folder
            raise CheckpointError(
                f"{self.folder / str(step)}: this checkpoint cannot be read ({error}); it may be "
                "damaged, or from another configuration or version: remove that folder to use the "
                "one before it"
            ) from error

    def close(self) -> None:
        """Finish pending saves and stop the background threads."""
        self.wait()
        self._manager.close()


def config_text(meta: dict[str, Any]) -> str:
    """The configuration inside a checkpoint's `meta`, as the text that was saved."""
    return json.dumps(meta["config"])

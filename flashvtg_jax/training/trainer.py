"""The trainer of one run, from top to bottom: what is compiled, then the run itself."""

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from flashvtg_jax.checkpoints.init_from import begin_from
from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.data.batch import Batch, feature_widths
from flashvtg_jax.data.device_cache import CachedSplit, DeviceCache, Draw, TakeBatch
from flashvtg_jax.data.pipeline import train_pipeline
from flashvtg_jax.distributed.pmap import PmapStep
from flashvtg_jax.distributed.processes import by_first
from flashvtg_jax.distributed.sharding import (
    AXIS,
    make_mesh,
    put,
    put_batch,
    replicated,
    split_rows,
    state_shardings,
)
from flashvtg_jax.distributed.stop_signal import Interrupted, StoppedError, StopSignal
from flashvtg_jax.evaluation.evaluator import Evaluator
from flashvtg_jax.evaluation.results import Results, write_results
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.feeding import Cached, Feed, SplitCaches, Streamed
from flashvtg_jax.training.hooks.checkpointing import Checkpointing
from flashvtg_jax.training.hooks.evaluation import Evaluation
from flashvtg_jax.training.hooks.figures import Curves
from flashvtg_jax.training.hooks.hook import Hook, Training
from flashvtg_jax.training.hooks.logs import LogFiles
from flashvtg_jax.training.hooks.metric_buffer import MetricBuffer
from flashvtg_jax.training.hooks.nonfinite import NonfiniteWatch
from flashvtg_jax.training.hooks.preemption import Preemption
from flashvtg_jax.training.hooks.progress import Progress
from flashvtg_jax.training.optimizer import make_optimizer
from flashvtg_jax.training.run import OpenRun, check_same_data
from flashvtg_jax.training.selection import Selection, latest_selection
from flashvtg_jax.training.state import TrainState, init_state, param_count
from flashvtg_jax.training.step import Metrics, make_train_step, one_step, repeat_step


class Trainer:
    """Trains runs of one configuration, which may differ in seed and domain: compiled once.

    Attributes:
      mesh: the devices.
      init: seed [] uint32 -> TrainState on the devices.
      step: (state, batch) -> (state, metrics [1]), compiled; the state is overwritten.
      put: this process's part of a batch -> arrays on the devices; the copy is asynchronous.
      stack, unstack: a replicated state -> as `step` takes it, and back; under pmap each device has
        a copy of its own.
      evaluator: of splits.
    """

    def __init__(self, config: ml_collections.ConfigDict, steps_per_epoch: int):
        """Compiles nothing yet.

        Args:
          config: complete, widths included.
          steps_per_epoch: for the schedule of the learning rate, which counts epochs.
        """
        # ------------------------------------------------------------------------------- Mesh
        self.mesh = mesh = make_mesh(config.train.batch_size)
        everywhere = replicated(mesh)

        # ---------------------------------------------------------------- Model and optimizer
        model = build_model(config.model)
        optimizer = make_optimizer(config.optimizer, steps_per_epoch)
        make_step = partial(
            make_train_step,
            model,
            optimizer,
            config.loss,
            data_config=config.data,
            skip_nonfinite=config.train.on_nan == "skip",
        )

        # --------------------------------------------------------------- Shapes and shardings
        init = partial(init_state, model, optimizer, *feature_widths(config.data))
        shapes = jax.eval_shape(init, np.uint32(0))
        shardings = state_shardings(shapes, mesh, shard_state=config.parallel.shard_state)
        self.init = jax.jit(init, out_shardings=shardings)

        # -------------------------------------------------------------------------- Evaluation
        self.evaluator = Evaluator(model, config, mesh)
        # Split parameters are gathered once an evaluation, not once a batch.
        self._gather = jax.jit(lambda tree: tree, out_shardings=everywhere)
        self._is_split = config.parallel.shard_state

        # ------------------------------------------------------------------------------- Steps
        if config.parallel.mode == "pmap":
            pmap = PmapStep(one_step(make_step(axis_name=AXIS)), mesh)
            self.step, self.put = pmap.step, pmap.put
            self.stack, self.unstack = pmap.stack, pmap.unstack
        else:
            step = make_step(shardings=shardings if self._is_split else None)
            # The state stays on the devices and is donated: each step overwrites it in place.
            compiled = partial(jax.jit, donate_argnums=0, out_shardings=(shardings, everywhere))
            self.step, self.put = compiled(one_step(step)), partial(put_batch, mesh=mesh)
            self.stack = self.unstack = lambda state: state

            def steps(
                state: TrainState,
                split: CachedSplit,
                draws: Draw,
                count: jax.Array,
                take: TakeBatch,
            ) -> tuple[TrainState, Metrics]:
                def batch_of(split: CachedSplit, draw: Draw) -> Batch:
                    # Each device gathers its own rows.
                    return jax.lax.with_sharding_constraint(take(split, draw), split_rows(mesh))

                return repeat_step(step, batch_of, state, split, draws, count)

            self._steps = compiled(steps, static_argnums=4)

    def steps(
        self, state: TrainState, cache: DeviceCache, draws: Draw, clips: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """Does the first `count` of the drawn steps [S, ...], on batches padded to `clips`; by jit.

        Returns the state after them and the metrics [S, ...] of each.
        """
        draws = put_batch(draws, self.mesh, axis=1)
        number = put(np.int32(count), replicated(self.mesh))
        return self._steps(state, cache.split, draws, number, cache.taking(clips))

    def train(
        self,
        run: OpenRun,
        caches: SplitCaches,
        stop: StopSignal,
        *,
        hooks: Sequence[Hook] = (),
        show_progress: bool = True,
    ) -> Results:
        """Train a run from its `start_step` to its end.

        Args:
          run: with its data.
          caches: of splits on the devices, which runs share.
          stop: ends the run, saved.
          hooks: the user's.
          show_progress: whether to show it on stderr.

        Returns:
          The results of the best checkpoint, which are also written into the run's folder.

        Raises:
          Interrupted: `stop` was requested; everything is saved.
          CheckpointError: a checkpoint or log cannot be read or written.
          ConfigError: a split does not fit on the devices, or a selection metric is not computed.
          DataError: a split cannot be read, or the results cannot be written.
          FlashVTGError: a loss is not finite.
          PeerError: another process stopped.
        """
        settings = run.config.train
        with contextlib.ExitStack() as resources:
            # --------------------------------------------------------------------------- Restore
            checkpoints = Checkpoints(run.workdir, keep=settings.keep_checkpoints)
            resources.callback(checkpoints.close)
            state, best, selection, skipped = self._restore(run, checkpoints)
            about = self._describe(run, param_count(best))

            # ------------------------------------------------------------------------------ Data
            cache = None
            if run.start_step < run.num_steps:
                cache = caches.get(run.train_source, run.config, self.mesh)
            evaluate = partial(
                self._evaluate,
                source=run.val_source,
                cache=caches.get(run.val_source, run.config, self.mesh),
                show_progress=show_progress,
                stop=stop.requested,
            )
            feed = resources.enter_context(contextlib.closing(self.open_feed(run, cache)))

            # ----------------------------------------------------------------------------- Hooks
            training = Training(run, run.start_step, self.stack(state), self.unstack)
            resources.callback(training.release)
            buffer = MetricBuffer(
                training, interval=settings.log_every_steps, rows_per_step=settings.batch_size
            )
            logs = LogFiles(run.workdir, start_step=run.start_step, last_evaluation=selection.step)
            watch = NonfiniteWatch(skipped)
            progress = Progress(about, show=show_progress)
            evaluation = Evaluation(evaluate, progress, buffer, selection=selection, best=best)
            checkpointing = Checkpointing(checkpoints, evaluation, watch)
            preemption = Preemption(stop, checkpointing)
            training.flush = buffer.flush
            training.hooks = [
                *(buffer, logs, watch, progress, Curves()),
                *hooks,
                *(preemption, evaluation, checkpointing),
            ]
            for hook in training.hooks:
                resources.callback(hook.close)
            del state, best  # the hooks keep them as long as they are needed

            # ------------------------------------------------------------------------------ Loop
            training.notify(lambda hook: hook.on_start(training))
            while True:
                try:
                    for hook in training.hooks:
                        hook.before_step(training)
                except StoppedError:
                    if stop.signal is None:
                        raise
                    continue  # the stop is still requested: the preemption hook saves and raises
                if training.done:
                    break
                # A dispatch does not go beyond an epoch.
                limit = run.plan.steps_per_epoch - training.step % run.plan.steps_per_epoch
                with jax.profiler.StepTraceAnnotation("train", step_num=training.step):
                    training.device_state, metrics, count = feed.advance(
                        training.device_state, training.step, limit
                    )
                training.step += count
                buffer.add(training.step, metrics, count)
            checkpointing.wait()
            feed.close()
            progress.close()

            # ------------------------------------------------------------------ Final evaluation
            # From here on, what is lost can be made again from the checkpoints.
            if training.step < run.num_steps:
                progress.report(f"ended at step {training.step} of {run.num_steps}")
            try:
                results = evaluate(evaluation.best)
            except StoppedError:
                raise Interrupted(stop.signal, training.step) from None
            origin = {"split": run.config.data.val_split, "step": selection.best_step}
            by_first(partial(write_results, run.workdir, origin, results))
            training.notify(lambda hook: hook.on_end(training))
        return results

    def _restore(
        self, run: OpenRun, checkpoints: Checkpoints
    ) -> tuple[TrainState, Any, Selection, int]:
        """The state at the run's `start_step`, the best parameters, their selection, skipped steps.

        The best parameters have memory of their own; they are the present ones if none was
        evaluated. Raises CheckpointError if the checkpoint cannot be read or is of other data.
        """
        state = self.init(np.uint32(run.config.seed))
        selection, skipped = Selection(), 0
        if run.start_step:
            meta = checkpoints.read_meta(run.start_step)
            check_same_data(meta["data"], run)
            state = checkpoints.restore(run.start_step, state)
            selection = latest_selection(checkpoints, meta, run.start_step)
            checkpoints.drop_best_after(selection.best_step)
            skipped = meta.get("skipped_steps", 0)
        elif run.init:
            state = begin_from(state, run.init)
        if selection.best is not None:
            best = checkpoints.restore_params(selection.best_step, state.params)
        else:
            best = jax.tree.map(jnp.copy, state.params)  # the next step overwrites the state
        return state, best, selection, skipped

    def open_feed(self, run: OpenRun, cache: DeviceCache | None) -> Feed:
        """What does the steps of a run from its `start_step` on; to be closed.

        Batches come from `cache`, or from the host without one.
        """
        if cache is not None:
            on_cpu = self.mesh.devices.flat[0].platform == "cpu"
            return Cached(run, cache, self.steps, on_cpu=on_cpu)
        batches = train_pipeline(
            run.train_source,
            run.config,
            start_step=run.start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return Streamed(batches, self.step, self.put)

    def _evaluate(self, params: Any, **arguments: Any) -> Results:
        if self._is_split:
            params = self._gather(params)
        return self.evaluator.evaluate(params, **arguments)

    def _describe(self, run: OpenRun, num_params: int) -> str:
        """A line about a run: what is trained, on how much."""
        of = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        resumed = f", resuming at step {run.start_step}" if run.start_step else ""
        compiles = ": the first one compiles" if run.start_step < run.num_steps else ""
        return (
            f"{' '.join(filter(None, (run.config.name, run.name)))}: {num_params / 1e6:.2f} M "
            f"parameters, {len(run.train_source)} training and {len(run.val_source)} validation "
            f"queries, {run.num_steps} steps, {self.mesh.size} "
            f"{self.mesh.devices.flat[0].platform} device(s){of}{resumed}{compiles}"
        )

"""Our program in a process that `compare_pytorch.py` asks."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from measuring import environment, platform_name, require_device
from programs import training_step
from sides import Requests, handle, serve

import flashvtg_jax as fv
from flashvtg_jax.config import apply_overrides, read_config
from flashvtg_jax.data.batch import Batch, feature_widths
from flashvtg_jax.data.pipeline import evaluation_batches, train_pipeline
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.distributed.sharding import make_mesh
from flashvtg_jax.errors import DataError
from flashvtg_jax.evaluation.evaluator import Evaluator
from flashvtg_jax.interop.pytorch import params_to_torch, unread_entries
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from flashvtg_jax.models.init import init_params
from flashvtg_jax.system.memory import check_fits
from flashvtg_jax.training.state import param_count


class Ours:
    """Our model, optimizer and data, and what is measured of them."""

    def __init__(self, requests: Requests):
        self._requests = requests
        self.handlers = {name: getattr(self, name) for name in ("start", "save_weights", "epoch")}
        for name in ("forward", "train_step", "evaluate", "scoring"):
            self.handlers |= {f"prepare_{name}": getattr(self, f"prepare_{name}")}
            self.handlers |= {name: self._run}
        self.handlers |= {"prepare_epoch": self.prepare_epoch}

    def start(self, config: str, device: str | None, matmul_precision: str) -> dict[str, Any]:
        """Checks the device; returns the machine, versions and commit.

        Args:
          config: file of the configuration.
          device: "cpu", "gpu", "tpu"; None: what jax finds.
          matmul_precision: "default", or "highest": full float32 also where TF32 is the default.
        """
        try:
            require_device(device)
        except SystemExit as error:
            return {"error": str(error).removeprefix("error: ")}
        if matmul_precision != "default":
            jax.config.update("jax_default_matmul_precision", matmul_precision)
        self.config = read_config(config)
        return {**environment(), "platform": platform_name(jax.devices()[0])}

    def save_weights(self, path: str) -> dict[str, Any]:
        """Writes parameters under the names of the authors' model."""
        torch_arrays = params_to_torch(self.params, fv.build_model(self.config.model))
        unread = unread_entries(self.config.model.hidden_dim, self.config.data.max_words)
        np.savez(path, **torch_arrays, **unread)
        return {"parameters": param_count(self.params)}

    @cached_property
    def params(self) -> Any:
        model, widths = fv.build_model(self.config.model), feature_widths(self.config.data)
        init = jax.jit(lambda: init_params(model, jax.random.key(self.config.seed), *widths))
        return init()

    @property
    def is_exact(self) -> bool:
        """Whether what is timed may also be compared: else that is done by a program of its own."""
        return jax.default_backend() == "cpu" and self.config.model.dtype == "float32"

    def _source(self, split: str) -> SplitSource:
        data = self.config.data
        return open_split(data.data_dir, data.dataset, split, cache=data.cache)

    def prepare_forward(self, split: str, batch_size: int, outputs: str) -> dict[str, Any]:
        """Makes a batch of full-length videos, and writes what the model gives to an .npz file.

        They repeat where the split has fewer. Returns the queries.
        """
        source = self._source(split)
        config = apply_overrides(self.config, {"evaluation.batch_size": len(source)})
        with contextlib.closing(evaluation_batches(source, config)) as batches:
            batch = next(batches)
        full = np.flatnonzero(batch.video_mask.all(axis=1))
        if not len(full):
            raise DataError(f"{split}: no video is as long as the longest that are used")
        rows = np.resize(full, batch_size)
        batch = jax.device_put(jax.tree.map(lambda a: a[rows], batch.replace(targets=None)))
        compiled = jax.jit(partial(forward, config)).lower(self.params, batch).compile()
        memory = check_fits(compiled)
        exact = compiled
        if not self.is_exact:
            with jax.default_matmul_precision("highest"):
                exact = jax.jit(partial(forward, in_float32(config)))
                exact = exact.lower(self.params, batch).compile()
        out, _ = exact(self.params, batch)
        np.savez(outputs, logits=out.logits, offsets=out.offsets, saliency=out.saliency)
        self._function = lambda: compiled(self.params, batch)
        return {"qids": qids_of(source, batch), "clips": batch.video.shape[1], **memory}

    def prepare_train_step(self, split: str, batch_size: int) -> dict[str, Any]:
        """Compiles the training step for full-length videos; returns their labels and the loss.

        The loss is that without dropout.
        """
        config = apply_overrides(self.config, {"train.batch_size": batch_size})
        source = self._source(split)
        with contextlib.closing(train_pipeline(source, config)) as batches:
            host_batch = full_length(batches, batch_size)
        batch = jax.device_put(host_batch)
        with jax.default_matmul_precision("highest"):
            loss = jax.jit(partial(loss_without_dropout, config))(self.params, batch)
        program = training_step(config, batch)
        state = program.init()

        def run() -> Any:
            nonlocal state
            state, metrics = program.run(state, batch)
            return state, metrics

        self._function = run
        return {
            "loss": float(loss),
            "qids": qids_of(source, host_batch),
            "positive_clips": host_batch.targets.positive_clips.tolist(),
            "negative_clips": host_batch.targets.negative_clips.tolist(),
            "clips": batch.video.shape[1],
            "compile_seconds": program.trace_seconds + program.compile_seconds,
            **program.memory,
        }

    def prepare_evaluate(self, split: str, outputs: str) -> dict[str, Any]:
        """Compiles the evaluation of a split, and writes its predictions, without NMS."""
        source, mesh = self._source(split), make_mesh()
        params = jax.device_put(self.params)
        evaluator = Evaluator(fv.build_model(self.config.model), self.config, mesh)
        if self.is_exact:
            predictions = evaluator.evaluate(params, source).predictions
        else:
            config = in_float32(self.config)
            exact = Evaluator(fv.build_model(config.model), config, mesh)
            with jax.default_matmul_precision("highest"):
                predictions = exact.evaluate(params, source).predictions
        write_json_lines(Path(outputs), predictions)
        self._function = lambda: evaluator.evaluate(params, source)
        return {"batch_size": self.config.evaluation.batch_size}

    def prepare_scoring(self, predictions: str, annotations: str) -> dict[str, Any]:
        """Reads both files; returns the metrics."""
        rows = [read_json_lines(path) for path in (predictions, annotations)]
        self._function = lambda: fv.evaluate_predictions(*rows)
        return {"metrics": self._function()}

    def _run(self, calls: int) -> dict[str, Any]:
        """Seconds of a call of what was prepared, the mean of some."""
        start = time.perf_counter()
        for _ in range(calls):
            result = self._function()
        jax.block_until_ready(result)
        return {"seconds": (time.perf_counter() - start) / calls}

    def prepare_epoch(self, batch_size: int) -> dict[str, Any]:
        """Sets what the runs of `epoch` train."""
        self._epoch_config = apply_overrides(
            self.config,
            {
                "train.batch_size": batch_size,
                "train.epochs": 10**6,
                "train.evaluate_every_epochs": 10**6,
                "train.checkpoint_every_epochs": 10**6,
            },
        )
        return {}

    def epoch(self, calls: int) -> dict[str, Any]:
        """An epoch in the middle of a training that `fv.train` runs: data, steps and logs.

        The first epoch of each turn is not counted: it has what the pipeline prepared while this
        process waited its turn. Evaluations are left out, checkpoints far away.
        """
        pause = _Pause(self._requests)
        with tempfile.TemporaryDirectory() as workdir, contextlib.suppress(_LeaveError):
            fv.train(self._epoch_config, workdir, show_progress=False, hooks=[pause])
        # Whoever asked has had its answers, and asked for something else.
        return handle(self.handlers, pause.request) if pause.request else {}


class _LeaveError(Exception):
    """No further epoch is asked for."""


class _Pause(fv.training.Hook):
    """Answers after each epoch, and waits for the next turn."""

    def __init__(self, requests: Requests):
        self._requests = requests
        self._start = 0.0
        self.request: dict[str, Any] | None = None

    def before_step(self, training: fv.training.Training) -> None:
        """Every second epoch is reported."""
        if not training.is_due(1):
            return
        training.flush()
        jax.block_until_ready(training.params)
        seconds = time.perf_counter() - self._start
        if training.epoch % 2 == 0:
            self._requests.answer({"seconds": seconds})
            self.request = self._requests.next()
            if self.request is None or self.request["do"] != "epoch":
                raise _LeaveError
        self._start = time.perf_counter()


def in_float32(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration that outputs are compared with."""
    return apply_overrides(config, {"model.dtype": "float32"})


def forward(config: ml_collections.ConfigDict, params: Any, batch: Batch) -> tuple[Any, Any]:
    """The model, and its moments without NMS."""
    out = fv.build_model(config.model).apply(
        {"params": params}, batch.video, batch.video_mask, batch.query, batch.query_mask
    )
    most = config.evaluation.max_moments
    return out, fv.decode_moments(out, batch.duration, config.clip_length, most)


def loss_without_dropout(config: ml_collections.ConfigDict, params: Any, batch: Batch) -> jax.Array:
    """The weighted loss of a batch, in float32."""
    model = config.model
    rates = {f"model.{name}": 0.0 for name in model if "drop" in name}
    config = in_float32(apply_overrides(config, rates))
    out = fv.build_model(config.model).apply(
        {"params": params},
        batch.video,
        batch.video_mask,
        batch.query,
        batch.query_mask,
        train=True,
        with_negatives=True,
        rngs={"dropout": jax.random.key(0)},
    )
    return fv.objective(out, batch.targets, config.loss)[0]


def full_length(batches: Iterator[Batch], size: int) -> Batch:
    """Rows without padded clips, each of another source video than the row before it, in a circle.

    Of both the two programs make different things: theirs counts padded clips as clips, and has an
    accidental form of the saliency loss for a single pair of neighbours from one video. Raises
    DataError if there are too few rows.
    """
    parts: list[Batch] = []
    chosen: list[int] = []
    while len(chosen) < size and (batch := next(batches, None)) is not None:
        rows = np.flatnonzero(batch.video_mask.all(axis=1))
        parts.append(jax.tree.map(lambda array, rows=rows: array[rows], batch))
        videos = np.concatenate([part.targets.video_id for part in parts])
        chosen = different_neighbours(videos, size)
    if len(chosen) < size:
        raise DataError(f"only {len(chosen)} full-length videos of different sources; need {size}")
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[chosen], *parts)


def different_neighbours(values: np.ndarray, size: int) -> list[int]:
    """Places of at most `size` values, the first that fit, none of which equals its neighbours."""
    chosen: list[int] = []
    for place, value in enumerate(values):
        around = chosen[-1:] + (chosen[:1] if len(chosen) == size - 1 else [])
        if len(chosen) < size and all(value != values[other] for other in around):
            chosen.append(place)
    return chosen


def qids_of(source: SplitSource, batch: Batch) -> list[Any]:
    """The queries of a batch, in its order."""
    annotations = source.annotations()
    return [annotations[example]["qid"] for example in np.asarray(batch.example)]


if __name__ == "__main__":
    requests = Requests()
    serve(requests, Ours(requests).handlers)

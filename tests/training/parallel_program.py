"""Trains one small model on 1, 2, 4 and 8 simulated devices, in each mode, and compares.

    python -m tests.training.parallel_program CONFIG.json FOLDER

A program of its own: the number of devices is fixed once jax has started. Writes what it finds into
FOLDER: `found.json`, and the compiled steps for 8 devices as `8.hlo`, `shard_state.hlo` and
`pmap.hlo`.
"""

import itertools
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from flashvtg_jax.config import apply_overrides, read_config
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.pipeline import train_pipeline
from flashvtg_jax.data.source import open_split
from flashvtg_jax.distributed.sharding import state_shardings
from flashvtg_jax.losses import objective
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.optimizer import make_optimizer
from flashvtg_jax.training.state import TrainState
from flashvtg_jax.training.trainer import Trainer

DEVICES = 8
STEPS = 20
PMAP_STEPS = 4  # the third batch of an epoch ends with padding rows
STEPS_PER_EPOCH = 3


def make_trainer(config: ConfigDict, num_devices: int, **parallel: Any) -> Trainer:
    """The functions of training on the first devices.

    A trainer for batches of n rows takes n devices if there are more; larger batches can be given
    to it as well.
    """
    fields = {f"parallel.{name}": value for name, value in parallel.items()}
    config = apply_overrides(config, {**fields, "train.batch_size": num_devices})
    trainer = Trainer(config, STEPS_PER_EPOCH)
    assert trainer.mesh.size == num_devices
    return trainer


def everywhere(trainer: Trainer, state: TrainState, shard_state: bool = False) -> TrainState:
    """A state of the host as a trainer's step takes it."""
    places = state_shardings(state, trainer.mesh, shard_state=shard_state)
    return trainer.stack(jax.device_put(state, places))


def train(
    trainer: Trainer, step: Any, state: TrainState, batches: Iterable[Batch]
) -> tuple[list[Any], list[dict[str, float]], TrainState]:
    """The parameters after each step, its metrics, and the state that the last one gives."""
    params, metrics = [], []
    for batch in batches:
        state, numbers = step(state, trainer.put(batch))
        params.append(jax.device_get(trainer.unstack(state).params))
        metrics.append({name: float(value[0]) for name, value in numbers.items()})
    return params, metrics, state


def mean_of_shards(
    config: ConfigDict, params: Any, batches: Iterable[Batch]
) -> tuple[list[Any], list[dict[str, float]]]:
    """What pmap is to compute, shard by shard: parameters after each step, its metrics."""
    model = build_model(config.model)
    optimizer = make_optimizer(config.optimizer, STEPS_PER_EPOCH)

    def loss_fn(params: Any, rows: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        inputs = (rows.video, rows.video_mask, rows.query, rows.query_mask)
        out = model.apply(
            {"params": params}, *inputs, train=True, with_negatives=True, rngs={"dropout": key}
        )
        loss, terms = objective(out, rows.targets, config.loss)
        return loss, {"loss": loss, **terms}

    def mean(*arrays: np.ndarray) -> np.ndarray:
        return np.mean(np.stack(arrays), axis=0, dtype=np.float64).astype(np.float32)

    gradient_of_shard = jax.jit(jax.grad(loss_fn, has_aux=True))
    update = jax.jit(optimizer.update)
    opt_state = optimizer.init(params)
    found, metrics = [], []
    for step, batch in enumerate(batches):
        key = jax.random.fold_in(jax.random.key(np.uint32(config.seed)), step)
        shards = []
        for i in range(DEVICES):
            rows = jax.tree.map(lambda a, i=i: np.split(a, DEVICES)[i], batch)
            shards.append(
                jax.device_get(gradient_of_shard(params, rows, jax.random.fold_in(key, i)))
            )
        gradients, numbers = jax.tree.map(mean, *shards)
        numbers["gradient_norm"] = optax.tree.norm(gradients)
        updates, opt_state = update(gradients, opt_state, params)
        params = jax.device_get(optax.apply_updates(params, updates))
        found.append(params)
        metrics.append({name: float(value) for name, value in numbers.items()})
    return found, metrics


def difference(tree: Any, other: Any) -> dict[str, Any]:
    """Norm of the difference of two trees divided by the norm of the first; of all, of the worst.

    The worst is the array that differs most, measured by its own norm.
    """

    def relative(a: Iterable[np.ndarray], b: Iterable[np.ndarray]) -> float:
        a, b = (np.concatenate([np.ravel(x).astype(np.float64) for x in y]) for y in (a, b))
        return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30))

    leaves, others = jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(other)
    each = {
        jax.tree_util.keystr(path, simple=True, separator="/"): relative([a], [b])
        for (path, a), b in zip(leaves, others, strict=True)
    }
    worst = max(each, key=each.get)
    return {
        "all": relative([a for _, a in leaves], others),
        "worst": each[worst],
        "worst_name": worst,
        "equal": all(value == 0 for value in each.values()),
    }


def compare(
    params: list[Any], metrics: list[dict[str, float]], others: list[Any], other_metrics: list
) -> dict[str, Any]:
    """Parameters after the last step, and the largest relative difference of each metric."""
    return {
        "params": difference(params[-1], others[-1]),
        "metrics": {
            name: max(
                abs(a[name] - b[name]) / max(abs(a[name]), 1e-30)
                for a, b in zip(metrics, other_metrics, strict=True)
            )
            for name in metrics[0]
        },
    }


def placement(tree: Any) -> list[dict[str, Any]]:
    """How large each array is, and the part of it that each device has."""
    return [
        {
            "name": jax.tree_util.keystr(path, simple=True, separator="/"),
            "shape": array.shape,
            "parts": sorted({shard.data.size for shard in array.addressable_shards}),
            "devices": len({shard.device.id for shard in array.addressable_shards}),
        }
        for path, array in jax.tree_util.tree_leaves_with_path(tree)
    ]


def padding_is_last(batch: Batch) -> bool:
    """Whether no valid row follows a padding row."""
    valid = batch.video_mask.any(axis=1)
    return bool((valid[:-1] >= valid[1:]).all())


def main() -> None:
    config, folder = read_config(sys.argv[1]), Path(sys.argv[2])
    jax.config.update("jax_num_cpu_devices", DEVICES)
    source = open_split(config.data.data_dir, config.data.dataset, "train")
    pipeline = train_pipeline(source, config)
    batches = list(itertools.islice(pipeline, STEPS))
    pipeline.close()
    found: dict[str, Any] = {
        "valid_rows": [int(batch.video_mask.any(1).sum()) for batch in batches],
        "padding_is_last": [padding_is_last(batch) for batch in batches],
        "num_words": batches[0].query.shape[1],
    }

    trainers = {str(count): make_trainer(config, count) for count in (1, 2, 4, 8)}
    trainers["shard_state"] = make_trainer(config, DEVICES, shard_state=True)
    trainers["pmap"] = make_trainer(config, DEVICES, mode="pmap")
    state = trainers["shard_state"].init(np.uint32(config.seed))
    found["placement"] = placement(state)
    start = jax.device_get(state)
    found["param_shapes"] = [leaf.shape for leaf in jax.tree.leaves(start.params)]
    states = {
        name: everywhere(trainer, start, name == "shard_state")
        for name, trainer in trainers.items()
    }
    found["spread"] = placement(states["pmap"])
    found["round_trip"] = difference(
        start, jax.device_get(trainers["pmap"].unstack(states["pmap"]))
    )

    # Tracing and running take one at a time; what takes longest are the compilations.
    lowered = [
        trainer.step.lower(states[name], trainer.put(batches[0]))
        for name, trainer in trainers.items()
    ]
    with ThreadPoolExecutor(2) as pool:
        steps = dict(zip(trainers, pool.map(lambda step: step.compile(), lowered), strict=True))
    for name in ("8", "shard_state", "pmap"):
        (folder / f"{name}.hlo").write_text(steps[name].as_text())

    few = batches[:PMAP_STEPS]
    runs = {
        name: train(trainer, steps[name], states.pop(name), few if name == "pmap" else batches)
        for name, trainer in trainers.items()
    }
    found["moved"] = difference(start.params, runs["1"][0][-1])["all"]
    found["devices"] = {count: compare(*runs["1"][:2], *runs[count][:2]) for count in "248"}
    found["shard_state"] = compare(*runs["8"][:2], *runs["shard_state"][:2])

    params, metrics, state = runs["pmap"]
    found["pmap"] = compare(*mean_of_shards(config, start.params, few), params, metrics)
    found["pmap_and_jit"] = difference(params[-1], runs["8"][0][len(few) - 1])["all"]
    view, each = trainers["pmap"].unstack(state), jax.device_get(state)
    found["view"] = placement(view)
    found["each_device"] = [
        difference(jax.device_get(view), jax.tree.map(lambda a, i=i: a[i], each))["equal"]
        for i in range(DEVICES)
    ]
    (folder / "found.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""Samples a second of the data path, beside what the model takes in, and the memory it needs.

python benchmarks/input_pipeline.py --config=qvhighlights_slowfast_clip --data_dir=data

Goes through the training split of a built data set as training does: a first pass from the disk,
once the system was asked to forget what it keeps of the files, then others, from host memory with
everything kept there, and from the device's memory. After them, steps of the configuration's
model at the same shapes, and the same steps fed by both data paths, to see whether they wait.
The domains of a data set are read as one.
"""

import argparse
import collections
import contextlib
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from measuring import (
    SMOKE_CONFIG,
    errors_in_a_line,
    make_parser,
    require_device,
    summary,
    watched_memory,
    write_result,
)

from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.data.batch import feature_widths
from flashvtg_jax.data.batch_plan import BatchPlan
from flashvtg_jax.data.device_cache import DeviceCache, Draw, is_worth_caching
from flashvtg_jax.data.pipeline import train_pipeline, train_plan
from flashvtg_jax.data.preparation import complete_config, prepare_data
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.system.huge_pages import restart_with_huge_pages
from flashvtg_jax.training.optimizer import make_optimizer
from flashvtg_jax.training.run import OpenRun
from flashvtg_jax.training.state import init_state
from flashvtg_jax.training.step import make_train_step
from flashvtg_jax.training.trainer import Trainer


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", default="qvhighlights_slowfast_clip")
    parser.add_argument("--data_dir", help="of built data sets; default: the configuration's")
    parser.add_argument(
        "--cache", action=argparse.BooleanOptionalAction, help="instead of config.data.cache"
    )
    parser.add_argument("--no_model", action="store_true", help="measure the data path alone")
    parser.add_argument("--repeats", type=int, default=5, help="passes")
    parser.add_argument("--batches", type=int, default=100, help="of a pass, over several epochs")
    parser.add_argument("--steps", type=int, default=5, help="of the model, for each length")
    options = parser.parse_args()
    require_device(options.device)
    if options.smoke:
        options.repeats, options.batches, options.steps = 2, 10, 2

    with contextlib.ExitStack() as stack, errors_in_a_line():
        config = load_config(SMOKE_CONFIG if options.smoke else options.config)
        data_dir = options.data_dir or config.data.data_dir
        if options.smoke:
            data_dir = stack.enter_context(tempfile.TemporaryDirectory())
            small = {"synthetic.num_train": 20, "synthetic.num_val": 4, "train.batch_size": 4}
            config = apply_overrides(config, small)
            prepare_data(config, Path(data_dir), show_progress=False)
        if data_dir is None:
            parser.error(f"{config.name} names no data_dir: give --data_dir=DIR")
        changes = {
            "data.domains": (),
            "data.cache": config.data.cache if options.cache is None else options.cache,
            "train.epochs": 1 + (options.repeats + 1) * options.batches,  # of a batch or more
        }
        result = measure(apply_overrides(config, changes), data_dir, options)
    write_result("input_pipeline", {"config": config.name, **result}, options.output)


def measure(
    config: ml_collections.ConfigDict, data_dir: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Returns all that is measured of one data set."""
    data = config.data
    folder = Path(data_dir).expanduser() / data.dataset
    with watched_memory() as memory:
        source = open_split(data_dir, data.dataset, data.train_split, cache=data.cache)
        config = complete_config(config, source)
        data, plan = config.data, train_plan(source, config)
        forget_files(folder)
        # The first pass reads nothing twice.
        first = read_batches(source, config, 0, min(options.batches, plan.steps_per_epoch))
        others = [
            read_batches(source, config, repeat * options.batches, options.batches)
            for repeat in range(1, options.repeats + 1)
        ]
    delivered = summary([samples / seconds for samples, seconds in others])
    kept = open_split(data_dir, data.dataset, data.train_split, cache=True)
    of_a_pass = min(options.batches, plan.steps_per_epoch)
    read_batches(kept, config, 0, of_a_pass)
    again = [read_batches(kept, config, 0, of_a_pass) for _ in range(options.repeats)]
    del kept
    cached, gathered = None, {"skipped_device": "the split does not fit there"}
    if is_worth_caching(source, config, jax.local_devices()[:1]):
        cached, gathered = measure_cache(source, config, plan, options)
    values_a_row = plan.buckets[-1] * sum(data.video_widths[name] for name in data.video_streams)
    result = {
        "examples": len(source),
        "batch_size": plan.batch_size,
        "buckets": plan.buckets,
        "cache": data.cache,
        "num_threads": data.num_threads,
        "samples_per_second_first_pass": first[0] / first[1],
        "samples_per_second": delivered,
        "samples_per_second_host": summary([samples / seconds for samples, seconds in again]),
        **gathered,
        "data_set_mib": sum(path.stat().st_size for path in files(folder)) / 2**20,
        "longest_batch_mib": 4 * plan.batch_size * values_a_row / 2**20,
        "batches_ahead": data.prefetch,
        "memory_before_mib": memory["before"],
        "memory_growth_mib": memory["peak"] - memory["before"],
    }
    if options.no_model:
        return result
    model = measure_model(source, config, plan, cached, options.steps)
    ratio = delivered["median"] / model["model_samples_per_second"]
    return {**result, **model, "delivered_over_consumed": ratio}


def read_batches(
    source: SplitSource, config: ml_collections.ConfigDict, start_step: int, num_batches: int
) -> tuple[int, float]:
    """Reads batches from a step on; returns their examples and the seconds it took."""
    samples, start = 0, time.perf_counter()
    with contextlib.closing(train_pipeline(source, config, start_step=start_step)) as batches:
        for batch in itertools.islice(batches, num_batches):
            samples += int((batch.example >= 0).sum())
        return samples, time.perf_counter() - start


def measure_cache(
    source: SplitSource,
    config: ml_collections.ConfigDict,
    plan: BatchPlan,
    options: argparse.Namespace,
) -> tuple[DeviceCache, dict[str, Any]]:
    """Puts the split on the device; returns it, and how fast batches are drawn and gathered."""
    start = time.perf_counter()
    cache = DeviceCache(source, config, jax.device_put)
    jax.block_until_ready(cache.split)
    loading = time.perf_counter() - start
    takes = {clips: jax.jit(cache.taking(clips)) for clips in plan.buckets}
    planned = [plan.batch(step)[1] for step in range(min(options.batches, plan.steps_per_epoch))]
    samples = sum(int((batch.examples >= 0).sum()) for batch in planned)

    def draw() -> list[Draw]:
        return [cache.draw(source, batch.examples, config.seed) for batch in planned]

    def gather(draws: list[Draw]) -> None:
        taken = None
        for batch, one in zip(planned, draws, strict=True):
            taken = takes[batch.length](cache.split, one)
        jax.block_until_ready(taken)

    draws = draw()
    gather(draws)  # compiles
    drawing, gathering = [], []
    for _ in range(options.repeats):
        start = time.perf_counter()
        draw()
        drawn = time.perf_counter()
        gather(draws)
        drawing.append(samples / (drawn - start))
        gathering.append(samples / (time.perf_counter() - drawn))
    return cache, {
        "samples_per_second_device": summary(gathering),
        "draws_per_second": summary(drawing),
        "device_mib": sum(array.nbytes for array in jax.tree.leaves(cache.split)) / 2**20,
        "loading_seconds": loading,
    }


def measure_model(
    source: SplitSource,
    config: ml_collections.ConfigDict,
    plan: BatchPlan,
    cache: DeviceCache | None,
    steps: int,
) -> dict[str, Any]:
    """Returns what the training step consumes, each length as often as an epoch has it."""
    lengths = [batch.length for batch in plan.epoch(0)]
    model = build_model(config.model)
    optimizer = make_optimizer(config.optimizer, plan.steps_per_epoch)
    init = jax.jit(lambda: init_state(model, optimizer, *feature_widths(config.data), 0))
    step = jax.jit(make_train_step(model, optimizer, config.loss), donate_argnums=0)

    state, seconds = init(), {}
    for length in sorted(set(lengths)):
        first_step = lengths.index(length)
        with contextlib.closing(train_pipeline(source, config, start_step=first_step)) as batches:
            batch = jax.device_put(next(batches))
        times = []
        try:
            for _ in range(steps + 1):
                start = time.perf_counter()
                state, metrics = step(state, batch)
                jax.block_until_ready((state, metrics))
                times.append(time.perf_counter() - start)
        except jax.errors.JaxRuntimeError as error:
            if not seconds or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            state = init()  # the step had begun to overwrite it
            break  # the longer ones do not fit either; without them the model is only faster
        seconds[length] = summary(times[1:])  # the first one compiles
    measured = [batch for batch in plan.epoch(0) if batch.length in seconds]
    samples = sum(int((batch.examples >= 0).sum()) for batch in measured)
    of_an_epoch = sum(seconds[batch.length]["median"] for batch in measured)

    del state
    run = OpenRun(
        name="",
        config=config,
        workdir=Path(),
        train_source=source,
        val_source=source,
        plan=plan,
        start_step=0,
    )
    fits = len(seconds) == len(set(lengths))
    fed = measure_fed(run, cache, steps) if fits else {}
    return {
        "step_seconds": {str(length): times for length, times in seconds.items()},
        "steps_of_an_epoch": dict(sorted(collections.Counter(lengths).items())),
        "lengths_beyond_memory": sorted(set(lengths) - set(seconds)),
        "model_samples_per_second": samples / of_an_epoch,
        **fed,
    }


def measure_fed(run: OpenRun, cache: DeviceCache | None, steps: int) -> dict[str, Any]:
    """Returns the seconds of the first steps of training, fed by each of the data paths.

    The same steps on batches that lie ready on the device are what they are compared with, in
    turns; all three compute the same.
    """
    trainer = Trainer(run.config, run.plan.steps_per_epoch)
    with contextlib.closing(train_pipeline(run.train_source, run.config)) as pipeline:
        batches = [trainer.put(next(pipeline)) for _ in range(steps)]
    seconds: dict[str, list[float]] = {"ready": [], "host": []}
    if cache is not None:
        seconds["device"] = []
    for repeat in range(4):  # the first compiles
        for name, times in seconds.items():
            state = trainer.init(np.uint32(run.config.seed))
            kept = cache if name == "device" else None
            with contextlib.closing(trainer.open_feed(run, kept)) as feed:
                jax.block_until_ready(state)
                start, step = time.perf_counter(), 0
                while step < steps:
                    if name == "ready":
                        state, metrics = trainer.step(state, batches[step])
                        step += 1
                    else:
                        state, metrics, count = feed.advance(state, step, steps - step)
                        step += count
                jax.block_until_ready((state, metrics))
                if repeat:
                    times.append((time.perf_counter() - start) / steps)
    ready = statistics.median(seconds["ready"])
    return {f"fed_step_seconds_{name}": summary(times) for name, times in seconds.items()} | {
        f"waiting_for_data_{name}": 1 - ready / statistics.median(seconds[name])
        for name in seconds
        if name != "ready"
    }


def files(folder: Path) -> list[Path]:
    """Returns the files of a data set."""
    return [path for path in folder.rglob("*") if path.is_file()]


def forget_files(folder: Path) -> None:
    """Asks the system to drop what it keeps of files in memory, where it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only what is on the disk can be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    restart_with_huge_pages()
    main()

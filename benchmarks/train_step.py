"""Time of a training step against batch size and precision, beside what the device could reach.

python benchmarks/train_step.py --config=qvhighlights_slowfast_clip --batch_sizes=16,64

Each row has the seconds of tracing and compiling, the median and spread of a step, samples a
second, the operations of its matrix products and convolutions (benchmarks/flops.py) and how many of
them it does in a second, beside the rate of large matrix products on the same device in the same
run (benchmarks/matrix_rate.py), and its memory.

Steps follow one another without waiting, as in training, and each overwrites the state: one a
repeat on a CPU, ten on an accelerator. With --steps_per_dispatch=N a call of the compiled program
does N steps, all on the same batch. With --profile=DIR three calls of each row are traced: open DIR
in TensorBoard (with its plugin "xprof"), or its perfetto_trace.json.gz in https://ui.perfetto.dev.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flops import count_flops
from matrix_rate import measure_matrix_rate
from measuring import (
    SMOKE_CONFIG,
    batch_clips,
    batch_shapes,
    errors_in_a_line,
    int_list,
    make_parser,
    measure_row,
    peak_of_row,
    progress,
    random_batch,
    require_device,
    summary,
    write_result,
)
from programs import training_step

from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.system.huge_pages import restart_with_huge_pages
from flashvtg_jax.training.state import param_count
from flashvtg_jax.training.step import TrainStep

SIZES = [8, 16, 32, 64, 128, 256, 512, 1024]
SIZES_CPU = [8, 16, 32, 64]
DTYPES = ("float32", "bfloat16")
PROFILED_CALLS = 3


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", default="qvhighlights_slowfast_clip")
    parser.add_argument("--clips", type=int, help="of each video; default: the configuration's")
    parser.add_argument("--batch_sizes", type=int_list, help="default: 8 to 1024, on CPU 8 to 64")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="default: %(default)s")
    parser.add_argument("--steps_per_dispatch", type=int, default=1, metavar="N")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", metavar="DIR", help="write traces of the device there")
    options = parser.parse_args()
    dtypes = options.dtypes.split(",")
    if unknown := set(dtypes) - set(DTYPES):
        parser.error(f"--dtypes: {', '.join(sorted(unknown))} is none of {', '.join(DTYPES)}")
    if options.steps_per_dispatch < 1 or options.repeats < 1:
        parser.error("--steps_per_dispatch and --repeats are at least 1")
    require_device(options.device)

    on_cpu = jax.default_backend() == "cpu"
    sizes = options.batch_sizes or (SIZES_CPU if on_cpu else SIZES)
    if options.smoke:
        options.config, options.repeats = SMOKE_CONFIG, 2
        sizes = options.batch_sizes or [2]
    calls = 1 if on_cpu else max(1, 10 // options.steps_per_dispatch)
    with errors_in_a_line():
        config = load_config(options.config)
        clips = options.clips or batch_clips(config)
        configs = {
            dtype: apply_overrides(config, {"model.dtype": dtype, "data.max_clips": clips})
            for dtype in dtypes
        }

    rates = {}
    for dtype in dtypes:
        progress(f"matrix products in {dtype}")
        rates[dtype] = measure_matrix_rate(dtype, 3 if options.smoke else 5)
    result: dict[str, Any] = {
        "config": config.name,
        "clips": clips,
        "steps_per_dispatch": options.steps_per_dispatch,
        "calls_per_repeat": calls,
        "matrix_rates": list(rates.values()),
        "rows": [],
    }
    for size in sizes:
        for dtype in sorted(dtypes):  # bfloat16 first: the peak of a device's memory only rises
            measure = partial(measure_size, configs[dtype], size, rates[dtype], calls, options)
            result["rows"].append(measure_row({"batch_size": size, "dtype": dtype}, measure))
            write_result("train_step", result, options.output, show=False)  # if the rest is stopped
    write_result("train_step", result, options.output)


def measure_size(
    config: ml_collections.ConfigDict,
    size: int,
    matrix_rate: dict[str, Any],
    calls: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Returns what a batch size takes. Raises DoesNotFitError before anything of it is run."""
    steps = options.steps_per_dispatch
    change = partial(steps_in_a_row, steps=steps) if steps > 1 else lambda step: step
    program = training_step(config, batch_shapes(config, size), change)
    with peak_of_row() as peak:
        state, batch = program.init(), jax.device_put(random_batch(config, size))
        parameters = param_count(state.params)
        seconds = []
        for run in range(options.repeats + 1):  # the first is not counted
            jax.block_until_ready((state, batch))
            start_run = time.perf_counter()
            for _ in range(calls):
                state, metrics = program.run(state, batch)
            jax.block_until_ready((state, metrics))
            if run:
                seconds.append((time.perf_counter() - start_run) / (calls * steps))
    if options.profile:
        profile(program.run, state, batch, Path(options.profile) / f"{config.model.dtype}_{size}")

    times = summary(seconds)
    gflop = count_flops(program.traced.jaxpr) / steps / 1e9
    rate = gflop / times["median"]
    xla_flops = (program.run.cost_analysis() or {}).get("flops")
    return {
        "parameters": parameters,
        "trace_seconds": program.trace_seconds,
        "compile_seconds": program.compile_seconds,
        "step_seconds": times,
        "samples_per_second": size / times["median"],
        "step_gflop": gflop,
        "step_gflop_by_xla": xla_flops and xla_flops / 1e9,  # it counts the body of a loop once
        "gflop_per_second": rate,
        "matrix_gflop_per_second": matrix_rate["gflop_per_second"]["median"],
        "fraction_of_matrix_rate": rate / matrix_rate["gflop_per_second"]["median"],
        **peak,
        **program.memory,
    }


def steps_in_a_row(step: TrainStep, steps: int) -> TrainStep:
    """Several steps on one batch as one program, with the metrics of the last one."""

    def repeated(state: Any, batch: Any) -> Any:
        shapes = jax.eval_shape(step, state, batch)[1]
        metrics = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        return jax.lax.fori_loop(0, steps, lambda _, now: step(now[0], batch), (state, metrics))

    return repeated


def profile(compiled: Callable, state: Any, batch: Any, folder: Path) -> None:
    """Writes a trace of a few calls, for TensorBoard and Perfetto."""
    progress(f"profile: {folder.name}")
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        for call in range(PROFILED_CALLS):
            with jax.profiler.StepTraceAnnotation("train", step_num=call):
                state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))


if __name__ == "__main__":
    restart_with_huge_pages()
    main()

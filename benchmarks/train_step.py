"""Time of one training step: compilation apart, median and spread, samples a second, peak memory.

python benchmarks/train_step.py --config=qvhighlights_slowfast_clip --batch_size=64
"""

import argparse
import time

import jax
from measuring import peak_memory_mib, random_batch, summary, write_result

from flashvtg_jax.config import load_config
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.state import feature_widths, init_state, make_optimizer, param_count
from flashvtg_jax.training.step import make_train_step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="qvhighlights_slowfast_clip")
    parser.add_argument("--batch_size", type=int, help="default: the configuration's")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", help="JSON file to write as well")
    parser.add_argument("--smoke", action="store_true", help="a small model, to see that it runs")
    options = parser.parse_args()

    config = load_config(
        "demo" if options.smoke else options.config, {"model.dtype": options.dtype}
    )
    rows = options.batch_size or (4 if options.smoke else config.train.batch_size)
    repeats = 2 if options.smoke else options.repeats
    model = build_model(config.model)
    optimizer = make_optimizer(config.optimizer, steps_per_epoch=100)
    init = jax.jit(lambda: init_state(model, optimizer, *feature_widths(config.data), 0))
    state = init()
    batch = jax.device_put(random_batch(config, rows))
    step = jax.jit(make_train_step(model, optimizer, config.loss), donate_argnums=0)

    start = time.perf_counter()
    traced = step.lower(state, batch)
    traced_at = time.perf_counter()
    compiled = traced.compile()
    compiled_at = time.perf_counter()
    seconds = []
    for run in range(repeats + 1):  # the first is not counted
        start_run = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        if run:
            seconds.append(time.perf_counter() - start_run)

    flops = (compiled.cost_analysis() or {}).get("flops")
    times = summary(seconds)
    write_result(
        "train_step",
        {
            "config": config.name,
            "batch_size": rows,
            "dtype": options.dtype,
            "parameters": param_count(state.params),
            "trace_seconds": traced_at - start,
            "compile_seconds": compiled_at - traced_at,
            "step_seconds": times,
            "samples_per_second": rows / times["median"],
            "step_gflop": flops and flops / 1e9,
            "gflop_per_second": flops and flops / 1e9 / times["median"],
            "peak_memory_mib": peak_memory_mib(),
        },
        options.output,
    )


if __name__ == "__main__":
    main()

"""Queries a second of evaluation: model, decoding and NMS on the device, and back to the host.

python benchmarks/evaluate.py --config=qvhighlights_slowfast_clip --batch_sizes=1,16,64
"""

import argparse
import time
from functools import partial

import jax
from measuring import peak_memory_mib, random_batch, summary, write_result

from flashvtg_jax.config import load_config
from flashvtg_jax.evaluation import apply_and_decode
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.state import feature_widths, init_params


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="qvhighlights_slowfast_clip")
    parser.add_argument("--batch_sizes", default="1,16,64", help="separated by commas")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", help="JSON file to write as well")
    parser.add_argument("--smoke", action="store_true", help="a small model, to see that it runs")
    options = parser.parse_args()

    config = load_config(
        "demo" if options.smoke else options.config, {"model.dtype": options.dtype}
    )
    sizes = [1, 4] if options.smoke else [int(size) for size in options.batch_sizes.split(",")]
    repeats = 2 if options.smoke else options.repeats
    model = build_model(config.model)
    widths = feature_widths(config.data)
    params = jax.jit(lambda key: init_params(model, key, *widths))(jax.random.key(0))
    apply = jax.jit(partial(apply_and_decode, model, config))

    rows = []
    for size in sizes:
        batch = random_batch(config, size).replace(targets=None)
        start = time.perf_counter()
        compiled = apply.lower(params, batch).compile()
        compile_seconds = time.perf_counter() - start
        seconds = []
        for run in range(repeats + 1):  # the first is not counted
            start = time.perf_counter()
            jax.device_get(compiled(params, jax.device_put(batch)))
            if run:
                seconds.append(time.perf_counter() - start)
        times = summary(seconds)
        rows.append(
            {
                "batch_size": size,
                "compile_seconds": compile_seconds,
                "batch_seconds": times,
                "queries_per_second": size / times["median"],
                "peak_memory_mib": peak_memory_mib(),
            }
        )
    result = {"config": config.name, "dtype": options.dtype, "rows": rows}
    write_result("evaluate", result, options.output)


if __name__ == "__main__":
    main()

"""Queries a second of evaluation, end to end, against batch size.

python benchmarks/evaluate.py --config=qvhighlights_slowfast_clip --batch_sizes=16,64

Evaluates a split that is held in memory with random parameters, through the library's `Evaluator`:
model, decoding and NMS on the device, predictions brought back and put in order, and their scores
with and without NMS. The split is made up, with features of the widths of the configuration, or
that of --data_dir. The first evaluation, which compiles and reads, is reported apart.

Parts of the seconds, each measured by itself:
  - device: model, decoding and NMS of all batches, on inputs that are there, nothing brought back.
  - scoring: the scores of the predictions, with and without NMS.
"""

import contextlib
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
from measuring import (
    SMOKE_CONFIG,
    errors_in_a_line,
    int_list,
    make_parser,
    measure_row,
    peak_of_row,
    progress,
    require_device,
    timed,
    write_result,
)

from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.data.batch import feature_widths
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.device_cache import DeviceCache
from flashvtg_jax.data.pipeline import evaluation_batches
from flashvtg_jax.data.preparation import complete_config
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.distributed.sharding import make_mesh, replicate, replicated
from flashvtg_jax.evaluation.evaluator import Evaluator, Results, apply_and_decode
from flashvtg_jax.metrics import evaluate_predictions
from flashvtg_jax.models.flashvtg import FlashVTG, build_model
from flashvtg_jax.models.init import init_params
from flashvtg_jax.system.huge_pages import restart_with_huge_pages
from flashvtg_jax.system.memory import check_fits

QUERIES, QUERIES_CPU = 1550, 256  # QVHighlights' validation split has 1550


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", default="qvhighlights_slowfast_clip")
    parser.add_argument(
        "--batch_sizes", type=int_list, default=[1, 16, 64], help="default: 1,16,64"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--queries", type=int, help=f"default: {QUERIES}, on CPU {QUERIES_CPU}")
    parser.add_argument("--data_dir", help="of built data sets: evaluate one of them instead")
    parser.add_argument("--split", help="of that data set; default: the configuration's")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    require_device(options.device)
    queries = options.queries or (QUERIES_CPU if jax.default_backend() == "cpu" else QUERIES)
    if options.smoke:
        options.config, options.batch_sizes = SMOKE_CONFIG, [1, 4]
        options.repeats, queries = 2, 10

    with contextlib.ExitStack() as stack, errors_in_a_line():
        config = load_config(options.config, {"model.dtype": options.dtype})
        folder = options.data_dir
        if folder is None:
            if config.data.labels != "qvhighlights":
                parser.error(f"no {config.data.dataset} can be made up: give --data_dir=DIR")
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            make_split(config, Path(folder), queries)
        data = config.data
        source = open_split(
            folder, data.dataset, options.split or data.val_split, data.domains, cache=True
        )
        config = complete_config(config, source)
        widths = feature_widths(config.data)
        model = build_model(config.model)
        params = jax.jit(lambda key: init_params(model, key, *widths))(jax.random.key(0))
        about = {"config": config.name, "dtype": options.dtype, "queries": len(source)}
        result = {**about, "rows": []}
        for size in options.batch_sizes:
            sized = apply_overrides(config, {"evaluation.batch_size": size})
            measure = partial(measure_size, sized, params, source, options.repeats)
            result["rows"].append(measure_row({"batch_size": size}, measure))
            write_result("evaluate", result, options.output, show=False)  # if it is stopped
    write_result("evaluate", result, options.output)


def make_split(config: ml_collections.ConfigDict, folder: Path, queries: int) -> None:
    """Makes up a validation split with features of the configuration's widths, and builds it."""
    progress(f"making up {queries} queries")
    data = config.data
    widths = {**data.video_widths, "query": data.query_width}
    synthesize(
        folder / "synthetic",
        dataset=data.dataset,
        widths=widths,
        num_train=1,
        num_val=queries,
        progress=False,
    )
    build(data.dataset, folder / "synthetic", folder, widths=widths, progress=False)


def measure_size(
    config: ml_collections.ConfigDict, params: Any, source: SplitSource, repeats: int
) -> dict[str, Any]:
    """Returns what a batch size gives. Raises DoesNotFitError before anything of it is run."""
    model, mesh = build_model(config.model), make_mesh()
    annotations = source.annotations()
    with peak_of_row() as peak:
        device = measure_device(model, config, params, source, repeats)
        evaluator = Evaluator(model, config, mesh)
        everywhere = jax.device_put(params, replicated(mesh))
        start = time.perf_counter()
        results = evaluator.evaluate(everywhere, source)
        first_seconds = time.perf_counter() - start
        seconds = timed(lambda: evaluator.evaluate(everywhere, source), repeats)
        # As training evaluates: features stay on the device.
        cache = DeviceCache(source, config, partial(replicate, mesh=mesh))
        kept = timed(lambda: evaluator.evaluate(everywhere, source, cache=cache), repeats)
    return {
        "first_seconds": first_seconds,
        "seconds": seconds,
        "queries_per_second": len(source) / seconds["median"],
        "cached_seconds": kept,
        "cached_queries_per_second": len(source) / kept["median"],
        **device,
        "device_queries_per_second": len(source) / device["device_seconds"],
        "scoring_seconds": timed(lambda: score(results, annotations, config), repeats),
        **peak,
    }


def measure_device(
    model: FlashVTG,
    config: ml_collections.ConfigDict,
    params: Any,
    source: SplitSource,
    repeats: int,
) -> dict[str, Any]:
    """Returns what all batches take, of each shape one measured, with inputs on the device.

    Raises DoesNotFitError before any of them is run.
    """
    batches: dict[Any, list[Any]] = {}  # of each shape how many, and the first
    for batch in evaluation_batches(source, config):
        batch = batch.replace(targets=None)
        batches.setdefault(batch.video.shape + batch.query.shape, [0, batch])[0] += 1
    apply = jax.jit(partial(apply_and_decode, model, config))
    start = time.perf_counter()
    programs = {
        shape: apply.lower(params, batch).compile() for shape, (_, batch) in batches.items()
    }
    compile_seconds = time.perf_counter() - start
    memory = max(
        (check_fits(compiled) for compiled in programs.values()),
        key=lambda needed: needed["program_mib"],
    )
    seconds = 0.0
    for shape, (count, batch) in batches.items():
        compiled, arrays = programs[shape], jax.device_put(batch)
        run = partial(compiled, params, arrays)
        times = timed(lambda run=run: jax.block_until_ready(run()), repeats)
        seconds += count * times["median"]
    return {"device_seconds": seconds, "compile_seconds": compile_seconds, **memory}


def score(
    results: Results, annotations: list[dict[str, Any]], config: ml_collections.ConfigDict
) -> None:
    """Scores predictions as an evaluation does, without NMS and with it."""
    for predictions in (results.predictions, results.predictions_nms):
        if predictions and results.metrics:
            evaluate_predictions(predictions, annotations, clip_length=config.clip_length)


if __name__ == "__main__":
    restart_with_huge_pages()
    main()

"""The predictor: queries a second about one video, and time and memory for long videos.

python benchmarks/predictor.py --config=qvhighlights_slowfast_clip --clips=75,300,1200,5400

Each length is measured in a process of its own, for its peak memory; limits of the configuration on
the length of videos are lifted. Parameters are random: the time does not depend on them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from measuring import (
    SMOKE_CONFIG,
    int_list,
    make_parser,
    peak_memory_mib,
    timed,
    write_result,
)

from flashvtg_jax.config import load_config
from flashvtg_jax.data.batch import feature_widths
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.models.init import init_params
from flashvtg_jax.prediction.predictor import Predictor


def main() -> None:
    parser = make_parser(__doc__, device=False)
    parser.add_argument("--config", default="qvhighlights_slowfast_clip")
    parser.add_argument(
        "--queries", type=int_list, default=[1, 10, 1000], help="asked together about one video"
    )
    parser.add_argument("--video_clips", type=int, default=75, help="of that video")
    parser.add_argument(
        "--clips", type=int_list, default=[75, 300, 1200, 5400], help="lengths for a single query"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="queries answered at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one_length", type=int, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.smoke:
        options.config, options.queries, options.clips = SMOKE_CONFIG, [1, 3], [20]
        options.video_clips, options.repeats = 20, 2

    if options.one_length:
        row = measure_length(make_predictor(options), options.one_length, options.repeats)
        Path(options.output).write_text(json.dumps(row))
        return
    lengths = [measure_apart(options, clips) for clips in options.clips]
    predictor = make_predictor(options)
    queries = [
        measure_queries(predictor, options.video_clips, count, options.repeats)
        for count in options.queries
    ]
    result = {
        "config": predictor.config.name,
        "batch_size": options.batch_size,
        "load_average": os.getloadavg()[0],
        "queries": queries,
        "lengths": lengths,
    }
    write_result("predictor", result, options.output)


def make_predictor(options: argparse.Namespace) -> Predictor:
    """The model of a configuration, with random parameters."""
    config = load_config(options.config)
    model, widths = build_model(config.model), feature_widths(config.data)
    params = jax.jit(lambda key: init_params(model, key, *widths))(jax.random.key(0))
    return Predictor(config, params, batch_size=options.batch_size, whole_videos=True)


def random_features(predictor: Predictor, clips: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Raw features of a video and of a query of 12 words, in the precision of released ones."""
    rng = np.random.default_rng(clips)

    def features(rows: int, width: int) -> np.ndarray:
        return rng.standard_normal((rows, width), np.float32).astype(np.float16)

    video = {name: features(clips, width) for name, width in predictor.streams.items()}
    return video, features(12, predictor.query_width)


def measure_queries(predictor: Predictor, clips: int, count: int, repeats: int) -> dict[str, Any]:
    """Seconds for many queries about one video, checks and normalisation included."""
    video, query = random_features(predictor, clips)
    start = time.perf_counter()
    predictor.warm_up(clips, count)
    warm_up_seconds = time.perf_counter() - start
    seconds = timed(lambda: predictor(video, [query] * count), repeats)
    return {
        "queries": count,
        "clips": clips,
        "warm_up_seconds": warm_up_seconds,
        "seconds": seconds,
        "queries_per_second": count / seconds["median"],
    }


def measure_length(predictor: Predictor, clips: int, repeats: int) -> dict[str, Any]:
    """Seconds and memory for one query about a video."""
    video, query = random_features(predictor, clips)
    before = peak_memory_mib()
    start = time.perf_counter()
    predictor.warm_up(clips)
    warm_up_seconds = time.perf_counter() - start
    seconds = timed(lambda: predictor(video, query), repeats)
    return {
        "clips": clips,
        "warm_up_seconds": warm_up_seconds,
        "seconds": seconds,
        "memory_before_mib": before,
        "peak_memory_mib": peak_memory_mib(),
    }


def measure_apart(options: argparse.Namespace, clips: int) -> dict[str, Any]:
    """`measure_length` in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "row.json"
        command = [sys.executable, __file__, f"--one_length={clips}", f"--output={output}"]
        command += [f"--config={options.config}", f"--repeats={options.repeats}"]
        subprocess.run([*command, f"--batch_size={options.batch_size}"], check=True)
        return json.loads(output.read_text())


if __name__ == "__main__":
    main()

"""What every benchmark shares: the machine, medians with spread, JSON results."""

import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flashvtg_jax.data.batch import Batch
from flashvtg_jax.losses import Targets
from flashvtg_jax.training.checkpoints import versions

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """Name of the CPU."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Machine, versions and commit that a result belongs to."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    device = jax.devices()[0]
    return {
        "device": processor() if device.platform == "cpu" else device.device_kind,
        "device_count": jax.device_count(),
        "platform": device.platform,
        "cpu": processor(),
        "python": platform.python_version(),
        "versions": versions(),
        "commit": commit,
        "command": " ".join(["python", *sys.argv]),
    }


def summary(values: list[float]) -> dict[str, Any]:
    """Median and spread of repeated measurements."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "runs": len(values),
    }


def peak_memory_mib() -> float:
    """Largest memory so far: of the device where it tells, else of this process on the host."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def resident_mib() -> float:
    """Memory of this process on the host now; the largest so far where Linux's /proc is missing."""
    path = Path("/proc/self/statm")
    if path.exists():
        return int(path.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@contextlib.contextmanager
def watched_memory(interval: float = 0.01) -> Iterator[dict[str, float]]:
    """Watches the memory of this process on the host; what is yielded tells when it is over.

    Yields:
      "before" and "peak", MiB.
    """
    memory = {"before": resident_mib()}
    memory["peak"] = memory["before"]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(interval):
            memory["peak"] = max(memory["peak"], resident_mib())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def write_result(
    name: str, result: dict[str, Any], output: str | None, *, show: bool = True
) -> None:
    """Print a result as JSON and, if asked, write it to a file."""
    text = json.dumps({"benchmark": name, **environment(), **result}, indent=2)
    if show:
        print(text)
    if output:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def random_batch(config: Any, rows: int, seed: int = 0) -> Batch:
    """A batch as a configuration's data shape it: full-length videos, queries of 5 to 30 words."""
    rng = np.random.default_rng(seed)
    clips, words = config.data.max_clips or config.data.buckets[-1], config.data.max_words
    video_width = sum(config.data.video_widths[name] for name in config.data.video_streams)

    def features(length: int, width: int) -> np.ndarray:
        values = rng.standard_normal((rows, length, width), np.float32)
        return values / np.linalg.norm(values, axis=-1, keepdims=True)

    num_words = rng.integers(min(5, words), min(30, words) + 1, (rows, 1))
    start = rng.uniform(0, clips / 2, (rows, 2, 1))
    windows = np.concatenate([start, start + rng.uniform(2, clips / 2, (rows, 2, 1))], -1)
    return Batch(
        video=features(clips, video_width),
        video_mask=np.ones((rows, clips), bool),
        query=features(words, config.data.query_width),
        query_mask=np.arange(words) < num_words,
        duration=np.full(rows, clips * config.clip_length, np.float32),
        example=np.arange(rows, dtype=np.int32),
        targets=Targets(
            windows=(windows * config.clip_length).astype(np.float32),
            window_mask=np.ones((rows, 2), bool),
            saliency_labels=rng.integers(0, 13, (rows, clips)).astype(np.float32),
            positive_clips=rng.integers(0, clips, (rows, 2)).astype(np.int32),
            negative_clips=rng.integers(0, clips, (rows, 2)).astype(np.int32),
            video_id=np.arange(rows, dtype=np.int32),
        ),
    )

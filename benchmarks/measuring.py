"""What every benchmark shares: the machine, medians with spread, memory, JSON results."""

import argparse
import contextlib
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flashvtg_jax.checkpoints.manager import versions
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.errors import ConfigError, FlashVTGError
from flashvtg_jax.losses import Targets
from flashvtg_jax.system.memory import DoesNotFitError

DEVICES = ("cpu", "gpu", "tpu")
SMOKE_CONFIG = str(Path(__file__).with_name("smoke_config.py"))  # of --smoke


def make_parser(about: str | None, *, device: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has.

    Args:
      about: the script's docstring.
      device: whether the script can run on other devices than the CPU.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if device:
        parser.add_argument("--device", choices=DEVICES, help="default: what jax finds")
    parser.add_argument("--output", help="JSON file to write as well")
    parser.add_argument("--smoke", action="store_true", help="a quick run with a small model")
    return parser


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
    """Errors of the library end the script with one line and status 1."""
    try:
        yield
    except FlashVTGError as error:
        raise SystemExit(f"error: {error}") from error


def positive(text: str) -> int:
    """A whole number of at least 1, for options."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def int_list(text: str) -> list[int]:
    """ "8,16" -> [8, 16], for options that hold several sizes."""
    return [positive(size) for size in text.split(",")]


def require_device(name: str | None) -> None:
    """Ends the script with one line and status 1 if jax has no device of this kind.

    Args:
      name: "cpu", "gpu" or "tpu"; None: whatever jax finds. "cpu" is used even beside others.

    Raises:
      SystemExit: it is not there.
    """
    if name is None:
        return
    if name == "cpu" and os.environ.get("JAX_PLATFORMS") != "cpu":
        jax.config.update("jax_platforms", "cpu")  # heard only before the first use of a device
    try:
        seen = sorted({platform_name(device) for device in jax.devices()})
    except (RuntimeError, AssertionError):  # JAX_PLATFORMS names one that jax cannot load
        seen = []
    if name not in seen:
        raise SystemExit(f"error: there is no {name} here; jax sees: {', '.join(seen) or 'none'}")


def platform_name(device: jax.Device) -> str:
    """The kind of a device: "cpu", "gpu" (of any vendor) or "tpu"."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


def progress(text: str) -> None:
    """A line on standard error, so that long rows are seen to move."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


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
        "commit": commit or os.environ.get("COMMIT", ""),
        "command": portable_command(sys.argv),
        "large_pages": "hugetlb" in os.environ.get("GLIBC_TUNABLES", ""),
        "smoke": "--smoke" in sys.argv,  # of no use as a measurement
        "compilation_cache": bool(jax.config.jax_compilation_cache_dir),  # programs may be loaded
    }


def portable_command(arguments: Sequence[str]) -> str:
    """The command of a script, without folders of the machine it ran on."""

    def shorten(value: str) -> str:
        path = Path(value)
        if not path.is_absolute():
            return value
        inside = path.is_relative_to(Path.cwd())
        return str(path.relative_to(Path.cwd())) if inside else path.name

    script, *options = arguments
    words = ["python", f"benchmarks/{Path(script).name}"]
    for option in options:
        key, equals, value = option.partition("=")
        words.append(f"{key}={shorten(value)}" if equals else shorten(option))
    return " ".join(words)


def summary(values: list[float]) -> dict[str, Any]:
    """Median and spread of repeated measurements."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "runs": len(values),
    }


def timed(function: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Seconds of a call, median and spread; the first one is not counted."""
    seconds = []
    for run in range(repeats + 1):
        start = time.perf_counter()
        function()
        if run:
            seconds.append(time.perf_counter() - start)
    return summary(seconds)


def fitted_exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The p of values ~ sizes^p, by least squares on logarithms over the larger half of the sizes.

    Small sizes are left out, for there the constant part hides the growth. None for fewer than two.
    """
    pairs = sorted(zip(sizes, values, strict=True))
    pairs = pairs[larger_half(len(pairs)) :]
    if len(pairs) < 2:
        return None
    logs = np.log(np.asarray(pairs, np.float64))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def larger_half(count: int) -> int:
    """Where the larger half of so many ascending sizes begins, which has two at least."""
    return max(0, min(count // 2, count - 2))


def measure_row(about: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row of a table: what it is `about` and what is measured, or why it was skipped.

    A row that does not fit into memory is skipped with a line on standard error. What it compiled
    and kept is dropped, so that the next one finds the memory free.
    """
    label = " ".join(f"{key}={value}" for key, value in about.items())
    progress(label)
    try:
        row = measure()
    except DoesNotFitError as error:
        row = {"skipped": str(error)}
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        row = {"skipped": f"out of memory: {(str(error).splitlines() or ['on the host'])[0]}"}
    if "skipped" in row:
        print(f"skipped {label}: {row['skipped']}", file=sys.stderr, flush=True)
    jax.clear_caches()
    gc.collect()
    return {**about, **row}


@contextlib.contextmanager
def peak_of_row() -> Iterator[dict[str, Any]]:
    """Watches the memory of a row; what is yielded is filled in at the end.

    Yields:
      "peak_memory_mib" of the device where it reports that, else of this process on the host. A
      device keeps the largest so far: None where an earlier row needed more.
    """
    peak: dict[str, Any] = {"peak_memory_mib": None}
    before = jax.devices()[0].memory_stats() or {}
    with watched_memory() as host:
        yield peak
    after = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" not in after:
        peak["peak_memory_mib"] = host["peak"]
    elif after["peak_bytes_in_use"] > before["peak_bytes_in_use"]:
        peak["peak_memory_mib"] = after["peak_bytes_in_use"] / 2**20


def peak_memory_mib() -> float:
    """Largest memory so far, of the device where it reports that, else of this process."""
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
    """Watches the memory of this process on the host; what is yielded is up to date at the end.

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


def batch_clips(config: Any) -> int:
    """The length of a configuration's longest videos. Raises ConfigError if the data decide it."""
    if config.data.max_clips or config.data.buckets:
        return config.data.max_clips or config.data.buckets[-1]
    raise ConfigError(
        f"{config.name}: neither config.data.max_clips nor config.data.buckets says how long "
        "videos are; give their length in clips"
    )


def batch_shapes(config: Any, rows: int) -> Batch:
    """The shapes of `random_batch`, to compile for before it is made."""
    one = random_batch(config, 1)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), one)


def random_batch(config: Any, rows: int, seed: int = 0) -> Batch:
    """A batch as a configuration's data shape it: full-length videos, queries of 5 to 30 words."""
    rng = np.random.default_rng(seed)
    clips, words = batch_clips(config), config.data.max_words
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

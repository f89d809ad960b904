"""What several devices cost beside one, under jit and under pmap: seconds a step, same total batch.

python benchmarks/devices.py --devices=1,2,4,8

Trains on the first 1, 2, 4, 8 devices of this machine if it has several; else on devices that XLA
simulates on the processor. Simulated devices share its cores, so they are never faster than one:
what more they take is the overhead of dividing the work and of exchanging the results. The total
batch is the same for all.

Each number of devices has a process of its own; one that fails, or takes longer than --timeout,
does not stop the others. The two modes take turns within it.
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
    errors_in_a_line,
    int_list,
    make_parser,
    platform_name,
    progress,
    random_batch,
    require_device,
    summary,
    write_result,
)

from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.system.huge_pages import restart_with_huge_pages
from flashvtg_jax.training.trainer import Trainer

MODES = ("jit", "pmap")
PASSED_ON = ("config", "batch_size", "repeats", "steps")  # options of a process of its own
# XLA takes it for the number of cores and makes as many threads: on few cores, devices that wait
# for one another could otherwise hold all of them.
THREADS = 16

Row = dict[str, Any]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", default="demo")
    parser.add_argument("--devices", type=int_list, default=[1, 2, 4, 8], help="default: 1,2,4,8")
    parser.add_argument("--batch_size", type=int, default=16, help="over all devices")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5, help="of a repeat, one after the other")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each number")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # what a process of its own is to do
    options = parser.parse_args()
    if options.smoke:
        options.config = SMOKE_CONFIG
        options.devices, options.batch_size = [1, 2], 4
        options.repeats, options.steps = 2, 2
    if options.child:
        result = probe(options) if options.child == "probe" else measure(options)
        Path(options.output).write_text(json.dumps(result))
        return

    with errors_in_a_line():
        name = load_config(options.config).name
    # This process must not take the devices that its children are to use.
    there = run_apart("probe", options, simulated=None)
    if "failed" in there:
        raise SystemExit(there["failed"])
    simulated = there["platform"] == "cpu" or (there["count"] == 1 and options.device is None)
    rows = []
    for count in sorted(options.devices):
        progress(f"{count} {'simulated ' if simulated else ''}devices")
        rows += measure_count(count, options, simulated, there["count"])
    if simulated:
        jax.config.update("jax_platforms", "cpu")  # the result names the device that was used
    result = {
        "config": name,
        "batch_size": options.batch_size,
        "steps_per_repeat": options.steps,
        "simulated": simulated,
        "rows": with_overhead(rows),
    }
    write_result("devices", result, options.output)


def measure_count(
    count: int, options: argparse.Namespace, simulated: bool, available: int
) -> list[Row]:
    """Returns the rows of a number of devices, or why there are none."""
    reason = None
    if not simulated and count > available:
        reason = f"{available} devices are here"
    elif options.batch_size % count:
        reason = f"{count} devices cannot share {options.batch_size} rows evenly"
    found = {"failed": reason} if reason else run_apart(str(count), options, count * simulated)
    if "failed" in found:
        progress(f"skipped {count} devices: {found['failed']}")
        return [{"devices": count, "mode": mode, "skipped": found["failed"]} for mode in MODES]
    return [{"devices": count, "mode": mode, **found[mode]} for mode in MODES]


def run_apart(child: str, options: argparse.Namespace, simulated: int | None) -> Row:
    """What a process of its own finds out; {"failed": why} if it does not.

    `simulated`: how many devices XLA is to simulate; 0 or None: those that are there.
    """
    environment = dict(os.environ)
    if simulated:
        flags = f"{environment.get('XLA_FLAGS', '')} "
        flags += f"--xla_force_host_platform_device_count={simulated}"
        environment |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": str(THREADS)}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        command = [sys.executable, __file__, f"--child={child}", f"--output={output}"]
        command += [f"--{key}={getattr(options, key)}" for key in PASSED_ON]
        if options.device and not simulated:
            command.append(f"--device={options.device}")
        try:
            ended = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=options.timeout
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {options.timeout:g} s"}
        if ended.returncode:
            said = ended.stderr.strip().splitlines()
            return {"failed": said[-1] if said else f"ended with status {ended.returncode}"}
        return json.loads(output.read_text())


def probe(options: argparse.Namespace) -> Row:
    """How many devices there are, of which kind."""
    require_device(options.device)
    return {"count": jax.device_count(), "platform": platform_name(jax.devices()[0])}


def measure(options: argparse.Namespace) -> Row:
    """Returns the seconds of a step in each mode on the first so many devices."""
    require_device(options.device)
    count, size = int(options.child), options.batch_size
    runs = {mode: Run(options.config, mode, count, size) for mode in MODES}
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for repeat in range(options.repeats + 1):  # the first is not counted
        for mode, run in runs.items():
            taken = run.steps(options.steps)
            if repeat:
                seconds[mode].append(taken / options.steps)
    return {
        mode: {"step_seconds": summary(values), "first_step_seconds": runs[mode].first_seconds}
        for mode, values in seconds.items()
    }


class Run:
    """Training in one mode on some of the devices, always on the same batch."""

    def __init__(self, config: str, mode: str, count: int, size: int):
        # A trainer for batches of n rows takes n devices; what it is given has more rows.
        changes = {"parallel.mode": mode, "train.batch_size": count}
        configured = apply_overrides(load_config(config), changes)
        self._trainer = Trainer(configured, steps_per_epoch=100)
        self._state = self._trainer.stack(self._trainer.init(np.zeros((), np.uint32)))
        self._batch = self._trainer.put(random_batch(configured, size))
        self.first_seconds = self.steps(1)  # compiles

    def steps(self, count: int) -> float:
        """Does steps one after the other; returns the seconds of all."""
        jax.block_until_ready((self._state, self._batch))
        start = time.perf_counter()
        for _ in range(count):
            self._state, metrics = self._trainer.step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - start


def with_overhead(rows: list[Row]) -> list[Row]:
    """The rows with what more they take than one device in the same mode, and pmap than jit."""
    medians = {
        (row["devices"], row["mode"]): row["step_seconds"]["median"]
        for row in rows
        if "skipped" not in row
    }
    for row in rows:
        own = medians.get((row["devices"], row["mode"]))
        one, jit = medians.get((1, row["mode"])), medians.get((row["devices"], "jit"))
        if own is not None:
            row["overhead_seconds"] = None if one is None else own - one
            row["seconds_over_one_device"] = None if one is None else own / one
            row["seconds_over_jit"] = None if jit is None else own / jit
    return rows


if __name__ == "__main__":
    restart_with_huge_pages()
    main()

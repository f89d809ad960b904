"""The benchmarks run, and write what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "train_step",
            {"compile_seconds", "step_seconds", "samples_per_second", "peak_memory_mib"},
        ),
        ("evaluate", {"rows"}),
    ],
)
def test_a_benchmark_runs_in_small_and_writes_json(name, keys, tmp_path):
    output = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--smoke", f"--output={output}"]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads(output.read_text())
    assert result["benchmark"] == name
    assert keys | {"device", "versions", "commit", "command"} <= result.keys()

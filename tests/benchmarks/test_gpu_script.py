"""`benchmarks/gpu.sh`: what it needs, and that a benchmark that fails does not stop the others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"

# Stands in for Python: real for the checks, quick for the benchmarks.
STAND_IN = """#!/bin/bash
case $1 in
  benchmarks/*) ;;
  *) exec "{python}" "$@" ;;
esac
for option in "$@"; do
  case $option in --output=*) output=${{option#--output=}} ;; esac
done
echo "$@" >> "{log}"
case $1 in
  */evaluate.py) exit 3 ;;
  */input_pipeline.py) echo "{{}}" > "$output"; sleep 60 ;;
  *) echo "{{}}" > "$output" ;;
esac
"""


def run(*options, **settings):
    environment = os.environ | {"PYTHON": sys.executable, **settings}
    for name in ("REFERENCE", "DATA_DIR", "WHEELS", "RESULTS", "SMOKE"):
        if name not in settings:
            environment.pop(name, None)
    command = ["bash", str(SCRIPT), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.fixture
def stand_in(tmp_path):
    path = tmp_path / "python"
    path.write_text(STAND_IN.format(python=sys.executable, log=tmp_path / "log"))
    path.chmod(0o755)
    return path


def test_help_says_what_to_bring():
    ended = run("--help")
    assert ended.returncode == 0 and not ended.stderr
    for word in ("WHEELS", "REFERENCE", "jax-cuda12-plugin", "nvidia-cudnn-cu12", "pip wheel"):
        assert word in ended.stdout
    assert "set -euo" not in ended.stdout
    assert run("--wheels").returncode == 2


def test_requirements_are_those_of_the_package_for_python_3_12():
    lines = run("--requirements").stdout.splitlines()
    assert lines[0] == "jax[cuda12]==0.11.2"
    assert "flax>=0.12.9,<0.13" in lines and not any("0.12.8" in line for line in lines)
    assert {"grain>=0.2.15", "tensorflow-datasets>=4.9.10"} <= set(lines)
    assert len([line for line in lines if re.match(r"jax\b", line)]) == 1


@pytest.mark.slow
def test_without_a_gpu_nothing_is_begun(stand_in, tmp_path):
    ended = run(PYTHON=str(stand_in), RESULTS=str(tmp_path / "results"), JAX_PLATFORMS="cpu")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["error: there is no gpu here; jax sees: cpu"]
    assert not (tmp_path / "log").exists()


@pytest.mark.slow
def test_one_that_fails_or_takes_too_long_does_not_stop_the_others(stand_in, tmp_path):
    results = tmp_path / "results"
    ended = run(
        PYTHON=str(stand_in),
        RESULTS=str(results),
        DEVICE="cpu",
        REFERENCE="authors",
        DATA_DIR="built",
        LIMIT="30",  # of which the checks take a few
    )
    assert ended.returncode == 1
    called = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    begun = ["train_step", "evaluate", "compare_pytorch", "input_pipeline"]
    assert called == [f"benchmarks/{name}.py" for name in begun]
    said = ended.stderr[ended.stderr.index("== after") :]
    assert "train_step: done in" in said and "train_step_cpu.json" in said
    assert "evaluate: FAILED with status 3" in said and "measured: nothing was written" in said
    assert "compare_pytorch: done in" in said
    assert "input_pipeline: STOPPED after" in said and "input_pipeline_cpu.json" in said
    assert "scaling: NOT STARTED" in said
    assert (results / "train_step_cpu.json").exists()
    assert not (results / "evaluate_cpu.json").exists()
    log = (tmp_path / "log").read_text()
    assert "--reference=authors" in log and "--data_dir=built" in log

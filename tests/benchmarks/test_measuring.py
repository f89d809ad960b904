"""What the benchmarks share: devices that are not there, memory, exponents, commands."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import measuring
from flashvtg_jax.system.memory import DoesNotFitError

BENCHMARKS = Path(measuring.__file__).parent


def test_a_device_that_is_not_there_ends_the_script_with_one_line(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    measuring.require_device(None)
    measuring.require_device("cpu")
    with pytest.raises(SystemExit, match=r"^error: there is no tpu here; jax sees: cpu$"):
        measuring.require_device("tpu")

    def no_devices():
        raise RuntimeError("Unable to initialize backend")

    monkeypatch.setattr(jax, "devices", no_devices)
    with pytest.raises(SystemExit, match="no gpu here; jax sees: none"):
        measuring.require_device("gpu")


def test_a_gpu_is_one_whatever_its_vendor():
    names = [
        measuring.platform_name(SimpleNamespace(platform=name))
        for name in ("cuda", "rocm", "gpu", "tpu", "cpu")
    ]
    assert names == ["gpu", "gpu", "gpu", "tpu", "cpu"]


@pytest.mark.slow
def test_a_missing_device_is_reported_by_a_script_and_by_the_process_it_starts():
    command = [sys.executable, str(BENCHMARKS / "devices.py"), "--smoke", "--device=tpu"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "error: there is no tpu here; jax sees: cpu"
    assert "Traceback" not in ended.stderr and not ended.stdout


@pytest.mark.parametrize("name", ["train_step", "evaluate", "scaling", "input_pipeline"])
def test_every_benchmark_reports_a_missing_device(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--smoke", "--device=tpu"])
    with pytest.raises(SystemExit, match=r"^error: there is no tpu here; jax sees: cpu$"):
        importlib.import_module(f"benchmarks.{name}").main()


def test_the_exponent_is_that_of_the_larger_half():
    sizes = [75, 150, 300, 600, 1200, 2400]
    assert measuring.fitted_exponent(sizes, [3 * n**1.7 for n in sizes]) == pytest.approx(1.7)
    bent = [1000.0 if n < 600 else n**2 for n in sizes]
    assert measuring.fitted_exponent(sizes, bent) == pytest.approx(2)
    assert measuring.fitted_exponent([1, 2], [5, 20]) == pytest.approx(2)
    assert measuring.fitted_exponent([8, 2, 4], [8, 999, 4]) == pytest.approx(1)  # in any order
    assert measuring.fitted_exponent([75], [1.0]) is None
    assert measuring.fitted_exponent([], []) is None


def test_rows_that_do_not_fit_are_skipped_and_say_why(capsys):
    def too_large():
        raise DoesNotFitError("needs 31.2 GiB, 20.1 GiB are free")

    about = {"batch_size": 8}
    row = measuring.measure_row(about, too_large)
    assert row == {"batch_size": 8, "skipped": "needs 31.2 GiB, 20.1 GiB are free"}
    said = capsys.readouterr().err
    assert "skipped batch_size=8: needs 31.2 GiB, 20.1 GiB are free" in said

    def exhausted():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n")

    assert measuring.measure_row(about, exhausted)["skipped"] == (
        "out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
    )

    def broken():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        measuring.measure_row(about, broken)
    assert measuring.measure_row(about, lambda: {"seconds": 1}) == {"batch_size": 8, "seconds": 1}


def test_commands_tell_no_folders_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "/home/someone/checkout/benchmarks/evaluate.py",
        "--smoke",
        f"--output={tmp_path}/results/a.json",
        "--data_dir=/home/someone/data",
        "/home/someone/b.json",
        "--config=here/c.py",
    ]
    assert measuring.portable_command(arguments) == (
        "python benchmarks/evaluate.py --smoke --output=results/a.json --data_dir=data b.json "
        "--config=here/c.py"
    )


def test_the_peak_of_a_device_is_known_only_where_it_rose(monkeypatch):
    peaks = iter([100, 300, 300, 300])
    device = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": next(peaks) * 2**20})
    monkeypatch.setattr(jax, "devices", lambda: [device])
    found = []
    for _ in range(2):
        with measuring.peak_of_row() as peak:
            pass
        found.append(peak["peak_memory_mib"])
    assert found == [300, None]


def test_the_peak_of_the_host_is_watched():
    before = measuring.resident_mib()
    with measuring.peak_of_row() as peak:
        array = np.ones(2**24)  # 128 MiB
        array += 1
        time.sleep(0.5)  # a busy machine looks late
    assert peak["peak_memory_mib"] > before + 100


def test_lists_of_sizes_are_whole_numbers_from_one():
    assert measuring.int_list("8,16") == [8, 16]
    for text in ("", "8,", "0", "8,-1", "8.5"):
        with pytest.raises(ValueError):
            measuring.int_list(text)

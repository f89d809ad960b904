"""The benchmark scripts in small: they run, and write what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks.flops import count_flops
from benchmarks.measuring import SMOKE_CONFIG, batch_shapes
from flashvtg_jax.config import load_config
from flashvtg_jax.data.batch import feature_widths
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.training.optimizer import make_optimizer
from flashvtg_jax.training.state import init_state
from flashvtg_jax.training.step import make_train_step

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name, folder, *options):
    output = folder / "result.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--smoke", f"--output={output}"]
    ended = subprocess.run([*command, *options], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(output.read_text())
    assert json.loads(ended.stdout) == result
    assert result["benchmark"] == name
    assert {"device", "versions", "commit", "compilation_cache"} <= result.keys()
    assert result["command"].startswith(f"python benchmarks/{name}.py --smoke --output=")
    assert str(folder) not in json.dumps(result)
    return result


def test_training_steps_of_each_precision_are_compared_with_the_device(tmp_path):
    traces = tmp_path / "traces"
    options = (f"--profile={traces}", "--device=cpu", "--steps_per_dispatch=3")
    result = run("train_step", tmp_path, *options)
    assert {(row["batch_size"], row["dtype"]) for row in result["rows"]} == {
        (2, "bfloat16"),
        (2, "float32"),
    }
    rates = {rate["dtype"]: rate["gflop_per_second"]["median"] for rate in result["matrix_rates"]}
    config = load_config(SMOKE_CONFIG)
    model, optimizer = build_model(config.model), make_optimizer(config.optimizer, 100)
    state = jax.eval_shape(lambda: init_state(model, optimizer, *feature_widths(config.data), 0))
    step = make_train_step(model, optimizer, config.loss)
    single = count_flops(jax.make_jaxpr(step)(state, batch_shapes(config, 2)))
    for row in result["rows"]:
        seconds = row["step_seconds"]["median"]
        assert row["samples_per_second"] == pytest.approx(2 / seconds)
        assert row["gflop_per_second"] == pytest.approx(row["step_gflop"] / seconds)
        assert row["fraction_of_matrix_rate"] == pytest.approx(
            row["gflop_per_second"] / rates[row["dtype"]]
        )
        assert row["step_gflop"] == pytest.approx(single / 1e9)  # of one of the three
        assert row["program_mib"] > row["temporary_mib"] > 0
        assert row["peak_memory_mib"] > 0
        folder = traces / f"{row['dtype']}_{row['batch_size']}"
        assert list(folder.rglob("perfetto_trace.json.gz"))


def test_a_batch_that_does_not_fit_is_skipped(tmp_path):
    options = ("--batch_sizes=500000,2", "--dtypes=float32")
    large, small = run("train_step", tmp_path, *options)["rows"]
    assert large["skipped"].startswith("needs ") and large["skipped"].endswith(" are free")
    # The compiler also counts sums, activations and norms, and leaves out what nobody reads.
    assert small["step_gflop"] == pytest.approx(small["step_gflop_by_xla"], rel=0.3)


def test_evaluation_is_measured_end_to_end(tmp_path):
    result = run("evaluate", tmp_path)
    assert result["queries"] == 10
    assert [row["batch_size"] for row in result["rows"]] == [1, 4]
    for row in result["rows"]:
        assert row["queries_per_second"] == pytest.approx(10 / row["seconds"]["median"])
        assert row["device_queries_per_second"] == pytest.approx(10 / row["device_seconds"])
        assert row["scoring_seconds"]["median"] > 0 and row["first_seconds"] > 0


def test_scaling_has_rows_fits_and_memory_per_clip(tmp_path):
    result = run("scaling", tmp_path)
    kinds = {(row["attention"], row["clips"]) for row in result["clips"]}
    assert {("full", 16), ("full", 32)} <= kinds
    assert [row["levels"] for row in result["levels"]] == [1, 2]
    full = result["fits"][0]
    assert full["sizes"] == [16, 32] and full["time_exponent"] is not None
    (ratio,) = [ratio for ratio in result["memory_per_clip"] if ratio["attention"] == "full"]
    assert (ratio["clips"], ratio["against"]) == (32, 16)
    long, short = (
        row["program_mib"] / row["clips"]
        for clips in (32, 16)
        for row in result["clips"]
        if (row["attention"], row["clips"]) == ("full", clips)
    )
    assert ratio["program_ratio"] == pytest.approx(long / short)


def test_devices_are_compared_with_one_and_pmap_with_jit(tmp_path):
    result = run("devices", tmp_path, "--device=cpu")
    assert result["simulated"]
    rows = {(row["devices"], row["mode"]): row for row in result["rows"]}
    assert set(rows) == {(1, "jit"), (1, "pmap"), (2, "jit"), (2, "pmap")}
    seconds = {key: row["step_seconds"]["median"] for key, row in rows.items()}
    assert rows[2, "jit"]["seconds_over_one_device"] == pytest.approx(
        seconds[2, "jit"] / seconds[1, "jit"]
    )
    assert rows[2, "pmap"]["seconds_over_jit"] == pytest.approx(
        seconds[2, "pmap"] / seconds[2, "jit"]
    )
    assert rows[2, "pmap"]["overhead_seconds"] == pytest.approx(
        seconds[2, "pmap"] - seconds[1, "pmap"]
    )

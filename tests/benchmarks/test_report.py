"""Results of benchmarks become the README's tables, and figures."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from flashvtg_jax.errors import DataError

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"

TRAIN_STEP = {
    "benchmark": "train_step",
    "device": "some GPU",
    "rows": [
        {"batch_size": 64, "dtype": "float32", "skipped": "needs 31.2 GiB, 20.1 GiB are free"},
        {
            "batch_size": 8,
            "dtype": "float32",
            "samples_per_second": 1234.5,
            "step_seconds": {"median": 0.00648},
            "gflop_per_second": 45600.0,
            "fraction_of_matrix_rate": 0.301,
            "program_mib": 1536.0,
            "compile_seconds": 17.1,
        },
    ],
}
TRAIN_STEP_TABLE = """\
| device | precision | batch | samples/s | a step | TFLOP/s | of the matrix rate | memory \
| compilation |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| some GPU | float32 | 8 | 1,234 | 6.48 ms | 45.6 | 30% | 1.50 GiB | 17.1 s |
| some GPU | float32 | 64 | skipped: needs 31.2 GiB, 20.1 GiB are free | NO | NO | NO | NO | NO |
""".replace("NO", "\N{EN DASH}")
COMPARED = {
    "benchmark": "compare_pytorch",
    "device": "a CPU",
    "dtype": "float32",
    "rows": [
        {
            "row": "evaluate",
            "unit": "queries/s",
            "batch_size": {"ours": 64, "theirs": 1},
            "ours": {"per_second": 90.0},
            "theirs": {"per_second": 40.0},
            "ratio": 2.25,
            "paired_ratios": {"min": 1.9, "max": 2.5},
        },
        {"row": "epoch", "skipped": "theirs: out of memory"},
    ],
}
SCALING = {
    "benchmark": "scaling",
    "device": "a CPU",
    "config": "tacos_slowfast_clip",
    "dtype": "float32",
    "attention_window": 128,
    "level_clips": 600,
    "clips": [
        {
            "clips": clips,
            "attention": attention,
            "program": "inference",
            "seconds": {"median": 1e-6 * clips**power},
            "program_mib": 100 + clips,
            "temporary_mib": clips**power / 100,
        }
        for clips in (75, 150, 300)
        for attention, power in (("full", 2.0), ("windowed", 1.0))
    ]
    + [{"clips": 600, "attention": "full", "program": "inference", "skipped": "too large"}],
    "levels": [],
    "fits": [
        {
            "against": "clips",
            "attention": attention,
            "program": "inference",
            "time_exponent": power,
            "memory_exponent": power,
        }
        for attention, power in (("full", 2.0), ("windowed", 1.0))
    ],
}
README = """# Speed
<!-- benchmarks: train_step -->
an old table
<!-- end -->
Words between.
<!-- benchmarks: devices -->
<!-- end -->
The end.
"""


@pytest.fixture
def report(monkeypatch):
    """The script as a module: its neighbours are found as when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("report")
    for name in ("report", "report_figures"):
        sys.modules.pop(name, None)


@pytest.fixture
def results(tmp_path):
    """A folder with results of two machines."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name, result in (("gpu", TRAIN_STEP), ("compared", COMPARED), ("scaling_cpu", SCALING)):
        (folder / f"{name}.json").write_text(json.dumps(result))
    return folder


def run(results, readme, *arguments):
    command = [sys.executable, str(BENCHMARKS / "report.py"), *arguments]
    command += [f"--results={results}", f"--readme={readme}"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_tables_stand_between_their_markers_and_the_rest_stays(report, results):
    filled = report.fill(README, report.read_results(results))
    expected = README.replace("an old table\n", TRAIN_STEP_TABLE)
    assert filled == expected.replace("devices -->\n", "devices -->\n*not measured yet*\n")
    assert report.fill(filled, report.read_results(results)) == filled
    with pytest.raises(DataError, match="benchmarks: speed -->: there are compare_pytorch, train"):
        report.fill("<!-- benchmarks: speed -->\n<!-- end -->", [])


def test_check_fails_until_the_readme_shows_the_results(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(README)
    failed = run(results, readme, "--check")
    assert failed.returncode == 1 and readme.read_text() == README
    assert failed.stderr.startswith("error: README.md does not show these results: train_step, dev")
    assert not (results / "figures").exists()
    assert run(results, readme).returncode == 0
    assert TRAIN_STEP_TABLE in readme.read_text()
    assert {p.name for p in (results / "figures").iterdir()} == {
        "training.png",
        "scaling_cpu.png",
        "pytorch.png",
    }
    assert run(results, readme, "--check").returncode == 0


def test_ratios_are_told_with_their_spread_and_scaling_with_its_exponents(report, results):
    read = report.read_results(results)
    compared = report.compare_pytorch_table(read).splitlines()
    assert compared[2] == (
        "| a CPU | evaluation with NMS | queries/s | 1, 64 | 40.0 | 90.0 "
        "| **2.25\N{MULTIPLICATION SIGN}** "
        "| 1.90 to 2.50 |"
    )
    assert "skipped: theirs: out of memory" in compared[3]
    scaling = report.scaling_table(read)
    assert scaling.startswith("a CPU, tacos_slowfast_clip, float32, windows of 128 clips to each")
    assert "| 300 | 90.0 ms | 0.391 GiB | 0.300 ms | 0.391 GiB |" in scaling
    assert "| exponent | 2.00 | 2.00 | 1.00 | 1.00 |" in scaling
    assert "Not run: inference, full attention, 600 clips: too large." in scaling


def test_without_results_or_markers_there_is_nothing_to_write(report, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("Nothing measured.\n")
    printed = run(tmp_path, readme)
    assert printed.returncode == 0 and printed.stdout.count("*not measured yet*") == 6
    assert readme.read_text() == "Nothing measured.\n" and not (tmp_path / "figures").exists()
    (tmp_path / "notes.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"notes\.json: not the result of a benchmark"):
        report.read_results(tmp_path)


def test_figures_show_what_was_measured_and_come_out_alike(report, results):
    figures = importlib.import_module("report_figures")
    read = report.read_results(results)
    first = {path.name: path.read_bytes() for path in figures.write_figures(read, results)}
    assert all(content.startswith(b"\x89PNG") for content in first.values())
    assert {p.name: p.read_bytes() for p in figures.write_figures(read, results)} == first
    (axes, _) = figures._scaling(SCALING).axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["inference, full: clips^2.00", "inference, windowed: clips^1.00"]
    (axes,) = figures._ratios([COMPARED]).axes
    assert [text.get_text() for text in axes.texts] == ["2.25\N{MULTIPLICATION SIGN}"]

"""The benchmarks run, and write what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hlo import Array, collectives
from flashvtg_jax.json_lines import write_json_lines

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("padding", {"config", "splits"}),
        ("predictor", {"config", "queries", "lengths"}),
        ("collectives", {"config", "parameters", "rows_per_device", "rows"}),
        (
            "input_pipeline",
            {"samples_per_second", "model_samples_per_second", "memory_growth_mib"},
        ),
    ],
)
def test_a_benchmark_runs_in_small_and_writes_json(name, keys, tmp_path):
    output = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--smoke", f"--output={output}"]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads(output.read_text())
    assert result["benchmark"] == name
    assert keys | {"device", "versions", "commit", "command"} <= result.keys()


def test_padding_of_an_annotation_file_is_that_of_its_videos(tmp_path):
    annotations, output = tmp_path / "train.jsonl", tmp_path / "result.json"
    durations = [20, 20.5, 21, 40, 400]  # 10, 11, 11, 20 and 200 clips of 2 s
    rows = [
        {"qid": i, "query": "a man", "vid": f"v{i}", "duration": seconds}
        | {"relevant_windows": [[0, 10]]}
        for i, seconds in enumerate(durations)
    ]
    write_json_lines(annotations, rows)
    command = [sys.executable, str(BENCHMARKS / "padding.py"), "--config=tacos_slowfast_clip"]
    command += [f"--annotations={annotations}", f"--output={output}"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "train.jsonl: 5 examples of 10 to 200 clips" in table
    (split,) = json.loads(output.read_text())["splits"]
    assert split["plans"]["training"]["buckets"] == [200]  # one batch of 32 rows
    (row,) = split["plans"]["training"]["rows"]
    assert row["padding_per_example"] == pytest.approx(1 - 252 / 1000)
    assert row["padding_in_batches"] == pytest.approx(1 - 252 / (32 * 200))


def test_the_data_path_can_be_measured_alone_and_errors_are_one_line(tmp_path):
    script = str(BENCHMARKS / "input_pipeline.py")
    command = [sys.executable, script, "--config=tacos_slowfast_clip", f"--data_dir={tmp_path}"]
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ") and "not built yet" in failed.stderr
    output = tmp_path / "result.json"
    command = [sys.executable, script, "--smoke", "--no_model", "--cache", f"--output={output}"]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads(output.read_text())
    assert result["cache"] and "model_samples_per_second" not in result
    assert result["examples"] == 20 and result["samples_per_second"]["runs"] == 2


HLO = """
HloModule jit_step

%far (p: f32[4]) -> f32[8,2] {
  ROOT %all-gather = bf16[8,2]{1,0} all-gather(%p), dimensions={0}, metadata={op_name="far"}
}

%near (p: f32[4]) -> f32[1,2] {
  ROOT %move = f32[1,2]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}

%fused (p: f32[4]) -> f32[4] {
  ROOT %all-reduce.1 = (f32[4]{0}, /*index=1*/pred[]) all-reduce(%p, %q), to_apply=%add
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %x = f32[4]{0} fusion(%p), kind=kLoop, calls=%fused
  %y = f32[2]{0} conditional(%which, %p, %p), branch_computations={%far, %near}
}
"""


def test_collectives_are_read_with_their_sizes_and_branches():
    reduced, far, near = collectives(HLO)
    assert (reduced.kind, reduced.branch) == ("all-reduce", None)
    assert reduced.arrays == (Array("f32", (4,)), Array("pred", ()))
    assert reduced.nbytes == 17 and reduced.sent(2) == 17 and reduced.sent(4) == 25.5
    assert (far.kind, far.branch, far.op_name) == ("all-gather", 0, "far")
    assert far.nbytes == 32 and far.sent(4) == 24
    assert (near.kind, near.branch, near.senders) == ("collective-permute", 1, (0, 1))
    assert near.sent(2) == 8
    loop = HLO.replace("kind=kLoop, calls=%fused", "condition=%add, body=%fused")
    with pytest.raises(ValueError, match="in a loop"):
        collectives(loop)

"""The comparison of trainings: what it refuses, what it summarises, and the options of theirs."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import flashvtg_jax as fv
from flashvtg_jax.json_lines import read_json_lines, write_json_lines

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """Imports a benchmark's modules as when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_means_are_over_epochs_and_deviations_over_seeds(scripts):
    theirs, ours = [[4.0, 2.0], [6.0, 4.0]], [[5.0, 3.0], [7.0, 5.0]]  # seeds of two epochs
    row = scripts("compare_training").summarised("alignment", theirs, ours)
    assert row["theirs"]["mean"] == 4 and row["ours"]["mean"] == 5  # of 3, 5 and of 4, 6
    assert row["ours"]["deviation"] == pytest.approx(2**0.5)
    assert row["ratio"] == 1.25
    # Each mean of two has the error sqrt(2) / sqrt(2).
    assert row["standard_errors"] == pytest.approx(1 / 2**0.5)
    assert row["ours"]["curves"] == ours


def test_names_that_one_side_lacks_are_left_out(scripts):
    theirs = [{"classification": [1.0], "regression": [None], "HD-mAP": [50.0], "MR-mAP": [1.0]}]
    ours = [{"classification": [2.0], "regression": [0.0], "HD-mAP": [60.0], "loss": [3.0]}]
    found = scripts("compare_training").curves({"theirs": theirs, "ours": ours})
    assert found == {
        "classification": ([[1.0]], [[2.0]]),
        "HD-mAP": ([[50.0]], [[60.0]]),
    }


@pytest.mark.parametrize(
    ("name", "annotations", "message"),
    [
        ("tvsum_slowfast_clip", Path(), "trains 10 domains; .*--config=tvsum_slowfast_clip:BK"),
        ("tacos_slowfast_clip", None, "lines of this kind need --annotations=DIR"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(scripts, name, annotations, message):
    options = SimpleNamespace(annotations=annotations, smoke=False, seeds=1)
    with pytest.raises(SystemExit, match=message):
        scripts("compare_training").small_config(name, options)


def test_sizes_are_one_for_all_or_one_for_each(scripts):
    one_each = scripts("compare_training").one_each
    assert one_each("epochs", [8], ["a", "b"]) == [8, 8]
    assert one_each("epochs", [8, 60], ["a", "b"]) == [8, 60]
    with pytest.raises(SystemExit, match="--epochs has 2 numbers for 3 configurations"):
        one_each("epochs", [8, 60], ["a", "b", "c"])


def test_both_sides_get_drawn_lines_of_the_domain_and_equal_settings(scripts, tmp_path):
    training, authors = scripts("compare_training"), scripts("authors")
    rows = [
        {"qid": f"{domain}{i}", "query": "a cat", "vid": f"{domain}v{i}", "duration": 8.0}
        | {"domain": domain, "label": [[1 + (clip + i) % 5] * 20 for clip in range(4)]}
        for domain in ("BK", "VT")
        for i in range(3)
    ]
    (tmp_path / "tvsum").mkdir()
    for split in ("train", "val"):
        write_json_lines(tmp_path / "tvsum" / f"tvsum_{split}.jsonl", rows)
    options = SimpleNamespace(annotations=tmp_path, smoke=False, seeds=2)
    config = training.small_config("tvsum_slowfast_clip:VT", options)
    folder = tmp_path / "data"
    folder.mkdir()
    files, (videos, words) = training.write_data(config, tmp_path, folder, {"train": 2, "val": 5})
    drawn = read_json_lines(files["train"])
    assert len(drawn) == 2 and {row["domain"] for row in drawn} == {"VT"}
    assert len(read_json_lines(files["val"])) == 3

    arguments = authors.their_options(
        config,
        files={**files, "eval": files["val"], "eval_split": "val"},
        video_folders=videos,
        query_folder=words,
    )
    assert arguments[0] == "data/HD.py"
    assert {"--dset_name=tvsum", "--dset_domain=VT", "--bsz=4", "--wd=0.05"} <= {*arguments}
    assert {"--t2v_layers=2", "--enc_layers=1", "--v_feat_dim=64", "--max_v_l=1000"} <= {*arguments}
    assert words == folder / "txt_clip"
    assert arguments[-2:] == [str(folder / "vid_slowfast"), str(folder / "vid_clip")]
    tacos = training.small_config("tacos_slowfast_clip", options)
    arguments = authors.their_options(
        tacos,
        files={"train": "a", "eval": "b", "eval_split": "val"},
        video_folders=[Path("c")],
        query_folder=Path("d"),
    )
    assert {"data/MR.py", "--dset_name=tacos", "--dropout=0.0", "--max_v_l=-1"} <= {*arguments}
    assert fv.load_config("tacos_slowfast_clip").model.t2v_layers == 8  # small here alone

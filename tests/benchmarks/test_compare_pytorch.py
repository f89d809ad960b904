"""The comparison with the authors' program: what it refuses, how sides talk, what it compares."""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import flashvtg_jax as fv
from flashvtg_jax.config import save_config
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.synthetic.annotations import generate_annotations
from flashvtg_jax.data.synthetic.features import synthesize

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
SIDE = """
import os
from sides import Requests, serve

def double(number):
    print("said aloud")
    os.write(1, b"and from below")
    return {"double": 2 * number}

def leave():
    print("this is too much", flush=True)
    os._exit(3)

serve(Requests(), {"double": double, "leave": leave})
"""


@pytest.fixture
def scripts(monkeypatch):
    """Imports a benchmark's modules as when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def checkout(scripts, tmp_path):
    """Files named as those of the authors' repository."""
    folder = tmp_path / "checkout"
    for name in scripts("authors").FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def refused(scripts, monkeypatch, capsys):
    """Runs the script with arguments that it refuses; returns the message."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare_pytorch.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            scripts("compare_pytorch").main()
        return capsys.readouterr().err if isinstance(ended.value.code, int) else ended.value.code

    return run


def test_another_folder_is_not_taken_for_the_authors_code(checkout, refused):
    (checkout / "FlashVTG" / "model.py").unlink()
    assert refused(f"--reference={checkout}") == (
        "error: --reference=checkout: not a checkout of https://github.com/Zhuo-Cao/FlashVTG: "
        "no FlashVTG/model.py"
    )
    assert refused(f"--reference={checkout / 'nowhere'}").endswith("there is no such folder")


def test_packages_that_an_interpreter_lacks_are_named(checkout, refused, tmp_path):
    python = tmp_path / "bare_python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    message = refused(f"--reference={checkout}", f"--reference_python={python}")
    assert message.endswith(
        f"{python} -m pip install torch nncore scikit-learn pandas tqdm tensorboard"
    )
    message = refused(f"--reference={checkout}", f"--reference_python={tmp_path / 'none'}")
    assert message.endswith("not a Python interpreter")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--rows=forward,speed", "error: --rows: speed is none of forward, forward_1, train_step"),
        ("--device=tpu", "error: --device=tpu: their code runs on cpu and gpu"),
        ("--batch_size=0", "argument --batch_size: invalid positive value: '0'"),
        ("--annotations=train.jsonl", "error: --annotations: give the train file and the val file"),
    ],
)
def test_bad_options_are_refused_before_any_work(argument, message, checkout, refused):
    assert message in refused(f"--reference={checkout}", argument)


@pytest.fixture
def side(scripts, tmp_path):
    """A side that doubles numbers."""
    (tmp_path / "side.py").write_text(SIDE)
    side = scripts("sides").Side(
        "twice",
        [sys.executable, str(tmp_path / "side.py")],
        log=tmp_path / "log",
        variables={"PYTHONPATH": str(BENCHMARKS)},
    )
    yield side
    side.close()


def test_what_a_side_prints_does_not_disturb_its_answers(side, tmp_path):
    assert side.ask("double", number=4) == {"double": 8}
    assert side.ask("double", number=0.5) == {"double": 1.0}
    side.close()
    assert (tmp_path / "log").read_text().count("and from below") == 2


def test_a_side_that_fails_or_ends_says_so(side, scripts):
    error = scripts("sides").SideError
    with pytest.raises(error, match=r"^twice: unsupported operand .*\(TypeError\)$"):
        side.ask("double", number=None)
    assert side.ask("double", number=1) == {"double": 2}  # it goes on
    with pytest.raises(error, match=r"^twice: ended with status 3; .*this is too much"):
        side.ask("leave")


def test_predictions_are_compared_by_score_and_saliency(scripts):
    comparison = scripts("comparison")
    windows = [[0, 10, 0.9], [4, 8, 0.5], [2, 6, 0.5001]]
    ours = [{"qid": 1, "pred_relevant_windows": windows, "pred_saliency_scores": [0.1, 0.2]}]
    swapped = [windows[0], [2, 6, 0.5], [4, 8, 0.5]]  # nearly equal scores change places
    theirs = [{"qid": 1, "pred_relevant_windows": swapped, "pred_saliency_scores": [0.1, 0.5]}]
    differences, equal = comparison.predictions_differ(ours, theirs)
    assert differences["scores"] == pytest.approx(0.0001)
    assert differences["saliency"] == pytest.approx(0.3)
    assert equal == pytest.approx(1 / 3)
    with pytest.raises(comparison.DisagreementError, match=r"saliency by 0\.3"):
        comparison.check("evaluate", differences, 2e-4)
    with pytest.raises(comparison.DisagreementError, match="different queries"):
        comparison.predictions_differ(ours, [theirs[0] | {"qid": 2}])
    assert np.isnan(comparison.largest_difference(np.zeros(2), np.zeros(3)))
    with pytest.raises(comparison.DisagreementError):
        comparison.check("forward", {"logits": float("nan")}, 1e-4)


def test_made_up_predictions_can_be_scored(scripts):
    annotations = generate_annotations(12, seed=3)
    config = fv.load_config("qvhighlights_slowfast_clip")
    predictions = scripts("comparison").random_predictions(annotations, config)
    for row, about in zip(predictions, annotations, strict=True):
        windows = np.asarray(row["pred_relevant_windows"])
        assert windows.shape == (50, 3) and (windows[:, 0] < windows[:, 1]).all()
        assert windows[:, 1].max() <= about["duration"] and (np.diff(windows[:, 2]) <= 0).all()
    assert "MR-full-mAP" in fv.evaluate_predictions(predictions, annotations)


def test_rows_of_a_training_batch_have_neighbours_of_other_videos(scripts):
    choose = scripts("jax_side").different_neighbours
    videos = np.array([4, 4, 7, 7, 4, 2, 4, 9])
    assert choose(videos, 3) == [0, 2, 5]  # not 4 as the third: the first one is its neighbour
    assert choose(videos, 5) == [0, 2, 4, 5, 7]
    assert choose(videos, 1) == [0]
    assert choose(np.array([3, 3, 3]), 2) == [0]


class Told:
    """A side whose calls take as long as it is told: two for nothing, and one before each."""

    def __init__(self, *seconds):
        self._seconds = [*seconds]

    def ask(self, what, calls):
        return {"seconds": self._seconds.pop(0)}

    def close(self):
        pass


def test_turns_give_medians_and_ratios_of_pairs_and_a_row_that_fails_leaves_the_others(
    scripts, monkeypatch
):
    comparison, sides = scripts("comparison"), scripts("sides")

    class Stub(comparison.Comparison):
        def make_data(self):
            pass

        def start(self):
            self.sides = {
                "theirs": Told(9, 9, 9, 4, 9, 6, 9, 5),
                "ours": Told(3, 3, 3, 2, 3, 2, 3, 1),
            }
            self.about = {"ours": {"device": "a CPU"}, "theirs": {"threads": 2}}

        def prepare_train_step(self, _):
            return {"batch_size": 10}, 10

        def prepare_scoring(self, _):
            raise sides.SideError("theirs: out of memory")

    options = SimpleNamespace(
        config=fv.load_config("demo"),
        rows=["scoring", "train_step"],
        smoke=False,
        dtype="float32",
        matmul_precision="default",
        batch_size=10,
        repeats=3,
    )
    monkeypatch.setattr(comparison, "PAUSE", 0)
    saved = []
    result = Stub(options, None).run(lambda result: saved.append(len(result["rows"])))
    assert saved == [1, 2]
    assert result["rows"][0] == {"row": "scoring", "skipped": "theirs: out of memory"}
    row = result["rows"][1]
    assert row["theirs"]["per_second"] == 2 and row["ours"]["per_second"] == 5
    assert row["ratio"] == 2.5 and row["unit"] == "samples/s"
    assert row["paired_ratios"] == {"median": 3, "min": 2, "max": 5, "runs": 3}


@pytest.mark.slow
def test_our_side_is_measured_row_by_row(scripts, tmp_path):
    small = {"data.data_dir": str(tmp_path), "train.batch_size": 4}
    config = fv.load_config(BENCHMARKS / "smoke_config.py", small)
    widths = {**config.data.video_widths, "query": config.data.query_width}
    about = {"dataset": config.data.dataset, "widths": widths, "progress": False}
    synthesize(tmp_path / "features", num_train=8, num_val=6, **about)
    build(about.pop("dataset"), tmp_path / "features", tmp_path, **about)
    save_config(config, tmp_path / "config.json")
    side = scripts("sides").Side(
        "ours",
        [sys.executable, str(BENCHMARKS / "jax_side.py")],
        log=tmp_path / "log",
        variables={"JAX_PLATFORMS": "cpu"} | dict(os.environ),
    )
    try:
        started = side.ask(
            "start",
            config=str(tmp_path / "config.json"),
            device="cpu",
            matmul_precision="default",
        )
        assert started["platform"] == "cpu"
        side.ask("save_weights", path=str(tmp_path / "weights.npz"))
        with np.load(tmp_path / "weights.npz") as weights:
            assert "transformer.encoder.layers.0.linear1.weight" in weights.files

        outputs = str(tmp_path / "forward.npz")
        forward = side.ask("prepare_forward", split="val", batch_size=9, outputs=outputs)
        assert len(forward["qids"]) == 9 and len(set(forward["qids"])) <= 6  # they repeat
        with np.load(outputs) as arrays:
            assert arrays["logits"].shape[0] == 9 and arrays["saliency"].shape == (9, 75)
        assert side.ask("forward", calls=2)["seconds"] > 0

        step = side.ask("prepare_train_step", split="train", batch_size=4)
        assert np.isfinite(step["loss"]) and np.shape(step["positive_clips"]) == (4, 2)
        assert side.ask("train_step", calls=1)["seconds"] > 0

        predictions = tmp_path / "predictions.jsonl"
        side.ask("prepare_evaluate", split="val", outputs=str(predictions))
        rows = [json.loads(line) for line in predictions.read_text().splitlines()]
        assert len(rows) == 6 and len(rows[0]["pred_relevant_windows"]) == 50
        assert side.ask("evaluate", calls=1)["seconds"] > 0

        side.ask("prepare_epoch", batch_size=4)
        assert [side.ask("epoch", calls=1)["seconds"] > 0 for _ in range(2)] == [True, True]
        # Another request ends the training, and is answered.
        annotations = str(tmp_path / "features" / "highlight_val_release.jsonl")
        scored = side.ask("prepare_scoring", predictions=str(predictions), annotations=annotations)
        assert 0 <= scored["metrics"]["MR-full-mAP"] <= 100
    finally:
        side.close()

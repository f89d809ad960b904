"""The command line: help with examples, exit statuses, errors in one message."""

import argparse
import importlib
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import flashvtg_jax.cli
from flashvtg_jax.cli.main import COMMANDS, main, make_parser
from flashvtg_jax.distributed.stop_signal import Interrupted


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A folder of synthetic features, made by the command line."""
    folder = tmp_path_factory.mktemp("features")
    arguments = "--num_train=3 --num_val=2 --widths=slowfast=4,clip=3,query=4"
    assert main(["synthesize", f"--output={folder}", *arguments.split()]) == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    example = re.search(r"example:\n  flashvtg (.*)", capsys.readouterr().out)[1]
    options, rest = make_parser().parse_known_args(shlex.split(example))
    assert options.command == command
    assert all(argument.startswith("--config.") for argument in rest)


def test_every_file_with_a_command_is_listed():
    folder = Path(flashvtg_jax.cli.__file__).parent
    files = (path for path in folder.glob("*.py") if "\nCOMMAND = " in path.read_text())
    assert sorted(COMMANDS) == sorted(path.stem for path in files)


def test_every_argument_is_described():
    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"flashvtg_jax.cli.{command}").add_arguments(parser)
        assert [action.dest for action in parser._actions if not action.help] == []


def test_module_runs_as_the_command_does():
    command = [sys.executable, "-m", "flashvtg_jax", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("flashvtg-jax ")


def test_help_and_scores_need_no_jax():
    program = (
        "import sys; from flashvtg_jax.cli.main import make_parser; make_parser();"
        "import flashvtg_jax.metrics; print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_features_are_synthesised_built_and_found_built(features, tmp_path, capsys):
    build = ["build", "--dataset=qvhighlights/slowfast_clip", f"--manual_dir={features}"]
    build += [f"--data_dir={tmp_path}", "--widths=slowfast=4,clip=3,query=4"]
    assert main(build) == 0
    assert "train 3" in capsys.readouterr().err
    assert main(build) == 0
    assert "already built" in capsys.readouterr().err


def test_score_prints_a_table_and_writes_the_official_layout(features, tmp_path, capsys):
    annotations = features / "highlight_val_release.jsonl"
    predictions = tmp_path / "predictions.jsonl"
    rows = [json.loads(line) for line in annotations.read_text().splitlines()]
    perfect = [
        {"qid": r["qid"], "pred_relevant_windows": [[*w, 1.0] for w in r["relevant_windows"]]}
        for r in rows
    ]
    predictions.write_text("".join(json.dumps(row) + "\n" for row in perfect))
    output = tmp_path / "metrics.json"
    files = [f"--predictions={predictions}", f"--annotations={annotations}"]
    assert main(["score", *files, f"--output={output}"]) == 0
    assert "100.00" in capsys.readouterr().out
    assert json.loads(output.read_text())["brief"]["MR-full-mAP"] == 100.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config=dmeo", "--workdir=x"], 'the nearest is "demo"'),
        (
            ["train", "--config=demo", "--workdir=x", "--config.optimizer.learning_rat=1"],
            "optimizer.learning_rate",
        ),
        (
            ["train", "--config=demo", "--workdir=x", "--config.train.epochs=many"],
            "config.train.epochs: 'many' does not fit",
        ),
        (["evaluate", "--workdir=nowhere"], "train first"),
        (["build", "--dataset=qvhighlights/x", "--manual_dir=."], "qvhighlights/slowfast_clip"),
        (["score", "--predictions=no.jsonl", "--annotations=no.jsonl"], "no.jsonl"),
        (["synthesize", "--output=x", "--annotations=no.jsonl"], "no.jsonl"),
    ],
)
def test_what_the_user_can_fix_is_one_message_and_status_one(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_without_a_command_all_are_listed_in_a_line_each(capsys):
    assert main([]) == 2
    lines = capsys.readouterr().out.splitlines()
    listed = lines[lines.index("commands:") + 1 :][: len(COMMANDS)]
    assert sorted(line.split()[0] for line in listed) == sorted(COMMANDS)
    assert all(len(line.split()) > 4 and len(line) <= 100 for line in listed)


def test_score_takes_own_clip_lengths_and_length_ranges(tmp_path, capsys):
    prediction = {
        "qid": 1,
        "pred_relevant_windows": [[0, 6, 0.5]],
        "pred_saliency_scores": [1, 3, 0, 0, 0, 0],
    }
    annotation = {"qid": 1, "duration": 6, "relevant_windows": [[0, 6]]}
    annotation |= {"relevant_clip_ids": [0, 1, 2], "saliency_scores": [[4], [1], [1]]}
    files = []
    for name, row in (("predictions", prediction), ("annotations", annotation)):
        (tmp_path / name).write_text(json.dumps(row) + "\n\n")
        files.append(f"--{name}={tmp_path / name}")
    score = ["score", *files, "--label_clip_length=2", "--length_ranges=tiny:0:6,rest:6:inf"]
    assert main([*score, "--clip_length=1", f"--output={tmp_path / 'scores.json'}"]) == 0
    assert "MR-tiny-mAP" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["tiny"]["MR-mIoU"] == 100.0 and scores["HL-min-Fair"]["HL-Hit1"] == 100.0
    assert main([*score, "--clip_length=3"]) == 1
    assert "6 saliency scores, but its video of 6 s has 2 clips of 3 s" in capsys.readouterr().err
    for text in ("tiny", ""):
        assert main([*score[:-1], f"--length_ranges={text}"]) == 1
        assert f"{text!r}; expected NAME:SECONDS:SECONDS" in capsys.readouterr().err
    annotation |= {"duration": 12, "relevant_windows": [[0, 2]]}
    (tmp_path / "annotations").write_text(json.dumps(annotation | {"relevant_clip_ids": [4, 5, 1]}))
    assert main(["score", *files, "--clip_length=2"]) == 1
    assert "contradict relevant_windows" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_warnings_are_shown_plainly(tmp_path, capsys):
    for name in ("predictions", "annotations"):
        rows = [
            {"qid": qid, "pred_saliency_scores": [0.0] * (10 if qid else 5)}
            if name == "predictions"
            else {"qid": qid, "duration": 20, "relevant_clip_ids": [], "saliency_scores": []}
            for qid in range(3)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"--{name}={tmp_path / name}" for name in ("predictions", "annotations")]
    assert main(["score", *files]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"flashvtg score: {tmp_path / 'predictions'}:1: prediction of qid 0: 5 ")


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["fly"], ["score", "--predictions=a", "--annotations=b", "--config.seed=1"]],
)
def test_wrong_usage_is_status_two(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_fields_without_a_command_are_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--config.seed=1"])
    assert stop.value.code == 2
    assert "unknown arguments: --config.seed=1" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "profile"), [([], False), (["--profile"], True)])
def test_train_prints_its_metrics_and_passes_profile_on(
    arguments, profile, tmp_path, monkeypatch, capsys
):
    calls = []

    def train(config, workdir, **options):
        calls.append((config.name, options))
        (tmp_path / "metrics.json").write_text("{}")
        (tmp_path / "best").mkdir(exist_ok=True)
        (tmp_path / "evaluations.jsonl").write_text('{"step": 0, "MR-full-mAP": 4.5}')
        return {"MR-full-mAP": 61.25}, {}

    monkeypatch.setattr("flashvtg_jax.experiments.train.train", train)
    assert main(["train", "--config=demo", f"--workdir={tmp_path}", *arguments]) == 0
    assert calls == [("demo", {"profile": profile})]
    printed = capsys.readouterr().out
    assert "untrained" in printed and "61.25" in printed and "4.50" in printed


def test_an_interrupted_training_is_reported_with_the_status_of_its_signal(
    tmp_path, monkeypatch, capsys
):
    def train(*_, **__):
        raise Interrupted(signal.SIGTERM, step=7)

    monkeypatch.setattr("flashvtg_jax.experiments.train.train", train)
    assert main(["train", "--config=demo", f"--workdir={tmp_path}"]) == 143
    error = capsys.readouterr().err
    assert error.startswith("flashvtg train: stopped by SIGTERM at step 7; everything is saved")

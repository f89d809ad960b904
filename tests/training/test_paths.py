"""Folders and ids with unusual characters, through the commands."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from flashvtg_jax.cli.main import main
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.feature_files import read_feature
from flashvtg_jax.data.source import open_split
from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import read_json_lines, write_json_lines

UNUSUAL = "-a [b] {vid} {0} *? #%&'\" $x @2 =,: é e\u0301 🎬 "
IDS = [
    *("[a]", "{vid}", "{0}", "*", "?", "#", "%s", "a&b", "'", '"', " a ", "-a", "a@2", "a=b,c:d"),
    *("é", "e\u0301", "🎬", "~", "$HOME"),
]


def line(name, qid="q"):
    windows = [[4.0, 10.0]]
    about = {"query": "somebody cooks", "duration": 20.0, "relevant_windows": windows}
    return {"qid": f"{qid}{name}", "vid": name, **about}


def test_features_of_any_name_are_found_in_folders_of_any_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder, features, data = Path(UNUSUAL), Path(f"{UNUSUAL}/f[1]"), f"{UNUSUAL}/{{d}}[2]"
    folder.mkdir()
    write_json_lines(folder / "train.jsonl", map(line, IDS))
    write_json_lines(folder / "val.jsonl", map(line, IDS))
    lines = [f"--annotations={folder / name}" for name in ("train.jsonl", "val.jsonl")]
    about = ["--dataset=custom/x", "--clip_length=2"]
    widths = "--widths=clip=4,query=4"
    assert main(["synthesize", *about, *lines, widths, f"--output={features}"]) == 0
    # The next command that it names is whole: a shell gives back the folder.
    advised = capsys.readouterr().err.partition("next: flashvtg ")[2]
    assert f"--manual_dir={features}" in shlex.split(advised)
    assert main(["build", *about, f"--manual_dir={features}", f"--data_dir={data}"]) == 0
    source = open_split(data, "custom/x", "train")
    assert [row["vid"] for row in source.annotations()] == IDS
    for index, name in enumerate(IDS):
        example = source[index]
        expected = read_feature(features / "video" / "clip" / f"{name}.npz", None, 4)
        np.testing.assert_array_equal(example.streams["clip"], expected)
        expected = read_feature(features / "query" / f"q{name}.npz", None, 4)
        np.testing.assert_array_equal(example.query, expected)


@pytest.mark.parametrize("character", ["/", "\\", "\0"])
def test_an_id_that_names_no_file_is_refused_with_its_character(tmp_path, character):
    write_json_lines(tmp_path / "train.jsonl", [line(f"a{character}b")])
    for folder in ("video/clip", "query"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        build("custom/x", tmp_path, tmp_path / "data", clip_length=2, progress=False)
    for field in ("qid", "vid"):
        assert f"train.jsonl:1: {field} " in str(caught.value)
    assert str(caught.value).count(f"holds {character!r}, which file names cannot") == 2


@pytest.mark.slow
def test_a_run_in_a_folder_of_any_name_is_evaluated_used_and_drawn(
    finished, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(finished[0], f"{UNUSUAL}/run[1]")
    results = f"{UNUSUAL}/results {{0}}[2]"
    assert main(["evaluate", f"--workdir={run}", f"--output={results}"]) == 0
    for name in ("metrics.json", "predictions.jsonl"):
        assert Path(results, name).read_bytes() == (finished[0] / name).read_bytes()

    lines = read_json_lines(tiny_data / "synthetic" / "highlight_val_release.jsonl")
    features = Path(shutil.copytree(tiny_data / "synthetic", f"{UNUSUAL}/features {{vid}}[3]"))
    qid, answers = "[a]{0}*?#%&'\" é🎬", f"{UNUSUAL}/answers[4].jsonl"
    old = features / "clip_text_features" / f"qid{lines[0]['qid']}.npz"
    old.rename(old.with_name(f"qid{qid}.npz"))
    write_json_lines(features / "queries[5].jsonl", [{**lines[0], "qid": qid}])
    files = [f"--features={features}", f"--queries={features}/queries[5].jsonl"]
    assert main(["predict", f"--checkpoint={run}", *files, f"--output={answers}"]) == 0
    answer = json.loads(Path(answers).read_text())
    assert answer["qid"] == qid

    figures = f"{UNUSUAL}/figures[6]"
    assert main(["plot", f"--predictions={answers}", f"--output={figures}"]) == 0
    assert [path.suffix for path in Path(figures).iterdir()] == [".png"]

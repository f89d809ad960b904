"""`flashvtg predict`: equal to `evaluate`; long lists, bad lines, interruptions."""

import json
import os
import shutil

import numpy as np
import pytest

import flashvtg_jax as fv
from flashvtg_jax.cli.main import main
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.experiments.train import train
from flashvtg_jax.prediction import files as prediction_files
from flashvtg_jax.prediction import output as prediction_output
from flashvtg_jax.prediction.features import find_features
from flashvtg_jax.prediction.files import predict_file
from flashvtg_jax.prediction.query_list import read_tasks
from tests.training.conftest import TINY

SMALL = {**TINY, "train.epochs": 1, "synthetic.num_train": 4, "model.strides": (1, 2)}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory of a short training, its data set included."""
    workdir = tmp_path_factory.mktemp("run")
    train(fv.load_config("demo", SMALL), workdir, show_progress=False)
    return workdir


@pytest.fixture(scope="module")
def predictor(run):
    return fv.Predictor.from_checkpoint(run)


@pytest.fixture(scope="module")
def features(run):
    """The folder of feature files, as released."""
    return run / "data" / "synthetic"


@pytest.fixture(scope="module")
def queries(features):
    """The list that `evaluate` predicts for."""
    return features / "highlight_val_release.jsonl"


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def usable_lines(path):
    """A file of `evaluate` as `predict` writes it: without moments that nobody can use."""
    nms = path.name == "predictions_nms.jsonl"
    rows = read_lines(path)
    for row in rows:
        windows = row["pred_relevant_windows"]
        kept = [w for w in windows if w[1] > w[0] and not (nms and w[2] == 0)]
        row["pred_relevant_windows"] = kept
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_lines(path, rows):
    text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in text))
    return path


def assert_alike(rows, expected):
    """The same queries in the same order; in other batches the last decimal may differ."""
    assert [row["qid"] for row in rows] == [row["qid"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(
            row["pred_saliency_scores"], other["pred_saliency_scores"], atol=1.5e-4
        )
        # Scores alone: moments of almost equal scores may change places.
        scores, others = (np.asarray(x["pred_relevant_windows"])[:, 2] for x in (row, other))
        np.testing.assert_allclose(scores, others, atol=1.5e-4)


def predict(predictor, queries, output, features, **options):
    options = {"features": features, "show_progress": False, **options}
    return predict_file(predictor, queries, output, **options)


@pytest.mark.parametrize(
    ("threshold", "name"), [(None, "predictions.jsonl"), ("config", "predictions_nms.jsonl")]
)
def test_predictions_are_those_of_evaluate_without_unusable_moments(
    run, predictor, queries, features, tmp_path, threshold, name
):
    output = tmp_path / "deeper" / "out.jsonl"
    summary = predict(predictor, queries, output, features, nms_threshold=threshold)
    assert output.read_text() == usable_lines(run / name)
    assert (summary.predicted, summary.found, summary.bad, summary.cut) == (6, 0, 0, 0)
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "out.jsonl",
        "out.jsonl.settings.json",
    ]


def test_the_command_predicts_and_its_status_tells_of_bad_lines(
    run, queries, features, tmp_path, capsys
):
    output = tmp_path / "out.jsonl"
    command = ["predict", f"--checkpoint={run}", f"--features={features}", "--no_nms"]
    assert main([*command, f"--queries={queries}", f"--output={output}"]) == 0
    assert "wrote 6 predictions" in capsys.readouterr().err
    assert output.read_text() == usable_lines(run / "predictions.jsonl")
    lines = write_lines(tmp_path / "bad.jsonl", ["{", *queries.read_text().splitlines()])
    assert main([*command, f"--queries={lines}", f"--output={output}"]) == 3
    told = capsys.readouterr().err
    assert f"{lines}:1: not JSON" in told and "wrote 0 predictions" in told
    assert "6 were there" in told and "1 lines could not be used" in told
    # Other settings do not go into the same file.
    assert main([*command[:-1], f"--queries={queries}", f"--output={output}"]) == 1
    assert "begun with nms_threshold=None, not 0.7" in capsys.readouterr().err
    assert main([*command, f"--queries={queries}"]) == 2
    assert main([*command, "--video=x.npz", f"--queries={queries}", "--query_file=y.npz"]) == 2


def test_the_command_predicts_for_the_files_of_one_pair(run, queries, features, capsys):
    row = read_lines(queries)[0]
    command = ["predict", f"--checkpoint={run}", "--top_k=3"]
    command += [
        f"--video={stream}={features}/{stream}_features/{row['vid']}.npz"
        for stream in ("slowfast", "clip")
    ]
    command += [f"--query_file={features}/clip_text_features/qid{row['qid']}.npz"]
    assert main([*command, f"--duration={row['duration']}"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = json.loads(usable_lines(run / "predictions_nms.jsonl").splitlines()[0])
    assert found == {
        "pred_relevant_windows": expected["pred_relevant_windows"][:3],
        "pred_saliency_scores": expected["pred_saliency_scores"],
    }
    assert main(["predict", f"--checkpoint={run}", "--video=a.npz", "--query_file=b.npz"]) == 1
    assert "of which stream?" in capsys.readouterr().err


@pytest.mark.parametrize("threshold", [None, 0.9999])
def test_what_predict_writes_is_scored_and_drawn(
    run, predictor, queries, features, tmp_path, threshold, capsys
):
    """With moments and without any; ids that are text, unusual characters, blank lines."""
    rows = [
        {**row, "qid": str(row["qid"]), "query": f"{row['query']} \N{CYCLONE} é"}
        for row in read_lines(queries)
    ]
    lines = write_lines(tmp_path / "list.jsonl", ["", *rows[:3], "", *rows[3:]])
    output = tmp_path / "out.jsonl"
    summary = predict(predictor, lines, output, features, score_threshold=threshold)
    assert (summary.predicted, summary.bad) == (6, 0)
    found = read_lines(output)
    assert [bool(row["pred_relevant_windows"]) for row in found] == [threshold is None] * 6
    files = [f"--predictions={output}", f"--annotations={lines}"]
    assert main(["score", *files, f"--output={tmp_path / 'scores.json'}"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["brief"]
    evaluated = json.loads((run / "metrics.json").read_text())
    highlights = [name for name in scores if name.startswith("HL-")]
    assert highlights and all(scores[name] == evaluated[name] for name in highlights)
    if threshold:
        assert {value for name, value in scores.items() if name.startswith("MR")} == {0.0}
    figure = ["plot", *files, f"--output={tmp_path / 'figures'}", "--limit=1", "--format=svg"]
    assert main(figure) == 0
    assert "clips of" not in capsys.readouterr().err  # their length is known


def test_queries_that_are_cut_are_counted(run, predictor, queries, features, tmp_path, capsys):
    names = tmp_path / "query"
    names.mkdir()
    rows = [{"qid": f"q{n}", "vid": read_lines(queries)[0]["vid"]} for n in (40, 41, 57)]
    for row in rows:
        np.save(names / f"{row['qid']}.npy", np.ones((int(row["qid"][1:]), 4), np.float32))
    lines, output = write_lines(tmp_path / "list.jsonl", rows), tmp_path / "out.jsonl"
    summary = predict(predictor, lines, output, features, query_features=names)
    assert "2 queries have more than the 40 words" in summary.report(output)
    assert "the longest has 57" in summary.report(output)


def test_a_list_in_utf_16_is_one_error(predictor, features, tmp_path):
    (tmp_path / "list.jsonl").write_text('{"qid": 1, "vid": "v"}\n', encoding="utf-16")
    with pytest.raises(DataError, match="the text is in UTF-16"):
        predict(predictor, tmp_path / "list.jsonl", tmp_path / "out.jsonl", features)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_predictor_is_opened_without_a_word(run, caplog, capfd):
    fv.Predictor.from_checkpoint(run)
    assert caplog.messages == [] and capfd.readouterr() == ("", "")


def test_bad_lines_are_left_out_and_listed(predictor, queries, features, tmp_path, capsys):
    good = read_lines(queries)
    broken = tmp_path / "features"
    shutil.copytree(features, broken)
    np.savez(broken / "clip_features" / f"{good[3]['vid']}.npz", features=np.ones((75, 9), "f4"))
    one = {"qid": "n", "vid": good[0]["vid"]}
    rows = [
        good[0],
        "{torn",
        [1],
        {"qid": 7.5, "vid": "v"},
        {"qid": 7},
        {"qid": 7, "vid": "../secret"},
        {**one, "query": 3},
        good[0],
        {"qid": "absent", "vid": "absent"},
        good[3],
        {**good[1], "qid": good[1]["qid"], "duration": 10},
        good[2],
    ]
    lines = write_lines(tmp_path / "list.jsonl", rows)
    output = tmp_path / "out.jsonl"
    summary = predict(predictor, lines, output, broken, show_progress=True)
    assert [row["qid"] for row in read_lines(output)] == [good[0]["qid"], good[2]["qid"]]
    errors = read_lines(summary.errors)
    assert summary.errors == tmp_path / "out.jsonl.errors.jsonl"
    assert summary.bad == len(errors) == 10
    expected = [
        "not JSON: Expecting property name enclosed in double quotes at column 2",
        "expected a JSON object",
        "qid 7.5; expected a string or an integer",
        "vid missing; expected a string",
        "vid '../secret' holds '/', which file names cannot",
        "query 3; expected a sentence",
        f"qid {good[0]['qid']} is already used in line 1",
        "absent.npz: no such file",
        "expected width 4, got 9",
        "75 clips, but 10 s have 5 of 2 s",
    ]
    told = capsys.readouterr().err
    for number, (error, message) in enumerate(zip(errors, expected, strict=True), start=2):
        assert error["line"] == number and message in error["error"]
        assert f"{lines}:{number}: {error['error']}" in told
    assert errors[7]["qid"] == "absent" and errors[0]["qid"] is None
    # Once they are fixed, the next call adds them.
    shutil.copy(
        *(folder / "clip_features" / f"{good[3]['vid']}.npz" for folder in (features, broken))
    )
    summary = predict(predictor, write_lines(lines, good), output, broken)
    assert (summary.predicted, summary.found, summary.bad) == (4, 2, 0)
    assert not summary.errors.exists()
    # At the end of the file, not in the list's order.
    order = [good[i]["qid"] for i in (0, 2, 1, 3, 4, 5)]
    assert [row["qid"] for row in read_lines(output)] == order


def test_an_id_that_was_answered_for_something_else_is_a_bad_line(
    predictor, queries, features, tmp_path
):
    rows, output = read_lines(queries), tmp_path / "out.jsonl"
    predict(predictor, queries, output, features)
    written = output.read_bytes()
    changed = [
        {**rows[0], "vid": rows[1]["vid"]},
        {**rows[1], "query": "something else"},
        {key: value for key, value in rows[2].items() if key != "query"},
        *rows[3:],
    ]
    summary = predict(predictor, write_lines(tmp_path / "l.jsonl", changed), output, features)
    assert (summary.predicted, summary.found, summary.bad) == (0, 3, 3)
    message = "already answered for another video or query; use another --output"
    assert [error["error"] for error in read_lines(summary.errors)] == [message] * 3
    assert output.read_bytes() == written


def test_other_folders_or_limits_do_not_go_into_the_same_file(
    run, predictor, queries, features, tmp_path, monkeypatch
):
    output = tmp_path / "out.jsonl"
    predict(predictor, queries, output, features)
    monkeypatch.chdir(features)  # the same folder by another name
    assert predict(predictor, queries, output, ".").found == 6
    words = features / "clip_text_features"
    with pytest.raises(DataError, match=r"begun with query_features=None, not /.*clip_text"):
        predict(predictor, queries, output, features, query_features=words)
    with pytest.raises(DataError, match=r"begun with features=/.*, not "):
        shutil.copytree(features, tmp_path / "copy")
        predict(predictor, queries, output, tmp_path / "copy")
    whole = fv.Predictor.from_checkpoint(run, whole_videos=True)
    with pytest.raises(DataError, match="begun with whole_videos=False, not True"):
        predict(whole, queries, output, features)
    config = predictor.config.copy_and_resolve_references()
    with config.unlocked():
        config.evaluation.window_range = (0.0, 10.0)
    ranged = fv.Predictor(config, predictor.params, step=predictor.step)
    with pytest.raises(DataError, match=r"begun with window_range=.*, not \[0.0, 10.0\]"):
        predict(ranged, queries, output, features)


def test_durations_that_cannot_be_are_bad_lines(predictor, queries, features, tmp_path):
    row = read_lines(queries)[0]
    durations = [10**400, 1e300, float("inf"), float("nan"), -1, 0, True, "150", [150]]
    rows = [{**row, "qid": f"bad{i}", "duration": x} for i, x in enumerate(durations)]
    lines = write_lines(tmp_path / "list.jsonl", [*rows, row])
    summary = predict(predictor, lines, tmp_path / "out.jsonl", features)
    assert (summary.predicted, summary.bad) == (1, len(durations))
    for error in read_lines(summary.errors):
        assert error["error"].startswith("duration ")
        assert error["error"].endswith("; expected the seconds of the video")
        assert len(error["error"]) < 100


def test_damaged_settings_are_one_error(predictor, queries, features, tmp_path):
    output = tmp_path / "out.jsonl"
    predict(predictor, queries, output, features)
    for content in ("[]", "7", "null", "{", "[" * 100_000):
        (tmp_path / "out.jsonl.settings.json").write_text(content)
        with pytest.raises(DataError, match="not begun by this command"):
            predict(predictor, queries, output, features)
    (tmp_path / "out.jsonl.settings.json").write_text("{}")
    with pytest.raises(DataError, match="begun by another version of flashvtg-jax"):
        predict(predictor, queries, output, features)


@pytest.mark.parametrize("size", [0, 1, 100, 3000, -1, None])
def test_an_interrupted_file_is_continued_and_a_torn_line_dropped(
    run, predictor, queries, features, tmp_path, size
):
    output, whole = tmp_path / "out.jsonl", usable_lines(run / "predictions_nms.jsonl").encode()
    predict(predictor, queries, output, features)
    output.write_bytes(whole[:size])
    summary = predict(predictor, queries, output, features)
    assert output.read_bytes().startswith(whole[: whole.rfind(b"\n", 0, size) + 1])
    assert_alike(read_lines(output), [json.loads(line) for line in whole.splitlines()])
    assert summary.found == whole[:size].count(b"\n") == 6 - summary.predicted


def test_other_files_are_not_appended_to(predictor, queries, features, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("{}\n")
    with pytest.raises(DataError, match="not begun by this command"):
        predict(predictor, queries, output, features)
    assert output.read_text() == "{}\n"
    predict(predictor, queries, output, features, overwrite=True)
    output.write_text("damaged\n" + output.read_text())
    with pytest.raises(DataError, match=r"out.jsonl:1: not a prediction"):
        predict(predictor, queries, output, features)
    with (
        prediction_output.opened_output(tmp_path / "new.jsonl", {}, False),
        pytest.raises(DataError, match="another process is writing"),
    ):
        predict(predictor, queries, tmp_path / "new.jsonl", features)


def test_a_long_list_is_read_in_windows_and_keeps_its_order(
    predictor, queries, features, tmp_path, monkeypatch
):
    rows = read_lines(queries)
    many = [{"qid": f"{i}", "vid": rows[i % 6]["vid"]} for i in range(200)]
    names = tmp_path / "query"
    names.mkdir()
    for i in range(200):
        source = features / "clip_text_features" / f"qid{rows[i % 5]['qid']}.npz"
        (names / f"{i}.npz").symlink_to(source)
    sizes, predicted = [], predictor.__class__.__call__

    def watched(self, videos, queries, **options):
        sizes.append((len(queries), len({id(video) for video in videos})))
        return predicted(self, videos, queries, **options)

    monkeypatch.setattr(fv.Predictor, "__call__", watched)
    lines, output = write_lines(tmp_path / "list.jsonl", many), tmp_path / "out.jsonl"
    summary = predict(predictor, lines, output, features, query_features=names)
    assert summary.predicted == 200
    found = read_lines(output)
    assert [row["qid"] for row in found] == [row["qid"] for row in many]
    assert_alike([{**found[30], "qid": "0"}], found[:1])  # the same video and words
    assert sizes == [(32, 6)] * 6 + [(8, 6)]  # windows of eight batches, each video read once
    monkeypatch.setattr(prediction_files, "_WINDOW_BYTES", 1)
    sizes.clear()
    predict(predictor, lines, output, features, query_features=names, overwrite=True)
    assert sizes == [(1, 1)] * 200
    assert_alike(read_lines(output), found)


def test_folders_of_single_streams_and_plain_names(run, predictor, queries, features, tmp_path):
    for name in ("slowfast_features", "clip_features"):
        shutil.copytree(features / name, tmp_path / name)
    (tmp_path / "words").mkdir()
    for path in (features / "clip_text_features").iterdir():
        shutil.copy(path, tmp_path / "words" / path.name.removeprefix("qid"))
    folders = {s: tmp_path / f"{s}_features" for s in ("slowfast", "clip")}
    output, words = tmp_path / "out.jsonl", tmp_path / "words"
    options = {"video_features": folders, "query_features": words}
    predict(predictor, queries, output, None, **options)
    assert output.read_text() == usable_lines(run / "predictions_nms.jsonl")
    with pytest.raises(ConfigError, match="reads no stream 'i3d'"):
        predict(predictor, queries, output, None, video_features={"i3d": words})
    with pytest.raises(ConfigError, match="where are the clip features"):
        predict(predictor, queries, output, None, video_features={"slowfast": words})
    with pytest.raises(DataError, match=r"nowhere.*cannot be listed"):
        predict(predictor, queries, output, features, query_features=tmp_path / "nowhere")


def test_lists_that_cannot_be_read_are_one_error(predictor, features, tmp_path):
    for name, content, message in (
        ("absent.jsonl", None, "no such file"),
        ("empty.jsonl", "", "the file is empty"),
        ("blank.jsonl", "\n \n\n", "the file is empty or blank"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=message):
            predict(predictor, tmp_path / name, tmp_path / "out.jsonl", features)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file; write the list to a file first"):
        predict(predictor, tmp_path / "pipe", tmp_path / "out.jsonl", features)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_query_that_is_null_is_missing(tmp_path):
    config = fv.load_config("charades_sta_vgg", {"data.query_width": 3})
    (tmp_path / "glove.6B.300d.txt").write_text("a 1 2 3\nman 4 5 6\n")
    rows = [{"qid": 1, "vid": "v", "query": "A man"}, {"qid": 2, "vid": "v", "query": None}]
    lines = write_lines(tmp_path / "list.jsonl", rows)
    parsed = [task.row for task in read_tasks(lines, {}) if not task.problem]
    assert parsed == [rows[0], {"qid": 2, "vid": "v"}]
    found = find_features(
        config,
        [],
        [row for row in parsed if row.get("query")],
        features=None,
        video_features=None,
        query_features=tmp_path,
    )
    with pytest.raises(DataError, match="no field 'query'"):
        found.items(parsed[1])


def test_words_are_looked_up_in_a_table(tmp_path):
    config = fv.load_config("charades_sta_vgg", {"data.query_width": 3})
    (tmp_path / "rgb").mkdir()
    np.save(tmp_path / "rgb" / "v.npy", np.ones((2, 4096), np.float32))
    table = tmp_path / "glove.6B.300d.txt"
    table.write_text("a 1 2 3\nman 4 5 6\n")
    rows = [{"qid": 1, "vid": "v", "query": "A man"}, {"qid": 2, "vid": "v"}]
    found = find_features(
        config,
        ["vgg"],
        rows[:1],
        features=None,
        video_features={"vgg": tmp_path / "rgb"},
        query_features=tmp_path,
    )
    items = found.items(rows[0])
    np.testing.assert_array_equal(items["query"].read(3), [[1, 2, 3], [4, 5, 6]])
    assert items["vgg"].read(4096).shape == (2, 4096)
    with pytest.raises(DataError, match="no field 'query'"):
        found.items(rows[1])


def test_parts_of_a_stream_are_joined_as_in_the_data_set(tmp_path):
    config = fv.load_config(
        "tvsum_slowfast_clip",
        {"data.dataset": "tvsum/i3d_clip", "data.video_streams": ("i3d",)},
    )
    for part in ("rgb", "opt"):
        np.save(tmp_path / f"v_{part}.npy", np.full((5, 1024), len(part), np.float32))
    (tmp_path / "words").mkdir()
    np.savez(tmp_path / "words" / "1.npz", token=np.ones((2, 512), np.float32))
    found = find_features(
        config,
        ["i3d"],
        (),
        features=None,
        video_features={"i3d": tmp_path},
        query_features=tmp_path / "words",
    )
    items = found.items({"qid": 1, "vid": "v"})
    assert items["i3d"].read(2048).shape == (5, 2048)
    assert items["query"].read(512).shape == (2, 512)


def test_ones_own_data_lie_as_they_did_in_training(tmp_path):
    config = fv.load_config(
        "custom",
        {
            "clip_length": 1.0,
            "data.dataset": "custom/mine",
            "data.video_streams": ("audio", "clip"),
            "data.query_width": 3,
        },
    )
    with config.data.video_widths.unlocked():
        config.data.video_widths.audio, config.data.video_widths.clip = 2, 4
    for name, width in (("audio", 2), ("clip", 4)):
        (tmp_path / "video" / name).mkdir(parents=True)
        np.save(tmp_path / "video" / name / "v.npy", np.ones((5, width), np.float32))
    (tmp_path / "query").mkdir()
    np.savez(tmp_path / "query" / "q.npz", anything=np.ones((2, 3), np.float32))
    streams = ["audio", "clip"]
    rest = {"video_features": None, "query_features": None}
    found = find_features(config, streams, (), features=tmp_path, **rest)
    items = found.items({"qid": "q", "vid": "v"})
    assert [items[name].read(None).shape for name in (*streams, "query")] == [
        (5, 2),
        (5, 4),
        (2, 3),
    ]

"""Custom data sets, from a folder to a built data set."""

import json
import logging
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from flashvtg_jax.cli.main import main
from flashvtg_jax.config import load_config
from flashvtg_jax.data.build.building import build, dataset_names, find_builder
from flashvtg_jax.data.pipeline import evaluation_batches
from flashvtg_jax.data.preparation import complete_config
from flashvtg_jax.data.source import open_split
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import write_json_lines

DATASET = "custom/mine"


def numbers(name, rows, width, dtype):
    rng = np.random.default_rng([ord(character) for character in name])
    return rng.standard_normal((rows, width)).astype(dtype)


def audio(vid):
    return numbers(f"audio {vid}", 11, 3, np.float16)


def resnet(vid):
    return numbers(f"resnet {vid}", 10, 5, np.float32)


def words(qid):
    return numbers(f"words {qid}", 2 + len(qid), 4, np.float64)


def annotation(qid, vid):
    return {
        "qid": qid,
        "query": f"q {qid}",
        "vid": vid,
        "duration": 5,
        "relevant_windows": [[1, 2]],
    }


ROWS = {"train": [annotation("a", "-x.1"), annotation("bc", "y")], "val": [annotation("d", "z")]}


@pytest.fixture
def folder(tmp_path):
    """Three videos of ten clips of half a second; a stream in each of two formats."""
    folder = tmp_path / "mine"
    for place in ("video/resnet", "video/audio", "query"):
        (folder / place).mkdir(parents=True)
    for split, rows in ROWS.items():
        write_json_lines(folder / f"{split}.jsonl", rows)
        for row in rows:
            vid, qid = row["vid"], row["qid"]
            np.savez(folder / f"video/audio/{vid}.npz", whatever=audio(vid))
            np.save(folder / f"video/resnet/{vid}.npy", resnet(vid))
            query = {"last_hidden_state": words(qid), "pooler_output": words(qid)[0]}
            np.savez(folder / f"query/{qid}.npz", **query)
    return folder


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def small_build(folder, data_dir, **options):
    options = {"clip_length": 0.5, "progress": False, **options}
    return build(options.pop("dataset", DATASET), folder, data_dir, **options)


def test_every_query_finds_its_words_and_its_video(folder, data_dir):
    assert small_build(folder, data_dir) == data_dir / DATASET / "1.0.0"
    for split, rows in ROWS.items():
        source = open_split(data_dir, DATASET, split)
        assert source.streams == {"audio": 3, "resnet": 5}
        assert (source.query_dim, source.clip_length, source.labels) == (4, 0.5, "windows")
        for index, row in enumerate(rows):
            example = source[index]
            assert example.annotation == row
            np.testing.assert_array_equal(example.streams["audio"], audio(row["vid"]))
            np.testing.assert_array_equal(example.streams["resnet"], resnet(row["vid"]))
            np.testing.assert_array_equal(example.query, words(row["qid"]).astype(np.float32))
            assert example.streams["audio"].dtype == np.float16
            assert example.streams["resnet"].dtype == np.float32


def test_the_data_set_is_tfds_s_own_and_nothing_is_left_beside_it(folder, data_dir, caplog):
    with caplog.at_level(logging.WARNING):
        built = small_build(folder, data_dir)
    assert not caplog.records
    assert sorted(path.name for path in data_dir.glob("**/")) == ["1.0.0", "custom", "data", "mine"]
    builder = tfds.builder_from_directory(built)
    assert builder.info.full_name == "custom/mine/1.0.0"
    sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
    assert sizes == {"train": 2, "val": 1, "videos": 3}


def test_data_sets_of_several_names_live_side_by_side(folder, data_dir):
    small_build(folder, data_dir)
    (folder / "video/audio").rename(folder / "video/sound")
    small_build(folder, data_dir, dataset="custom/v2.1")
    assert list(open_split(data_dir, "custom/mine").streams) == ["audio", "resnet"]
    assert list(open_split(data_dir, "custom/v2.1").streams) == ["resnet", "sound"]


def test_widths_are_checked_where_they_are_announced(folder, data_dir):
    with pytest.raises(DataError, match=r"video/resnet/.*expected width 6, got 5"):
        small_build(folder, data_dir, widths={"resnet": 6})
    with pytest.raises(ConfigError, match="no features 'clip'; known: audio, query, resnet"):
        small_build(folder, data_dir, widths={"clip": 6})
    assert not data_dir.exists()


def test_files_of_one_stream_have_one_width(folder, data_dir):
    np.save(folder / "video/resnet/z.npy", np.ones((10, 7), np.float32))
    with pytest.raises(DataError, match=r"resnet/z.npy: expected width 5, as most resnet files"):
        small_build(folder, data_dir)


def test_missing_files_are_named_in_the_format_of_the_others(folder, data_dir):
    (folder / "video/resnet/y.npy").unlink()
    with pytest.raises(DataError, match=r"1 feature files are missing.*\n.*/video/resnet/y\.npy\n"):
        small_build(folder, data_dir)
    small_build(folder, data_dir, skip_missing=True)
    assert len(open_split(data_dir, DATASET)) == 1


def test_a_slightly_wrong_clip_length_is_mentioned(folder, data_dir, capsys):
    for split, rows in ROWS.items():
        rows = [row | {"duration": 100} for row in rows]
        write_json_lines(folder / f"{split}.jsonl", rows)
        for row in rows:
            np.savez(folder / f"video/audio/{row['vid']}.npz", numbers("a", 201, 3, np.float16))
            np.save(folder / f"video/resnet/{row['vid']}.npy", numbers("r", 200, 5, np.float32))
    small_build(folder, data_dir, progress=True)
    assert "note:" not in capsys.readouterr().err
    small_build(folder, data_dir, clip_length=0.48, overwrite=True, progress=True)
    note = capsys.readouterr().err.splitlines()[0]
    assert note.startswith("note: rows times clip length (0.48 s) are 96% of the duration in the")
    assert note.endswith("is the clip length 0.5 s?")


def test_a_line_has_moments_or_rated_clips(folder, data_dir):
    rows = [ROWS["train"][0], ROWS["train"][1] | {"label": [[1]] * 10}]
    write_json_lines(folder / "train.jsonl", rows)
    with pytest.raises(DataError, match=r"train\.jsonl:2: both label and relevant_windows"):
        small_build(folder, data_dir)


def test_another_clip_length_is_noticed_by_the_durations(folder, data_dir):
    with pytest.raises(DataError, match="10 rows, but the annotations say 5 clips of 1 s in 5 s"):
        small_build(folder, data_dir, clip_length=1)


def test_several_unnamed_arrays_in_a_file(folder, data_dir):
    np.savez(folder / "query/d.npz", one=words("d"), other=words("d"))
    with pytest.raises(DataError, match=r"query/d.npz: which array is meant\? It holds one, other"):
        small_build(folder, data_dir)


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"clip_length": None}, r"custom/mine: how many seconds .*--clip_length=2"),
        ({"clip_length": 0}, "clip_length 0; expected a number of seconds above 0"),
        ({"dataset": "custom/no name"}, "no data set 'custom/no name'; .* called custom/NAME"),
        ({"dataset": "qvhighlights/slowfast_clip"}, "for custom/NAME only"),
        ({"dataset": "mine"}, "Known: .*custom/NAME"),
    ],
)
def test_arguments_that_do_not_fit(folder, data_dir, built, options, problem):
    if built:
        small_build(folder, data_dir)
    with pytest.raises(ConfigError, match=problem):
        small_build(folder, data_dir, **options)


def test_what_is_not_built_says_how_to_build_it(data_dir):
    with pytest.raises(
        DataError, match=r"build --dataset=custom/mine .* --clip_length=SECONDS --d"
    ):
        open_split(data_dir, DATASET)


def test_names_of_data_sets_mention_one_s_own(data_dir):
    assert "custom/NAME" in dataset_names()
    assert find_builder(DATASET)[1].layout is None


def test_the_builder_alone_says_how_it_is_used(data_dir):
    with pytest.raises(ConfigError, match="flashvtg build --dataset=custom/NAME"):
        find_builder(DATASET)[0](data_dir=data_dir)


def test_command_line(tmp_path, data_dir, capsys):
    output = tmp_path / "features"
    widths = "--widths=resnet=6,audio=5,query=4"
    common = ["--dataset=custom/mine", "--clip_length=2"]
    sizes = ["--num_train=3", "--num_val=2"]
    assert main(["synthesize", *common, f"--output={output}", widths, *sizes]) == 0
    advice = capsys.readouterr().err.strip().rpartition("flashvtg ")[2]
    assert advice.startswith("build --dataset=custom/mine --manual_dir=")
    assert main(advice.replace("--data_dir=DIR", f"--data_dir={data_dir}").split()) == 0
    assert "built custom/mine: train 3, val 2 queries" in capsys.readouterr().err
    assert main(["build", common[0], f"--manual_dir={output}", f"--data_dir={data_dir}"]) == 1
    assert "--clip_length=2" in capsys.readouterr().err


def test_the_guide_s_program_writes_a_folder_that_builds(tmp_path, data_dir, monkeypatch):
    module = sys.modules[find_builder(DATASET)[0].__module__]
    guide = Path(module.__file__).with_name("README.md")
    programs = guide.read_text().split("```python\n")[1:]
    program = next(text.split("```")[0] for text in programs if '"relevant_windows"' in text)
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(program), {})
    small_build(tmp_path / "mine", data_dir, clip_length=2)
    assert open_split(data_dir, DATASET, "val").labels == "windows"
    line = json.loads((tmp_path / "mine/train.jsonl").read_text().splitlines()[0])
    assert set(line) == {"qid", "query", "vid", "duration", "relevant_windows"}


def test_windows_that_reach_out_of_their_video_are_cut_where_that_is_asked_for(
    folder, data_dir, capsys
):
    lines = [dict(row) for row in ROWS["train"]]
    lines[0]["relevant_windows"] = [[-1, 2], [4, 9], [3, 3], [6, 8], [4, 3]]
    lines[1]["relevant_windows"] = [[6, 8], [7, 7]]
    write_json_lines(folder / "train.jsonl", lines)
    with pytest.raises(DataError, match=r"jsonl:1: window \[-1, 2\] is outside.*clip_windows"):
        small_build(folder, data_dir)
    path = folder / "train.jsonl"
    small_build(folder, data_dir, clip_windows=True, progress=True)
    train = open_split(data_dir, DATASET)
    assert train[0].annotation["relevant_windows"] == [[0, 2], [4, 5]]
    assert " --clip_windows" in train.rebuild_command()
    qids = [line["qid"] for line in train.annotations()]
    assert qids == [row["qid"] for row in ROWS["train"] if row["qid"] != lines[1]["qid"]]
    assert (
        "moments cut to their video: 2, moments left out: 3, queries left out: 1\n"
        f"  {path}:1: window [-1, 2] is cut to [0, 2]\n"
        f"  {path}:1: window [4, 9] is cut to [4, 5]\n"
        f"  {path}:1: window [3, 3] is empty\n"
        f"  {path}:1: window [6, 8] is outside its video of 5 s\n"
        f"  {path}:1: window [4, 3] is reversed\n"
        f"  {path}:2: query {lines[1]['qid']} is left out: window [6, 8] is outside its video of "
        "5 s; window [7, 7] is empty\n"
    ) in capsys.readouterr().err


def test_ids_that_count_other_clips_are_said_in_building_and_remembered(folder, data_dir):
    for split, rows in ROWS.items():  # features of half a second, ids of 1 s
        rated = {"relevant_windows": [[2.6, 5]], "relevant_clip_ids": [2, 3, 4]}
        rated["saliency_scores"] = [[1], [2], [3]]
        write_json_lines(folder / f"{split}.jsonl", [row | rated for row in rows])
    with pytest.raises(DataError, match=r"like clips of 1 s, not of 0\.5 s: .*label_clip_length=1"):
        small_build(folder, data_dir)
    small_build(folder, data_dir, label_clip_length=1.0)
    source = open_split(data_dir, DATASET)
    assert (source.clip_length, source.label_clip_length) == (0.5, 1.0)
    config = complete_config(load_config("custom", {"clip_length": 0.5}), source)
    assert config.data.label_clip_length == 1.0
    (batch,) = evaluation_batches(source, config)
    labels = batch.targets.saliency_labels[:2, :10]
    np.testing.assert_array_equal(labels, [[0, 0, 0, 0, 1, 1, 2, 2, 3, 3]] * 2)
    other = load_config("custom", {"clip_length": 0.5, "data.label_clip_length": 2.0})
    with pytest.raises(ConfigError, match="built with --label_clip_length=1"):
        complete_config(other, source)


def test_only_lines_with_ids_have_clips_that_ids_count(folder, data_dir):
    with pytest.raises(ConfigError, match="label_clip_length=1 is for relevant_clip_ids"):
        small_build(folder, data_dir, label_clip_length=1.0)

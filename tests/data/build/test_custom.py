"""How a folder of features and annotations is inspected."""

import numpy as np
import pytest

from flashvtg_jax.data.build.custom import custom_layout
from flashvtg_jax.data.dataset_names import check_custom_name, dataset_for, is_custom
from flashvtg_jax.data.synthetic.features import check_generated, synthesize
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import read_json_lines, write_json_lines

LINE = {"qid": 1, "query": "a cat", "vid": "v1", "duration": 6}
WINDOWS = {"relevant_windows": [[2, 4]]}
SALIENCY = {**WINDOWS, "relevant_clip_ids": [1], "saliency_scores": [[4, 3, 4]]}
BINARY = {"label": [[0], [1], [0]]}
RATINGS = {"label": [[1, 5], [2, 3], [1, 1]]}


def lines(*labels):
    return [{**LINE, "qid": number, **label} for number, label in enumerate(labels)]


@pytest.fixture
def folder(tmp_path):
    """One video of three clips of 2 s, two streams, two queries."""
    for stream, width in (("resnet", 5), ("audio", 3)):
        (tmp_path / "video" / stream).mkdir(parents=True)
        np.savez(tmp_path / f"video/{stream}/v1.npz", features=np.ones((3, width), np.float16))
    (tmp_path / "query").mkdir()
    for qid in range(2):
        np.save(tmp_path / f"query/{qid}.npy", np.ones((4, 2), np.float32))
    write_json_lines(tmp_path / "train.jsonl", lines(WINDOWS, WINDOWS))
    return tmp_path


def error_of(folder, clip_length=2):
    with pytest.raises(DataError) as info:
        custom_layout(folder, clip_length)
    return str(info.value)


# What is found


def test_streams_are_the_folders_by_alphabet_with_widths_left_to_the_files(folder):
    layout = custom_layout(folder, 2)
    assert [(files.name, files.pattern) for files in layout.streams] == [
        ("audio", "video/audio/{vid}"),
        ("resnet", "video/resnet/{vid}"),
    ]
    assert (layout.query.name, layout.query.pattern) == ("query", "query/{qid}")
    assert {(files.key, files.width) for files in layout.feature_files} == {(None, None)}
    assert layout.clip_length == 2.0
    assert layout.find_annotations(folder) == {"train": folder / "train.jsonl"}


def test_errors_will_name_files_by_the_suffix_that_most_have(folder):
    layout = custom_layout(folder, 2)
    assert [files.suffix for files in layout.feature_files] == [".npz", ".npz", ".npy"]


def test_hidden_folders_and_loose_files_are_no_streams(folder):
    (folder / "video/.ipynb_checkpoints").mkdir()
    (folder / "video/README.txt").write_text("mine")
    assert len(custom_layout(folder, 2).streams) == 2


def test_annotations_may_be_in_a_folder_of_their_own(folder):
    (folder / "annotations").mkdir()
    (folder / "train.jsonl").rename(folder / "annotations/train.jsonl")
    assert custom_layout(folder, 2).labels == "windows"


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ((WINDOWS, {"relevant_windows": []}), "windows"),
        ((SALIENCY, SALIENCY), "qvhighlights"),
        ((BINARY, BINARY), "binary"),
        ((RATINGS, RATINGS), "ratings"),
        (({"label": [[1], [1], [1]]}, RATINGS), "ratings"),
        (({**RATINGS, "relevant_windows": None, "relevant_clip_ids": None},), "ratings"),
    ],
)
def test_labels_are_what_the_lines_carry(folder, labels, kind):
    write_json_lines(folder / "train.jsonl", lines(*labels))
    assert custom_layout(folder, 2).labels == kind


def test_a_file_other_than_that_to_train_on_may_be_without_labels(folder):
    write_json_lines(folder / "test.jsonl", lines({}, {}))
    layout = custom_layout(folder, 2)
    assert (layout.labels, layout.unlabelled_splits) == ("windows", ("test",))
    write_json_lines(folder / "val.jsonl", lines(WINDOWS))
    assert custom_layout(folder, 2).unlabelled_splits == ("test",)


def test_an_evaluation_set_needs_no_training_split(folder):
    (folder / "train.jsonl").rename(folder / "test.jsonl")
    assert custom_layout(folder, 2).labels == "windows"


# What is wrong


def test_no_such_folder(folder):
    assert "nowhere: no such folder" in error_of(folder / "nowhere")


def test_no_annotation_file(folder):
    (folder / "train.jsonl").unlink()
    assert "expected one or more of train.jsonl, val.jsonl, test.jsonl" in error_of(folder)


def test_no_folder_of_videos(folder):
    (folder / "video").rename(folder / "videos")
    message = error_of(folder)
    assert message.startswith(f"{folder}/video: no such folder")
    assert "video/NAME/VID.npz" in message


def test_no_stream(folder):
    (folder / "video").rename(folder / "old")
    (folder / "video").mkdir()
    assert f"{folder}/video: nothing in it; expected a folder for each kind" in error_of(folder)
    np.save(folder / "video/v1.npy", np.ones((3, 5)))
    assert "1 files, but no folder in it; expected a folder for each kind" in error_of(folder)


def test_no_folder_of_queries(folder):
    (folder / "query").rename(folder / "text")
    assert error_of(folder).startswith(f"{folder}/query: no such folder; the features of the words")


@pytest.mark.parametrize("name", ["query", "vid", "clip.v2", "2d", "a b", "a,b", "a=b", "é"])
def test_names_that_streams_cannot_have(folder, name):
    (folder / "video" / name).mkdir()
    assert f"a stream cannot be called {name!r}" in error_of(folder)


@pytest.mark.parametrize("clip_length", [None, 0, -1.0, float("nan"), float("inf"), "2"])
def test_a_clip_length_is_seconds_above_0(folder, clip_length):
    with pytest.raises(ConfigError, match="clip_length"):
        custom_layout(folder, clip_length)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ((WINDOWS, SALIENCY), ":2: relevant_windows and saliency_scores, but relevant_windows alo"),
        ((SALIENCY, WINDOWS), ":2: relevant_windows alone, but relevant_windows and saliency_scor"),
        ((WINDOWS, {}), ":2: no labels, but relevant_windows alone in "),
        ((BINARY, WINDOWS), ":2: relevant_windows alone, but label in "),
    ],
)
def test_labels_differ_within_a_file(folder, labels, problem):
    write_json_lines(folder / "train.jsonl", lines(*labels))
    message = error_of(folder)
    assert message.startswith(f"{folder}/train.jsonl{problem}")
    assert f"in {folder}/train.jsonl:1; all lines need the same labels" in message


def test_labels_differ_between_files(folder):
    write_json_lines(folder / "val.jsonl", lines(SALIENCY))
    message = error_of(folder)
    assert message.startswith(f"{folder}/val.jsonl:1: relevant_windows and saliency_scores, but ")
    assert f"alone in {folder}/train.jsonl:1;" in message


def test_a_training_split_without_labels(folder):
    write_json_lines(folder / "val.jsonl", lines(WINDOWS))
    write_json_lines(folder / "train.jsonl", lines({}, {}))
    assert "no labels in " in error_of(folder)


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_labels_at_all(folder, split):
    (folder / "train.jsonl").unlink()
    write_json_lines(folder / f"{split}.jsonl", lines({}))
    message = error_of(folder)
    assert message.startswith(f"{folder}/{split}.jsonl: no labels to train on")
    assert "'relevant_windows': [[start, end], ...]" in message


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (
            {**WINDOWS, "relevant_clip_ids": [1]},
            "relevant_windows and relevant_clip_ids, but no sa",
        ),
        (
            {**WINDOWS, "saliency_scores": [[1]]},
            "relevant_windows and saliency_scores, but no rele",
        ),
        ({"relevant_clip_ids": [1], "saliency_scores": [[1]]}, ", but no relevant_windows"),
    ],
)
def test_half_of_the_saliency(folder, label, problem):
    write_json_lines(folder / "train.jsonl", lines(WINDOWS, label))
    message = error_of(folder)
    assert message.startswith(f"{folder}/train.jsonl:2: ")
    assert problem in message


# Names


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/a/mine", "mine"),
        ("/a/my cats (2)", "my_cats_2_"),
        ("/a/.hidden", "hidden"),
        ("/a/v1.0", "v1.0"),
        ("/", "data"),
    ],
)
def test_a_folder_s_name_becomes_that_of_its_data_set(folder, name):
    dataset = dataset_for(folder)
    assert dataset == f"custom/{name}"
    check_custom_name(dataset)


@pytest.mark.parametrize("dataset", ["custom", "custom/", "custom/.a", "custom/a b", "custom/a/b"])
def test_names_that_data_sets_cannot_have(dataset):
    assert is_custom(dataset)
    with pytest.raises(ConfigError, match="custom/NAME, where NAME is a word of letters, digits"):
        check_custom_name(dataset)


# Synthesised


def synthesized(folder, **options):
    options = {"dataset": "custom/mine", "clip_length": 2, "progress": False, **options}
    widths = options.pop("widths", "resnet=6,audio=5,query=4")
    return synthesize(folder, widths=widths, **options)


def test_synthesize_writes_the_layout_that_is_found_again(tmp_path):
    synthesized(tmp_path, num_train=3, num_val=2)
    layout = custom_layout(tmp_path, 2)
    assert [files.name for files in layout.streams] == ["audio", "resnet"]
    assert (layout.labels, layout.unlabelled_splits) == ("qvhighlights", ())
    row = read_json_lines(tmp_path / "val.jsonl")[0]
    with np.load(tmp_path / f"video/audio/{row['vid']}.npz") as file:
        assert file["features"].shape[1] == 5
    with np.load(tmp_path / f"query/{row['qid']}.npz") as file:
        assert file["last_hidden_state"].shape[1] == 4


@pytest.mark.parametrize("labels", [WINDOWS, SALIENCY, RATINGS, BINARY], ids=str)
def test_synthesize_takes_lines_with_any_labels_or_none(tmp_path, labels):
    write_json_lines(tmp_path / "my_train.jsonl", lines(labels))
    write_json_lines(tmp_path / "my_test.jsonl", lines({}))
    for split in ("train", "test"):  # in two calls: the second finds the first one's lines
        synthesized(tmp_path / "out", annotations=tmp_path / f"my_{split}.jsonl")
    assert custom_layout(tmp_path / "out", 2).unlabelled_splits == ("test",)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"clip_length": None}, "clip_length=2"),
        ({"widths": None}, "these are none"),
        ({"widths": "resnet=6"}, "but these are resnet"),
        ({"widths": "query=6"}, "but these are query"),
        ({"widths": "a.b=6,query=4"}, "widths: a stream cannot be called 'a.b'"),
        ({"widths": {"resnet": None, "query": 4}}, "no width of its own for resnet"),
        ({"clip_length": 1}, "generated for clips of 2 s, not of 1 s: give a file"),
        ({"dataset": "qvhighlights/slowfast_clip"}, "clip_length is for custom/NAME only"),
        ({"dataset": "custom/"}, "NAME is a word"),
    ],
)
def test_synthesize_refuses(tmp_path, options, problem):
    with pytest.raises(ConfigError, match=problem):
        synthesized(tmp_path, **options)
    assert not any(tmp_path.iterdir())


def test_features_synthesised_at_another_clip_length_are_noticed(tmp_path):
    synthesized(tmp_path, num_train=1, num_val=1)
    settings = {"dataset": "custom/mine", "strength": 1.0, "seed": 0, "num_train": 1, "num_val": 1}
    widths = {"audio": 5, "resnet": 6, "query": 4}
    check_generated(tmp_path, widths=widths, clip_length=2.0, **settings)
    with pytest.raises(ConfigError, match=r"made with clip_length=2\.0.*says clip_length=1\.0"):
        check_generated(tmp_path, widths=widths, clip_length=1.0, **settings)
    write_json_lines(tmp_path / "a_test.jsonl", lines(WINDOWS))
    with pytest.raises(DataError, match="with other settings"):
        synthesized(tmp_path, clip_length=1, annotations=tmp_path / "a_test.jsonl")

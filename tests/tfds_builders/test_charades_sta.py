"""Charades-STA with VGG: one file a video, and one table of all words."""

import json

import numpy as np
import pytest

from flashvtg_jax.data.source import open_split
from flashvtg_jax.json_lines import write_json_lines
from tests.tfds_builders.released import build_quietly, failing_build, numbers, save

DATASET = "charades_sta/vgg"
WIDTHS = {"vgg": 5, "query": 3}
TRAIN, TEST = "charades_sta_train_tvr_format.jsonl", "charades_sta_test_tvr_format.jsonl"
GLOVE = "glove.6B.300d.txt"
TABLE = "person 1 2 3\nopens 0.5 -0.25 0.125\ndoor 4 5 6\n"


def annotation(qid, query, vid="AO8RW"):
    window = [[0.0, 0.9]]
    return {"qid": qid, "query": query, "vid": vid, "duration": 1.67, "relevant_windows": window}


ROWS = {
    TRAIN: [annotation(0, "Person opens door door."), annotation(1, "zzz yyy", "Y6R7T")],
    TEST: [annotation(2, "PERSON")],
}


@pytest.fixture
def manual(tmp_path):
    folder = tmp_path / "manual"
    for name, rows in ROWS.items():
        for row in rows:
            save(folder / f"vgg_features/rgb_features/{row['vid']}.npy", video(row["vid"]))
        write_json_lines(folder / name, rows)
    (folder / GLOVE).write_text(TABLE)
    return folder


def video(vid):
    return numbers("vgg", vid, 11, 5, dtype=np.float32)  # clips of 1/6 s in 1.67 s


def build(manual, **options):
    return build_quietly(DATASET, manual, manual.parent / "data", widths=WIDTHS, **options)


def failing(manual, **options):
    options = {"widths": WIDTHS, **options}
    return failing_build(DATASET, manual, manual.parent / "data", **options)


def test_words_are_looked_up_and_unknown_ones_are_zeros(manual):
    folder = build(manual)
    source = open_split(manual.parent / "data", DATASET, "train")
    assert (source.query_dim, source.num_words.tolist()) == (3, [4, 2])
    expected = [[1, 2, 3], [0.5, -0.25, 0.125], [4, 5, 6], [0, 0, 0]]
    np.testing.assert_array_equal(source[0].query, np.float32(expected))
    np.testing.assert_array_equal(source[1].query, np.zeros((2, 3)))
    assert source[0].query.dtype == np.float32
    np.testing.assert_array_equal(source[1].streams["vgg"], video("Y6R7T"))
    assert source.num_clips.tolist() == [11, 11]
    test = open_split(manual.parent / "data", DATASET, "test")
    np.testing.assert_array_equal(test[0].query, [[1, 2, 3]])
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["clip_length"] == 0.166666
    assert metadata["query_width"] == 3


def test_umt_s_folder_is_read_where_there_is_no_other(manual):
    (manual / "vgg_features/rgb_features").rename(manual / "rgb_features")
    build(manual)
    source = open_split(manual.parent / "data", DATASET, "test")
    np.testing.assert_array_equal(source[0].streams["vgg"], video("AO8RW"))


def test_without_any_folder_both_are_named(manual):
    (manual / "vgg_features/rgb_features").rename(manual / "elsewhere")
    message = failing(manual)
    assert message.startswith(f"{manual}/vgg_features/rgb_features: cannot be listed")
    assert "(vgg_features/rgb_features/{vid}.npy or rgb_features/{vid}.npy) belong there" in message


def test_a_missing_table_is_an_error_before_anything_is_written(manual):
    (manual / GLOVE).rename(manual / "glove.txt")
    for options in ({}, {"skip_missing": True}):
        message = failing(manual, **options)
        assert message.startswith(f"{manual}/{GLOVE} or {manual}/glove/{GLOVE}: no such file")


def test_a_table_cut_short_is_an_error_before_anything_is_written(manual):
    (manual / GLOVE).write_text(TABLE[:-3])
    assert failing(manual).startswith(f"{manual}/{GLOVE}:3: expected a word and 3 numbers, found 2")


def test_a_table_of_another_width_is_an_error(manual):
    message = failing(manual, widths={"vgg": 5})
    assert message.startswith(f"{manual}/{GLOVE}:1: expected a word and 300 numbers, found 3")
    build_quietly(DATASET, manual, manual.parent / "data", widths={"vgg": 5, "query": None})


def test_a_table_with_fewer_lines_than_released_is_an_error(manual):
    (manual / GLOVE).write_text("".join(f"word{i}{' 1' * 300}\n" for i in range(3)))
    message = failing(manual, widths={"vgg": 5})
    assert message.startswith(f"{manual}/{GLOVE}: 3 lines, but 400000 were released: cut short?")


def test_missing_videos_are_listed_as_for_other_features(manual):
    path = manual / "vgg_features/rgb_features/Y6R7T.npy"
    path.unlink()
    assert str(path) in failing(manual)
    (manual / GLOVE).write_text("cut short")
    assert str(path) in failing(manual)
    (manual / GLOVE).write_text(TABLE)
    build(manual, skip_missing=True)
    assert len(open_split(manual.parent / "data", DATASET, "train")) == 1

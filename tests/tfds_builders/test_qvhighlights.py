import collections
import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from flashvtg_jax.data.build import building, dataset_builder
from flashvtg_jax.data.build.building import build, dataset_names, find_builder
from flashvtg_jax.data.build.inventory import take_inventory
from flashvtg_jax.data.source import open_split
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import write_json_lines
from tests.tfds_builders.released import failing_build, numbers, save, tree

DATASET = "qvhighlights/slowfast_clip"
WIDTHS = {"slowfast": 6, "clip": 5, "query": 4}
TRAIN, VAL = "highlight_train_release.jsonl", "highlight_val_release.jsonl"
TEST_WITH_GT, TEST = "highlight_test_with_gt.jsonl", "highlight_test_release.jsonl"


def annotation(qid, vid, labelled=True):
    row = {"qid": qid, "query": f"Query ä {qid}", "duration": 20, "vid": vid}
    if labelled:
        row |= {
            "relevant_clip_ids": [2, 3, 8],
            "saliency_scores": [[1, 2, 3], [4, 4, 4], [0, 0, 1]],
            "relevant_windows": [[4, 8], [16, 18]],
        }
    return row


ROWS = {
    TRAIN: [
        annotation(0, "-a.b_0.0_20.0"),
        annotation(3, "v1_0.0_20.0"),
        annotation(1, "-a.b_0.0_20.0"),
        annotation(2, "v2_0.0_20.0"),
    ],
    VAL: [annotation(10, "v3_0.0_20.0"), annotation(11, "v4_0.0_20.0")],
}


def slowfast(vid):
    return numbers("slowfast", vid, 11, WIDTHS["slowfast"])


def clip(vid):
    return numbers("clip", vid, 10, WIDTHS["clip"])


def words(qid):
    return numbers("query", 3 + qid % 3, WIDTHS["query"])


@pytest.fixture
def manual(tmp_path):
    """A folder of released files, four queries to train and two to validate with."""
    folder = tmp_path / "manual"
    for name, rows in ROWS.items():
        for row in rows:
            vid, qid = row["vid"], row["qid"]
            save(folder / f"slowfast_features/{vid}.npz", slowfast(vid))
            save(folder / f"clip_features/{vid}.npz", clip(vid))
            save(folder / f"clip_text_features/qid{qid}.npz", words(qid), "last_hidden_state")
        write_json_lines(folder / name, rows)
    return folder


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "deep" / "data"


def small_build(manual, data_dir, **options):
    options = {"widths": WIDTHS, "progress": False, **options}
    return build(options.pop("dataset", DATASET), manual, data_dir, **options)


def failing(manual, data_dir, **options):
    message = failing_build(DATASET, manual, data_dir, **{"widths": WIDTHS, **options})
    assert not data_dir.parent.exists()
    return message


# What is built


def test_every_query_finds_its_words_and_its_video(manual, data_dir):
    small_build(manual, data_dir)
    for split, name in (("train", TRAIN), ("val", VAL)):
        source = open_split(data_dir, DATASET, split)
        assert len(source) == len(ROWS[name])
        for example, row in zip(source, ROWS[name], strict=True):
            assert example.annotation == row
            assert list(example.streams) == ["slowfast", "clip"]
            np.testing.assert_array_equal(example.streams["slowfast"], slowfast(row["vid"]))
            np.testing.assert_array_equal(example.streams["clip"], clip(row["vid"]))
            np.testing.assert_array_equal(example.query, words(row["qid"]))
            arrays = (*example.streams.values(), example.query)
            assert {array.dtype for array in arrays} == {np.dtype(np.float16)}


def test_the_data_set_is_tfds_s_own_and_stores_every_video_once(manual, data_dir):
    folder = small_build(manual, data_dir)
    assert folder == data_dir / DATASET / "1.0.0"
    builder = tfds.builder_from_directory(folder)
    assert builder.info.disable_shuffling
    assert builder.info.file_format.value == "array_record"
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 4,
        "val": 2,
        "videos": 5,
    }
    assert "lei2021detecting" in builder.info.citation
    videos = list(builder.as_data_source("videos"))
    expected = ["-a.b_0.0_20.0", "v1_0.0_20.0", "v2_0.0_20.0", "v3_0.0_20.0", "v4_0.0_20.0"]
    assert [row["vid"].decode() for row in videos] == expected
    rows = list(builder.as_data_source("train"))
    assert [row["video_row"] for row in rows] == [0, 1, 0, 2]
    assert [row["slowfast"].shape for row in rows] == [(0, 6)] * 4
    assert [row["query"].shape for row in videos] == [(0, 4)] * 5


def test_metadata_tells_origin_and_lengths_without_reading_rows(manual, data_dir):
    folder = small_build(manual, data_dir)
    assert json.loads((folder / "metadata.json").read_text()) == {
        "format_version": 1,
        "streams": {"slowfast": 6, "clip": 5},
        "query_width": 4,
        "clip_length": 2.0,
        "labels": "qvhighlights",
        "splits": {
            "train": {
                "num_clips": [10, 10, 10, 10],
                "stream_clips": {"slowfast": [11, 11, 11, 11], "clip": [10, 10, 10, 10]},
                "num_words": [3, 3, 4, 5],
                "num_windows": [2, 2, 2, 2],
            },
            "val": {
                "num_clips": [10, 10],
                "stream_clips": {"slowfast": [11, 11], "clip": [10, 10]},
                "num_words": [4, 5],
                "num_windows": [2, 2],
            },
        },
        "skipped": {"train": [], "val": []},
        "manual_dir": str(manual),
    }


@pytest.mark.parametrize("num_bytes", [0, 300, 1 << 20])
def test_files_are_read_ahead_up_to_a_number_of_bytes(manual, data_dir, monkeypatch, num_bytes):
    monkeypatch.setattr(dataset_builder, "_READ_AHEAD_BYTES", num_bytes)
    small_build(manual, data_dir)
    for split, name in (("train", TRAIN), ("val", VAL)):
        source = open_split(data_dir, DATASET, split)
        assert source.annotations() == ROWS[name]
        for index, row in enumerate(ROWS[name]):
            np.testing.assert_array_equal(source[index].streams["clip"], clip(row["vid"]))


def test_rows_cross_shards_in_order(manual, data_dir, monkeypatch):
    monkeypatch.setattr(dataset_builder, "_SHARD_BYTES", 300)
    monkeypatch.setattr(dataset_builder, "_READ_AHEAD", 2)
    folder = small_build(manual, data_dir)
    assert len(list(folder.glob("qvhighlights-videos.*"))) > 2
    source = open_split(data_dir, DATASET, "train")
    assert source.annotations() == ROWS[TRAIN]
    np.testing.assert_array_equal(source[3].streams["clip"], clip("v2_0.0_20.0"))


def test_a_stream_that_is_not_all_float16_becomes_float32(manual, data_dir):
    array = clip("v3_0.0_20.0").astype(np.float64) + 1e-5
    save(manual / "clip_features/v3_0.0_20.0.npz", array)
    small_build(manual, data_dir)
    streams = open_split(data_dir, DATASET, "val")[0].streams
    assert (streams["slowfast"].dtype, streams["clip"].dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(streams["clip"], array.astype(np.float32))


def test_npy_files_of_the_same_names_are_read(manual, data_dir):
    path = manual / "clip_features/v3_0.0_20.0.npz"
    path.unlink()
    np.save(path.with_suffix(".npy"), clip("v3_0.0_20.0"))
    small_build(manual, data_dir)
    source = open_split(data_dir, DATASET, "val")
    np.testing.assert_array_equal(source[0].streams["clip"], clip("v3_0.0_20.0"))


def test_internvideo2_is_built_from_its_layout(manual, data_dir):
    for row in ROWS[TRAIN] + ROWS[VAL]:
        for path, array in (
            (f"qvhighlight_6b/{row['vid']}.npy", clip(row["vid"])),
            (f"qvhighlight_llama_text_feature/qid{row['qid']}.npy", words(row["qid"])),
        ):
            (manual / path).parent.mkdir(exist_ok=True)
            np.save(manual / path, array)
    dataset, widths = "qvhighlights/internvideo2", {"internvideo2": 5, "query": 4}
    small_build(manual, data_dir, dataset=dataset, widths=widths)
    source = open_split(data_dir, dataset, "val")
    assert source.streams == {"internvideo2": 5}
    np.testing.assert_array_equal(source[1].streams["internvideo2"], clip("v4_0.0_20.0"))


def test_released_widths_are_those_of_the_papers_features():
    layouts = {name: find_builder(name)[1].layout for name in dataset_names() if "qvh" in name}
    widths = {
        name: {files.name: (files.pattern, files.width) for files in layout.feature_files}
        for name, layout in layouts.items()
    }
    assert widths == {
        "qvhighlights/slowfast_clip": {
            "slowfast": ("slowfast_features/{vid}", 2304),
            "clip": ("clip_features/{vid}", 512),
            "query": ("clip_text_features/qid{qid}", 512),
        },
        "qvhighlights/internvideo2": {
            "internvideo2": ("qvhighlight_6b/{vid}", 768),
            "query": ("qvhighlight_llama_text_feature/qid{qid}", 4096),
        },
    }


@pytest.mark.parametrize("names", [(TEST,), (TEST_WITH_GT,), (TEST, TEST_WITH_GT)])
def test_the_test_split_prefers_the_file_with_ground_truth(manual, data_dir, names):
    rows = {TEST: [annotation(10, "v3_0.0_20.0", labelled=False)]}
    rows[TEST_WITH_GT] = [annotation(11, "v4_0.0_20.0")]
    (manual / "annotations").mkdir()
    for name in names:
        write_json_lines(manual / "annotations" / name, rows[name])
    small_build(manual, data_dir)
    source = open_split(data_dir, DATASET, "test")
    assert source.annotations() == rows[names[-1]]
    assert source.num_windows.tolist() == [0 if names == (TEST,) else 2]


def test_splits_without_an_annotation_file_are_left_out(manual, data_dir):
    (manual / TRAIN).unlink()
    small_build(manual, data_dir)
    assert open_split(data_dir, DATASET, "val").annotations() == ROWS[VAL]
    with pytest.raises(DataError, match="no split 'train', only val") as info:
        open_split(data_dir, DATASET, "train")
    # The command has the folder and the widths that were built.
    widths = ",".join(f"{name}={width}" for name, width in WIDTHS.items())
    assert f"--manual_dir={manual} --widths={widths} " in str(info.value)


def test_tfds_prepares_it_too(manual, data_dir, monkeypatch):
    builder_class, config = find_builder(DATASET)
    monkeypatch.setattr(config, "layout", config.layout.with_widths(WIDTHS))
    builder = builder_class(config="slowfast_clip", data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual, extract_dir=data_dir)
    )
    assert open_split(data_dir, DATASET, "val").annotations() == ROWS[VAL]


# Building again


def test_what_is_built_is_not_built_again(manual, data_dir, capsys):
    folder = small_build(manual, data_dir)
    before = tree(data_dir)
    shutil.rmtree(manual)
    assert small_build(manual, data_dir, progress=True) == folder
    assert "already built" in capsys.readouterr().err
    assert tree(data_dir) == before


def test_overwrite_replaces_the_old_one_whole(manual, data_dir):
    small_build(manual, data_dir)
    write_json_lines(manual / TRAIN, ROWS[TRAIN][:1])
    small_build(manual, data_dir, overwrite=True)
    assert open_split(data_dir, DATASET, "train").annotations() == ROWS[TRAIN][:1]
    assert [path.name for path in data_dir.iterdir()] == ["qvhighlights"]
    assert [path.name for path in (data_dir / DATASET).iterdir()] == ["1.0.0"]


def test_something_else_in_its_place_is_left_alone(manual, data_dir):
    path = data_dir / DATASET / "1.0.0" / "thesis.tex"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="not a data set; move it away"):
            small_build(manual, data_dir, overwrite=overwrite)
    assert path.read_text() == "mine"


def test_a_failed_overwrite_keeps_the_old_one(manual, data_dir):
    small_build(manual, data_dir)
    before = tree(data_dir)
    array = clip("v4_0.0_20.0")
    array[3, 2] = np.nan
    save(manual / "clip_features/v4_0.0_20.0.npz", array)
    with pytest.raises(DataError, match=r"v4_0.0_20.0.npz: NaN or infinity"):
        small_build(manual, data_dir, overwrite=True)
    assert tree(data_dir) == before


def test_the_report_goes_to_stderr(manual, data_dir, capsys):
    small_build(manual, data_dir, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "train 4, val 2 queries of 5 videos" in err
    assert err.splitlines()[1:] == [
        "note: train has 4 queries, 7218 were released: is the file complete?",
        "note: val has 2 queries, 1550 were released: is the file complete?",
    ]
    assert str(data_dir) in err


# Missing files


def test_missing_files_stop_the_build_and_are_listed(manual, data_dir):
    (manual / "slowfast_features/-a.b_0.0_20.0.npz").unlink()
    (manual / "clip_text_features/qid10.npz").unlink()
    message = failing(manual, data_dir)
    assert "2 feature files are missing, needed by 3 of 6 queries" in message
    assert str(manual / "slowfast_features/-a.b_0.0_20.0.npz") in message
    assert str(manual / "clip_text_features/qid10.npz") in message
    command = f"--widths=slowfast=6,clip=5,query=4 --data_dir={data_dir} --skip_missing"
    assert message.endswith(f"flashvtg build --dataset={DATASET} --manual_dir={manual} {command}")


def test_a_long_list_of_missing_files_shows_ten_and_counts_the_rest(manual, data_dir):
    rows = [annotation(qid, "v1_0.0_20.0") for qid in range(100, 130)]
    write_json_lines(manual / VAL, [*ROWS[VAL], *rows])
    lines = failing(manual, data_dir).splitlines()
    assert "30 feature files are missing, needed by 30 of 36 queries" in lines[0]
    assert [line.strip() for line in lines[1:11]] == [
        str(manual / f"clip_text_features/qid{qid}.npz") for qid in range(100, 110)
    ]
    assert lines[11].strip() == "... and 20 more"


def test_skip_missing_goes_on_and_says_how_many_it_skipped(manual, data_dir, capsys):
    (manual / "slowfast_features/-a.b_0.0_20.0.npz").unlink()
    (manual / "clip_text_features/qid10.npz").unlink()
    folder = small_build(manual, data_dir, skip_missing=True, progress=True)
    err = capsys.readouterr().err
    assert "skipped 2 queries of train for missing features: 0, 1" in err
    assert "note: train has 4 queries" in err
    assert "skipped 1 queries of val for missing features: 10" in err
    assert open_split(data_dir, DATASET, "train").annotations() == ROWS[TRAIN][1::2]
    assert open_split(data_dir, DATASET, "val")[0].annotation["qid"] == 11
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["skipped"] == {"train": [0, 1], "val": [10]}


def test_skip_missing_does_not_skip_a_whole_split(manual, data_dir):
    for row in ROWS[VAL]:
        (manual / f"clip_text_features/qid{row['qid']}.npz").unlink()
    assert "No query of val" in failing(manual, data_dir, skip_missing=True)


def test_a_missing_feature_folder_is_named(manual, data_dir):
    shutil.rmtree(manual / "clip_features")
    message = failing(manual, data_dir, skip_missing=True)
    assert message.startswith(f"{manual / 'clip_features'}: ")
    assert "clip_features/{vid}.npz" in message


def test_missing_annotations_name_the_files_and_folders_looked_for(manual, data_dir):
    (manual / TRAIN).unlink()
    (manual / VAL).unlink()
    message = failing(manual, data_dir)
    for name in (str(manual), TRAIN, VAL, TEST_WITH_GT, TEST, "annotations"):
        assert name in message
    assert "no such folder" in failing(manual / "nowhere", data_dir)


# Bad files


@pytest.mark.parametrize(
    ("array", "key", "problem"),
    [
        (numbers("x", 10, 5), "last_hidden_state", "no array 'features' in it"),
        (numbers("x", 10, 7), "features", "expected width 5, got 7"),
        (numbers("x", 0, 5), "features", "empty"),
        (numbers("x", 10, 5)[0], "features", "[rows, width]"),
        (np.zeros((10, 5), int), "features", "floating-point"),
    ],
)
def test_a_bad_file_is_found_before_anything_is_written(manual, data_dir, array, key, problem):
    path = manual / "clip_features/v1_0.0_20.0.npz"
    save(path, array, key)
    message = failing(manual, data_dir)
    assert message.startswith(f"{path}: ")
    assert problem in message


def test_an_unreadable_file_is_found_before_anything_is_written(manual, data_dir):
    path = manual / "clip_features/v1_0.0_20.0.npz"
    path.write_bytes(path.read_bytes()[:-30])
    assert failing(manual, data_dir).startswith(f"{path}: cannot be read")


def test_at_most_ten_bad_files_are_listed(manual, data_dir):
    rows = [annotation(qid, "v1_0.0_20.0") for qid in range(100, 130)]
    write_json_lines(manual / VAL, rows)
    for row in rows:
        (manual / f"clip_text_features/qid{row['qid']}.npz").write_text("404")
    lines = failing(manual, data_dir).splitlines()
    assert len(lines) == 11
    assert all(line.startswith(str(manual / "clip_text_features")) for line in lines[:10])
    assert lines[10].startswith("... and more")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name", ["slowfast_features/v4_0.0_20.0.npz", "clip_text_features/qid2.npz"]
)
def test_numbers_that_are_not_finite_stop_the_build(manual, data_dir, name, value):
    path = manual / name
    key, array = dict(np.load(path)).popitem()
    array[1, 2] = value
    save(path, array, key)
    message = failing(manual, data_dir)
    assert message.startswith(f"{path}: NaN or infinity in 1 of")


def test_numbers_that_float32_does_not_hold_stop_the_build(manual, data_dir):
    path = manual / "slowfast_features/v4_0.0_20.0.npz"
    array = np.load(path)["features"].astype(np.float64)
    array[1, 2] = -1e39
    save(path, array)
    message = failing(manual, data_dir)
    assert message.startswith(
        f"{path}: numbers too large for float32 in 1 of 11 rows (first: row 1)"
    )


def test_bad_annotations_name_file_and_line(manual, data_dir):
    rows = [*ROWS[VAL], {**annotation(12, "v4_0.0_20.0"), "relevant_windows": [[8, 4]]}]
    write_json_lines(manual / VAL, rows)
    assert failing(manual, data_dir).startswith(f"{manual / VAL}:3: window [8, 4]")


def test_one_id_for_two_queries_of_different_splits_is_an_error(manual, data_dir):
    write_json_lines(manual / VAL, [*ROWS[VAL], annotation(2, "v4_0.0_20.0")])
    small_build(manual, data_dir)  # the same query: it may have the same features
    shutil.rmtree(data_dir.parent)
    changed = {**annotation(2, "v4_0.0_20.0"), "query": "Another one"}
    write_json_lines(manual / VAL, [*ROWS[VAL], changed])
    expected = f"{manual / VAL}:3: qid 2 is already another query in {manual / TRAIN}:4"
    assert failing(manual, data_dir).startswith(expected)


def test_splits_to_train_and_select_on_need_labels(manual, data_dir):
    write_json_lines(manual / VAL, [annotation(10, "v3_0.0_20.0", labelled=False)])
    assert f"{VAL}:1: no field 'relevant_windows'" in failing(manual, data_dir)


def test_streams_of_very_different_length_are_an_error_that_names_both(manual, data_dir):
    save(manual / "slowfast_features/v1_0.0_20.0.npz", numbers("x", 20, 6))
    message = failing(manual, data_dir)
    assert f"{manual / 'slowfast_features/v1_0.0_20.0.npz'} has 20 clips" in message
    assert f"{manual / 'clip_features/v1_0.0_20.0.npz'} has 10 clips" in message


def shorten(manual, vid, slowfast_clips, clips):
    save(manual / f"slowfast_features/{vid}.npz", numbers("x", slowfast_clips, 6))
    save(manual / f"clip_features/{vid}.npz", numbers("x", clips, 5))


def test_features_of_another_clip_length_or_cut_short_are_listed(manual, data_dir):
    # Videos of 20 s, that is 10 clips of 2 s; a clip a second, and less than half of a video.
    shorten(manual, "-a.b_0.0_20.0", 21, 20)
    shorten(manual, "v3_0.0_20.0", 5, 4)
    assert failing(manual, data_dir).splitlines() == [
        f"{manual / 'clip_features' / name}: {rows} rows, but the annotations say 10 clips of 2 s "
        "in 20 s; extracted at another clip length, or cut short?"
        for name, rows in (("-a.b_0.0_20.0.npz", 20), ("v3_0.0_20.0.npz", 4))
    ]


@pytest.mark.parametrize(("clips", "fits"), [(7, False), (8, True), (12, True), (13, False)])
def test_features_may_differ_from_the_annotations_by_two_clips(manual, data_dir, clips, fits):
    shorten(manual, "v1_0.0_20.0", clips, clips)
    if fits:
        small_build(manual, data_dir)
    else:
        assert f"{clips} rows, but the annotations say 10" in failing(manual, data_dir)


@pytest.mark.parametrize(("extra", "fits"), [(1, True), (2, False)])
def test_streams_may_differ_by_one_clip(manual, data_dir, extra, fits):
    shorten(manual, "v1_0.0_20.0", 10 + extra, 10)
    if fits:
        small_build(manual, data_dir)
    else:
        assert "streams of one video differ in length by more than 10%" in failing(manual, data_dir)


def test_at_most_ten_wrong_lengths_are_listed(manual, data_dir):
    rows = [annotation(qid, f"w{qid}") for qid in range(100, 115)]
    write_json_lines(manual / VAL, rows)
    for row in rows:
        shorten(manual, row["vid"], 20, 20)
        save(
            manual / f"clip_text_features/qid{row['qid']}.npz",
            words(row["qid"]),
            "last_hidden_state",
        )
    lines = failing(manual, data_dir).splitlines()
    assert [line.split("/")[-1].split(".")[0] for line in lines[:10]] == [
        f"w{qid}" for qid in range(100, 110)
    ]
    assert lines[10:] == ["... and 5 more"]


def test_rated_data_sets_take_the_length_from_the_ratings(manual):
    layout = find_builder(DATASET)[1].layout.with_widths(WIDTHS)
    layout = dataclasses.replace(layout, labels="ratings", clip_length=4.0)
    rows = [annotation(0, "-a.b_0.0_20.0", labelled=False) | {"label": [[1, 5]] * 10}]
    write_json_lines(manual / TRAIN, rows)
    write_json_lines(manual / VAL, rows)
    assert take_inventory(layout, manual, progress=False)
    rows[0]["label"] = [[1, 5]] * 5
    write_json_lines(manual / VAL, rows)
    with pytest.raises(DataError, match=r"10 rows, but the annotations say 5 rated clips;"):
        take_inventory(layout, manual, progress=False)


def test_a_video_has_one_duration(manual, data_dir):
    changed = {**annotation(10, "v1_0.0_20.0"), "duration": 22}
    write_json_lines(manual / VAL, [changed])
    message = failing(manual, data_dir)
    assert message.startswith(f"{manual / VAL}:1: vid 'v1_0.0_20.0' lasts 22 seconds, but 20 in")
    assert f"{manual / TRAIN}:2" in message


def test_other_widths_than_the_released_ones_have_to_be_announced(manual, data_dir):
    message = failing(manual, data_dir, widths=None)
    assert message.splitlines() == [
        f"{manual}/slowfast_features/-a.b_0.0_20.0.npz: expected width 2304, got 6: features of "
        "another backbone? All slowfast files that were read have this width.",
        f"{manual}/clip_features/-a.b_0.0_20.0.npz: expected width 512, got 5: features of another "
        "backbone? All clip files that were read have this width.",
        f"{manual}/clip_text_features/qid0.npz: expected width 512, got 4: features of another "
        "backbone? All query files that were read have this width.",
        "if that is meant: --widths=slowfast=6,clip=5,query=4 (flashvtg build), or "
        "config.data.video_widths and config.data.query_width",
    ]
    small_build(manual, data_dir, widths="slowfast=6,clip=5,query=4")
    assert open_split(data_dir, DATASET, "val").streams == {"slowfast": 6, "clip": 5}


def test_widths_taken_from_the_files_must_agree(manual, data_dir):
    widths = {"slowfast": None, "clip": None, "query": None}
    path = manual / "clip_features/v1_0.0_20.0.npz"
    save(path, numbers("x", 10, 7))
    message = failing(manual, data_dir, widths=widths)
    assert message.startswith(f"{path}: expected width 5, as most clip files have, got 7")
    save(path, clip("v1_0.0_20.0"))
    small_build(manual, data_dir, widths=widths)
    assert open_split(data_dir, DATASET, "val").query_dim == 4


@pytest.mark.parametrize(
    "name", ["qvhighlights", "qvhighlights/slowfastclip", "qvhighlight/slowfast_clip", "x", ""]
)
def test_an_unknown_data_set_lists_the_known_ones(manual, data_dir, name):
    with pytest.raises(ConfigError, match=r"Known: .*qvhighlights/slowfast_clip") as info:
        small_build(manual, data_dir, dataset=name)
    assert ("did you mean" in str(info.value)) == (len(name) > 1)


# Nothing half-built


def test_ctrl_c_leaves_nothing_behind(manual, data_dir, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "_check_sizes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small_build(manual, data_dir)
    assert not data_dir.parent.exists()


def test_a_full_disk_leaves_nothing_behind(manual, data_dir, monkeypatch):
    # Really running out of space: no file of this process may grow beyond a page.
    monkeypatch.setattr(signal, "SIGXFSZ", signal.SIGXFSZ)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        message = failing(manual, data_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert message.startswith(f"{data_dir}: no space left")


def test_too_little_space_is_known_before_writing(manual, data_dir, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    assert "GB are free; make room" in failing(manual, data_dir)


def test_a_folder_that_cannot_be_written_is_an_error(manual, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        small_build(manual, tmp_path / "file" / "data")


def test_other_errors_of_the_disk_are_told_as_they_are(manual, data_dir, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(building, "_check_sizes", broken)
    assert os.strerror(errno.EIO) in failing(manual, data_dir)


SLOW_BUILD = """
import sys, time
from flashvtg_jax.data.build import building, layout
read = layout.read_feature
def slow(*arguments):
    print("reading", file=sys.__stdout__, flush=True)
    time.sleep(60)
    return read(*arguments)
layout.read_feature = slow
building.build(sys.argv[1], sys.argv[2], sys.argv[3], widths=sys.argv[4], progress=False)
"""


def test_what_a_killed_build_left_is_removed_by_the_next(manual, data_dir):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = (DATASET, manual, data_dir, "slowfast=6,clip=5,query=4")
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, *arguments], stdout=subprocess.PIPE, env=environment
    ) as process:
        try:
            process.stdout.readline()
            (left,) = data_dir.iterdir()
            # A build that is still running keeps its folder.
            small_build(manual, data_dir)
            assert left.exists()
        finally:
            process.kill()
            process.wait()
    assert left.exists()
    small_build(manual, data_dir, overwrite=True)
    assert not left.exists()
    assert len(open_split(data_dir, DATASET, "train")) == 4


# Without TensorFlow


WITHOUT_TENSORFLOW = """
import sys, warnings
warnings.simplefilter("error")
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.source import open_split
build(sys.argv[1], sys.argv[2], sys.argv[3], widths=sys.argv[4], progress=False)
assert len(open_split(sys.argv[3], sys.argv[1], "train")[2].query) == 4
assert not {"tensorflow", "torch"} & set(sys.modules)
"""


def test_building_and_reading_needs_no_tensorflow_and_warns_of_nothing(manual, data_dir):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = (DATASET, manual, data_dir, "slowfast=6,clip=5,query=4")
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_readme_and_citation_belong_to_the_package():
    folder = Path(sys.modules[find_builder(DATASET)[0].__module__].__file__).parent
    text = (folder / "README.md").read_text()
    for name in (
        *ROWS,
        TEST,
        TEST_WITH_GT,
        "7218",
        "CC BY-NC-SA 4.0",
        "slowfast_features/{vid}.npz",
        "--annotations=highlight_train_release.jsonl",
        "--annotations=highlight_val_release.jsonl",
    ):
        assert name in text
    assert (folder / "CITATIONS.bib").exists()

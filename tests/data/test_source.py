import concurrent.futures
import itertools
import json
import pickle
import shutil
import threading

import numpy as np
import pytest

from flashvtg_jax.data import source as source_module
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.source import Example, SplitSource, open_split
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import read_json_lines, write_json_lines

DATASET = "qvhighlights/slowfast_clip"
DOMAINS = ("VT", "GA", "surfing")
WIDTHS = {"slowfast": 10, "clip": 9, "query": 8}


@pytest.fixture(scope="module")
def manual_dir(tmp_path_factory):
    """Released files; the training rows belong to domains, those of validation to none."""
    folder = tmp_path_factory.mktemp("manual")
    synthesize(folder, widths=WIDTHS, num_train=40, num_val=5, progress=False)
    path = folder / "highlight_train_release.jsonl"
    rows = read_json_lines(path)
    write_json_lines(path, [row | {"domain": DOMAINS[i % 3]} for i, row in enumerate(rows)])
    return folder


@pytest.fixture(scope="module")
def data_dir(manual_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    build(DATASET, manual_dir, folder, widths=WIDTHS, progress=False)
    return folder


@pytest.fixture(scope="module")
def rows(manual_dir):
    return read_json_lines(manual_dir / "highlight_train_release.jsonl")


@pytest.fixture
def source(data_dir):
    return open_split(data_dir, DATASET, "train")


def expected(manual_dir, row):
    """The example of an annotation line, read from its files."""

    def read(path, key):
        with np.load(manual_dir / path) as archive:
            return archive[key]

    streams = {
        "slowfast": read(f"slowfast_features/{row['vid']}.npz", "features"),
        "clip": read(f"clip_features/{row['vid']}.npz", "features"),
    }
    words = read(f"clip_text_features/qid{row['qid']}.npz", "last_hidden_state")
    return Example(row, streams, words)


def assert_equal(example, other):
    assert example.annotation == other.annotation
    assert list(example.streams) == list(other.streams)
    for name, stream in other.streams.items():
        np.testing.assert_array_equal(example.streams[name], stream)
    np.testing.assert_array_equal(example.query, other.query)


def test_examples_are_those_of_the_files(source, manual_dir, rows):
    assert len(source) == 40
    for i in np.random.default_rng(0).permutation(40):
        assert_equal(source[i], expected(manual_dir, rows[i]))


def test_lengths_and_widths_are_known_without_reading(source, rows):
    assert source.streams == {"slowfast": 10, "clip": 9}
    assert list(source.streams) == ["slowfast", "clip"]
    assert (source.query_dim, source.clip_length, source.labels) == (8, 2.0, "qvhighlights")
    # The shortest stream counts: SlowFast has a clip more.
    assert source.num_clips.tolist() == [row["duration"] // 2 for row in rows]
    assert source.stream_clips["slowfast"].tolist() == [row["duration"] // 2 + 1 for row in rows]
    assert source.stream_clips["clip"].tolist() == source.num_clips.tolist()
    assert source.num_words.tolist() == [len(row["query"].split()) + 2 for row in rows]
    assert source.num_windows.tolist() == [len(row["relevant_windows"]) for row in rows]


def test_annotations_come_in_order_and_belong_to_the_caller(source, rows):
    source.annotations()[0]["query"] = "changed"
    assert source.annotations() == rows


@pytest.mark.parametrize("index", [40, -1])
def test_an_index_out_of_range_is_an_error(source, index):
    with pytest.raises(IndexError):
        source[index]


def test_iterating_ends(source):
    assert sum(1 for _ in source) == 40


def test_many_threads_read_the_same_as_one(data_dir, manual_dir, rows):
    source = open_split(data_dir, DATASET, "train")
    ready = threading.Barrier(8)

    def read(seed):
        ready.wait(timeout=10)  # so that all open the files at once
        return [(i, source[i]) for i in np.random.default_rng(seed).permutation(40)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for examples in pool.map(read, range(8)):
            for i, example in examples:
                assert_equal(example, expected(manual_dir, rows[i]))


def test_a_source_can_be_sent_to_another_process(source):
    assert_equal(pickle.loads(pickle.dumps(source))[3], source[3])


@pytest.mark.parametrize("domains", [("GA",), ("surfing", "VT")])
def test_domains_select_rows_in_order(data_dir, manual_dir, rows, domains):
    source = open_split(data_dir, DATASET, "train", domains)
    whole = open_split(data_dir, DATASET, "train")
    chosen = [i for i, row in enumerate(rows) if row["domain"] in domains]
    assert len(source) == len(chosen) in (13, 27)
    assert source.annotations() == [rows[i] for i in chosen]
    for name in ("num_clips", "num_words", "num_windows"):
        assert getattr(source, name).tolist() == getattr(whole, name)[chosen].tolist()
    for place, i in enumerate(chosen):
        assert_equal(source[place], expected(manual_dir, rows[i]))
    with pytest.raises(IndexError):
        source[len(chosen)]
    assert source.all_num_clips.tolist() == whole.num_clips.tolist()
    assert source.all_num_words.tolist() == whole.num_words.tolist()
    for name, clips in whole.stream_clips.items():
        assert source.stream_clips[name].tolist() == clips[chosen].tolist()
        assert source.all_stream_clips[name].tolist() == clips.tolist()
    assert source.all_domains.tolist() == [row["domain"] for row in rows]
    again = pickle.loads(pickle.dumps(source))
    assert again.annotations() == source.annotations()


def test_without_domains_all_rows_are_there(source):
    assert source.all_domains is None
    assert source.all_num_clips.tolist() == source.num_clips.tolist()


def test_selections_of_a_source_share_what_they_keep(data_dir):
    source = open_split(data_dir, DATASET, "train", cache=True)
    source._stored.videos = CountedReads(source._stored.videos)
    selections = [source.select((name,)) for name in DOMAINS]
    assert sum(map(len, selections)) == 40
    list(source)
    num_videos = len(source._stored.videos.reads)
    for selection in selections:
        list(selection)
    assert len(selections[0].select(())) == 40
    assert len(source._stored.videos.reads) == num_videos


def test_a_data_set_of_an_earlier_version_tells_no_lengths_of_streams(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / DATASET / "1.0.0/metadata.json"
    metadata = json.loads(path.read_text())
    for lengths in metadata["splits"].values():
        del lengths["stream_clips"]
    path.write_text(json.dumps(metadata))
    old, new = (open_split(folder, DATASET, "train", ("GA",)) for folder in (tmp_path, data_dir))
    assert old.stream_clips == old.all_stream_clips == {}
    assert old.num_clips.tolist() == new.num_clips.tolist()


def test_an_unknown_domain_lists_those_there_are(data_dir, source):
    with pytest.raises(DataError, match="'train' has no domain 'parkour'; it has VT, GA, surfing"):
        open_split(data_dir, DATASET, "train", ("GA", "parkour"))
    with pytest.raises(DataError, match=r"'val' has no domain 'GA'; .* have no field domain"):
        open_split(data_dir, DATASET, "val", ("GA",))


def test_with_a_cache_everything_is_read_once(data_dir, manual_dir, rows):
    source = open_split(data_dir, DATASET, "train", cache=True)
    stored = source._stored
    stored.videos, stored.queries = CountedReads(stored.videos), CountedReads(stored.queries)
    for _ in range(2):
        for example, row in zip(source, rows, strict=True):
            assert_equal(example, expected(manual_dir, row))
    assert sorted(stored.queries.reads) == list(range(40))
    assert len(stored.videos.reads) == len({row["vid"] for row in rows})
    assert pickle.loads(pickle.dumps(source))._stored.cache_bytes is None


def test_what_is_cached_belongs_to_nobody(data_dir):
    source = open_split(data_dir, DATASET, "train", cache=True)
    source[0].annotation["query"] = "changed"
    source[0].streams.clear()
    assert source[0].annotation["query"] != "changed" and source[0].streams
    with pytest.raises(ValueError, match="read-only"):
        source[0].streams["clip"][:] = 0
    with pytest.raises(ValueError, match="read-only"):
        source[0].query[:] = 0


class CountedReads:
    def __init__(self, rows):
        self.rows, self.reads = rows, []

    def __getitem__(self, index):
        self.reads.append(index)
        return self.rows[index]


def test_videos_read_last_are_kept_up_to_a_number_of_bytes(data_dir):
    folder = data_dir / DATASET / "1.0.0"
    video_bytes = 2 * (76 * 10 + 75 * 9)
    source = SplitSource(folder, "train", cache_bytes=2 * video_bytes)
    source._stored.videos = CountedReads(source._stored.videos)
    full = np.flatnonzero(source.num_clips == 75)
    a, b, c = (int(i) for i in full[[0, 10, 20]])
    for i in (a, b, a, c, a, b):  # c drives out b, which was not used for longest
        source[i]
    assert len(source._stored.videos.reads) == 4
    assert source._stored.video_cache.num_bytes <= 2 * video_bytes


def test_a_cache_smaller_than_a_video_keeps_nothing(data_dir):
    source = SplitSource(data_dir / DATASET / "1.0.0", "train", cache_bytes=10)
    first, again = source[0], source[0]
    assert_equal(first, again)
    assert source._stored.video_cache.num_bytes == 0


def test_a_data_set_that_is_not_built_names_the_command(tmp_path):
    with pytest.raises(DataError) as info:
        open_split(tmp_path, DATASET, "train")
    command = f"flashvtg build --dataset={DATASET} --manual_dir=DIR_OF_FEATURES"
    assert f"{command} --data_dir={tmp_path}" in str(info.value)


def test_an_unknown_split_lists_those_there_are(data_dir):
    with pytest.raises(DataError, match="no split 'test', only train, val;"):
        open_split(data_dir, DATASET, "test")
    with pytest.raises(DataError, match="no split 'videos'"):
        open_split(data_dir, DATASET, "videos")


def test_another_format_is_an_error_that_says_to_build_again(data_dir, monkeypatch):
    monkeypatch.setattr(source_module, "FORMAT_VERSION", 2)
    with pytest.raises(DataError, match=r"format 1, this one reads 2.*--overwrite"):
        open_split(data_dir, DATASET, "train")


@pytest.mark.parametrize("kind", ["train", "videos"])
def test_a_damaged_data_set_is_an_error_that_says_to_build_again(data_dir, tmp_path, kind):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.rglob(f"*-{kind}.array_record*")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"slowfast_clip/1.0.0: a row cannot be read .*--overwrite"):
        list(open_split(tmp_path, DATASET, "train"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *itertools.product(
            ["metadata.json", "dataset_info.json", "features.json"],
            ["cut short", "empty", "of another kind"],
        ),
        ("metadata.json", "gone"),
        ("features.json", "gone"),  # without dataset_info.json the data set is one not built
    ],
)
def test_damaged_metadata_is_an_error_that_says_to_build_again(data_dir, tmp_path, name, damage):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / DATASET / "1.0.0" / name
    text = path.read_bytes()
    path.write_bytes({"cut short": text[:-20], "of another kind": b"{}"}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    with pytest.raises(DataError, match=r"slowfast_clip/1\.0\.0: cannot be read .*--overwrite"):
        open_split(tmp_path, DATASET, "train")


def test_the_newest_version_is_opened(data_dir, tmp_path):
    folder = tmp_path / DATASET
    for name in ("1.0.0", "1.9.0", "1.10.0", "1.10.0_backup", "notes"):
        (folder / name).mkdir(parents=True)
        for path in (data_dir / DATASET / "1.0.0").iterdir():
            target = folder / name / path.name
            if path.name == "dataset_info.json":
                info = json.loads(path.read_text()) | {"version": name}
                target.write_text(json.dumps(info))
            else:
                target.symlink_to(path)
    assert "1.10.0'" in repr(open_split(tmp_path, DATASET, "train"))


def test_a_data_set_of_another_format_is_built_again_as_it_was(data_dir, manual_dir, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data_dir, folder)
    (path,) = (folder / DATASET).glob("*/metadata.json")
    metadata = json.loads(path.read_text()) | {"format_version": 0, "clip_windows": True}
    path.write_text(json.dumps(metadata))
    with pytest.raises(DataError, match=r"format 0, this one reads 1") as info:
        open_split(folder, DATASET, "train")
    for flag in (f"--manual_dir={manual_dir}", "--clip_windows", "--widths=", "--overwrite"):
        assert flag in str(info.value)

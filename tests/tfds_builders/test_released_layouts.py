"""What holds for the builders of Charades-STA, TACoS, TVSum and YouTube Highlights alike."""

import importlib.util
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from flashvtg_jax.config import config_names, load_config
from flashvtg_jax.data.build.building import build, find_builder
from flashvtg_jax.data.build.glove import GloveWords
from flashvtg_jax.data.source import open_split
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from tests.tfds_builders.released import build_quietly

MOMENT = {"qid": 1, "query": "A person sits.", "vid": "-A.b", "duration": 12.5} | {
    "relevant_windows": [[2.0, 6.3]]
}
RATED = {"qid": "-A.b", "query": "Bees!", "vid": "-A.b", "duration": 7} | {
    "relevant_windows": None,
    "relevant_clip_ids": None,
}
LINES = {
    "charades_sta": MOMENT,
    "tacos": MOMENT | {"qid": "s17-d69_0"},
    "tvsum": RATED | {"label": [[1.0, 5.0, 3.0]] * 7, "domain": "BK"},
    "youtube_highlights": RATED | {"label": [[0], [1]] * 4, "domain": "dog"},
}
# For each data set the annotation files and the sizes of the splits, as released.
FILES = {
    "charades_sta": {
        "train": ("charades_sta_train_tvr_format.jsonl", 12404),
        "test": ("charades_sta_test_tvr_format.jsonl", 3720),
    },
    "tacos": {
        "train": ("train.jsonl", 9790),
        "val": ("val.jsonl", 4436),
        "test": ("test.jsonl", 4001),
    },
    "tvsum": {"train": ("tvsum_train.jsonl", 40), "val": ("tvsum_val.jsonl", 10)},
    "youtube_highlights": {
        "train": ("youtube_train.jsonl", 233),
        "val": ("youtube_valid.jsonl", 152),
    },
}
# Every file that a line of `LINES` needs, by spec, with the width of what is in it.
FEATURES = {
    "charades_sta/slowfast_clip": {
        "slowfast": (["slowfast_features/-A.b.npz"], 2304),
        "clip": (["clip_features/-A.b.npz"], 512),
        "query": (["clip_text_features/qid1.npz"], 512),
    },
    "charades_sta/vgg": {
        "vgg": (["vgg_features/rgb_features/-A.b.npy"], 4096),
        "query": (["glove.6B.300d.txt"], 300),
    },
    "charades_sta/internvideo2": {
        "internvideo2": (["charade_sta_6b/-A.b.pt"], 768),
        "query": (["charade_sta_llama_text_feature/qid1.pt"], 4096),
    },
    "tacos/slowfast_clip": {
        "slowfast": (["slowfast_features/-A.b.npz"], 2304),
        "clip": (["clip_features/-A.b.npz"], 512),
        "query": (["clip_text_features/s17-d69_0.npz"], 512),
    },
    "tvsum/slowfast_clip": {
        "slowfast": (["vid_slowfast/-A.b.npz"], 2304),
        "clip": (["vid_clip/-A.b.npz"], 512),
        "query": (["txt_clip/-A.b.npz"], 512),
    },
    "tvsum/i3d_clip": {
        "i3d": (["video_features/-A.b_rgb.npy", "video_features/-A.b_opt.npy"], 2048),
        "query": (["query_features/-A.b.npz"], 512),
    },
    "youtube_highlights/slowfast_clip": {
        "clip": (["vid_clip/-A.b.npz"], 512),
        "slowfast": (["vid_slowfast/-A.b.npz"], 2304),
        "query": (["txt_clip/-A.b.npz"], 512),
    },
}
CLIPS = {
    1.0: 13,
    0.166666: 76,
    2.0: 7,
}  # of 12.5 s, the last one begun; 75.0003 clips of 0.166666 s
GLOVE = {"charades_sta/vgg"}
SMALL = {"slowfast": 6, "clip": 4, "vgg": 6, "internvideo2": 6, "i3d": 6, "query": 4}


def lines_of(name):
    line = LINES[name]
    return {split: [line] for split in FILES[name]}


def write_annotations(folder, name, lines):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / FILES[name][split][0] for split in lines]
    for path, rows in zip(paths, lines.values(), strict=True):
        write_json_lines(path, rows)
    return paths


@pytest.mark.parametrize("dataset", FEATURES)
def test_the_layout_is_the_released_one(dataset):
    name = dataset.split("/")[0]
    layout = find_builder(dataset)[1].layout
    line = LINES[name]
    assert {split: names[0] for split, names in layout.annotations.items()} == {
        split: file for split, (file, _) in FILES[name].items()
    }
    assert layout.released_rows == {split: size for split, (_, size) in FILES[name].items()}
    assert [files.name for files in layout.feature_files] == list(FEATURES[dataset])
    for files in layout.feature_files:
        paths, width = FEATURES[dataset][files.name]
        assert files.width == width
        if isinstance(files, GloveWords):
            assert [files.file] == paths
        else:
            stem = files.pattern.format(**line)
            assert [stem + part + files.suffix for part in files.parts] == paths
    labels = {"tvsum": "ratings", "youtube_highlights": "binary"}
    assert layout.labels == labels.get(name, "windows")
    domains = {
        "tvsum": ("BK", "BT", "DS", "FM", "GA", "MS", "PK", "PR", "VT", "VU"),
        "youtube_highlights": ("dog", "gymnastics", "parkour", "skating", "skiing", "surfing"),
    }
    assert layout.domains == domains.get(name, ())


@pytest.mark.parametrize("dataset", FEATURES)
def test_synthesised_features_lie_where_released_ones_do_and_build(dataset, tmp_path, capsys):
    name = dataset.split("/")[0]
    layout = find_builder(dataset)[1].layout
    widths = {files.name: SMALL[files.name] for files in layout.feature_files}
    paths = write_annotations(tmp_path / "annotations", name, lines_of(name))
    manual = synthesize(
        tmp_path / "out", annotations=paths, dataset=dataset, widths=widths, progress=False
    )
    written = {
        str(path.relative_to(manual))
        for path in manual.rglob("*")
        if path.is_file() and path.suffix not in (".json", ".jsonl")
    }
    expected = set(itertools.chain(*(files for files, _ in FEATURES[dataset].values())))
    if importlib.util.find_spec("torch") is None:
        expected = {file.replace(".pt", ".npy") for file in expected}
    assert written == expected

    folder = build(dataset, manual, tmp_path / "data", widths=widths)
    report = capsys.readouterr().err
    sizes = ", ".join(f"{split} 1" for split in FILES[name])
    assert f"built {dataset}: {sizes} queries of 1 videos" in report
    assert ("0 of the 3 words of the queries are unknown" in report) == (dataset in GLOVE)
    assert "note:" not in report  # of any size is what was synthesised
    line = LINES[name]
    clips = len(line["label"]) if line.get("label") else CLIPS[layout.clip_length]
    for split in FILES[name]:
        source = open_split(tmp_path / "data", dataset, split)
        assert source.streams == {files.name: SMALL[files.name] for files in layout.streams}
        assert source.num_clips.tolist() == [clips]
        example = source[0]
        assert example.annotation == line
        assert example.query.shape == (source.num_words[0], 4)
        for stream in example.streams.values():
            assert clips <= len(stream) <= clips + 1
    assert tfds.builder_from_directory(folder).info.citation.startswith("@")


@pytest.mark.parametrize("dataset", FEATURES)
def test_tfds_prepares_it_too(dataset, tmp_path, monkeypatch):
    name = dataset.split("/")[0]
    builder_class, config = find_builder(dataset)
    widths = {files.name: SMALL[files.name] for files in config.layout.feature_files}
    paths = write_annotations(tmp_path / "annotations", name, lines_of(name))
    manual = synthesize(
        tmp_path / "out", annotations=paths, dataset=dataset, widths=widths, progress=False
    )
    monkeypatch.setattr(config, "layout", config.layout.with_widths(widths))
    builder = builder_class(config=config.name, data_dir=tmp_path / "data")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual, extract_dir=tmp_path)
    )
    assert open_split(tmp_path / "data", dataset, "train").annotations() == [LINES[name]]


@pytest.mark.parametrize(
    ("dataset", "line", "problem"),
    [
        ("charades_sta/slowfast_clip", LINES["tvsum"], "no field 'relevant_windows', but label"),
        ("tacos/slowfast_clip", LINES["youtube_highlights"], "no field 'relevant_windows'"),
        (
            "tacos/slowfast_clip",
            MOMENT | {"relevant_clip_ids": [0], "saliency_scores": [[1, 2, 3]]},
            "relevant_clip_ids and saliency_scores, but this data set has moments alone; is this",
        ),
        ("tvsum/slowfast_clip", MOMENT, "no field 'label', but relevant_windows"),
        ("youtube_highlights/slowfast_clip", MOMENT, "no field 'label', but relevant_windows"),
        (
            "youtube_highlights/slowfast_clip",
            LINES["tvsum"] | {"domain": "dog"},
            "label holds [1.0, 5.0, 3.0]; expected one number, 0 or 1, for each clip; is this",
        ),
        (
            "tvsum/i3d_clip",
            LINES["youtube_highlights"] | {"domain": "BK"},
            "label holds [0]; expected numbers from 1 to 5 for each clip; is this",
        ),
        # The sums of ratings, as the authors store them for other code.
        (
            "tvsum/slowfast_clip",
            LINES["tvsum"] | {"label": [[27.0], [30.0]]},
            "label holds [27.0]; expected numbers from 1 to 5",
        ),
        (
            "tvsum/slowfast_clip",
            LINES["tvsum"] | {"domain": "dog"},
            "domain 'dog'; known: BK, BT, DS, FM, GA, MS, PK, PR, VT, VU",
        ),
        (
            "youtube_highlights/slowfast_clip",
            LINES["youtube_highlights"] | {"domain": None},
            "no field 'domain', one of dog, gymnastics, parkour, skating, skiing, surfing",
        ),
    ],
)
def test_annotations_of_another_data_set_are_refused(dataset, line, problem, tmp_path):
    name = dataset.split("/")[0]
    path, *_ = write_annotations(tmp_path / "manual", name, {"train": [LINES[name], line]})
    with pytest.raises(DataError) as info:
        build_quietly(dataset, tmp_path / "manual", tmp_path / "data")
    assert f"{path}:2: {problem}" in str(info.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", config_names())
def test_domains_of_configurations_are_those_of_the_builders(name):
    data = load_config(name).data
    layout = find_builder(data.dataset)[1].layout
    assert data.domains == (layout.domains if layout else ())


@pytest.mark.parametrize("name", FILES)
def test_readme_and_citation_tell_what_is_needed(name):
    datasets = [dataset for dataset in FEATURES if dataset.startswith(f"{name}/")]
    folder = Path(sys.modules[find_builder(datasets[0])[0].__module__].__file__).parent
    text = (folder / "README.md").read_text()
    for file, size in FILES[name].values():
        assert file in text
        assert f" {size} " in text
        assert f"--annotations={file}" in text
    for dataset in datasets:
        assert f"flashvtg build --dataset={dataset} --manual_dir=DIR" in text
        for files in find_builder(dataset)[1].layout.feature_files:
            if isinstance(files, GloveWords):
                assert files.file in text
            else:
                assert f"{files.pattern}{files.parts[0]}{files.suffix}" in text
    for word in ("licen", "Where to get the files", "flashvtg synthesize"):
        assert word in text
    assert (folder / "CITATIONS.bib").read_text().count("@") >= 3


@pytest.mark.skipif("FLASHVTG_ANNOTATIONS" not in os.environ, reason="needs the real files")
@pytest.mark.parametrize("dataset", FEATURES)
def test_real_annotations_build_in_every_layout(dataset, tmp_path):
    name = dataset.split("/")[0]
    folder = Path(os.environ["FLASHVTG_ANNOTATIONS"]) / name
    widths = {files.name: 4 for files in find_builder(dataset)[1].layout.feature_files}
    rated = name in ("tvsum", "youtube_highlights")
    manual = synthesize(
        tmp_path / "out",
        annotations=[folder / file for file, _ in FILES[name].values()],
        limit=None if rated else 20,
        dataset=dataset,
        widths=widths,
        progress=False,
    )
    build_quietly(dataset, manual, tmp_path / "data", widths=widths)
    for split, (file, size) in FILES[name].items():
        source = open_split(tmp_path / "data", dataset, split)
        rows = read_json_lines(folder / file)
        assert len(rows) == size
        assert source.annotations() == rows[: len(source)]
        assert len(source) == (size if rated else 20)
        if rated:
            assert source.num_clips.tolist() == [len(row["label"]) for row in rows]


def test_metadata_of_a_rated_data_set(tmp_path):
    paths = write_annotations(tmp_path / "annotations", "tvsum", lines_of("tvsum"))
    dataset, widths = "tvsum/slowfast_clip", "slowfast=6,clip=4,query=4"
    manual = synthesize(
        tmp_path / "out", annotations=paths, dataset=dataset, widths=widths, progress=False
    )
    folder = build_quietly(dataset, manual, tmp_path / "data", widths=widths)
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["labels"] == "ratings"
    assert metadata["splits"]["val"] == {
        "num_clips": [7],
        "stream_clips": {"slowfast": [7], "clip": [7]},  # one more of SlowFast has no ratings
        "num_words": [3],
        "num_windows": [0],
    }
    assert metadata["manual_dir"] == str(manual.resolve())
    rows = list(tfds.builder_from_directory(folder).as_data_source("videos"))
    assert [row["clip"].shape for row in rows] == [(7, 4)]
    assert rows[0]["clip"].dtype == np.float16

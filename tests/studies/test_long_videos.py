"""The study of long videos: their annotations, their data, and a study from end to end."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.data.annotations import load_annotations
from flashvtg_jax.data.source import open_split
from flashvtg_jax.data.synthetic.annotations import (
    generate_annotations,
    generate_long_annotations,
)
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import write_json_lines
from flashvtg_jax.studies import long_video_data, long_videos
from flashvtg_jax.studies.long_video_data import prepare_lengths
from flashvtg_jax.studies.long_videos import (
    METRICS,
    chosen_variants,
    run,
    training_config,
    variants,
)
from flashvtg_jax.studies.running import train_variants
from flashvtg_jax.system.memory import DoesNotFitError
from flashvtg_jax.video_ids import youtube_id

TINY = {
    "model.hidden_dim": 8,
    "model.num_heads": 2,
    "model.ffn_dim": 16,
    "model.t2v_layers": 1,
    "model.num_dummies": 2,
    "model.n_input_proj": 1,
    "model.num_mlp_layers": 1,
    "model.strides": (1.0, 2.0),
    "synthetic.num_train": 6,
    "synthetic.num_val": 4,
    "data.video_widths.slowfast": 6,
    "data.video_widths.clip": 4,
    "data.query_width": 4,
    "train.batch_size": 4,
    "train.epochs": 1,
    "train.evaluate_untrained": False,
}


def tiny(**overrides):
    fields = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config("demo", {**TINY, **fields})


def by_video(rows):
    rows = sorted(rows, key=lambda row: row["vid"])
    return {vid: list(of) for vid, of in itertools.groupby(rows, lambda row: row["vid"])}


# Annotations


@pytest.mark.parametrize(("minutes", "per_video"), [(2.5, 1), (5, 2), (10, 4), (60, 24)])
def test_there_is_a_query_for_each_2_5_minutes_of_each_video(minutes, per_video):
    rows = generate_long_annotations(48, minutes, seed=3)
    assert len(rows) == 48
    videos = by_video(rows)
    assert [len(lines) for lines in videos.values()] == [per_video] * (48 // per_video)
    for lines in videos.values():
        assert {line["duration"] for line in lines} == {minutes * 60}
        stretches = []
        for line in lines:
            first, last = line["relevant_windows"][0], line["relevant_windows"][-1]
            stretches.append(first[0] // 150)
            assert first[0] >= stretches[-1] * 150 and last[1] <= (stretches[-1] + 1) * 150
        assert sorted(stretches) == list(range(per_video))  # none is left out


def test_a_query_is_the_same_in_videos_of_each_length_but_for_its_place():
    short, long = (generate_long_annotations(48, minutes, seed=3) for minutes in (2.5, 120))
    for a, b in zip(short, long, strict=True):
        assert (a["qid"], a["query"], a["saliency_scores"]) == (
            b["qid"],
            b["query"],
            b["saliency_scores"],
        )
        moved = np.subtract(b["relevant_windows"], a["relevant_windows"])
        assert (moved == moved[0, 0]).all() and moved[0, 0] % 150 == 0
        clips = np.subtract(b["relevant_clip_ids"], a["relevant_clip_ids"])
        assert (clips * 2 == moved[0, 0]).all()
    # A video of 48 queries, in any order but that of their ids.
    places = [row["relevant_windows"][0][0] // 150 for row in long]
    assert sorted(places) == list(range(48)) != places


def test_long_annotations_pass_all_checks(tmp_path):
    rows = generate_long_annotations(24, 30, seed=5, first_qid=100)
    write_json_lines(tmp_path / "a.jsonl", rows)
    assert load_annotations(tmp_path / "a.jsonl", labels="qvhighlights") == rows
    assert [row["qid"] for row in rows] == list(range(100, 124))
    for row in rows:
        clips = [i for start, end in row["relevant_windows"] for i in range(start // 2, end // 2)]
        assert row["relevant_clip_ids"] == clips and max(clips) < 900
    assert all(vid == f"{youtube_id(vid)}_0.0_1800.0" for vid in by_video(rows))


def test_windows_of_long_videos_have_the_statistics_of_short_ones():
    long, short = generate_long_annotations(2400, 60, seed=1), generate_annotations(2400, seed=1)
    counts, lengths = [], []
    for rows in (long, short):
        counts.append(np.bincount([len(row["relevant_windows"]) for row in rows]) / len(rows))
        lengths.append([end - start for row in rows for start, end in row["relevant_windows"]])
    np.testing.assert_allclose(*counts, atol=0.03)
    percentiles = [np.percentile(of, [25, 50, 75]) for of in lengths]
    np.testing.assert_allclose(*percentiles, atol=2)
    ends = [end for row in long for _, end in row["relevant_windows"]]
    assert max(ends) <= 3600 and np.mean(np.array(ends) > 1800) == pytest.approx(0.5, abs=0.03)


def test_other_seeds_and_lengths_give_other_videos():
    first, again, seed, length = (
        generate_long_annotations(8, minutes, seed=seed)
        for seed, minutes in ((1, 5), (1, 5), (2, 5), (1, 10))
    )
    assert first == again
    assert not by_video(first).keys() & by_video(seed).keys()
    assert not by_video(first).keys() & by_video(length).keys()


@pytest.mark.parametrize(
    ("num_queries", "minutes", "problem"),
    [
        (8, 4, "videos of 4 minutes; expected a multiple of 2.5"),
        (8, 0, "videos of 0 minutes"),
        (8, -5, "videos of -5 minutes"),
        (50, 120, "50 queries; expected a multiple of 48, which a video of 120 minutes has"),
        (0, 2.5, "0 queries; expected a multiple of 1"),
    ],
)
def test_queries_fill_videos_of_whole_stretches(num_queries, minutes, problem):
    with pytest.raises(ConfigError, match=problem):
        generate_long_annotations(num_queries, minutes, seed=0)


# Data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data of videos of 2.5 and 5 minutes; not to be written into."""
    folder = tmp_path_factory.mktemp("data")
    return folder, prepare_lengths(tiny(), (2.5, 5), 4, folder, 7, show_progress=False)


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_each_length_is_a_data_set(prepared):
    folder, folders = prepared
    assert folders == {2.5: folder / "2.5min", 5: folder / "5min"}
    short, long = (open_split(folders[length], split="val") for length in (2.5, 5))
    assert short.num_clips.tolist() == [75] * 4 and long.num_clips.tolist() == [150] * 4
    assert [row["query"] for row in short.annotations()] == [
        row["query"] for row in long.annotations()
    ]
    assert long.streams == {"slowfast": 6, "clip": 4} and long.query_dim == 4


def test_clips_of_long_videos_may_have_several_tokens(tmp_path):
    folders = prepare_lengths(
        tiny(data__spatial_tokens=2), (5,), 2, tmp_path, 7, show_progress=False
    )
    source = open_split(folders[5], split="val")
    assert source.num_clips.tolist() == [150] * 2
    assert source[0].streams["clip"].shape == (150, 2 * 4)


def test_what_is_prepared_is_not_written_again(prepared):
    folder, folders = prepared
    before = times(folder)
    assert prepare_lengths(tiny(), (2.5, 5), 4, folder, 7, show_progress=False) == folders
    assert times(folder) == before


def test_preparation_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(long_video_data, "build", interrupted)
        prepare_lengths(tiny(), (5,), 2, tmp_path, 7, show_progress=False)
    features = times(tmp_path / "5min" / "synthetic" / "clip_features")
    prepare_lengths(tiny(), (5,), 2, tmp_path, 7, show_progress=False)
    assert len(open_split(tmp_path / "5min", split="val")) == 2
    assert times(tmp_path / "5min" / "synthetic" / "clip_features") == features


def test_data_of_other_settings_are_not_used(prepared):
    folder, _ = prepared
    problem = "2.5min: made with seed=7, but now it is seed=8; use another work directory"
    with pytest.raises(ConfigError, match=problem):
        prepare_lengths(tiny(), (2.5,), 4, folder, 8, show_progress=False)
    with pytest.raises(ConfigError, match=r"made with strength=1.0, num_val=4, but now"):
        prepare_lengths(tiny(synthetic__strength=0.5), (2.5,), 6, folder, 7, show_progress=False)


def test_settings_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "5min").mkdir()
    (tmp_path / "5min" / "settings.json").write_text("{")
    with pytest.raises(DataError, match=r"settings.json: cannot be read"):
        prepare_lengths(tiny(), (5,), 2, tmp_path, 7, show_progress=False)


def test_queries_that_do_not_fit_are_told_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="a multiple of 4"):
        prepare_lengths(tiny(), (2.5, 10), 6, tmp_path / "data", 7, show_progress=False)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["charades_sta_vgg", "tvsum_slowfast_clip", "custom"])
def test_other_data_sets_have_no_long_videos(name, tmp_path):
    with pytest.raises(ConfigError, match="QVHighlights' format only"):
        prepare_lengths(load_config(name), (2.5,), 4, tmp_path, 7)


# The study


def test_each_model_is_compared_with_full_and_windowed_attention():
    found = {variant.name: dict(variant.overrides) for variant in variants(tiny())}
    near = {"model.attention_window": 32, "model.attention_kernel": "xla"}
    intra = {"model.score_refinement": "intra"}
    assert found == {
        "full": {},
        "intra": intra,
        "full_windowed": near,
        "intra_windowed": intra | near,
    }
    own = variants(tiny(model__attention_window=5))[2]
    assert own.overrides["model.attention_window"] == 5


def test_a_window_of_the_configuration_is_a_variant_like_any_other():
    chosen = chosen_variants(tiny(model__attention_window=32), None)
    assert [v.name for v in chosen] == ["full", "intra", "full_windowed", "intra_windowed"]
    chosen = chosen_variants(tiny(model__attention_window=32), ("full_windowed",))
    assert [v.name for v in chosen] == ["full", "full_windowed"]


def test_moment_queries_are_studied_alone():
    assert [variant.name for variant in variants(tiny(model__moment_head="queries"))] == ["full"]


def test_models_learn_from_what_was_made_for_the_study(tmp_path):
    config = training_config(tiny(model__attention_window=5), tmp_path)
    assert "synthetic" not in config
    assert config.data.data_dir == str(tmp_path)
    assert config.model.attention_window is None  # it is a variant
    assert config.evaluation.window_range is None


@pytest.mark.parametrize(
    ("config", "options", "problem"),
    [
        (tiny(), {"seeds": (1,)}, "1 seed: an interval needs"),
        (tiny(), {"num_queries": 6, "minutes": (2.5, 10)}, "a multiple of 4"),
        (tiny(), {"minutes": (3,)}, "a multiple of 2.5"),
        (tiny(model__score_refinement="intra"), {}, "leaves out the refinement"),
        (tiny(model__kernel_size=2), {}, "kernel_size=2 is even"),
        (load_config("charades_sta_vgg"), {}, "QVHighlights' format only"),
    ],
)
def test_a_study_that_makes_no_sense_ends_before_training(config, options, problem, tmp_path):
    options = {"seeds": (1, 2), "num_queries": 4, "minutes": (2.5, 5), **options}
    with pytest.raises(ConfigError, match=problem):
        run(config, options.pop("seeds"), tmp_path, show_progress=False, **options)
    assert not (tmp_path / "long_videos").exists()


def test_results_of_another_checkpoint_device_or_data_are_not_used(tmp_path):
    about = {"step": 3, "device": "cpu", "data": {"seed": 7}}
    path = tmp_path / "5min.json"
    assert long_videos._kept(path, about) is None
    path.write_text(json.dumps({"about": about, "queries": {}}))
    assert long_videos._kept(path, about) == {"about": about, "queries": {}}
    for other in ({"step": -1}, {"device": "abacus"}, {"data": {"seed": 8}}):
        assert long_videos._kept(path, about | other) is None
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        assert long_videos._kept(path, about) is None


@pytest.mark.slow
def test_a_study_resumes_and_reports_what_does_not_fit(tmp_path, monkeypatch, capsys):
    config, options = tiny(), {"minutes": (2.5, 5), "num_queries": 8, "show_progress": False}
    compared = [v for v in variants(config) if v.name in ("full", "intra_windowed")]
    options["compared"] = compared
    trained = {}

    def train_once(config, compared, seeds, workdir, **options):
        if not trained:
            trained.update(train_variants(config, compared, seeds, workdir, **options))
        return {name: folders[: len(seeds)] for name, folders in trained.items()}

    monkeypatch.setattr(long_videos, "train_variants", train_once)
    found = run(config, (1, 2), tmp_path, **options)
    entries = found.entries
    labels = [variant.label for variant in compared]
    conditions = [("2.5 min", 2.5), ("5 min", 5)]
    assert [(e.variant, (e.condition, e.level), e.metric) for e in entries] == list(
        itertools.product(labels, conditions, METRICS)
    )
    for entry in entries:
        assert entry.seeds == 2 and (entry.difference is None) == (entry.variant == "full model")
        scored = entry.metric.startswith("MR-")
        assert entry.queries == (8 if scored else 0)
        assert 0 <= entry.mean <= 100 if scored else entry.mean > 0
        # There are 8 videos of 2.5 minutes, but 4 of 5 only.
        compared_well = scored and entry.difference is not None and entry.level == 2.5
        assert (entry.low is not None) == (entry.high is not None) == compared_well
    of = {(e.variant, e.condition, e.metric): e for e in entries}
    memory = [of["full model", name, "memory, MiB"].mean for name, _ in conditions]
    assert memory[0] < memory[1]
    (about,) = found.notes
    assert "attends to 32 clips" in about and "on a CPU." in about

    folder = tmp_path / "long_videos" / "runs"
    paths = sorted(folder.glob("*/seed?/lengths/*min.json"))
    assert len(paths) == len(labels) * 2 * 2
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert run(config, (1, 2), tmp_path, **options) == found
    assert {path: path.stat().st_mtime_ns for path in paths} == before

    # One seed has means and differences, but no intervals.
    one = run(config, (1,), tmp_path, **options, intervals=False).entries
    assert [(e.variant, e.level, e.metric) for e in one] == [
        (e.variant, e.level, e.metric) for e in entries
    ]
    for entry in one:
        assert entry.seeds == 1 and entry.low is entry.high is entry.std is None
        assert (entry.difference is None) == (entry.variant == "full model")

    # The full model alone has no window of attention.
    alone = run(config, (1, 2), tmp_path, **(options | {"compared": compared[:1]}))
    assert alone.entries == [e for e in entries if e.variant == "full model"]
    assert "attention" not in alone.notes[0]

    # A result that cannot be used is found again, and nothing else.
    content = json.loads(paths[0].read_text())
    data = content["about"]["data"]
    assert (data["seed"], data["num_val"]) == (config.seed, 8)
    paths[0].write_text("{")
    again = run(config, (1, 2), tmp_path, **options)
    assert again.notes == found.notes
    assert json.loads(paths[0].read_text())["queries"] == content["queries"]
    for entry, other in zip(again.entries, entries, strict=True):
        assert entry == other or entry.metric == "milliseconds a query"
    for path in paths[1:]:
        assert path.stat().st_mtime_ns == before[path]

    # One result of each is lost, and there is no more memory to find it again.
    def too_large(_):
        raise DoesNotFitError("needs 31.2 GiB, 20.1 GiB are free")

    (folder / "full" / "seed1" / "lengths" / "2.5min.json").unlink()
    (folder / "intra_windowed" / "seed2" / "lengths" / "5min.json").unlink()
    monkeypatch.setattr(long_videos, "check_fits", too_large)
    left = run(config, (1, 2), tmp_path, **options)
    for entry, other in zip(left.entries, again.entries, strict=True):
        if (entry.variant, entry.level) in ((labels[0], 2.5), (labels[1], 5)):
            assert math.isnan(entry.mean) and (entry.seeds, entry.queries) == (2, other.queries)
            assert entry.std is entry.difference is entry.low is entry.high is None
        elif entry.variant == labels[1]:
            # There is nothing to compare with.
            assert entry == dataclasses.replace(other, difference=None, low=None, high=None)
        else:
            assert entry == other
    said = capsys.readouterr().err
    for about in (f"{labels[0]}, 2.5 min", f"{labels[1]}, 5 min"):
        assert f"{about} (needs 31.2 GiB, 20.1 GiB are free)" in left.notes[1]
        assert f"skipped {about}: needs 31.2 GiB, 20.1 GiB are free" in said

    # Another configuration has no place here.
    monkeypatch.setattr(long_videos, "prepare_lengths", None)
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        run(tiny(model__num_heads=1), (1, 2), tmp_path, **options)

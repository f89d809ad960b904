"""Clips of spatial tokens, from files [L, S, width] to batches [B, L, S, Dv] and answers."""

import contextlib
import json
import types

import jax
import numpy as np
import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.data import feature_files
from flashvtg_jax.data.batch import BatchShape, Row, collate
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.build.layout import FileItem
from flashvtg_jax.data.device_cache import DeviceCache, cached_bytes, evaluation_draws
from flashvtg_jax.data.feature_files import feature_header, read_feature, read_tokens
from flashvtg_jax.data.pipeline import evaluation_batches, train_pipeline
from flashvtg_jax.data.preparation import complete_config, prepare_data
from flashvtg_jax.data.source import open_split
from flashvtg_jax.data.synthetic.annotations import generate_annotations
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.data.synthetic.planting import Planting
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.experiments.evaluate import evaluate
from flashvtg_jax.experiments.train import train
from flashvtg_jax.interop.conversion import to_torch_file
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from flashvtg_jax.prediction.files import predict_file, predict_pair
from flashvtg_jax.prediction.predictor import Predictor
from tests.data.memory_source import small_config, small_source
from tests.training.conftest import TINY

S = 3
EPSILON = 1e-5


def tokens_of(rows, width, dtype=np.float16, seed=0, tokens=S):
    rng = np.random.default_rng([seed, rows, width])
    return (4 * rng.standard_normal((rows, tokens, width))).astype(dtype)


def normalized(features):
    """By numpy, in float64: each token by its own norm."""
    features = features.astype(np.float64)
    return features / (np.linalg.norm(features, axis=-1, keepdims=True) + EPSILON)


# Files


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_file_of_tokens_is_read_with_the_tokens_of_a_clip_side_by_side(tmp_path, suffix, dtype):
    array = tokens_of(5, 4, dtype)
    path = tmp_path / f"v{suffix}"
    if suffix == ".npz":
        np.savez(path, features=array)
    else:
        np.save(path, array)
    flat = read_feature(path, "features", 4, spatial=True)
    assert flat.dtype == dtype
    np.testing.assert_array_equal(flat, np.concatenate([array[:, s] for s in range(S)], axis=1))
    np.testing.assert_array_equal(read_tokens(path, "features", 4, spatial=True), array)
    header = feature_header(path, "features", 4, spatial=True)
    assert (header.rows, header.tokens, header.width) == (5, S, 4)


@pytest.mark.parametrize(
    ("shape", "options", "problem"),
    [
        ((5, 3, 4), {}, r"expected an array \[rows, width\], found shape \[5, 3, 4\]"),
        ((5, 3, 4), {"width": 12, "spatial": True}, "width 12 for each of 3 tokens, got 4"),
        ((5, 0, 4), {"spatial": True}, r"empty, shape \[5, 0, 4\]"),
        ((2, 5, 3, 4), {"spatial": True}, r"\[rows, width\] or \[rows, tokens, width\], found"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, shape, options, problem):
    np.save(tmp_path / "v.npy", np.ones(shape, np.float32))
    for read in (read_feature, feature_header):
        with pytest.raises(DataError, match=problem):
            read(tmp_path / "v.npy", None, **options)


def test_a_file_of_tokens_that_is_cut_short_is_noticed_by_its_header(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, tokens_of(5, 4))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="cut short"):
        feature_header(path, None, spatial=True)


def test_parts_are_joined_token_by_token(tmp_path):
    one, other = tokens_of(5, 4), tokens_of(6, 2)
    paths = tmp_path / "rgb.npy", tmp_path / "flow.npy"
    for path, array in zip(paths, (one, other), strict=True):
        np.save(path, array)
    item = FileItem(paths, None, spatial=True)
    joined = item.read(6).reshape(5, S, 6)
    np.testing.assert_array_equal(joined, np.concatenate([one, other[:5]], axis=2))
    assert item.header(6)[:2] == (5, 6)
    assert item.header(6).tokens == S

    np.save(paths[1], tokens_of(5, 2, tokens=2))
    with pytest.raises(DataError, match=r"rgb.npy has 3 a row, .*flow.npy has 2 a row"):
        item.header(None)


def test_each_part_is_read_once(tmp_path, monkeypatch):
    paths = tmp_path / "rgb.pt", tmp_path / "flow.pt"  # whose headers are read with their numbers
    arrays = dict(zip(paths, (tokens_of(5, 4), tokens_of(5, 2)), strict=True))
    read = []
    monkeypatch.setattr(
        feature_files, "_read_torch", lambda path, _: read.append(path) or arrays[path]
    )
    joined = FileItem(paths, None, spatial=True).read(6)
    np.testing.assert_array_equal(
        joined.reshape(5, S, 6), np.concatenate(list(arrays.values()), axis=2)
    )
    assert read == list(paths)


def test_flat_tokens_in_parts_are_refused_where_the_width_of_a_token_is_known(tmp_path):
    paths = tmp_path / "rgb.npy", tmp_path / "flow.npy"
    for path, width in zip(paths, (4, 2), strict=True):
        np.save(path, tokens_of(5, width).reshape(5, -1))
    item = FileItem(paths, None, spatial=True)
    advice = r"got 12 \+ 6: .* Or 3 tokens a row, .* Tokens of parts must be arrays \[L, 3, width\]"
    for read in (item.read, item.header):
        with pytest.raises(DataError, match=f"rgb.npy .*flow.npy: expected width 6 .*{advice}"):
            read(6)
    predictor = types.SimpleNamespace(streams={"i3d": 6}, spatial_tokens=S)
    with pytest.raises(DataError, match=advice):
        predict_pair(predictor, [("i3d", path) for path in paths], tmp_path / "query.npy")
    with pytest.raises(DataError) as info:  # whatever these are, they are not tokens
        item.read(7)
    assert str(info.value).endswith("got 12 + 6: features of another backbone?")


# Batches


def row_of(*streams):
    return Row(
        streams=[stream.reshape(len(stream), -1) for stream in streams],
        query=np.ones((2, 5), np.float32),
        duration=6.0,
        windows=np.zeros((0, 2), np.float32),
        saliency_labels=np.zeros(len(streams[0]), np.float32),
        positive_clips=np.zeros(2, np.int32),
        negative_clips=np.zeros(2, np.int32),
        video_id=0,
        example=0,
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_token_is_normalised_alone_and_a_single_one_stands_for_all(dtype):
    clip, slowfast = tokens_of(4, 5, dtype), tokens_of(4, 2, dtype, tokens=1)
    slowfast[1] = 0
    shape = BatchShape(2, 6, 3, 1, 2, (2, 5), 5, spatial_tokens=S)
    batch = collate([row_of(slowfast, clip)], shape)
    assert batch.video.shape == (2, 6, S, 7)
    expected = np.concatenate([normalized(slowfast).repeat(S, axis=1), normalized(clip)], axis=-1)
    np.testing.assert_allclose(batch.video[0, :4], expected, rtol=1e-6, atol=1e-7)
    assert not batch.video[0, 4:].any() and not batch.video[1].any()


def with_tokens(source, known=True):
    """The same source with S tokens in the stream "clip"; files that told of them, or did not."""
    for i, example in enumerate(source.examples):
        num_clips = len(example.streams["clip"])
        example.streams["clip"] = tokens_of(num_clips, 4, seed=i).reshape(num_clips, -1)
    source.streams["clip"] = 4 * S
    source.tokens = {"clip": S} if known else {}
    return source


@pytest.mark.parametrize("known", [True, False])
def test_batches_of_a_pipeline_have_the_stored_tokens(known):
    source = with_tokens(small_source(), known)
    config = small_config(**{"data.spatial_tokens": S})
    with contextlib.closing(train_pipeline(source, config)) as batches:
        batch = next(batches)
    num_clips = batch.video_mask.sum(1)
    for b, example in enumerate(batch.example):
        streams = source.examples[example].streams
        clip = streams["clip"][: num_clips[b]].reshape(-1, S, 4)
        slowfast = streams["slowfast"][: num_clips[b], None].repeat(S, axis=1)
        expected = np.concatenate([normalized(slowfast), normalized(clip)], axis=-1)
        np.testing.assert_allclose(batch.video[b, : num_clips[b]], expected, rtol=1e-6, atol=1e-7)


def test_batches_gathered_on_the_device_are_those_of_the_pipeline():
    source = with_tokens(small_source())
    config = small_config(**{"data.spatial_tokens": S})
    cache = DeviceCache(source, config, jax.device_put)
    widths = [stream.shape[1] for stream in cache.split.streams]
    assert widths == [6, 12]  # as stored: single tokens are repeated in the batch alone
    draws = evaluation_draws(source, config, cache)
    for (clips, draw), batch in zip(draws, evaluation_batches(source, config), strict=True):
        taken = jax.jit(cache.taking(clips))(cache.split, draw)
        assert taken.video.shape == batch.video.shape == (8, clips, S, 10)
        np.testing.assert_allclose(taken.video, batch.video, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(np.asarray(taken.video) == 0, batch.video == 0)


def test_the_memory_of_a_split_counts_all_tokens():
    plain, config = small_source(), small_config()
    clips = plain.num_clips.sum()
    extra = cached_bytes(with_tokens(small_source()), config) - cached_bytes(plain, config)
    assert extra == clips * 4 * (S - 1) * 2  # width, further tokens, bytes of float16


@pytest.mark.parametrize(
    ("changes", "known", "problem"),
    [
        (
            {"data.spatial_tokens": 2},
            True,
            r"'clip': .* width 4, or 8 for config.spatial_tokens=2, .* has 12: 3 tokens of 4 "
            r"\(config.spatial_tokens=3\)",
        ),
        ({}, True, r"'clip': .* width 4, .* has 12: 3 tokens of 4 \(config.spatial_tokens=3\)"),
        ({}, False, r"'clip': config.data.video_widths expects width 4, .* has 12$"),
        # 12 could be cut into 4 x 3, but the files said 3 x 4.
        ({"data.spatial_tokens": 4, "data.video_widths.clip": 3}, True, "12: 3 tokens of 4"),
        ({"data.spatial_tokens": 3, "data.video_widths.clip": 12}, True, "12: 3 tokens of 4"),
        (
            {"data.spatial_tokens": 5, "data.video_widths.clip": 12},
            False,
            r"each stream .* has one token a clip; build it from arrays \[L, 5, width\]",
        ),
    ],
)
def test_widths_and_tokens_that_the_data_do_not_have_are_refused(changes, known, problem):
    source = with_tokens(small_source(), known)
    with pytest.raises(ConfigError, match=problem):
        train_pipeline(source, small_config(**changes))


def test_tokens_may_be_taken_for_one_wide_clip_if_that_is_asked_for():
    config = small_config(**{"data.video_widths.clip": 12})
    with contextlib.closing(train_pipeline(with_tokens(small_source()), config)) as batches:
        assert next(batches).video.shape[2:] == (18,)


def test_less_than_one_token_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="spatial_tokens"):
        train(load_config("demo", {**TINY, "spatial_tokens": 0}), tmp_path, show_progress=False)


# Building


@pytest.fixture
def folder(tmp_path):
    """A custom data set: two videos of 5 clips, one stream of 3 tokens, one of a single token."""
    rows = []
    for qid, vid in enumerate(("a", "b")):
        for stream, array in (
            ("frames", tokens_of(5, 4, seed=qid)),
            ("motion", tokens_of(5, 6, seed=qid, tokens=1)[:, 0]),
        ):
            (tmp_path / f"video/{stream}").mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / f"video/{stream}/{vid}.npy", array)
        (tmp_path / "query").mkdir(exist_ok=True)
        np.save(tmp_path / f"query/{qid}.npy", np.ones((2, 3), np.float32))
        about = {"qid": qid, "query": "a cat", "vid": vid, "duration": 10}
        rows.append({**about, "relevant_windows": [[2, 4]]})
    write_json_lines(tmp_path / "train.jsonl", rows)
    write_json_lines(tmp_path / "val.jsonl", [{**row, "qid": row["qid"]} for row in rows])
    return tmp_path


def build_own(folder, data_dir, **options):
    options = {"clip_length": 2, "progress": False, **options}
    return build("custom/mine", folder, data_dir, **options)


def own_config(folder, **changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(f"custom:{folder}", {"clip_length": 2.0, **changes})


def test_files_of_tokens_are_built_flat_and_remembered(folder, tmp_path, capsys):
    built = build_own(folder, tmp_path / "data", progress=True)
    assert "spatial tokens a clip: frames 3, motion 1; " in capsys.readouterr().err
    metadata = json.loads((built / "metadata.json").read_text())
    assert metadata["streams"] == {"frames": 12, "motion": 6}
    assert metadata["tokens"] == {"frames": 3}
    source = open_split(tmp_path / "data", "custom/mine")
    assert (source.streams, source.tokens) == ({"frames": 12, "motion": 6}, {"frames": 3})
    for i in range(2):
        expected = tokens_of(5, 4, seed=i).reshape(5, 12)
        np.testing.assert_array_equal(source[i].streams["frames"], expected)

    config = complete_config(own_config(folder, spatial_tokens=3), source)
    assert dict(config.data.video_widths) == {"frames": 4, "motion": 6}
    with contextlib.closing(evaluation_batches(source, config)) as batches:
        assert next(batches).video.shape[2:] == (3, 10)
    # Without a word about them, tokens are not taken for one.
    config = complete_config(own_config(folder), source)
    with pytest.raises(ConfigError, match=r"12: 3 tokens of 4 \(config.spatial_tokens=3\)"):
        evaluation_batches(source, config)


def test_features_without_tokens_are_built_without_a_word_about_them(folder, tmp_path, capsys):
    for path in (folder / "video/frames").iterdir():
        np.save(path, np.load(path).reshape(5, 12))
    built = build_own(folder, tmp_path / "data", progress=True)
    assert "spatial tokens" not in capsys.readouterr().err
    assert "tokens" not in json.loads((built / "metadata.json").read_text())


@pytest.mark.parametrize(
    ("path", "shape", "options", "problem"),
    [
        ("video/frames/b.npy", (5, 2, 4), {}, r"expected \d tokens a row, .* got \d"),
        ("video/frames/b.npy", (5, 3, 5), {}, r"expected width \d, as most frames files have"),
        ("query/1.npy", (2, 1, 3), {}, r"1.npy: expected an array \[rows, width\], found"),
        ("video/frames/b.npy", (5, 3, 4), {"widths": "frames=12"}, "--widths=frames=4"),
    ],
)
def test_files_that_do_not_agree_are_refused(folder, tmp_path, path, shape, options, problem):
    np.save(folder / path, np.ones(shape, np.float16))
    with pytest.raises(DataError, match=problem):
        build_own(folder, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


@pytest.fixture
def parts_of(tmp_path):
    """`parts_of(S, width)` makes TVSum's I3D features, RGB and flow in a file each."""
    rows = [
        {"qid": v, "vid": v, "query": "a", "duration": 4, "domain": domain, "label": [[1], [2]]}
        for v, domain in (("a", "BK"), ("b", "BT"))
    ]
    paths = [tmp_path / f"tvsum_{split}.jsonl" for split in ("train", "val")]
    for path in paths:
        write_json_lines(path, rows)

    def make(tokens, width):
        folder = tmp_path / f"{tokens}x{width}"
        settings = {"dataset": "tvsum/i3d_clip", "widths": f"i3d={width},query=4"}
        options = {"spatial_tokens": tokens, "progress": False}
        return synthesize(folder, annotations=paths, **settings, **options)

    return make


def i3d_config(folder, width, tokens=S):
    given = {"data.dataset": "tvsum/i3d_clip", "data.video_streams": "i3d", "data.query_width": 4}
    given |= {"data.manual_dir": str(folder), "spatial_tokens": tokens}
    config = load_config("tvsum_slowfast_clip", given)
    with config.unlocked():
        config.data.video_widths.i3d = width
    return config


def test_parts_of_tokens_are_built_token_by_token(parts_of, tmp_path):
    config = i3d_config(parts_of(S, 4), 4)
    prepare_data(config, tmp_path / "data", show_progress=False)
    source = open_split(tmp_path / "data", "tvsum/i3d_clip")
    assert (source.streams, source.tokens) == ({"i3d": 12}, {"i3d": 3})
    with contextlib.closing(evaluation_batches(source, config)) as batches:
        assert next(batches).video.shape[2:] == (3, 4)


def test_parts_of_flat_tokens_are_never_cut_across_their_seam(parts_of, tmp_path):
    folder, data_dir = parts_of(1, 12), tmp_path / "data"
    problem = r"a_rgb.npy .*a_opt.npy: expected width 4 together, got 6 \+ 6: .* Or 3 tokens a row"
    with pytest.raises(DataError, match=problem):
        prepare_data(i3d_config(folder, 4), data_dir, show_progress=False)
    assert not data_dir.exists()
    # Who builds by hand may mean rows of one wide token.
    build("tvsum/i3d_clip", folder, data_dir, widths="i3d=12,query=4", progress=False)
    source = open_split(data_dir, "tvsum/i3d_clip")
    assert source.tokens == {"i3d": 1}
    with contextlib.closing(evaluation_batches(source, i3d_config(folder, 12, 1))) as batches:
        assert next(batches).video.shape[2:] == (12,)
    problem = r"'i3d': .* has 12, joined from parts of one token; .* must be arrays \[L, 3, width\]"
    with pytest.raises(ConfigError, match=problem):
        evaluation_batches(source, i3d_config(folder, 4))


def test_advice_about_one_s_own_data_without_tokens_can_be_followed(folder, tmp_path):
    for path in (folder / "video/frames").iterdir():
        np.save(path, np.load(path).reshape(5, 12))
    build_own(folder, tmp_path / "data")
    source = open_split(tmp_path / "data", "custom/mine")
    config = own_config(folder, spatial_tokens=S)
    problem = (
        r"build it from arrays \[L, 3, width\], or \[L, 3 \* width\] where config.data."
        "video_widths, in a configuration file, gives the width of a token"
    )
    with pytest.raises(ConfigError, match=problem):
        evaluation_batches(source, complete_config(config, source))
    with config.unlocked():
        config.data.video_widths.frames = 4
    with contextlib.closing(evaluation_batches(source, complete_config(config, source))) as batches:
        assert next(batches).video.shape[2:] == (3, 10)


# Synthesised features


def test_the_topic_of_a_clip_is_planted_in_one_of_its_tokens():
    rows = generate_annotations(3, seed=1)
    widths = {"clip": 64, "slowfast": 48}
    planted, empty = Planting(0, 4.0, 2.0), Planting(0, 0.0, 2.0)
    shown = []
    for row in rows:
        topics = planted._storyline([row])[0]
        places = planted.places([row], S)
        for name in widths:
            added = (
                planted.clips([row], widths, S)[name].astype(float)
                - empty.clips([row], widths, S)[name]
            )
            assert added.shape == (len(places), S, widths[name])
            changed = np.abs(added).max(axis=-1) > 1e-6
            expected = (np.arange(S) == places[:, None]) & topics.any(axis=1, keepdims=True)
            np.testing.assert_array_equal(changed, expected)  # the same place in both streams
        shown.append(places[topics.any(axis=1)])
    assert set(np.concatenate(shown)) == set(range(S))


def test_one_token_is_planted_as_if_there_were_no_tokens():
    rows = generate_annotations(2, seed=1)[:1]
    planting = Planting(0, 1.0, 2.0)
    features = planting.clips(rows, {"clip": 8})["clip"]
    assert features.ndim == 2
    topics, scene_of = planting._storyline(rows)
    vid = rows[0]["vid"]
    expected = planting._noise(planting._rng("clips", vid, "clip"), len(scene_of), 8)
    expected += 0.7 * planting._direction("video", f"{vid} clip", 8)
    scenes = planting._noise(planting._rng("scenes", vid, "clip"), scene_of[-1] + 1, 8)
    expected += 0.5 * scenes[scene_of]
    expected += topics @ planting._map("clip", 8)
    expected = expected * (10.0 / np.sqrt(1.0 + 0.7**2 + 0.5**2))
    np.testing.assert_array_equal(features, expected.astype(np.float16))


def test_synthesised_files_have_tokens_in_all_streams_and_their_number_is_remembered(tmp_path):
    options = {"widths": "slowfast=6,clip=4,query=4", "num_train": 2, "num_val": 1}
    synthesize(tmp_path / "one", **options, progress=False)
    synthesize(tmp_path / "many", **options, spatial_tokens=S, progress=False)
    settings = [
        json.loads((tmp_path / name / "synthetic.json").read_text())["settings"]
        for name in ("one", "many")
    ]
    assert settings[1] == {**settings[0], "spatial_tokens": S}
    vid = read_json_lines(tmp_path / "many/highlight_val_release.jsonl")[0]["vid"]
    for stream, width in (("slowfast", 6), ("clip", 4)):
        with np.load(tmp_path / f"many/{stream}_features/{vid}.npz") as file:
            assert file["features"].shape[1:] == (S, width)
    with pytest.raises(DataError, match="other settings"):
        synthesize(tmp_path / "many", **options, progress=False)
    with pytest.raises(ConfigError, match="spatial_tokens 0; expected 1 or more"):
        synthesize(tmp_path / "none", **options, spatial_tokens=0, progress=False)


def test_a_synthetic_data_set_of_other_tokens_is_noticed(tmp_path):
    def prepare(**changes):
        config = load_config("demo", {**TINY, "synthetic.num_train": 2, **changes})
        prepare_data(config, tmp_path, show_progress=False)

    prepare(spatial_tokens=S)
    prepare(spatial_tokens=S)
    for tokens in (1, 2):
        with pytest.raises(ConfigError, match=f"spatial_tokens=3, .* spatial_tokens={tokens};"):
            prepare(spatial_tokens=tokens)


# From end to end


@pytest.fixture(scope="module")
def spatial_run(tmp_path_factory):
    """A run of three tokens of CLIP, and of one of SlowFast, of two steps."""
    folder = tmp_path_factory.mktemp("spatial")
    manual_dir = folder / "features"
    widths = "slowfast=6,clip=4,query=4"
    options = {"num_train": 4, "num_val": 3, "spatial_tokens": S, "progress": False}
    synthesize(manual_dir, widths=widths, **options)
    for path in (manual_dir / "slowfast_features").glob("*.npz"):
        with np.load(path) as file:
            features = file["features"]
        np.savez(path, features=features[:, 0])
    short = {"train.epochs": 1, "train.batch_size": 2, "train.evaluate_untrained": False}
    config = load_config("demo", {**TINY, "spatial_tokens": S, **short})
    with config.unlocked():
        del config.synthetic
        config.data.manual_dir = str(manual_dir)
    numbers = train(config, folder / "run", show_progress=False)
    return folder / "run", manual_dir, numbers


@pytest.mark.slow
def test_a_model_of_tokens_is_trained_evaluated_and_asked(spatial_run, tmp_path):
    workdir, manual_dir, (numbers, numbers_nms) = spatial_run
    rows = read_json_lines(workdir / "train.jsonl")
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert evaluate(workdir, output=tmp_path / "again", show_progress=False) == (
        pytest.approx(numbers),
        pytest.approx(numbers_nms),
    )
    evaluated = {row["qid"]: row for row in read_json_lines(workdir / "predictions.jsonl")}

    predictor = Predictor.from_checkpoint(workdir)
    queries = manual_dir / "highlight_val_release.jsonl"
    options = {"features": manual_dir, "nms_threshold": None, "show_progress": False}
    summary = predict_file(predictor, queries, tmp_path / "answers.jsonl", **options)
    assert (summary.predicted, summary.bad) == (3, 0)
    for row in read_json_lines(tmp_path / "answers.jsonl"):
        for field in ("pred_relevant_windows", "pred_saliency_scores"):
            np.testing.assert_allclose(row[field], evaluated[row["qid"]][field], atol=2e-4)

    row = read_json_lines(queries)[0]
    found = predict_pair(
        predictor,
        [(s, manual_dir / f"{s}_features/{row['vid']}.npz") for s in ("slowfast", "clip")],
        manual_dir / f"clip_text_features/qid{row['qid']}.npz",
        duration=row["duration"],
        nms_threshold=None,
    )
    windows = evaluated[row["qid"]]["pred_relevant_windows"]
    np.testing.assert_allclose(found["pred_relevant_windows"], windows, atol=2e-4)

    with pytest.raises(ConfigError, match=r"no model of config.model.spatial_tokens=3"):
        to_torch_file(workdir, tmp_path / "model.ckpt")


@pytest.mark.slow
def test_a_predictor_takes_tokens_apart_or_side_by_side_and_pads_them_without_a_trace(spatial_run):
    predictor = Predictor.from_checkpoint(spatial_run[0])
    clip, slowfast = tokens_of(20, 4), tokens_of(20, 6, tokens=1)[:, 0]
    query = np.random.default_rng(0).standard_normal((4, 4), np.float32)
    expected = predictor({"slowfast": slowfast, "clip": clip}, query)
    assert expected.saliency.shape == (20,)
    repeated = slowfast[:, None].repeat(S, axis=1)
    longer = {"slowfast": tokens_of(33, 6, seed=5), "clip": tokens_of(33, 4, seed=5)}
    for video in (
        {"slowfast": slowfast, "clip": clip.reshape(20, 12)},
        {"slowfast": repeated, "clip": clip},
        {"slowfast": repeated.reshape(20, 18), "clip": clip.astype(np.float32)},
    ):
        found = predictor([video, longer], [query, query])[0]
        np.testing.assert_allclose(found.saliency, expected.saliency, atol=1e-5)
        np.testing.assert_allclose(found.moments, expected.moments, atol=1.5e-4)

    for video, problem in (
        ({"slowfast": slowfast, "clip": clip[:, :2]}, r"expected an array \[clips, 3, 4\], got"),
        ({"slowfast": slowfast, "clip": clip[:, 0]}, "one token a clip in each stream"),
        ({"slowfast": slowfast, "clip": clip.reshape(20, 12)[:, :11]}, "width 12, got 11"),
        ({"slowfast": slowfast[:10], "clip": clip}, "differ in length"),
        ({"slowfast": slowfast, "clip": np.full_like(clip, np.nan)}, "NaN or infinity in 20"),
    ):
        with pytest.raises(DataError, match=problem):
            predictor(video, query)

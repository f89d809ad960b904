"""The exported predictor: the same numbers as the evaluation, in a process that has jax alone."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.cli.main import main
from flashvtg_jax.config import config_to_json, load_config
from flashvtg_jax.data.batch import BatchShape, Row, collate, feature_widths
from flashvtg_jax.errors import CheckpointError, ConfigError, DataError, FlashVTGError
from flashvtg_jax.evaluation.evaluator import apply_and_decode
from flashvtg_jax.interop import exporting, stablehlo
from flashvtg_jax.interop.exporting import export_checkpoint, export_predictor
from flashvtg_jax.interop.stablehlo import load_exported
from flashvtg_jax.models import attention
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.models.init import clip_shape, init_params

TINY = {
    "model.hidden_dim": 8,
    "model.num_heads": 2,
    "model.ffn_dim": 16,
    "model.t2v_layers": 1,
    "model.num_dummies": 2,
    "model.num_mlp_layers": 2,
    "data.video_widths.slowfast": 6,
    "data.video_widths.clip": 4,
    "data.query_width": 5,
    "data.max_words": 6,
    "evaluation.max_moments": 20,
}
LENGTHS, WORDS = (21, 5, 1), (4, 6, 1)


@dataclasses.dataclass
class Exported:
    """A work directory, what was exported of it, and what the library itself finds."""

    workdir: Path
    folder: Path
    config: object
    streams: list
    queries: list
    expected: object  # what the evaluation finds

    def arrays(self, clips, words, fill=0.0):
        """Raw inputs by name, padded with `fill`."""

        def padded(parts, length):
            out = np.full((len(parts), length, *parts[0].shape[1:]), fill, np.float32)
            for b, part in enumerate(parts):
                out[b, : len(part)] = part
            return out

        names = self.config.data.video_streams
        inputs = {
            f"video_{name}": padded([row[k] for row in self.streams], clips)
            for k, name in enumerate(names)
        }
        inputs["num_clips"] = np.array(LENGTHS, np.int32)
        inputs["query"] = padded(self.queries, words)
        inputs["num_words"] = np.array(WORDS, np.int32)
        if self.config.loss.regression:
            inputs["duration"] = np.array(LENGTHS, np.float32) * self.config.clip_length
        return inputs

    def check(self, found):
        expected = self.expected
        saliency = np.zeros_like(found["saliency"])
        for b, length in enumerate(LENGTHS):
            saliency[b, :length] = expected.saliency[b, :length]
        np.testing.assert_allclose(found["saliency"], saliency, atol=1e-5)
        if expected.moments is not None:
            np.testing.assert_array_equal(found["num_moments"], expected.num_moments)
            np.testing.assert_allclose(found["moments"], expected.moments, atol=1e-5)
            np.testing.assert_allclose(found["moments_nms"], expected.suppressed, atol=1e-5)


def make_workdir(folder, config):
    """The best checkpoint of a run, with parameters moved off their symmetric initial values."""
    model = build_model(config.model)
    params = jax.jit(lambda key: init_params(model, key, *feature_widths(config.data)))(
        jax.random.key(0)
    )
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda a: (a + 0.2 * rng.standard_normal(a.shape)).astype(np.float32), params
    )
    checkpoints = Checkpoints(folder)
    meta = {"config": json.loads(config_to_json(config)), "data": {}, "selection": {}}
    checkpoints.save_best(7, jax.tree.map(jax.numpy.asarray, params), meta)
    checkpoints.close()
    return model, params


def make_batch(config, streams, queries):
    """The rows as the pipeline makes them: normalised and padded by numpy."""
    rows = [
        Row(
            [part.reshape(len(part), -1) for part in parts],
            query,
            len(parts[0]) * config.clip_length,
            windows=np.zeros((0, 2), np.float32),
            saliency_labels=np.zeros(len(parts[0]), np.float32),
            positive_clips=np.zeros(1, np.int32),
            negative_clips=np.zeros(1, np.int32),
            video_id=0,
            example=b,
        )
        for b, (parts, query) in enumerate(zip(streams, queries, strict=True))
    ]
    widths = tuple(config.data.video_widths[name] for name in config.data.video_streams)
    features = widths, config.data.query_width, config.data.spatial_tokens
    sizes = BatchShape(len(rows), max(LENGTHS), max(WORDS), 0, 1, *features)
    batch = collate(rows, sizes, normalize_query=config.data.normalize_query)
    return batch.replace(targets=None)


def make_exported(folder, name, **overrides):
    config = load_config(name, {**TINY, **overrides})
    model, params = make_workdir(folder / "run", config)
    rng = np.random.default_rng(2)
    widths = [config.data.video_widths[stream] for stream in config.data.video_streams]
    clips = [clip_shape(config.data.spatial_tokens, width) for width in widths]
    streams = [[3 * rng.standard_normal((n, *clip)) for clip in clips] for n in LENGTHS]
    queries = [3 * rng.standard_normal((n, config.data.query_width)) for n in WORDS]
    expected = jax.jit(functools.partial(apply_and_decode, model, config))(
        params, make_batch(config, streams, queries)
    )
    exported = Exported(
        folder / "run", folder / "exported", config, streams, queries, jax.device_get(expected)
    )
    export_checkpoint(exported.workdir, exported.folder)
    return exported


@pytest.fixture(scope="session")
def moments(tmp_path_factory):
    return make_exported(tmp_path_factory.mktemp("moments"), "demo")


@pytest.fixture(scope="session")
def highlights(tmp_path_factory):
    return make_exported(tmp_path_factory.mktemp("highlights"), "tvsum_slowfast_clip:BK")


def test_moments_of_any_length_and_padding_are_those_of_the_evaluation(moments):
    predictor = load_exported(moments.folder)
    moments.check(predictor(**moments.arrays(21, 6)))  # no multiple of the strides
    moments.check(predictor(**moments.arrays(40, 9, fill=np.nan)))  # padding is not read


@pytest.mark.slow
def test_a_window_holds_for_every_length_of_a_program(tmp_path):
    # A program of any length attends in blocks of 16 clips, the evaluation of 21 clips in one.
    exported = make_exported(tmp_path, "demo", **{"model.attention_window": 3})
    predictor = load_exported(exported.folder)
    exported.check(predictor(**exported.arrays(21, 6)))
    exported.check(predictor(**exported.arrays(40, 9, fill=np.nan)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"model.moment_head": "queries", "model.num_moment_queries": 4},
        {"model.num_dummies": 0, "model.score_refinement": "intra"},
    ],
    ids=["moment queries", "no dummies, one score"],
)
def test_variants_are_exported_for_any_numbers(tmp_path, fields):
    exported = make_exported(tmp_path, "demo", **fields)
    exported.check(load_exported(exported.folder)(**exported.arrays(40, 9, fill=np.nan)))


@pytest.mark.slow
def test_clips_of_spatial_tokens_are_exported(tmp_path):
    exported = make_exported(tmp_path, "demo", spatial_tokens=3)
    predictor = load_exported(exported.folder)
    about = {row["name"]: row["shape"] for row in predictor.manifest["inputs"]}
    assert about["video_clip"] == ["b", "l", 3, 4]
    exported.check(predictor(**exported.arrays(21, 6)))
    exported.check(predictor(**exported.arrays(40, 9, fill=np.nan)))
    arrays = exported.arrays(21, 6)
    with pytest.raises(DataError, match=r"video_clip: expected shape \(b, l, 3, 4\)"):
        predictor(**{**arrays, "video_clip": arrays["video_clip"][:, :, 0]})
    arrays["video_clip"][1, 2, 2] = np.nan
    with pytest.raises(DataError, match="video_clip: NaN or infinity in row 1"):
        predictor(**arrays)


def test_programs_for_many_platforms_leave_cudnn_out(monkeypatch):
    settings = {"model.attention_kernel": "cudnn", "model.dtype": "bfloat16"}
    config = load_config("demo", {**TINY, "model.hidden_dim": 16, **settings})
    model = build_model(config.model)
    params = jax.eval_shape(
        lambda key: init_params(model, key, *feature_widths(config.data)), jax.random.key(0)
    )
    flat = traverse_util.flatten_dict(params, sep="/")
    monkeypatch.setattr(attention, "fused_attention", None)
    program = exporting.export_program(model, config, flat, ("cpu", "cuda"), batch=2, clips=8)
    assert program.platforms == ("cpu", "cuda")


@pytest.mark.slow
def test_highlights_have_saliency_only(highlights):
    predictor = load_exported(highlights.folder)
    found = predictor(**highlights.arrays(21, 6))
    assert set(found) == {"saliency"}
    highlights.check(found)
    assert "duration" not in [about["name"] for about in predictor.manifest["inputs"]]


PLAIN = """
import json, pathlib, sys, jax, numpy as np
from jax import export

folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
program = export.deserialize((folder / manifest["programs"][0]["file"]).read_bytes())
predict = jax.jit(program.call)
with np.load(folder / manifest["params"]["file"]) as archive:
    params = jax.device_put(dict(archive))

inputs = np.load(sys.argv[2])
found = predict(params, *(inputs[about["name"]] for about in manifest["inputs"]))
assert not [name for name in sys.modules if name.split(".")[0] in ("flashvtg_jax", "flax")]
np.savez(sys.argv[3], **found)
"""


def test_plain_program_with_jax_alone_gives_the_same_numbers(moments, tmp_path):
    np.savez(tmp_path / "inputs.npz", **moments.arrays(24, 6))
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    command = [
        sys.executable,
        script,
        moments.folder,
        tmp_path / "inputs.npz",
        tmp_path / "out.npz",
    ]
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path)
    moments.check(dict(np.load(tmp_path / "out.npz")))


def test_fixed_sizes_are_filled_up(moments, tmp_path, capsys):
    output = tmp_path / "fixed"
    options = [f"--checkpoint={moments.workdir}", f"--output={output}"]
    assert main(["export", *options, "--buckets=12,30", "--batch_sizes=2"]) == 0
    assert "predictor.batch2.clips30.jax_export: " in capsys.readouterr().out
    predictor = load_exported(output)
    sizes = [(p["batch"], p["clips"], p["words"]) for p in predictor.manifest["programs"]]
    assert sizes == [(2, 12, 6), (2, 30, 6)]
    moments.check(predictor(**moments.arrays(21, 6)))  # three rows in programs of two
    with pytest.raises(DataError, match=r"31 clips and 6 words; .* at most 30 clips and 6 words"):
        predictor(**moments.arrays(31, 6))


def test_manifest_says_what_goes_in_and_out(moments):
    manifest = json.loads((moments.folder / "manifest.json").read_text())
    assert [(row["name"], row["dtype"], row["shape"]) for row in manifest["inputs"]] == [
        ("video_slowfast", "float32", ["b", "l", 6]),
        ("video_clip", "float32", ["b", "l", 4]),
        ("num_clips", "int32", ["b"]),
        ("query", "float32", ["b", "q", 5]),
        ("num_words", "int32", ["b"]),
        ("duration", "float32", ["b"]),
    ]
    exported = jax.export.deserialize(
        (moments.folder / manifest["programs"][0]["file"]).read_bytes()
    )
    # The program's own shapes are those of the manifest, and its outputs in that order.
    inputs = exported.in_avals[manifest["params"]["arrays"] :]
    shapes = [[str(size) for size in array.shape] for array in inputs]
    assert shapes == [list(map(str, row["shape"])) for row in manifest["inputs"]]
    outputs = [(str(array.dtype), [str(s) for s in array.shape]) for array in exported.out_avals]
    assert outputs == [(row["dtype"], list(map(str, row["shape"]))) for row in manifest["outputs"]]
    assert manifest["platforms"] == list(exported.platforms) == ["cpu", "cuda", "tpu"]
    assert manifest["calling_convention_version"] == exported.calling_convention_version
    assert (manifest["step"], manifest["clip_length"], manifest["streams"]) == (
        7,
        2.0,
        ["slowfast", "clip"],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_clip": np.zeros((3, 8, 5))}, r"video_clip: expected shape \(b, l, 4\)"),
        ({"query": np.zeros((3, 4, 9))}, r"query: expected shape \(b, q, 5\)"),
        ({"query": np.zeros((2, 4, 5))}, "query: .* with b=3.* got"),
        ({"num_clips": [0, 1, 1]}, "num_clips: from 1 to 21, got"),
        ({"num_words": [7, 1, 1]}, "num_words: from 1 to 6, got"),
        ({"num_words": [1.0, 1.0, 1.0]}, "num_words: expected whole numbers"),
        ({"query": np.full((3, 6, 5), np.nan)}, "query: NaN or infinity in row 0"),
        ({"other": 1}, "other: missing or unknown; expected video_slowfast, "),
    ],
)
def test_bad_arrays_are_named(moments, change, message):
    predictor = load_exported(moments.folder)
    with pytest.raises(DataError, match=message):
        predictor(**{**moments.arrays(21, 6), **change})


def copy_of(exported, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"platforms": ["tpu"]}, "an export for another platform: tpu, not cpu; .*--platforms=cpu"),
        ({"format": 9}, "by another version of flashvtg-jax .format 9"),
        ({"calling_convention_version": 99}, "calling convention 99; jax .* reads"),
        ({"programs": []}, "not the manifest of an export"),
    ],
)
def test_exports_of_other_platforms_and_versions_are_refused(moments, tmp_path, changes, message):
    folder = copy_of(moments, tmp_path)
    change_manifest(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_exported(folder)


def test_export_for_another_platform_alone_is_refused_on_this_one(moments, tmp_path):
    export_checkpoint(moments.workdir, tmp_path / "tpu", platforms=["tpu"])
    with pytest.raises(CheckpointError, match="an export for another platform: tpu, not cpu"):
        load_exported(tmp_path / "tpu")


@pytest.mark.parametrize("name", ["params.npz", "predictor.jax_export"])
def test_damaged_and_missing_files_are_named(moments, tmp_path, name):
    folder = copy_of(moments, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: its checksum is not the manifest's"):
        load_exported(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: No such file"):
        load_exported(folder)


def test_folder_without_a_manifest_is_no_export(tmp_path):
    with pytest.raises(CheckpointError, match=r"manifest\.json: no such file; flashvtg export"):
        load_exported(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not the manifest of an export"):
        load_exported(tmp_path)


@pytest.mark.slow
def test_earlier_export_stays_until_the_new_one_is_whole(moments, tmp_path, monkeypatch):
    folder = copy_of(moments, tmp_path)
    before = (folder / "manifest.json").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "sha256", fail)
        with pytest.raises(OSError, match="No space"):
            export_checkpoint(moments.workdir, folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    export_checkpoint(moments.workdir, folder, platforms=["cpu"])
    assert json.loads((folder / "manifest.json").read_text())["platforms"] == ["cpu"]
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_folder_with_something_else_is_not_touched(moments, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    options = [f"--checkpoint={moments.workdir}", f"--output={tmp_path}"]
    assert main(["export", *options]) == 1
    assert "holds something else than an export" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"platforms": ["gpu"]}, "no platform gpu; there are cpu, cuda, rocm, tpu"),
        ({"buckets": [0]}, "buckets=0; they are 1 or more"),
        ({"batch_sizes": [4, 4]}, "batch_sizes=4,4; .* each named once"),
    ],
)
def test_platforms_and_sizes_that_there_are_not_are_refused(moments, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        export_checkpoint(moments.workdir, tmp_path / "new", **options)


def test_missing_flatbuffers_is_said(moments, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    for call in (
        lambda: load_exported(moments.folder),
        lambda: export_checkpoint(moments.workdir, tmp_path / "new"),
    ):
        with pytest.raises(FlashVTGError, match=r"pip install 'flashvtg-jax\[export\]'"):
            call()


@pytest.mark.parametrize("strides", [(1.0,), (0.5, 1.0, 2.0), (1.0, 16.0)])
def test_every_pyramid_is_exported_with_any_length(strides, tmp_path):
    config = load_config("demo", {**TINY, "model.strides": strides})
    model = build_model(config.model)
    key = jax.random.key(0)
    params = jax.eval_shape(lambda key: init_params(model, key, *feature_widths(config.data)), key)
    flat = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), params)
    manifest = export_predictor(model, config, flat, tmp_path / "new", platforms=["cpu"])
    assert manifest["programs"][0]["clips"] == "l"
    assert stablehlo.load_exported(tmp_path / "new").platform == "cpu"


def test_a_model_of_resampled_features_is_refused(tmp_path):
    config = load_config("demo", {"data.resample": True})
    with pytest.raises(ConfigError, match=r"config\.data\.resample: .* Use flashvtg predict"):
        export_predictor(None, config, {}, tmp_path / "export")
    assert not (tmp_path / "export").exists()

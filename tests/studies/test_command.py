"""A study from its command to its table: what is trained, compared, kept, and refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from flashvtg_jax.cli.main import main
from flashvtg_jax.config import load_config, read_config, save_config
from flashvtg_jax.data.annotations import load_annotations
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.experiments.train import train
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from flashvtg_jax.metrics import evaluate_predictions
from flashvtg_jax.studies import running
from flashvtg_jax.studies.command import STUDIES, run_study
from flashvtg_jax.studies.running import check_variants, open_subject
from flashvtg_jax.studies.variants import (
    FULL,
    Variant,
    ablation_variants,
    choose,
    refinement_variants,
    robustness_variants,
    scale_variants,
)
from tests.studies.conftest import read_entries
from tests.training.conftest import TINY


def study(name: str, config, workdir: Path, **options) -> Path:
    options = {"num_seeds": 2, "command": "flashvtg study", "show_progress": False, **options}
    return run_study(name, config, workdir, workdir, **options)


def by_key(path: Path) -> dict:
    return {(e.variant, e.condition, e.level, e.metric): e for e in read_entries(path)}


# --- What is compared


def test_the_ablation_takes_each_part_away():
    config = load_config("qvhighlights_slowfast_clip")
    names = [variant.name for variant in ablation_variants(config)]
    assert names == [
        "full",
        "queries",
        "intra",
        "inter",
        "fixed",
        "no_clip_aware",
        "no_negatives",
        "no_dummies",
    ]
    # The InternVideo2 configuration has no clip-aware loss to take away.
    assert "no_clip_aware" not in [
        variant.name for variant in ablation_variants(load_config("qvhighlights_internvideo2"))
    ]


def test_highlight_detection_has_no_pyramid_to_take_away():
    variants = ablation_variants(load_config("tvsum_slowfast_clip"))
    assert [v.name for v in variants] == ["full", "no_clip_aware", "no_negatives", "no_dummies"]


def test_scales_go_from_one_to_six_around_the_configurations_own():
    variants = scale_variants(load_config("qvhighlights_slowfast_clip"))
    names = ["k1", "k2", "k3", "full", "k5", "k6", "upsampled"]
    assert [variant.name for variant in variants] == names
    assert [variant.level for variant in variants] == [1, 2, 3, 4, 5, 6, None]
    assert variants[5].overrides["model.strides"] == (1, 2, 4, 8, 16, 32)
    assert variants[6].overrides["model.strides"] == (0.5, 1, 2, 4, 8)
    own = scale_variants(load_config("demo", {"model.strides": (1.0, 4.0)}))
    assert own[0].name == "full" and own[0].level is None and len(own) == 8


def test_every_variant_of_every_study_is_a_configuration_that_can_be_trained():
    for name in ("qvhighlights_slowfast_clip", "charades_sta_vgg", "demo"):
        config = load_config(name)
        for kind in (ablation_variants, scale_variants, refinement_variants, robustness_variants):
            for variant in kind(config):
                changed = variant.config(config)
                running.check_config(changed)
                running.build_model(changed.model)


def test_a_single_stream_cannot_be_missing():
    variants = robustness_variants(load_config("charades_sta_vgg"))
    kinds = [variant.overrides.get("data.augment") for variant in variants]
    assert "noise" in kinds and "missing_stream" not in kinds


def test_the_full_model_is_always_among_the_chosen():
    config = load_config("demo")
    variants = ablation_variants(config)
    assert [v.name for v in choose(variants, ("queries",), config)] == ["full", "queries"]
    with pytest.raises(ConfigError, match="no variant 'querries' in this study; there are full, q"):
        choose(variants, ("querries",), config)


def test_a_variant_that_changes_nothing_is_left_out():
    config = load_config("demo", {"loss.negative_pairs": False})
    again = Variant("again", "again", {"loss.negative_pairs": False})
    assert choose([FULL, again], None, config) == [FULL]


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (ablation_variants, {"model.moment_head": "queries"}, "moment_head='queries': the study"),
        (scale_variants, {"model.moment_head": "queries"}, "a model of 'pyramid'"),
        (refinement_variants, {"model.score_refinement": "fixed"}, "a model of 'learned'"),
        (robustness_variants, {"data.augment": "noise"}, "trained on clean videos"),
    ],
)
def test_a_configuration_that_is_itself_a_variant_is_refused(make, fields, message):
    with pytest.raises(ConfigError, match=message):
        make(load_config("demo", fields))


def test_a_level_is_upsampled_below_the_finest_there_is():
    config = load_config("demo", {"model.strides": (0.5, 1.0, 2.0)})
    finer = scale_variants(config)[-1]
    assert finer.overrides == {"model.strides": (0.25, 0.5, 1, 2)}
    assert finer.label == "with stride 1/4"


# --- What makes no sense


@pytest.mark.parametrize(
    ("name", "fields", "options", "message"),
    [
        ("ablation", {}, {"num_seeds": 1}, "--seeds=1: an interval needs"),
        ("ablation", {}, {"num_seeds": 0, "intervals": False}, "--seeds=0"),
        ("ablation", {"seeds": (1, 2)}, {}, "config.seeds is for flashvtg train"),
        ("scales", {}, {"names": ("k7",)}, "no variant 'k7'"),
        (
            "ablation",
            {"model__attention_window": 4},
            {"names": ("queries",)},
            "variant 'queries': .*attention_window=4 makes no sense",
        ),
        ("long_videos", {}, {"split": "val"}, "makes videos of its own"),
        ("ablation", {}, {"split": "train"}, "--split=train: variants are compared on what they"),
    ],
)
def test_studies_that_make_no_sense_are_refused_before_training(
    tiny_config, tmp_path, name, fields, options, message
):
    with pytest.raises(ConfigError, match=message):
        study(name, tiny_config(**fields), tmp_path, **options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", [n for n, s in STUDIES.items() if s.needs_moments])
def test_studies_of_moments_refuse_highlight_detection(tmp_path, name):
    with pytest.raises(ConfigError, match="is about moments, and tvsum_slowfast_clip learns none"):
        study(name, load_config("tvsum_slowfast_clip"), tmp_path)


def test_more_scales_than_the_shortest_video_has_are_refused(tiny_config, tmp_path):
    # The shortest of the tiny videos has between 60 and 75 clips.
    subject = open_subject(tiny_config(), tmp_path, 2, show_progress=False)
    seven = Variant("k7", "K = 7", {"model.strides": tuple(2.0**k for k in range(8))})
    with pytest.raises(ConfigError, match=r"'k7'.* stride 128, but the shortest video has [67]"):
        check_variants(subject, [FULL, seven])
    check_variants(subject, scale_variants(subject.config))


def test_a_pyramid_whose_top_no_video_reaches_is_refused(tiny_config, tmp_path):
    config = tiny_config(model__strides=(1.0, 128.0))
    with pytest.raises(ConfigError, match=r"the longest video has 75 clips, .* stride 128"):
        train(config, tmp_path, show_progress=False)


def test_a_split_without_labels_is_refused(tmp_path):
    widths = {"slowfast": 6, "clip": 4, "query": 4}
    features = synthesize(tmp_path / "f", widths=widths, num_train=3, num_val=3, progress=False)
    rows = load_annotations(features / "highlight_val_release.jsonl", clip_length=2.0)
    hidden = ("relevant_windows", "relevant_clip_ids", "saliency_scores")
    bare = [{key: row[key] for key in row if key not in hidden} for row in rows]
    write_json_lines(features / "highlight_test_release.jsonl", bare)
    build("qvhighlights/slowfast_clip", features, tmp_path / "d", widths=widths, progress=False)
    fields = {key: value for key, value in TINY.items() if not key.startswith("synthetic")}
    config = load_config("demo", {**fields, "data.data_dir": str(tmp_path / "d")})
    with config.unlocked():
        del config.synthetic
    with pytest.raises(DataError, match=r"has no labels to compare variants by; .*--split=val"):
        study("ablation", config, tmp_path / "w", split="test")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ablation", "--config=demo"],
        ["ablation", "--config=demo", "--workdir=w", "--annotations=a.jsonl"],
        ["ablation", "--config=demo", "--workdir=w", "--clip_length=2"],
        ["label_correlation", "--annotations=a.jsonl"],
        ["label_correlation", "--annotations=a.jsonl", "--config=demo", "--output=w"],
    ],
)
def test_commands_that_lack_something_say_what(arguments, capsys):
    assert main(["study", *arguments]) == 2
    assert f"flashvtg study {arguments[0]}: give --" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["--annotations=a.jsonl", "--split=val", "--no_intervals"], "--split --no_intervals"),
        (["--annotations=a.jsonl", "--config.seed=1"], "--config.seed=1"),
        (["--config=demo", "--clip_length=2"], "--clip_length"),
    ],
)
def test_options_that_the_study_of_labels_does_not_have_are_named(arguments, unused, capsys):
    assert main(["study", "label_correlation", "--output=w", *arguments]) == 2
    assert f"{unused} cannot be used here" in capsys.readouterr().err


def test_a_work_directory_of_another_configuration_is_refused_before_training(
    tiny_config, tmp_path
):
    config = tiny_config()
    subject = open_subject(config, tmp_path, 2, show_progress=False)
    variants = scale_variants(subject.config)
    last = tmp_path / "runs" / "upsampled" / f"seed{config.seed}"
    (last / "best" / "3").mkdir(parents=True)
    other = tiny_config(optimizer__learning_rate=1.0, data__data_dir=subject.config.data.data_dir)
    save_config(other, last / "config.json")
    with pytest.raises(ConfigError, match=r"upsampled.* holds a run of another configuration"):
        check_variants(subject, variants)


def test_results_that_cannot_be_written_are_refused_before_training(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        run_study(
            "ablation",
            tiny_config(),
            tmp_path / "w",
            tmp_path / "file",
            num_seeds=2,
            command="",
            show_progress=False,
        )
    assert not (tmp_path / "w").exists()


def test_one_seed_on_the_command_line(tmp_path, capsys):
    command = ["study", "ablation", "--config=demo", f"--workdir={tmp_path}", "--seeds=1"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("flashvtg study: --seeds=1: an interval needs") and error[-1] == "\n"
    assert not any(tmp_path.iterdir())


# --- What is trained


@pytest.fixture(scope="module")
def refined(tmp_path_factory, tiny_data):
    """The configuration and work directory of a study of refinement, and its table.

    Other studies may add to the directory.
    """
    config = load_config("demo", {**TINY, "data.data_dir": str(tiny_data), "train.epochs": 2})
    workdir = tmp_path_factory.mktemp("refined")
    return config, workdir, study("refinement", config, workdir, names=("intra",))


def times(workdir: Path) -> dict[Path, int]:
    """When each run was last trained."""
    return {path: path.stat().st_mtime_ns for path in (workdir / "runs").rglob("train.jsonl")}


@pytest.mark.slow
def test_a_study_trains_and_compares(refined):
    config, workdir, path = refined
    page = path.read_text()
    assert "| learned mix of scores (reference) |" in page and "refinement.png" in page
    assert "- intra-scale score only (`intra`): `--config.model.score_refinement=intra`" in page
    assert "Compared on the 6 queries of split `val`" in page
    assert (workdir / "refinement.png").stat().st_size > 10_000
    entries = by_key(workdir / "refinement.csv")
    assert {key[0] for key in entries} == {"learned mix of scores", "intra-scale score only"}

    # The metrics are those of the runs, each of its variant.
    annotations = open_subject(config, workdir, 2, show_progress=False).source.annotations()
    for name, label in (("full", "learned mix of scores"), ("intra", "intra-scale score only")):
        folders = sorted((workdir / "runs" / name).glob("seed*"))
        assert [folder.name for folder in folders] == ["seed2024", "seed2025"]
        for folder in folders:
            trained = read_config(folder / "config.json")
            assert trained.model.score_refinement == ("learned" if name == "full" else name)
        of_seeds = [
            evaluate_predictions(read_json_lines(folder / "predictions.jsonl"), annotations)
            for folder in folders
        ]
        for metric in ("MR-full-mAP", "MR-full-R1@0.5"):
            mean = np.mean([metrics[metric] for metrics in of_seeds])
            np.testing.assert_allclose(entries[label, "", None, metric].mean, mean, atol=0.01)
    assert entries["intra-scale score only", "", None, "MR-full-mAP"].difference is not None


@pytest.mark.slow
def test_another_study_takes_the_same_runs_and_trains_what_is_missing(refined):
    config, workdir, path = refined
    before, page = times(workdir), path.read_bytes()
    study("ablation", config, workdir, names=("intra", "fixed"))
    after = times(workdir)
    assert {path.parent.parent.name for path in after.keys() - before.keys()} == {"fixed"}
    assert {path: after[path] for path in before} == before
    assert study("refinement", config, workdir, names=("intra",)).read_bytes() == page


@pytest.mark.slow
def test_robustness_meets_every_kind_at_every_strength(refined):
    config, workdir, _ = refined
    options = {"names": ("augment_noise",), "num_seeds": 1, "intervals": False}
    before = times(workdir)
    study("robustness", config, workdir, **options)
    new = [path.parent for path in times(workdir).keys() - before.keys()]
    assert new == [workdir / "runs" / "augment_noise" / "seed2024"]
    entries = by_key(workdir / "robustness.csv")
    strengths = {key[2] for key in entries if key[:2] == ("trained with it", "noise")}
    assert strengths == {0.0, 0.1, 0.2, 0.4, 0.6, 0.8}
    assert "| trained clean (reference) | noise |" in (workdir / "robustness.md").read_text()
    kept = sorted((workdir / "runs").rglob("study/val/noise_*.json"))
    assert len(kept) == 2 * 5  # models, strengths
    written = [path.stat().st_mtime_ns for path in kept]
    study("robustness", config, workdir, **options)
    assert [path.stat().st_mtime_ns for path in kept] == written


@pytest.mark.slow
def test_a_domain_set_is_compared_over_its_domains(tmp_path):
    rows = [
        {
            "qid": f"{domain}{n}",
            "query": f"about {domain}",
            "vid": f"{domain}_v{n}",
            "duration": 18.0,
            "domain": domain,
            "label": [[1 + (clip + n) % 5, 1 + clip % 3] for clip in range(9)],
        }
        for domain in ("BK", "BT")
        for n in range(6)
    ]
    for split, part in (("train", [0, 1, 2, 3]), ("val", [4, 5])):
        chosen = [row for row in rows if int(row["qid"][2:]) in part]
        write_json_lines(tmp_path / f"tvsum_{split}.jsonl", chosen)
    widths = {"slowfast": 6, "clip": 4, "query": 4}
    features = synthesize(
        tmp_path / "f",
        annotations=[tmp_path / f"tvsum_{split}.jsonl" for split in ("train", "val")],
        dataset="tvsum/slowfast_clip",
        widths=widths,
        progress=False,
    )
    config = load_config(
        "tvsum_slowfast_clip",
        {
            **{key: v for key, v in TINY.items() if key.startswith("model.") and "str" not in key},
            "data.video_widths.slowfast": 6,
            "data.video_widths.clip": 4,
            "data.query_width": 4,
            "data.manual_dir": str(features),
            "data.data_dir": str(tmp_path / "d"),
            "data.domains": ("BK", "BT"),
            "train.epochs": 1,
        },
    )
    options = {"num_seeds": 1, "intervals": False}
    study("ablation", config, tmp_path / "w", names=("full",), **options)
    entries = by_key(tmp_path / "w" / "ablation.csv")
    full = entries["full model", "", None, "HD-mAP"]
    metrics = json.loads((tmp_path / "w" / "runs" / "full" / "metrics.json").read_text())
    np.testing.assert_allclose(full.mean, metrics["HD-mAP"], atol=0.01)
    assert full.queries == 4

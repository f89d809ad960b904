"""Several seeds, or domains, in one command: each is trained as it would have been alone."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.distributed.stop_signal import Interrupted, StopSignal
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.experiments import train as train_module
from flashvtg_jax.experiments.evaluate import evaluate
from flashvtg_jax.experiments.runs import find_runs, plan_runs, summarize, write_summary
from flashvtg_jax.experiments.train import train
from flashvtg_jax.json_lines import write_json_lines
from flashvtg_jax.training.trainer import Trainer
from tests.training.conftest import TINY

pytestmark = pytest.mark.slow

SEEDS = (7, 8, 9)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(workdir: Path) -> np.ndarray:
    return np.array([row["loss"] for row in read_lines(workdir / "train.jsonl")])


# Of three domains the first two have batches of equal lengths, the third has longer videos.
DOMAINS = {"BK": (9, 5, 6, 8), "BT": (9, 9, 7, 7), "VU": (16, 15, 12, 5)}
SMALL = {
    **{f"model.{name}": 1 for name in ("t2v_layers", "enc_layers", "dummy_layers")},
    **{f"model.{name}": 1 for name in ("n_input_proj", "num_mlp_layers")},
    "model.hidden_dim": 8,
    "model.num_heads": 2,
    "model.ffn_dim": 16,
    "data.video_widths.slowfast": 6,
    "data.video_widths.clip": 4,
    "data.query_width": 4,
    "data.num_threads": 1,
    "train.epochs": 6,
    "train.evaluate_every_epochs": 2,
    "train.checkpoint_every_epochs": 3,
    "train.evaluate_untrained": True,
}


@pytest.fixture(scope="module")
def highlights(tmp_path_factory):
    """A folder with a small data set in TVSum's format: four training videos in each domain."""
    folder = tmp_path_factory.mktemp("tvsum")
    rng = np.random.default_rng(0)

    def row(domain, number, clips):
        return {
            "qid": f"{domain}{number}",
            "query": f"{domain} video {number}",
            "vid": f"{domain}{number}",
            "duration": clips,
            "domain": domain,
            "relevant_windows": None,
            "label": rng.integers(1, 6, (clips, 3)).tolist(),
        }

    for split, numbers in (("train", range(4)), ("val", (4,))):
        rows = [
            row(domain, i, lengths[i] if split == "train" else 11)
            for domain, lengths in DOMAINS.items()
            for i in numbers
        ]
        write_json_lines(folder / f"tvsum_{split}.jsonl", rows)
    widths = "slowfast=6,clip=4,query=4"
    synthesize(
        folder,
        annotations=[folder / "tvsum_train.jsonl", folder / "tvsum_val.jsonl"],
        dataset="tvsum/slowfast_clip",
        widths=widths,
        progress=False,
    )
    build("tvsum/slowfast_clip", folder, folder / "data", widths=widths, progress=False)
    return folder / "data"


@pytest.fixture
def domain_config(highlights):
    def make(domains=tuple(DOMAINS), **overrides):
        fields = {key.replace("__", "."): value for key, value in overrides.items()}
        where = {"data.domains": domains, "data.data_dir": str(highlights)}
        return load_config("tvsum_slowfast_clip", {**SMALL, **where, **fields})

    return make


def test_domains_share_a_trainer_and_each_ends_as_it_would_alone(
    domain_config, tmp_path, monkeypatch
):
    built = []
    original = Trainer.__init__

    def counted(self, *arguments):
        built.append(self)
        original(self, *arguments)

    monkeypatch.setattr(Trainer, "__init__", counted)
    numbers, numbers_nms = train(domain_config(), tmp_path / "all", show_progress=False)
    assert len(built) == 1
    assert numbers_nms == {}
    assert set(numbers) == {"HD-mAP", "HD-mAP-BK", "HD-mAP-BT", "HD-mAP-VU"}
    mean = sum(numbers[f"HD-mAP-{domain}"] for domain in DOMAINS) / 3
    assert numbers["HD-mAP"] == pytest.approx(mean, abs=0.01)

    alone, _ = train(domain_config(("BT",)), tmp_path / "one", show_progress=False)
    assert alone == {"HD-mAP": numbers["HD-mAP-BT"], "HD-mAP-BT": numbers["HD-mAP-BT"]}
    folders = [tmp_path / name / "BT" / "seed2024" for name in ("all", "one")]
    np.testing.assert_array_equal(*map(losses, folders))
    rows = [read_lines(folder / "predictions.jsonl") for folder in folders]
    assert [row["vid"] for row in rows[0]] == ["BT4"]
    assert set(rows[0][0]) == {"qid", "query", "vid", "pred_saliency_scores"}
    assert len(rows[0][0]["pred_saliency_scores"]) == 11
    assert not (folders[0] / "predictions_nms.jsonl").exists()
    assert evaluate(tmp_path / "all", show_progress=False)[0] == numbers


def test_a_domain_that_the_data_lack_is_named_with_those_there_are(domain_config, tmp_path):
    with pytest.raises(DataError, match=r"no domain 'XX'.*BK, BT, VU"):
        train(domain_config(("BK", "XX")), tmp_path, show_progress=False)
    assert not list(tmp_path.iterdir())


def test_a_selection_by_a_domain_that_is_not_trained_is_refused(domain_config, tmp_path):
    config = domain_config(("BK",), train__selection_metrics=("HD-mAP-VU",))
    with pytest.raises(ConfigError, match="'HD-mAP-VU', which this data set does not give"):
        train(config, tmp_path, show_progress=False)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, tiny_data):
    """The tiny data set without the settings it was synthesised with: any seed may train on it."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "qvhighlights").symlink_to(tiny_data / "qvhighlights")
    return folder


@pytest.fixture
def make_config(tiny_config, data_dir):
    def make(**overrides):
        config = tiny_config(data__data_dir=str(data_dir), **overrides)
        with config.unlocked():
            del config.synthetic
        return config

    return make


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory, tiny_data, data_dir):
    """A work directory in which two seeds were trained."""
    workdir = tmp_path_factory.mktemp("two_seeds")
    config = load_config(
        "demo",
        {**TINY, "data.data_dir": str(data_dir), "seeds": SEEDS[:2]},
    )
    with config.unlocked():
        del config.synthetic
    return workdir, train(config, workdir, show_progress=False)


def test_runs_are_domains_times_seeds_with_a_folder_each(make_config):
    config = make_config(seeds=(1, 2), data__domains=("a", "b"))
    runs = plan_runs(config, Path("runs"))
    assert [run.name for run in runs] == ["a/seed1", "a/seed2", "b/seed1", "b/seed2"]
    assert runs[2].config.data.domains == ("b",)
    assert (runs[2].config.seed, runs[2].config.seeds) == (1, ())
    assert runs[2].workdir == Path("runs/b/seed1")
    assert [run.name for run in plan_runs(make_config(data__domains=("a",)), Path())] == [
        "a/seed2024"
    ]
    assert [run.name for run in plan_runs(make_config(seeds=(5,)), Path())] == ["seed5"]
    assert [run.name for run in plan_runs(make_config(), Path())] == [""]


def test_a_seed_after_another_equals_one_trained_alone(two_seeds, make_config, tmp_path):
    train(make_config(seed=SEEDS[1]), tmp_path, show_progress=False)
    folder = two_seeds[0] / f"seed{SEEDS[1]}"
    for name in ("train.jsonl", "evaluations.jsonl", "predictions.jsonl"):
        assert (folder / name).read_text() == (tmp_path / name).read_text()
    assert [row["step"] for row in read_lines(folder / "evaluations.jsonl")] == [0, 6, 12]


def test_metrics_of_several_runs_are_their_mean_with_the_deviation(two_seeds):
    workdir, (numbers, numbers_nms) = two_seeds
    content = json.loads((workdir / "metrics.json").read_text())
    each = [content["runs"][f"seed{seed}"]["MR-full-mIoU"] for seed in SEEDS[:2]]
    assert content["seeds"] == list(SEEDS[:2])
    assert (
        content["MR-full-mIoU"] == numbers["MR-full-mIoU"] == pytest.approx(sum(each) / 2, abs=5e-3)
    )
    assert content["std"]["MR-full-mIoU"] == pytest.approx(
        abs(each[0] - each[1]) / 2**0.5, abs=5e-3
    )
    assert content["with_nms"] == numbers_nms


def test_runs_that_are_finished_are_not_repeated(two_seeds, make_config, monkeypatch):
    workdir, results = two_seeds
    monkeypatch.setattr(Trainer, "train", None)  # calling it would fail
    assert train(make_config(seeds=SEEDS[:2]), workdir, show_progress=False) == results
    with pytest.raises(TypeError):
        train(make_config(seeds=SEEDS[:2], train__epochs=5), workdir, show_progress=False)
    with pytest.raises(TypeError):
        train(make_config(seeds=SEEDS), workdir, show_progress=False)


def test_evaluating_the_folder_evaluates_each_run(two_seeds, tmp_path):
    workdir, results = two_seeds
    assert find_runs(workdir) == ["seed7", "seed8"]
    assert evaluate(workdir, output=tmp_path, show_progress=False) == results
    for seed in SEEDS[:2]:
        path = Path(f"seed{seed}") / "metrics.json"
        assert json.loads((tmp_path / path).read_text())["MR-full-mAP"] == pytest.approx(
            json.loads((workdir / path).read_text())["MR-full-mAP"], abs=0.02
        )


def test_an_interrupted_seed_is_resumed_and_a_finished_one_kept(two_seeds, make_config, tmp_path):
    config = make_config(seeds=SEEDS[:2])

    class Impatient(StopSignal):
        calls = 0

        def requested(self):
            self.calls += 1
            if self.calls == 40:  # during the second seed
                self.signal = signal.SIGTERM
            return self.signal is not None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "StopSignal", Impatient)
        with pytest.raises(Interrupted, match="SIGTERM at step"):
            train(config, tmp_path, show_progress=False)
    assert (tmp_path / "seed7" / "metrics.json").exists()
    assert not (tmp_path / "seed8" / "metrics.json").exists()
    assert train(config, tmp_path, show_progress=False) == two_seeds[1]
    for seed in SEEDS[:2]:
        np.testing.assert_array_equal(
            losses(tmp_path / f"seed{seed}"), losses(two_seeds[0] / f"seed{seed}")
        )


def test_numbers_are_means_over_domains_and_then_over_seeds():
    results = {
        f"{domain}/seed{seed}": {"HD-mAP": value, f"HD-mAP-{domain}": value}
        for domain, seed, value in [("a", 1, 10.0), ("b", 1, 40.0), ("a", 2, 20.0), ("b", 2, 60.0)]
    }
    # 15 / sqrt(2): the sample deviation of 25 and 40.
    expected = {
        "HD-mAP": (32.5, 15 / 2**0.5),
        "HD-mAP-a": (15.0, 10 / 2**0.5),
        "HD-mAP-b": (50.0, 20 / 2**0.5),
    }
    found = summarize(results)
    assert found.keys() == expected.keys()
    for key, numbers in expected.items():
        assert found[key] == pytest.approx(numbers)
    # A seed that lacks a domain would move the mean over domains.
    found = summarize(results | {"a/seed3": {"HD-mAP": 90.0, "HD-mAP-a": 90.0}})
    assert found["HD-mAP"] == pytest.approx(expected["HD-mAP"])
    assert found["HD-mAP-a"][0] == pytest.approx(40.0)


def test_the_summary_counts_the_runs_that_were_scored_on_the_split(tmp_path):
    for name, split, value in (
        ("a/seed1", "val", 10.0),
        ("b/seed1", "val", 40.0),
        ("c/seed1", "test", 1.0),
    ):
        (tmp_path / name / "best").mkdir(parents=True)
        numbers = {"HD-mAP": value, f"HD-mAP-{name[0]}": value}
        (tmp_path / name / "metrics.json").write_text(
            json.dumps({"split": split, "step": 3, **numbers})
        )
    (tmp_path / "d" / "seed1" / "best").mkdir(parents=True)  # not finished
    numbers, numbers_nms = write_summary(tmp_path, "val", find_runs(tmp_path))
    assert numbers == {"HD-mAP": 25.0, "HD-mAP-a": 10.0, "HD-mAP-b": 40.0}
    assert numbers_nms == {}
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["runs"] == {
        "a/seed1": {"HD-mAP": 10.0, "HD-mAP-a": 10.0},
        "b/seed1": {"HD-mAP": 40.0, "HD-mAP-b": 40.0},
    }
    assert "std" not in content and "with_nms" not in content


def test_a_folder_is_for_a_single_run_or_for_several(two_seeds, make_config, tmp_path):
    with pytest.raises(ConfigError, match="holds the runs of several seeds or domains"):
        train(make_config(), two_seeds[0], show_progress=False)
    (tmp_path / "best").mkdir()
    with pytest.raises(ConfigError, match="holds a single run"):
        train(make_config(seeds=SEEDS), tmp_path, show_progress=False)

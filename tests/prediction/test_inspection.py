"""How a model came to its answer: numbers that are evaluation's, and a figure that shows them."""

import contextlib
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

import flashvtg_jax as fv
from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.cli.main import main
from flashvtg_jax.config import config_to_json, load_config
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.preparation import prepare_data
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.errors import CheckpointError, DataError
from flashvtg_jax.experiments.evaluate import evaluate
from flashvtg_jax.figures.inspected import Inspection, Level
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from flashvtg_jax.models.init import init_params
from flashvtg_jax.prediction.inspection import name_words
from tests.figures.test_figures import check_layout, drawn, shown_texts, tick_texts
from tests.training.conftest import TINY

WIDTHS = {"video": 10, "query": 4}
VARIANTS = {
    "full": {},
    "one level, inter-scale alone": {
        "model.strides": (1.0,),
        "model.score_refinement": "inter",
    },
    "three levels, fixed mix": {  # one below a clip, one longer than the video
        "model.strides": (0.5, 1.0, 128.0),
        "model.score_refinement": "fixed",
    },
    "no dummies, intra-scale alone, four words": {
        "model.num_dummies": 0,
        "loss.lw_wattn": 0.0,
        "model.score_refinement": "intra",
        "data.max_words": 4,
    },
    "moment queries": {"model.moment_head": "queries", "model.num_moment_queries": 5},
}
# The first one stands for all where tests are to be quick.
EACH = [pytest.param(name, marks=[pytest.mark.slow] if VARIANTS[name] else []) for name in VARIANTS]


def write_run(workdir, config):
    """The work directory of a run whose parameters are those it began with."""
    model = fv.build_model(config.model)
    params = init_params(model, jax.random.key(3), *WIDTHS.values())
    meta = {"config": json.loads(config_to_json(config)), "selection": {}}
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save_best(12, params, meta)
    return workdir


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Folder with a tiny data set, built once."""
    folder = tmp_path_factory.mktemp("data")
    prepare_data(load_config("demo", TINY), folder, show_progress=False)
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    """Work directories by name of the variant, each made when it is first asked for."""
    made = {}

    def run(name="full"):
        if name not in made:
            fields = {**TINY, "data.data_dir": data_dir, **VARIANTS[name]}
            made[name] = write_run(tmp_path_factory.mktemp("run"), load_config("demo", fields))
        return made[name]

    return run


@pytest.fixture(scope="module")
def inspected(runs):
    """A query as each variant sees it."""
    return functools.cache(lambda name: fv.inspect_query(runs(name), 10))


# --- numbers


@pytest.mark.slow
def test_numbers_are_those_of_evaluation(runs, tmp_path):
    evaluate(runs(), output=tmp_path, show_progress=False)
    plain = read_json_lines(tmp_path / "predictions.jsonl")
    suppressed = read_json_lines(tmp_path / "predictions_nms.jsonl")
    shortest = min(plain, key=lambda row: len(row["pred_saliency_scores"]))
    for qid in (plain[0]["qid"], shortest["qid"]):
        row, kept = (next(row for row in rows if row["qid"] == qid) for rows in (plain, suppressed))
        inspection = fv.inspect_query(runs(), qid)
        assert (inspection.qid, inspection.query, inspection.vid) == (
            row["qid"],
            row["query"],
            row["vid"],
        )
        assert (inspection.split, inspection.run, inspection.step) == ("val", "demo", 12)
        np.testing.assert_allclose(inspection.saliency, row["pred_saliency_scores"], atol=1e-4)
        np.testing.assert_allclose(inspection.moments, row["pred_relevant_windows"], atol=2e-4)
        expected = [moment for moment in kept["pred_relevant_windows"] if moment[2] > 0]
        np.testing.assert_allclose(inspection.kept_moments, expected, atol=2e-4)


@pytest.mark.parametrize("name", EACH)
def test_every_kept_moment_is_traced_to_the_point_that_has_its_score(inspected, name):
    inspection = inspected(name)
    assert len(inspection.origins) == len(inspection.kept_moments) > 0
    assert len({tuple(origin) for origin in inspection.origins}) == len(inspection.origins)
    for (level, point), moment in zip(inspection.origins, inspection.kept_moments, strict=True):
        if inspection.query_moments is not None:
            np.testing.assert_allclose(inspection.query_moments[point, 2], moment[2], atol=1e-4)
            window = np.round(inspection.query_moments[point, :2] / 2) * 2
            np.testing.assert_allclose(window, moment[:2], atol=1e-4)
        else:
            score = 1 / (1 + np.exp(-inspection.levels[level].logits[point]))
            np.testing.assert_allclose(score, moment[2], atol=1e-4)


@pytest.mark.parametrize("name", EACH)
def test_inspection_has_what_the_model_has(inspected, name):
    inspection = inspected(name)
    clips, words = len(inspection.saliency), len(inspection.words)
    assert inspection.attention.shape == (clips, words)
    on_dummies = 0.0 if "no dummies" in name else inspection.dummy_attention
    np.testing.assert_allclose(inspection.attention.sum(axis=1) + on_dummies, 1, atol=1e-5)
    assert (inspection.dummy_attention is None) == ("no dummies" in name)
    text = ["[start]", *inspection.query.split(), "[end]"]
    assert inspection.words == tuple(text[:4] if "four words" in name else text)
    lengths = {level.stride: len(level.logits) for level in inspection.levels}
    if name == "moment queries":
        assert not lengths and inspection.query_moments.shape == (5, 3)
    elif "one level" in name:
        assert lengths == {1: clips}
    elif "three levels" in name:
        assert lengths == {0.5: 2 * clips, 1: clips, 128: 0}
    alone = "alone" in name or name == "moment queries"
    assert inspection.mix == (None if alone else 0.5)
    for level in inspection.levels:
        intra, inter = level.intra_scale_logits, level.inter_scale_logits
        if alone:
            assert (intra is None) != (inter is None)
            assert (inter is None) == ("intra-scale alone" in name)
            np.testing.assert_array_equal(level.logits, inter if intra is None else intra)
        else:
            np.testing.assert_allclose(level.logits, (intra + inter) / 2, atol=1e-6)
    check_layout(fv.plot_inspection(inspection))


def test_attention_is_the_mean_over_layers_and_heads():
    """One layer without positions: a softmax of scaled dot products, worked out with numpy."""
    random = np.random.default_rng(0)
    clips, words, dummies = (
        random.standard_normal((2, length, 4)).astype(np.float32) for length in (5, 3, 2)
    )
    mask = np.array([[True, True, True], [True, True, False]])
    attention = fv.AdaptiveCrossAttention(
        num_layers=1, num_heads=2, ffn_dim=8, dropout=0.1, drop_path=0.1
    )
    arrays = (clips, np.zeros_like(clips), words, mask, dummies)
    variables = attention.init(jax.random.key(0), *arrays)
    assert set(variables) == {"params"}  # nothing is kept unless it is asked for
    (_, on_words), kept = attention.apply(variables, *arrays, mutable=["intermediates"])
    (weights,) = kept["intermediates"]["layer_0"]["attention"]
    assert weights.shape == (2, 5, 5) and weights.dtype == np.float32

    keys = np.concatenate([dummies, words], axis=1)
    seen = np.pad(mask, ((0, 0), (2, 0)), constant_values=True)
    expected = 0.0
    for head in (slice(0, 2), slice(2, 4)):
        products = clips[..., head] @ keys[..., head].swapaxes(1, 2) / np.sqrt(2)
        parts = np.exp(products) * seen[:, None]
        expected = expected + parts / parts.sum(-1, keepdims=True) / 2
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    np.testing.assert_allclose(weights[..., 2:].sum(-1), on_words, atol=1e-6)


@pytest.mark.parametrize(
    ("query", "rows", "names"),
    [
        ("A dog runs.", 3, "A dog runs."),
        ("A dog runs.", 5, "[start] A dog runs. [end]"),
        ("A dog runs.", 6, "[start] A dog runs . [end]"),
        ("A dog's 12 toys!", 9, "[start] A dog 's 1 2 toys ! [end]"),
        ("A dog runs.", 4, None),
        ("A dog runs.", 7, None),
        ("一只狗", 1, "一只狗"),
        ("", 2, "[start] [end]"),
    ],
)
def test_words_are_named_where_the_counts_agree(query, rows, names):
    assert name_words(query, rows) == (None if names is None else tuple(names.split()))


@pytest.fixture(scope="module")
def highlights_run(tmp_path_factory):
    """A run on a video rated clip by clip, without moments."""
    folder = tmp_path_factory.mktemp("highlights")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        row = {"qid": f"{split}BK", "query": "repair kit", "vid": f"{split}BK", "domain": "BK"}
        row |= {"duration": 33.0, "label": random.integers(1, 6, (11, 3)).tolist()}
        write_json_lines(folder / f"tvsum_{split}.jsonl", [row])
    names = {"dataset": "tvsum/slowfast_clip", "widths": "slowfast=6,clip=4,query=4"}
    files = [folder / "tvsum_train.jsonl", folder / "tvsum_val.jsonl"]
    synthesize(folder, annotations=files, progress=False, **names)
    build(names["dataset"], folder, folder / "data", widths=names["widths"], progress=False)
    model = {key: value for key, value in TINY.items() if key.startswith(("model.", "data."))}
    fields = {**model, "model.strides": (1.0,), "data.data_dir": str(folder / "data")}
    return write_run(folder / "run", load_config("tvsum_slowfast_clip:BK", fields))


@pytest.mark.slow
def test_ratings_of_clips_share_the_duration(highlights_run):
    inspection = fv.inspect_query(highlights_run, "valBK")
    assert inspection.clip_length == 3.0  # not the nominal two seconds
    assert inspection.moments is inspection.kept_moments is inspection.origins is None
    assert inspection.windows.shape == (0, 2) and inspection.ratings.shape == (11,)
    assert [len(level.logits) for level in inspection.levels] == [11]
    figure = fv.plot_inspection(inspection)
    check_layout(figure)
    (rated,) = drawn(figure, "ratings")
    np.testing.assert_allclose(rated.get_data().values, inspection.ratings)
    assert not drawn(figure, "moment") and not drawn(figure, "truth")


# --- bad input


@pytest.mark.parametrize(
    ("qid", "nearest"), [("8", "10, 11, 12, 13, 14"), (900, "11, 12, 13, 14, 15"), ("x1", "1")]
)
def test_queries_that_are_not_there_are_told_with_the_nearest(runs, qid, nearest):
    with pytest.raises(DataError, match=rf"no qid {qid} .* 6 queries of split 'val'.* {nearest}"):
        fv.inspect_query(runs(), qid)


def test_splits_and_checkpoints_that_are_not_there_are_told(runs):
    with pytest.raises(DataError, match="no split 'test'"):
        fv.inspect_query(runs(), 10, split="test")
    with pytest.raises(CheckpointError, match="13"):
        fv.inspect_query(runs(), 10, step=13)
    assert fv.inspect_query(runs(), 0, split="train", step=12).split == "train"


def test_folder_of_several_runs_names_them(tmp_path, data_dir):
    # The data set that training made is in the folder that the runs share.
    (tmp_path / "data").symlink_to(data_dir)
    config = load_config("demo", {**TINY, "data.data_dir": None})
    for seed in (1, 2):
        write_run(tmp_path / f"seed{seed}", config)
    with pytest.raises(CheckpointError, match="several runs; name one of them: seed1, seed2"):
        fv.inspect_query(tmp_path, 10)
    assert fv.inspect_query(tmp_path / "seed2", 10).qid == 10


# --- the figure


def make_inspection(num_clips=75, num_words=12, strides=(1, 2, 4, 8), **fields):
    """What a model with random scores would give for a video with two moments."""
    random = np.random.default_rng(num_clips)
    weights = random.dirichlet(np.full(num_words + 3, 0.3), num_clips)
    levels = []
    for stride in strides:
        intra, inter = random.normal(size=(2, int(num_clips // stride)))
        levels.append(Level(stride, 0.4 * intra + 0.6 * inter, intra, inter))
    points = [(k, i) for k, level in enumerate(levels) for i in range(len(level.logits))]
    logits = np.concatenate([level.logits for level in levels])
    best = np.argsort(-logits)[:20]
    end = 2.0 * num_clips
    windows = np.sort(random.uniform(0, end, (len(best), 2)), axis=1)
    moments = np.column_stack([windows, 1 / (1 + np.exp(-logits[best]))])
    inspection = Inspection(
        qid=7,
        query=" ".join(f"word{index}" for index in range(num_words)),
        vid="NUsG9BgSes0_210.0_360.0",
        split="val",
        run="demo",
        step=1200,
        duration=end,
        clip_length=2.0,
        words=tuple(f"word{index}" for index in range(num_words)),
        attention=weights[:, 3:],
        dummy_attention=weights[:, :3].sum(axis=1),
        levels=tuple(levels),
        mix=0.4,
        query_moments=None,
        saliency=random.normal(size=num_clips).cumsum(),
        moments=moments,
        kept_moments=moments[::2],
        origins=np.array([points[index] for index in best[::2]]).reshape(-1, 2),
        windows=np.array([[0.1 * end, 0.2 * end], [0.6 * end, 0.9 * end]]),
        ratings=None,
    )
    return dataclasses.replace(inspection, **fields)


NO_MOMENTS = {"moments": None, "kept_moments": None, "origins": None}
EMPTY = {"moments": np.zeros((0, 3)), "kept_moments": np.zeros((0, 3))}
EMPTY["origins"] = np.zeros((0, 2), int)
HUNDRED = np.column_stack([np.arange(100), np.arange(100) + 30, np.linspace(1, 0, 100)])
CHINESE = "一个女孩一边和妈妈视频通话一边做饭"
EXTREMES = {
    "usual": make_inspection(ratings=np.arange(75) % 5),
    "one clip": make_inspection(1),
    "three hours": make_inspection(5400),
    "a tenth of a second": make_inspection(1, duration=0.1, clip_length=0.1),
    "a hundred words": make_inspection(num_words=100),
    "long words": make_inspection(num_words=2, words=("w" * 200, "[end]"), query="w" * 3000),
    "words by number": make_inspection(words=None),
    "Chinese": make_inspection(num_words=1, words=(CHINESE,), query=CHINESE),
    "six levels": make_inspection(strides=(0.5, 1, 2, 4, 8, 16)),
    "nothing known": make_inspection(windows=np.zeros((0, 2))),
    "no moments": make_inspection(**NO_MOMENTS),
    "none left": make_inspection(**EMPTY),
    "a hundred queries": make_inspection(
        levels=(), mix=None, query_moments=HUNDRED, origins=np.zeros((10, 2), int)
    ),
    "great logits": make_inspection(
        levels=(Level(1.0, np.linspace(-2e6, 9e5, 75), None, np.linspace(-2e6, 9e5, 75)),),
        mix=None,
        origins=np.zeros((10, 2), int),
    ),
    "flat": make_inspection(attention=np.zeros((75, 12)), saliency=np.zeros(75)),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.filterwarnings("ignore:Glyph .* missing from:UserWarning")  # checked without fonts
def test_labels_keep_apart(name):
    check_layout(fv.plot_inspection(EXTREMES[name]))


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_files_come_out_alike_every_time(kind, tmp_path):
    paths = [tmp_path / f"{index}.{kind}" for index in range(2)]
    for path in paths:
        fv.plot_inspection(EXTREMES["usual"], path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second and kind in str(first[:400]).lower()
    with pytest.raises(DataError, match=r"\.png or \.svg"):
        fv.plot_inspection(EXTREMES["usual"], tmp_path / "figure.jpg")


def heat_maps(figure):
    """Values and extent of each, without the scales."""
    images = [image for axes in figure.axes for image in axes.get_images()]
    return [(x.get_array(), x.get_extent()) for x in images if x.get_array().shape != (1, 256)]


def test_figure_shows_what_the_inspection_holds():
    inspection = make_inspection(num_clips=75)
    figure = fv.plot_inspection(inspection)
    assert figure.texts[0].get_text() == inspection.query
    assert figure.texts[1].get_text() == (
        "02:30 · qid 7 · video NUsG9BgSes0_210.0_360.0 · split val · demo, step 1,200"
    )
    (words, extent), (dummies, _), *scores = heat_maps(figure)
    np.testing.assert_array_equal(words, inspection.attention.T)
    assert extent == [0, 150, 12, 0] or tuple(extent) == (0, 150, 12, 0)
    np.testing.assert_array_equal(dummies, inspection.dummy_attention[None])
    names = ("intra_scale_logits", "inter_scale_logits", "logits")
    for (values, _), name in zip(scores, names, strict=True):
        for row, level in zip(values, inspection.levels, strict=True):
            repeated = np.repeat(getattr(level, name), int(level.stride))
            np.testing.assert_array_equal(row[: len(repeated)], repeated)
            assert row.mask[len(repeated) :].all()  # no point covers the clips that are left
    texts = [text for text, _ in shown_texts(figure)]
    assert "logits of the score, 0.40 intra + 0.60 inter; numbers: where the moments below" in [
        text.removesuffix(" come from") for text in texts
    ]
    assert "the 8 best of 10 moments after non-maximum suppression" in texts
    bars = [bar.get_bbox().intervalx for bar in drawn(figure, "moment")]
    starts, ends = np.transpose(bars)  # the shortest ones stay visible
    np.testing.assert_allclose(starts, inspection.kept_moments[:8, 0])
    np.testing.assert_allclose(ends, inspection.kept_moments[:8, 1], atol=1)
    assert len(drawn(figure, "truth-behind")) == 2
    assert len(drawn(figure, "truth-edges")) == 2 * 5  # over every heat map, with a white rim
    limits = {axes.get_xlim() for axes in figure.axes if axes.get_images() == []}
    assert limits == {(0, 150)}  # one time axis


def test_best_moments_are_numbered_at_their_points():
    level = Level(2.0, np.array([0.0, 3.0, 1.0, 2.0]), np.zeros(4), np.zeros(4))
    moments = np.array([[0, 4, 0.9], [4, 8, 0.8]])
    figure = fv.plot_inspection(
        make_inspection(
            8, levels=(level,), kept_moments=moments, origins=np.array([[0, 1], [0, 3]])
        )
    )
    (axes,) = [axes for axes in figure.axes if axes.get_images() and axes.texts[:1] and axes.axison]
    badges = [(text.get_text(), text.get_position()) for text in axes.texts]
    assert badges == [("1", (6.0, 0.5)), ("2", (14.0, 0.5))]
    assert tick_texts(axes, "y") == ["stride 2"]


def test_greatest_values_of_long_videos_are_kept():
    attention = np.zeros((6000, 2))
    attention[4321, 1] = 1.0
    dummies = 1 - attention.sum(axis=1)
    inspection = make_inspection(6000, 2, attention=attention, dummy_attention=dummies)
    (words, extent), (strip, _), *_ = heat_maps(fv.plot_inspection(inspection))
    assert words.shape[1] <= 1200 and tuple(extent) == (0, 12000, 2, 0)
    column = 4321 * words.shape[1] // 6000
    assert np.flatnonzero(words[1]).tolist() == [column]
    assert np.flatnonzero(strip[0] < 1).tolist() == [column]


def test_moment_queries_are_drawn_as_windows_with_their_scores():
    figure = fv.plot_inspection(EXTREMES["a hundred queries"])
    bars = drawn(figure, "query")
    assert len(bars) == 20 and bars[3].get_bbox().intervalx.tolist() == [3, 33]
    texts = [text for text, _ in shown_texts(figure)]
    assert "windows of the 20 best of 100 moment queries, by number" in texts and "0.970" in texts


# --- the command


@pytest.mark.slow
def test_command_draws_into_the_work_directory(runs, tmp_path, capsys):
    assert main(["inspect", f"--workdir={runs()}", "--qid=10"]) == 0
    assert f"wrote {runs()}/inspect_10.png" in capsys.readouterr().out
    assert (runs() / "inspect_10.png").read_bytes().startswith(b"\x89PNG")
    path = tmp_path / "figure.svg"
    command = ["inspect", f"--workdir={runs()}", "--qid=0", "--split=train", f"--output={path}"]
    assert main(command) == 0
    assert "split train" in path.read_text(encoding="utf-8")
    assert main([*command[:2], "--qid=10", "--output=figure.jpg"]) == 1
    assert "figure.jpg: figures are written as .png or .svg" in capsys.readouterr().err

"""The predictor: equal to evaluation, whatever is asked together; bad input; threads."""

import dataclasses
import json
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flashvtg_jax as fv
from flashvtg_jax.data.batch import BatchShape, Row, collate, feature_widths
from flashvtg_jax.decoding import non_max_suppression
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.evaluation.evaluator import apply_and_decode
from flashvtg_jax.models.init import init_params
from flashvtg_jax.prediction import batches as prediction_batches
from flashvtg_jax.prediction.batches import Choice, chunks
from flashvtg_jax.prediction.predictor import _usable
from tests.training.conftest import TINY

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "predictor.py"

# Most of the time is compilation.
SMALL = {**TINY, "evaluation.batch_size": 16, "model.strides": (1, 2), "model.num_mlp_layers": 1}


def make_predictor(overrides=(), **options):
    config = fv.load_config("demo", {**SMALL, **dict(overrides)})
    model = fv.build_model(config.model)
    params = jax.jit(lambda key: init_params(model, key, *feature_widths(config.data)))(
        jax.random.key(0)
    )
    return fv.Predictor(config, params, **options)


@pytest.fixture(scope="module")
def predictor():
    return make_predictor()


def make_video(num_clips, seed=0, extra=0):
    rng = np.random.default_rng([seed, num_clips])
    return {
        "slowfast": (3 * rng.standard_normal((num_clips + extra, 6))).astype(np.float16),
        "clip": (5 * rng.standard_normal((num_clips, 4))).astype(np.float32),
    }


def make_query(num_words, seed=0):
    rng = np.random.default_rng([seed, num_words])
    return (2 * rng.standard_normal((num_words, 4))).astype(np.float16)


def assert_same(one, other):
    np.testing.assert_array_equal(one.times, other.times)
    np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-5)
    assert one.moments.shape == other.moments.shape
    # Scores are rounded to 4 decimals: the last one may differ.
    np.testing.assert_allclose(one.moments, other.moments, atol=1.5e-4)


def usable(moments, suppressed):
    """Moments without those that have no length, and without those that were suppressed."""
    moments = np.asarray(moments)
    kept = moments[:, 1] > moments[:, 0]
    return moments[kept & (moments[:, 2] > 0)] if suppressed else moments[kept]


def evaluated(predictor, pairs, seconds):
    """What evaluation finds for videos and queries, in one padded batch."""
    shape = BatchShape(len(pairs), 75, 40, 1, 2, (6, 4), 4)
    rows = [
        Row(
            streams=[video[name][: len(video["clip"])] for name in ("slowfast", "clip")],
            query=query,
            duration=duration,
            windows=np.zeros((0, 2), np.float32),
            saliency_labels=np.zeros(len(video["clip"]), np.float32),
            positive_clips=np.zeros(2, np.int32),
            negative_clips=np.zeros(2, np.int32),
            video_id=0,
            example=0,
        )
        for (video, query), duration in zip(pairs, seconds, strict=True)
    ]
    batch = collate(rows, shape).replace(targets=None)
    model = fv.build_model(predictor.config.model)
    apply = jax.jit(partial(apply_and_decode, model, predictor.config))
    return apply(predictor.params, batch)


def test_predictions_are_those_of_evaluation_for_raw_features_of_any_length(predictor):
    pairs = [(make_video(n, extra=n % 2), make_query(q)) for n, q in ((75, 9), (14, 3), (4, 1))]
    seconds = [149.0, 27.5, 8.0]
    expected = evaluated(predictor, pairs, seconds)
    videos, queries = zip(*pairs, strict=True)
    for threshold, moments in ((None, expected.moments), (0.7, expected.suppressed)):
        found = predictor(list(videos), list(queries), duration=seconds, nms_threshold=threshold)
        for b, (prediction, video) in enumerate(zip(found, videos, strict=True)):
            num_clips, count = len(video["clip"]), int(expected.num_moments[b])
            wanted = usable(moments[b, :count], suppressed=threshold is not None)
            np.testing.assert_allclose(prediction.moments, wanted, atol=1.5e-4)
            np.testing.assert_allclose(
                prediction.saliency, expected.saliency[b, :num_clips], atol=1e-5
            )
            np.testing.assert_array_equal(prediction.times, 2.0 * np.arange(num_clips))


def test_what_is_asked_together_is_answered_as_alone(predictor):
    videos = [make_video(n) for n in (20, 16, 19, 3, 20)]
    queries = [make_query(n) for n in (5, 6, 7, 8, 9)]
    together = predictor(videos, queries)
    for video, query, prediction in zip(videos, queries, together, strict=True):
        assert_same(predictor(video, query), prediction)
    for query, prediction in zip(queries, predictor(videos[0], queries), strict=True):
        assert_same(predictor(videos[0], query), prediction)
    for video, prediction in zip(videos, predictor(videos, queries[0]), strict=True):
        assert_same(predictor(video, queries[0]), prediction)
    assert predictor([], []) == predictor(videos[0], []) == []
    (alone,) = predictor([videos[0]], [queries[0]])
    assert_same(alone, together[0])


def test_moments_end_with_the_video(predictor):
    video, query = make_video(10), make_query(4)
    assert predictor(video, query).moments[:, 1].max() == 20.0
    # 17 s: 18 s once rounded to clips.
    assert predictor(video, query, duration=17.0).moments[:, 1].max() <= 18.0


def test_features_are_raw_and_their_scale_does_not_matter(predictor):
    video, query = make_video(12), make_query(6)
    scaled = {name: 64 * array.astype(np.float32) for name, array in reversed(video.items())}
    found = predictor(scaled, 64 * query.astype(np.float32))
    np.testing.assert_allclose(found.saliency, predictor(video, query).saliency, atol=1e-4)


def test_words_are_normalised_only_where_training_did_so():
    predictor = make_predictor({"data.normalize_query": False})
    query = make_query(6)
    found = predictor._batches._pad_queries([query], 1)[0]
    np.testing.assert_array_equal(found[0, :6], query)


def test_arrays_of_other_libraries_and_bfloat16_are_read(predictor):
    video = {name: jnp.asarray(array, jnp.bfloat16) for name, array in make_video(12).items()}
    query = jnp.asarray(make_query(6), jnp.float32)
    plain = {name: np.asarray(array, np.float32) for name, array in video.items()}
    assert_same(predictor(video, query), predictor(plain, np.asarray(query)))


def test_one_stream_may_be_given_without_its_name():
    predictor = make_predictor({"data.video_streams": ("clip",)})
    clip, query = make_video(12)["clip"], make_query(3)
    assert_same(predictor(clip, query), predictor({"clip": clip}, query))


def test_top_k_threshold_and_nms(predictor):
    video, query = make_video(75), make_query(5)
    every = predictor(video, query, nms_threshold=None).moments
    assert 30 < len(every) <= 50 and np.all(np.diff(every[:, 2]) <= 0)
    assert np.all(every[:, 1] > every[:, 0])
    few = predictor(video, query, nms_threshold=None, max_moments=3).moments
    np.testing.assert_array_equal(few, every[:3])
    more = predictor(video, query, nms_threshold=None, max_moments=60).moments
    np.testing.assert_array_equal(more[: len(every)], every)
    assert len(every) < len(more) <= 60
    suppressed = usable(non_max_suppression(every[None], 0.5)[0], suppressed=True)
    best = predictor(video, query, nms_threshold=0.5, max_moments=5).moments
    np.testing.assert_allclose(best, suppressed[:5], atol=1e-6)
    middle = float(every[20, 2])
    likely = predictor(video, query, nms_threshold=None, score_threshold=middle).moments
    np.testing.assert_array_equal(likely, every[every[:, 2] >= middle])
    kept = predictor(video, query, nms_threshold=0.5).moments
    assert np.all(kept[:, 2] > 0)
    np.testing.assert_allclose(kept, suppressed, atol=1e-6)


def test_the_format_of_the_field(predictor):
    prediction = predictor(make_video(12), make_query(3), max_moments=2)
    row = prediction.to_dict(qid=7, query="a man", vid="v")
    assert list(row) == ["qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"]
    assert json.loads(json.dumps(row)) == row
    assert len(row["pred_relevant_windows"]) == 2 and len(row["pred_saliency_scores"]) == 12
    assert row["pred_saliency_scores"][0] == round(float(prediction.saliency[0]), 4)
    assert list(prediction.to_dict()) == ["pred_relevant_windows", "pred_saliency_scores"]


def test_moments_without_length_and_suppressed_ones_are_left_out():
    found = np.array([[0, 4, 0.9], [6, 6, 0.8], [8, 10, 0.5], [2, 4, 0.0], [0, 0, 0]], np.float32)
    choice = Choice(nms_threshold=0.7, max_moments=9, score_threshold=None, num_decoded=9)
    np.testing.assert_array_equal(_usable(found, choice), found[[0, 2]])
    best = dataclasses.replace(choice, max_moments=1)
    np.testing.assert_array_equal(_usable(found, best), found[[0]])
    plain = dataclasses.replace(choice, nms_threshold=None)  # a score may be rounded to 0
    np.testing.assert_array_equal(_usable(found, plain), found[[0, 2, 3]])
    likely = dataclasses.replace(choice, score_threshold=0.6)
    np.testing.assert_array_equal(_usable(found, likely), found[[0]])


def test_saliency_is_there_from_0_to_1_for_people():
    scores = np.array([-3.0, -1.0, -2.0], np.float32)
    prediction = fv.Prediction(np.zeros((0, 3)), scores, np.arange(3.0))
    np.testing.assert_allclose(prediction.relative_saliency, [0, 1, 0.5])
    equal = fv.Prediction(np.zeros((0, 3)), np.full(2, -0.5), np.arange(2.0))
    np.testing.assert_array_equal(equal.relative_saliency, [0, 0])


def test_longer_queries_are_cut_with_a_warning(predictor):
    video, query = make_video(12), make_query(50)
    with pytest.warns(UserWarning, match="1 of 2 queries have more than 40 words, the longest 50"):
        _, cut = predictor(video, [make_query(40), query])
    assert_same(cut, predictor(video, predictor.check_query(query)))


def test_a_model_of_highlights_has_no_moments():
    predictor = make_predictor({"loss.regression": False})
    # Durations of these data sets do not tell the number of clips.
    prediction = predictor(make_video(12), make_query(3), duration=100.0, score_threshold=0.5)
    assert prediction.moments.shape == (0, 3) and prediction.saliency.shape == (12,)
    row = prediction.to_dict(vid="v")
    assert list(row) == ["vid", "pred_saliency_scores"]
    assert row["pred_saliency_scores"][0] == round(float(prediction.saliency[0]), 8)


def test_longer_videos_are_cut_as_in_training_or_read_whole(predictor):
    video, query = make_video(100), make_query(3)
    with pytest.warns(UserWarning, match="100 clips was cut to 75"):
        cut = predictor(video, query)
    assert len(cut.saliency) == 75
    beginning = {name: array[:75] for name, array in video.items()}
    assert_same(cut, predictor(beginning, query))
    # Moments end where the cut is, whatever is left behind it.
    checked = [predictor.check_video(video), predictor.check_video(beginning)]
    assert predictor._seconds([199.0, 149.0], checked) == [150.0, 149.0]
    assert predictor._seconds([None, None], checked) == [150.0, 150.0]
    whole = make_predictor(whole_videos=True)(video, query)
    assert len(whole.saliency) == 100
    assert whole.moments[:, 1].max() > 150.0
    np.testing.assert_array_equal(whole.times[-1], 198.0)


# Batches and programs -----------------------------------------------------------------------------


def test_a_video_of_another_duration_is_resampled_again(predictor, monkeypatch):
    config = fv.load_config("demo", {**SMALL, "data.resample": True})
    other = fv.Predictor(config, predictor.params)
    monkeypatch.setattr(other, "_predict", lambda work, choice: work)
    video, query = make_video(30), make_query(5)
    for work in (
        other([video] * 3, [query] * 3, duration=[40, 80, 40]),
        other(video, [query] * 3, duration=[40, 80, 40]),
    ):
        assert [video.seconds for video in work.videos] == [40, 80]
        assert work.index == [0, 1, 0]
    shared = predictor._inputs.video(video)
    monkeypatch.setattr(predictor, "_predict", lambda work, choice: work)
    assert len(predictor([shared, shared], query, duration=[60, 59]).videos) == 1


def test_lengths_grow_by_a_quarter_and_the_configured_ones_are_among_them():
    padded = make_predictor({"data.buckets": (64, 75)}, whole_videos=True)._batches.padded_length
    lengths = [padded(n) for n in range(1, 6000)]
    assert lengths == sorted(lengths)
    assert all(n <= length <= max(16, 1.25 * n + 1) for n, length in enumerate(lengths, 1))
    assert {16, 64, 75, 94} <= set(lengths) and len(set(lengths)) < 32
    assert padded(65) == padded(75) == 75 and padded(64) == 64
    assert all(padded(length) == length for length in set(lengths))


@pytest.mark.parametrize(
    ("count", "batches"),
    [
        (1, [(1, 1)]),
        (2, [(2, 4)]),
        (5, [(4, 4), (1, 1)]),
        (10, [(10, 16)]),
        (20, [(16, 16), (4, 4)]),
        (200, [(64, 64), (64, 64), (64, 64), (8, 16)]),
    ],
)
def test_batches_are_at_least_half_full(count, batches):
    assert list(chunks(count, [1, 4, 16, 64])) == batches


def test_rows_shrink_with_the_square_of_the_length():
    sizes = make_predictor(batch_size=64)._batches._sizes  # 2 heads: 8 bytes a pair of clips
    assert sizes(75) == [1, 4, 16, 64]
    assert sizes(1000) == [1, 4, 16]
    assert sizes(6506) == [1]


def count_projected_rows(predictor, monkeypatch):
    """A list that receives the number of videos of each projection from now on."""
    rows, batches = [], predictor._batches
    projection = batches._projection

    def counted(num_rows, length):
        rows.append(num_rows)
        return projection(num_rows, length)

    monkeypatch.setattr(batches, "_projection", counted)
    return rows


@pytest.mark.slow
def test_a_video_of_many_queries_is_projected_once(predictor, monkeypatch):
    rows = count_projected_rows(predictor, monkeypatch)
    video, queries = make_video(12), [make_query(1 + n % 9, seed=n) for n in range(50)]
    predictor(video, queries)
    assert rows == [1]
    rows.clear()
    predictor([video] * 50, queries)
    assert rows == [1]
    rows.clear()
    other = make_video(12, seed=1)
    predictor([video, other] * 25, queries)
    assert rows == [4]  # both, in a batch of four rows


@pytest.mark.slow
def test_operations_of_many_queries_hold_one_projection():
    def operations(width):
        predictor = make_predictor({"data.video_widths.slowfast": width})
        predictor.warm_up(12, 16)
        programs = predictor._batches.programs
        assert sorted(key[:2] for key in programs if key[0] in ("project", "answer")) == [
            ("answer", 16),
            ("project", 1),
        ]
        flops = {
            key[0]: program.cost_analysis()["flops"]
            for key, program in programs.items()
            if key[0] in ("project", "answer")
        }
        return flops["project"], flops["answer"]

    (narrow, answer), (wide, same) = operations(6), operations(1006)
    assert answer == same  # what is done for each query has nothing to do with the features
    # 16 clips in the padded video, 8 hidden features, a product and a sum of each.
    assert wide - narrow >= 2 * 16 * 1000 * 8
    assert wide - narrow < 2 * (2 * 16 * 1000 * 8)


@pytest.mark.slow
def test_after_a_warm_up_nothing_is_compiled(monkeypatch):
    predictor = make_predictor()
    predictor.warm_up((12, 20), 10)
    predictor.warm_up(12, num_queries=3, num_videos=3)

    def refuse(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(prediction_batches, "compiled", refuse)
    predictor(make_video(16), [make_query(2)] * 10)
    predictor(make_video(19), [make_query(2)] * 9)
    predictor([make_video(12, seed=n) for n in range(3)], [make_query(2)] * 3)
    with pytest.raises(AssertionError, match="compiled"):
        predictor(make_video(40), make_query(2))


def test_threads_share_a_predictor_and_its_programs(monkeypatch):
    predictor, compiled = make_predictor(), []
    compile_program = prediction_batches.compiled

    def counted(function, *shapes):
        compiled.append(function.__name__)
        return compile_program(function, *shapes)

    monkeypatch.setattr(prediction_batches, "compiled", counted)
    videos = [make_video(n) for n in (12, 9, 20, 21)]
    queries = [make_query(3, seed=n) for n in range(4)]
    found, barrier = {}, threading.Barrier(8)

    def ask(number):
        barrier.wait()
        for turn in range(4):
            which = (number + turn) % 4
            found[number, which] = predictor(videos[which], queries[which])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Two lengths, one row each; suppression knows no length.
    expected = ["answer"] * 2 + ["project"] * 2 + ["select"] * 2 + ["suppressed"]
    assert sorted(compiled) == expected
    assert len(found) == 32
    for (_, which), prediction in found.items():
        alone = predictor(videos[which], queries[which])
        np.testing.assert_array_equal(prediction.moments, alone.moments)
        np.testing.assert_array_equal(prediction.saliency, alone.saliency)


# Bad input ----------------------------------------------------------------------------------------


def changed(video, **arrays):
    return {**video, **arrays}


NAN = make_video(20)["clip"].copy()
NAN[3, 1] = np.nan


@pytest.mark.parametrize(
    ("video", "query", "message"),
    [
        (changed(make_video(20), clip=np.ones((20, 5), np.float32)), None, "stream 'clip': expect"),
        (changed(make_video(20), clip=np.ones((20, 5), np.float32)), None, "width 4, got 5"),
        ({"clip": make_video(20)["clip"]}, None, "no stream 'slowfast'; the model reads"),
        (changed(make_video(20), i3d=np.ones((20, 4))), None, "unknown stream 'i3d'"),
        (np.ones((20, 10), np.float32), None, "of each stream by name"),
        (changed(make_video(20), clip=np.ones((0, 4), np.float32)), None, "'clip': no clips"),
        (changed(make_video(20), clip=NAN), None, r"NaN or infinity in 1 of 20 clips \(first: 3\)"),
        (changed(make_video(20), clip=np.ones((30, 4), np.float32)), None, "'clip' has 30 clips"),
        (changed(make_video(20), clip=np.ones((20, 4), int)), None, "floating-point numbers"),
        (changed(make_video(20), clip=np.ones((1, 20, 4))), None, r"got shape \[1, 20, 4\]"),
        (None, np.ones((3, 5), np.float32), "query: expected width 4, got 5"),
        (None, np.ones((0, 4), np.float32), "query: no words"),
        (None, np.full((3, 4), np.inf, np.float32), "query: NaN or infinity in 3 of 3 words"),
        (None, np.ones(4, np.float32), r"\[words, 4\], got shape \[4\]"),
        (None, [make_query(3), np.ones((3, 5))], "query 1: expected width 4"),
        ([make_video(20), {}], [make_query(3)] * 2, "video 1: no stream"),
        ([make_video(20)], [make_query(3)] * 2, "1 videos and 2 queries"),
    ],
)
def test_bad_features_are_named(predictor, video, query, message):
    video = make_video(20) if video is None else video
    with pytest.raises(DataError, match=message):
        predictor(video, make_query(3) if query is None else query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nms_threshold": 0}, "nms_threshold=0"),
        ({"nms_threshold": "0.7"}, "nms_threshold='0.7'"),
        ({"max_moments": 0}, "max_moments=0"),
        ({"score_threshold": float("nan")}, "score_threshold=nan"),
        ({"duration": -1.0}, "duration -1.0"),
        ({"duration": 100.0}, "20 clips, but 100 s have 50 of 2 s"),
        ({"duration": [40.0, 40.0]}, "2 durations for 1 predictions"),
    ],
)
def test_bad_options_are_named(predictor, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        predictor(make_video(20), make_query(3), **options)


def test_parameters_of_another_model_are_refused(predictor):
    other = fv.load_config("demo", {**SMALL, "model.hidden_dim": 16})
    with pytest.raises(ConfigError, match="these parameters are not the model's"):
        fv.Predictor(other, predictor.params)
    with pytest.raises(ConfigError, match="batch_size=0"):
        fv.Predictor(predictor.config, predictor.params, batch_size=0)
    with pytest.raises(ConfigError, match="names no video streams"):
        fv.Predictor(fv.load_config("custom"), predictor.params)


@pytest.mark.slow
def test_the_benchmark_runs_in_small_and_writes_json(tmp_path):
    output = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARK), "--smoke", f"--output={output}"]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads(output.read_text())
    assert result["benchmark"] == "predictor"
    assert [row["queries"] for row in result["queries"]] == [1, 3]
    assert {"seconds", "peak_memory_mib", "clips"} <= result["lengths"][0].keys()

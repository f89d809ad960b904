import itertools
import threading

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from flashvtg_jax.data.labels import Clips, qvhighlights_labels
from flashvtg_jax.data.pipeline import (
    clip_counts,
    evaluation_batches,
    evaluation_plan,
    train_pipeline,
    train_plan,
)
from flashvtg_jax.errors import ConfigError, DataError
from tests.data.memory_source import QUERY_WIDTH, WIDTHS, MemorySource, small_config, small_source


def assert_equal_batches(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def numbers(batches):
    return [batch.example.tolist() for batch in batches]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def normalized(features):
    features = features.astype(np.float64)
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-5)


def train_epoch(source, config):
    iterator = train_pipeline(source, config)
    batches = list(itertools.islice(iterator, train_plan(source, config).steps_per_epoch))
    iterator.close()
    return batches


def test_rows_hold_the_normalised_features_side_by_side_and_the_targets():
    source, config = small_source(), small_config()
    ids = {f"video{i}": n for n, i in enumerate(sorted(range(7), key=str))}
    for batch in train_pipeline(source, config):
        for b, i in enumerate(batch.example.tolist()):
            if i < 0:
                continue
            example, clips = source.examples[i], source.num_clips[i]
            words = min(source.num_words[i], 6)
            streams = [normalized(example.streams[name][:clips]) for name in WIDTHS]
            np.testing.assert_allclose(
                batch.video[b, :clips], np.concatenate(streams, axis=1), atol=1e-6
            )
            np.testing.assert_allclose(
                batch.query[b, :words], normalized(example.query[:words]), atol=1e-6
            )
            assert not batch.video[b, clips:].any() and not batch.query[b, words:].any()
            assert batch.video_mask[b].tolist() == [j < clips for j in range(batch.video.shape[1])]
            assert batch.query_mask[b].tolist() == [j < words for j in range(6)]
            assert batch.duration[b] == 2 * clips
            targets = jax.tree.map(lambda leaf, row=b: leaf[row], batch.targets)
            windows = np.float32(example.annotation["relevant_windows"])
            np.testing.assert_array_equal(targets.windows[: len(windows)], windows)
            assert targets.window_mask.sum() == len(windows)
            assert targets.video_id == ids[f"video{i // 3}"]


def test_streams_follow_the_order_of_the_configuration():
    source = small_source()
    for batch in evaluation_batches(source, small_config(**{"data.video_streams": ("clip",)})):
        assert batch.video.shape[2] == WIDTHS["clip"]
    swapped = small_config(**{"data.video_streams": ("clip", "slowfast")})
    pairs = zip(
        evaluation_batches(source, small_config()), evaluation_batches(source, swapped), strict=True
    )
    for ours, other in pairs:
        np.testing.assert_array_equal(np.roll(ours.video, WIDTHS["clip"], axis=2), other.video)


def test_raw_queries_stay_raw():
    source = small_source()
    for batch in evaluation_batches(source, small_config(**{"data.normalize_query": False})):
        for row, i in zip(batch.query, batch.example, strict=True):
            if i >= 0:
                words = min(source.num_words[i], 6)
                np.testing.assert_array_equal(row[:words], source.examples[i].query[:words])


def test_max_clips_cuts_the_streams_and_the_labels():
    source = small_source()
    config = small_config(**{"data.buckets": (5,)})
    config.data = ConfigDict({**config.data, "max_clips": 5})
    for batch in evaluation_batches(source, config):
        real = batch.example >= 0
        expected = np.minimum(source.num_clips[batch.example[real]], 5)
        np.testing.assert_array_equal(batch.video_mask[real].sum(axis=1), expected)
        assert (batch.targets.positive_clips[real] < expected[:, None]).all()
        assert not batch.targets.saliency_labels[~batch.video_mask].any()


def test_shapes_are_the_same_for_every_batch_of_a_bucket():
    source, config = small_source(), small_config()
    shapes = {}
    for batch in train_pipeline(source, config):
        leaves = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(batch)]
        assert shapes.setdefault(batch.video.shape[1], leaves) == leaves
        assert batch.video.shape == (4, batch.video.shape[1], 10)
        assert batch.query.shape == (4, 6, QUERY_WIDTH)
        assert batch.targets.windows.shape == (4, source.num_windows.max(), 2)
        assert batch.targets.positive_clips.shape == (4, 2)
        assert batch.video.dtype == batch.query.dtype == np.float32
    assert set(shapes) == {5, 12}


def test_padding_rows_are_masked_and_belong_to_no_example():
    (last,) = (b for b in train_epoch(small_source(), small_config()) if b.example.min() == -1)
    padding = last.example == -1
    assert padding.tolist() == [False, True, True, True]  # 21 = 5 * 4 + 1
    for leaf in (last.video, last.video_mask, last.query, last.query_mask, last.duration):
        assert not leaf[padding].any()
    targets = last.targets
    assert (targets.video_id[padding] == -1).all()
    assert (targets.video_id[~padding] >= 0).all()
    for leaf in (targets.window_mask, targets.saliency_labels, targets.positive_clips):
        assert not leaf[padding].any()


def test_training_sees_every_example_once_an_epoch_in_another_order():
    source, config = small_source(), small_config()
    assert train_plan(source, config).steps_per_epoch == 6
    batches = numbers(train_pipeline(source, config))
    assert len(batches) == 3 * 6
    epochs = [flat(batches[6 * epoch : 6 * epoch + 6]) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(i for i in epoch if i >= 0) == list(range(21))
    assert epochs[0] != epochs[1] != epochs[2]


def test_drop_last_leaves_no_padding_rows():
    batches = numbers(train_pipeline(small_source(), small_config(**{"train.drop_last": True})))
    assert len(batches) == 3 * 5
    assert min(map(min, batches)) >= 0


def test_labels_are_drawn_from_seed_epoch_and_example():
    source, config = small_source(), small_config()
    negatives = {}
    for step, batch in enumerate(train_pipeline(source, config)):
        for b, i in enumerate(batch.example.tolist()):
            if i < 0:
                continue
            rng = np.random.default_rng([11, step // 6, i])
            clips = source.num_clips[i]
            labels, draw = qvhighlights_labels(source.examples[i].annotation, Clips(clips))
            positives, negatives_now = draw(rng)
            np.testing.assert_array_equal(batch.targets.saliency_labels[b, :clips], labels)
            np.testing.assert_array_equal(batch.targets.positive_clips[b], positives)
            np.testing.assert_array_equal(batch.targets.negative_clips[b], negatives_now)
            negatives.setdefault(i, set()).add(int(batch.targets.negative_clips[b, 1]))
    assert any(len(drawn) > 1 for drawn in negatives.values())  # afresh each epoch


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    runs = [list(train_pipeline(small_source(), small_config(seed=seed))) for seed in (11, 11, 12)]
    for first, second in zip(*runs[:2], strict=True):
        assert_equal_batches(first, second)
    assert numbers(runs[0]) != numbers(runs[2])


@pytest.mark.parametrize("start_step", [1, 6, 9, 18, 40])
def test_starting_at_a_step_equals_having_run_up_to_it(start_step):
    source, config = small_source(), small_config()
    expected = list(train_pipeline(source, config))[start_step:]
    resumed = list(train_pipeline(source, config, start_step=start_step))
    assert len(resumed) == len(expected) == max(0, 18 - start_step)
    for actual, wanted in zip(resumed, expected, strict=True):
        assert_equal_batches(actual, wanted)


def test_a_step_that_is_skipped_is_not_read():
    source, config = small_source(), small_config()
    *_, before_last, last = numbers(train_pipeline(source, config))
    source.reads.clear()
    list(train_pipeline(source, config, start_step=16))
    assert sorted(source.reads) == sorted(i for i in before_last + last if i >= 0)


def test_the_state_restores_the_position_in_the_middle_of_prefetching():
    source, config = small_source(), small_config()
    iterator = train_pipeline(source, config)
    for _ in range(4):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator) for _ in range(5)]

    iterator.set_state(state)  # back, with batches in flight
    for wanted in expected:
        assert_equal_batches(next(iterator), wanted)
    iterator.close()

    other = train_pipeline(source, config, start_step=15)
    next(other)
    other.set_state(state)
    assert other.get_state() == state
    assert_equal_batches(next(other), expected[0])
    other.close()


def test_prefetching_changes_nothing_and_stays_within_its_bound():
    source = small_source()
    config = small_config(**{"data.num_threads": 0, "data.prefetch": 0})
    expected = list(train_pipeline(source, config))
    assert source.threads == {threading.get_ident()}

    source.reads.clear()
    source.threads.clear()
    iterator = train_pipeline(source, small_config())
    assert_equal_batches(next(iterator), expected[0])
    for wanted in expected[1:4]:
        assert_equal_batches(next(iterator), wanted)
    iterator.close()
    assert threading.get_ident() not in source.threads
    assert len(source.reads) <= (4 + 3) * 4  # handed out and prefetched


@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("pipeline", [train_pipeline, evaluation_batches])
def test_processes_share_the_global_batch(pipeline, process_count):
    whole = list(pipeline(small_source(), small_config()))
    sources = [small_source() for _ in range(process_count)]
    parts = [
        list(pipeline(source, small_config(), process_index=i, process_count=process_count))
        for i, source in enumerate(sources)
    ]
    for expected, *shares in zip(whole, *parts, strict=True):
        together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *shares)
        assert_equal_batches(together, expected)
    num_real = sum((batch.example >= 0).sum() for batch in whole)
    assert sum(len(source.reads) for source in sources) == num_real  # nobody reads another's part


@pytest.mark.parametrize("pipeline", [train_pipeline, evaluation_batches])
def test_a_batch_that_processes_cannot_share_is_refused(pipeline):
    with pytest.raises(ValueError, match="equal division"):
        next(pipeline(small_source(), small_config(), process_index=0, process_count=3))


def test_evaluation_covers_the_split_once_from_long_to_short():
    source, config = small_source(), small_config()
    batches = list(evaluation_batches(source, config))
    assert len(batches) == evaluation_plan(source, config).steps_per_epoch == 3
    examples = flat(numbers(batches))
    short = np.flatnonzero(source.num_clips <= 5).tolist()
    long = np.flatnonzero(source.num_clips > 5).tolist()
    assert examples == long + short + [-1] * 3  # 21 = 3 * 8 - 3
    for actual, again in zip(batches, evaluation_batches(source, config), strict=True):
        assert_equal_batches(actual, again)


def test_evaluation_needs_no_annotated_moments_and_training_does():
    source = small_source(with_targets=False)
    for batch in evaluation_batches(source, small_config()):
        assert batch.targets.windows.shape == (8, 1, 2)
        assert not batch.targets.window_mask.any()
    with pytest.raises(DataError, match=r"split 'train' of .* has no moments to train on"):
        train_pipeline(source, small_config())


def test_highlights_are_trained_on_without_moments():
    source = small_source(with_targets=False)
    source.labels = "binary"
    for example, clips in zip(source.examples, source.num_clips, strict=True):
        example.annotation["label"] = [[int(i == clips // 2)] for i in range(clips)]
    for batch in train_pipeline(source, small_config(**{"data.labels": "binary"})):
        real = batch.example >= 0
        clips = source.num_clips[batch.example[real]]
        assert batch.targets.positive_clips.shape == (4, 1)
        assert batch.targets.positive_clips[real, 0].tolist() == (clips // 2).tolist()
        assert not batch.targets.window_mask.any()


def test_buckets_can_be_left_to_the_data():
    source = MemorySource([3, 3, 9, 3, 9, 9, 3, 12])
    config = small_config(**{"train.batch_size": 1, "evaluation.batch_size": 4})
    config.data = ConfigDict({**config.data, "buckets": None})
    assert train_plan(source, config).buckets == (3, 9, 12)
    assert evaluation_plan(source, config).buckets == (3, 12)  # a batch of each
    config.data = ConfigDict({**config.data, "max_clips": 5})
    assert train_plan(source, config).buckets == (3, 5)


def streams_of_different_lengths():
    source = MemorySource([3, 9, 12, 4])
    source.stream_clips = {
        "slowfast": np.array([5, 12, 12, 4]),
        "clip": np.array([3, 9, 12, 4]),
    }
    source.all_stream_clips = {name: np.array([*n, 13]) for name, n in source.stream_clips.items()}
    source.all_num_clips = np.asarray([*source.num_clips, 13])
    return source


@pytest.mark.parametrize(
    ("streams", "clips", "cut"),
    [
        (("slowfast",), [5, 12, 12, 4], [5, 10, 10, 4]),
        (("clip", "slowfast"), [3, 9, 12, 4], [3, 9, 10, 4]),
    ],
)
def test_streams_that_are_not_used_do_not_cut_the_video(streams, clips, cut):
    source = streams_of_different_lengths()
    config = small_config(**{"data.video_streams": streams, "data.buckets": (5, 13)})
    assert clip_counts(source, config).tolist() == clips
    config.data = ConfigDict({**config.data, "max_clips": 10})
    assert clip_counts(source, config).tolist() == cut
    source.stream_clips = {}  # built by a version that did not tell
    assert clip_counts(source, config).tolist() == [3, 9, 10, 4]


def test_buckets_hold_the_longest_video_in_the_streams_that_are_used():
    source = streams_of_different_lengths()
    source.all_stream_clips["slowfast"][-1] = 14
    used = {"data.video_streams": ("slowfast",)}
    with pytest.raises(ConfigError, match="has 14 clips, but the last of"):
        train_plan(source, small_config(**used))
    config = small_config(**used)
    config.data = ConfigDict({**config.data, "buckets": None})
    assert train_plan(source, config).buckets[-1] == 14


@pytest.mark.parametrize("batches", [train_pipeline, evaluation_batches])
def test_words_are_padded_to_the_longest_query_of_the_whole_split(batches):
    source = small_source()
    config = small_config(**{"data.max_words": 40})
    source.all_num_words = np.asarray([*source.num_words, 11])  # of another domain
    whole = list(batches(source, config))
    assert {batch.query.shape[1] for batch in whole} == {11}
    source.all_num_words = source.num_words
    own = list(batches(source, config))
    assert {batch.query.shape[1] for batch in own} == {8} == {source.num_words.max()}
    for batch, expected in zip(own, whole, strict=True):
        np.testing.assert_array_equal(batch.query, expected.query[:, :8])
        np.testing.assert_array_equal(batch.query_mask, expected.query_mask[:, :8])
        assert not expected.query_mask[:, 8:].any()
        np.testing.assert_array_equal(batch.video, expected.video)


def test_buckets_are_chosen_for_all_domains_together():
    config = small_config(**{"train.batch_size": 2})
    config.data = ConfigDict({**config.data, "buckets": None})
    source = MemorySource([3, 9])
    source.all_num_clips = np.asarray([3, 9, 5, 2, 11, 12])
    source.all_domains = np.asarray(["a", "a", "b", "b", "c", "c"])
    assert train_plan(source, config).buckets == (5, 9, 12)  # one batch each


def test_a_configuration_that_does_not_fit_the_data_set_is_refused():
    source = small_source()
    with pytest.raises(ConfigError, match=r"names 'vgg', but .* has 'slowfast', 'clip'"):
        train_pipeline(source, small_config(**{"data.video_streams": ("vgg",)}))
    with pytest.raises(ConfigError, match=r"stream 'clip': .* expects width 512, .* has 4"):
        train_pipeline(source, small_config(**{"data.video_widths.clip": 512}))
    with pytest.raises(ConfigError, match=r"query features: .* expects width 512, .* has 5"):
        train_pipeline(source, small_config(**{"data.query_width": 512}))
    with pytest.raises(ConfigError, match=r"12 clips, .*end with 12 or more, such as \(.*12\)"):
        train_pipeline(source, small_config(**{"data.buckets": (5, 8)}))
    with pytest.raises(ConfigError, match="'title' must be 'youtube_id' or 'vid'"):
        train_pipeline(source, small_config(**{"data.source_video": "title"}))


@pytest.mark.parametrize("pipeline", [train_pipeline, evaluation_batches])
def test_clips_of_another_length_than_the_data_sets_are_refused(pipeline):
    source = small_source()
    expected = r"config\.clip_length is 1 s, but the clips of data set 'qvh.*' last 2 s"
    with pytest.raises(ConfigError, match=expected):
        pipeline(source, small_config(clip_length=1.0))
    source.clip_length = 2.0 * (1 + 1e-9)  # the same, in another precision
    next(pipeline(source, small_config()))


@pytest.mark.parametrize(
    ("labels", "of_the_data_set", "fits"),
    [
        ("qvhighlights", "qvhighlights", True),
        ("windows", "windows", True),
        ("windows", "qvhighlights", True),
        ("qvhighlights", "windows", False),
        ("windows", "ratings", False),
        ("ratings", "binary", False),  # the same field, with other meaning
        ("binary", "ratings", False),
        ("qvhighlights", "ratings", False),
    ],
)
def test_labels_must_be_made_from_what_the_data_set_has(labels, of_the_data_set, fits):
    source, config = small_source(), small_config(**{"data.labels": labels})
    source.labels = of_the_data_set
    if fits:
        next(train_pipeline(source, config))
        return
    expected = rf"config\.data\.labels='{labels}' does not fit .* labels are '{of_the_data_set}'"
    for pipeline in (train_pipeline, evaluation_batches):
        with pytest.raises(ConfigError, match=expected):
            pipeline(source, config)

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from flashvtg_jax.data.annotations import load_annotations
from flashvtg_jax.data.build.glove import read_vectors, split_words
from flashvtg_jax.data.build.listing import MANIFEST
from flashvtg_jax.data.feature_files import read_feature
from flashvtg_jax.data.normalization import normalize
from flashvtg_jax.data.synthetic import folder as synthetic_folder
from flashvtg_jax.data.synthetic.annotations import generate_annotations
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.data.synthetic.planting import Planting, relevance_of
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from flashvtg_jax.video_ids import youtube_id

WIDTHS = {"slowfast": 24, "clip": 20, "query": 16}
TRAIN, VAL = "highlight_train_release.jsonl", "highlight_val_release.jsonl"
TEST_WITH_GT, TEST = "highlight_test_with_gt.jsonl", "highlight_test_release.jsonl"


def annotation(qid, vid="a.b_0.0_20.0", windows=((4, 8),), **fields):
    return {
        "qid": qid,
        "query": f"A person does thing number {qid}",
        "vid": vid,
        "duration": 20,
        "relevant_windows": [list(window) for window in windows],
        **fields,
    }


def rated(qid, vid="a.b_0.0_20.0", windows=((4, 8),), **fields):
    """An annotation line as QVHighlights has them."""
    clips = [i for start, end in windows for i in range(int(start // 2), int(end // 2))]
    ratings = [[1, 2, 3] for _ in clips]
    fields = {"relevant_clip_ids": clips, "saliency_scores": ratings, **fields}
    return annotation(qid, vid, windows, **fields)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def small(output, **options):
    return synthesize(
        output, **{"widths": WIDTHS, "num_train": 6, "num_val": 3, "progress": False, **options}
    )


# Annotations


@pytest.fixture(scope="module")
def generated():
    return generate_annotations(2000, seed=3)


def test_generated_annotations_pass_all_checks(generated, tmp_path):
    write_json_lines(tmp_path / "a.jsonl", generated)
    assert load_annotations(tmp_path / "a.jsonl", labels="qvhighlights") == generated


def test_generated_windows_are_disjoint_and_rated_clip_by_clip(generated):
    for row in generated:
        windows = row["relevant_windows"]
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(windows))
        clips = [i for start, end in windows for i in range(start // 2, end // 2)]
        assert row["relevant_clip_ids"] == clips
        assert row["duration"] % 2 == 0


def test_generated_annotations_have_the_statistics_of_qvhighlights(generated):
    durations = np.array([row["duration"] for row in generated])
    assert durations.min() >= 120
    assert 0.95 < np.mean(durations == 150) < 0.99
    counts = np.bincount([len(row["relevant_windows"]) for row in generated]) / len(generated)
    np.testing.assert_allclose(counts[1:], [0.68, 0.17, 0.065, 0.037, 0.02], atol=0.04)
    lengths = [b - a for row in generated for a, b in row["relevant_windows"]]
    # Of the 7218 real lines: 6, 16 and 30 seconds.
    np.testing.assert_allclose(np.percentile(lengths, [25, 50, 75]), [6, 16, 30], atol=4)
    assert 22 < np.mean(lengths) < 29  # 25.1
    starts = [row["relevant_windows"][0][0] == 0 for row in generated]
    assert 0.15 < np.mean(starts) < 0.35  # 0.21
    ratings = np.concatenate([row["saliency_scores"] for row in generated])
    np.testing.assert_allclose(ratings.mean(axis=0), 3.0, atol=0.15)
    num_videos = len({row["vid"] for row in generated})
    assert 1.005 < len(generated) / num_videos < 1.04
    assert len({youtube_id(row["vid"]) for row in generated}) < 0.7 * num_videos


def test_generated_ratings_are_higher_in_the_middle_of_a_window(generated):
    ends, middles = [], []
    for row in generated:
        ratings = dict(zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True))
        for start, end in row["relevant_windows"]:
            if end - start >= 10:
                ends += [ratings[start // 2], ratings[end // 2 - 1]]
                middles.append(ratings[(start + end) // 4])
    assert np.mean(middles) > np.mean(ends) + 0.3


def test_other_seeds_give_other_annotations():
    first, again, other = (generate_annotations(5, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert not {row["vid"] for row in first} & {row["vid"] for row in other}


# What is planted


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"windows": [[4, 8]]}, [0, 0, 0.8, 0.8, 0]),
        ({"windows": [[3, 4.5], [8, 10]]}, [0, 0.4, 0.2, 0, 0.8]),
        ({"windows": []}, [0, 0, 0, 0, 0]),
        (
            {
                "windows": [[0, 6]],
                "relevant_clip_ids": [0, 1, 2],
                "saliency_scores": [[0, 0, 0], [4, 4, 4], [2, 2, 2]],
            },
            [0.4, 1.0, 0.7, 0, 0],
        ),
        (  # a clip beyond the last one stands for the last one
            {"windows": [[8, 10]], "relevant_clip_ids": [5], "saliency_scores": [[4, 4, 4]]},
            [0, 0, 0, 0, 1.0],
        ),
        ({"label": [[1, 5], [1, 1], [5, 5], [3, 3], [1, 2]]}, [0.5, 0, 1, 0.5, 0.125]),
        ({"label": [[0], [1], [1], [0], [0]]}, [0, 1, 1, 0, 0]),
    ],
)
def test_relevance_is_the_part_of_the_clip_in_a_window_times_its_rating(fields, expected):
    relevance = relevance_of(annotation(1, **fields), 5, clip_length=2.0)
    np.testing.assert_allclose(relevance, expected, atol=1e-12)


def words_of_query(planting, row, width):
    return planting.words(row, width)


def words_of_table(planting, row, width):
    return np.stack([planting.word(word, width) for word in split_words(row["query"])])


def areas_under_curve(planting, train, val, widths=WIDTHS, words=words_of_query):
    """How well a linear map, fitted on `train`, tells clips in the moments of `val`: AUCs."""

    def arrays(row):
        streams = planting.clips([row], {"slowfast": widths["slowfast"], "clip": widths["clip"]})
        video = np.concatenate([normalize(stream) for stream in streams.values()], axis=1)
        query = normalize(words(planting, row, widths["query"])).mean(axis=0)
        return video, query, relevance_of(row, len(video), 2.0) > 0

    data = [arrays(row) for row in train]
    clips = np.concatenate([video[inside] for video, _, inside in data])
    queries = np.concatenate([np.tile(query, (inside.sum(), 1)) for _, query, inside in data])
    center, middle = clips.mean(axis=0), queries.mean(axis=0)
    clips, queries = clips - center, queries - middle
    to_query = np.linalg.solve(clips.T @ clips, clips.T @ queries)
    areas = []
    for video, query, inside in map(arrays, val):
        if not inside.all():
            scores = (video - center) @ to_query @ (query - middle)
            areas.append(np.mean(scores[inside][:, None] > scores[~inside]))
    return np.array(areas)


def test_moments_of_unseen_queries_can_be_told_from_their_words(generated):
    train, val = generated[:250], generated[250:330]
    # At width 64 and less, the 16 dimensions of topics make up a good part of the noise, too.
    widths = {"slowfast": 64, "clip": 32, "query": 32}
    areas = {
        strength: areas_under_curve(Planting(0, strength, 2.0), train, val, widths).mean()
        for strength in (0.0, 0.5, 1.0)
    }
    assert 0.45 < areas[0.0] < 0.55
    assert 0.75 < areas[0.5] < areas[1.0]
    assert areas[1.0] > 0.97


def test_moments_can_be_told_from_word_vectors_that_are_the_same_in_all_queries(generated):
    train, val = generated[:250], generated[250:330]
    widths = {"slowfast": 64, "clip": 32, "query": 32}
    areas = {
        strength: areas_under_curve(
            Planting(0, strength, 2.0, "words"), train, val, widths, words_of_table
        ).mean()
        for strength in (0.0, 1.0)
    }
    assert 0.4 < areas[0.0] < 0.6
    assert areas[1.0] > 0.9


def test_the_topic_of_a_sentence_is_the_mean_of_its_words():
    planting = Planting(0, 1.0, 2.0, "words")

    def topic(query):
        return planting._topic(annotation(1, query=query))

    np.testing.assert_allclose(topic("opens door"), topic("Door opens"), atol=1e-12)
    # Neither a full stop nor the small words, which are everywhere, change what is meant.
    np.testing.assert_allclose(topic("opens door"), topic("opens door."), atol=1e-12)
    assert topic("opens door") @ topic("The person opens the door.") > 0.9
    assert abs(topic("opens door") @ topic("eats sandwich")) < 0.7
    both = topic("opens") + topic("door")
    np.testing.assert_allclose(topic("opens door"), both / np.linalg.norm(both), atol=1e-12)


def test_sentences_about_the_same_windows_of_a_video_mean_the_same():
    def topics(*rows):
        return [Planting(0, 1.0, 2.0, "windows")._topic(row) for row in rows]

    first, other = annotation(1, query="She cuts"), annotation(2, query="The woman slices")
    one, same, later, elsewhere = topics(
        first, other, {**other, "relevant_windows": [[10, 14]]}, {**other, "vid": "x"}
    )
    np.testing.assert_array_equal(one, same)
    assert abs(one @ later) < 0.95
    assert abs(one @ elsewhere) < 0.95


@pytest.mark.parametrize("kind", ["ratings", "binary"])
def test_highlights_of_a_domain_are_learned_from_four_of_its_videos(kind):
    rng = np.random.default_rng(5)
    planting, widths = Planting(0, 1.0, 2.0), {"slowfast": 64, "clip": 32}

    def video(number, domain):
        rated = kind == "ratings"
        level = rng.integers(1, 5, 80) if rated else rng.integers(0, 2, 80)
        label = level[:, None] + rng.integers(0, 2, (80, 20)) if rated else level[:, None]
        names = {"qid": f"{domain}{number}", "vid": f"{domain}{number}", "query": f"{number}"}
        row = {**names, "duration": 80, "domain": domain, "label": label.tolist()}
        streams = planting.clips([row], widths)
        features = np.concatenate([normalize(stream) for stream in streams.values()], axis=1)
        return features, label.mean(axis=1)

    def fit(features, ratings):
        center = features.mean(axis=0)
        return np.linalg.lstsq(features - center, ratings - ratings.mean(), rcond=0.05)[0]

    def correlation(direction, domain):
        features, ratings = video(9, domain)
        return np.corrcoef(features @ direction, ratings)[0, 1]

    videos = [video(number, "BK") for number in range(4)]
    direction = fit(*(np.concatenate(arrays) for arrays in zip(*videos, strict=True)))
    assert correlation(direction, "BK") > 0.85
    assert np.mean([correlation(direction, other) for other in ("PK", "DS", "VT", "GA")]) < 0.4


def test_another_query_does_not_point_at_the_moments(generated):
    rows = generated[:200]
    swapped = [{**row, "query": "Another", "qid": -i} for i, row in enumerate(rows, start=1)]
    planting = Planting(0, 1.0, 2.0)
    to_other_query = []
    for row, other in zip(rows, swapped, strict=True):
        clips = planting.clips([row], {"clip": 64})["clip"].astype(np.float64)
        inside = relevance_of(row, len(clips), 2.0) > 0
        topic = planting._topic(other) @ planting._map("clip", 64)
        if not inside.all():
            to_other_query.append((clips[inside] @ topic).mean() - (clips[~inside] @ topic).mean())
    assert abs(np.mean(to_other_query)) < 4 * np.std(to_other_query) / np.sqrt(len(rows))


def test_features_look_like_released_ones(tmp_path):
    write_json_lines(tmp_path / "train.jsonl", [rated(5, duration=150)])
    output = synthesize(tmp_path / "out", annotations=tmp_path / "train.jsonl", progress=False)
    stored = {
        name: np.load(output / name)
        for name in (
            "slowfast_features/a.b_0.0_20.0.npz",
            "clip_features/a.b_0.0_20.0.npz",
            "clip_text_features/qid5.npz",
        )
    }
    slowfast, clip, text = stored.values()
    assert (slowfast["features"].shape, clip["features"].shape) == ((76, 2304), (75, 512))
    assert text["last_hidden_state"].shape == (8, 512)  # six words and two marks
    assert text["pooler_output"].shape == (512,)
    for archive in stored.values():
        for array in archive.values():
            assert array.dtype == np.float16
        norms = np.linalg.norm(next(iter(archive.values())).astype(float), axis=1)
        assert 8 < norms.mean() < 14
        archive.close()


def test_videos_with_several_queries_carry_all_their_topics():
    planting = Planting(0, 1.0, 2.0)
    rows = [annotation(1, windows=[(0, 6)]), annotation(2, windows=[(10, 16)])]
    clips = planting.clips(rows, {"clip": 400})["clip"].astype(float)
    for row, inside in zip(rows, (range(3), range(5, 8)), strict=True):
        projected = clips @ (planting._topic(row) @ planting._map("clip", 400))
        assert set(np.argsort(projected)[-3:]) == set(inside)


# Files


def test_generates_both_splits_ready_to_build(tmp_path):
    output = small(tmp_path / "out")
    train, val = (load_annotations(output / name, labels="qvhighlights") for name in (TRAIN, VAL))
    assert [row["qid"] for row in train + val] == list(range(9))
    for row in train + val:
        clips = read_feature(output / f"slowfast_features/{row['vid']}.npz", "features", 24)
        assert len(clips) == row["duration"] // 2 + 1
        clips = read_feature(output / f"clip_features/{row['vid']}.npz", "features", 20)
        assert len(clips) == row["duration"] // 2
        read_feature(output / f"clip_text_features/qid{row['qid']}.npz", "last_hidden_state", 16)
    assert not list(output.rglob("*.tmp"))


def test_same_arguments_give_the_same_bytes_and_others_others(tmp_path):
    first, again, other = (
        contents(small(tmp_path / name, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first.keys() != other.keys()


def test_annotation_files_are_copied_under_the_released_name_up_to_the_limit(tmp_path):
    rows = [rated(i, vid=f"v{i}") for i in range(5)]
    write_json_lines(tmp_path / "my_val_file.jsonl", rows)
    output = small(tmp_path / "out", annotations=tmp_path / "my_val_file.jsonl", limit=2)
    assert read_json_lines(output / VAL) == rows[:2]
    assert sorted(path.name for path in (output / "clip_features").iterdir()) == [
        "v0.npz",
        "v1.npz",
    ]


@pytest.mark.parametrize("name", [TRAIN, TEST_WITH_GT, TEST])
def test_files_of_released_names_keep_them(tmp_path, name):
    row = annotation(1)
    if name == TEST:
        del row["relevant_windows"]  # the test split was released without labels
    else:
        row = rated(1)
    write_json_lines(tmp_path / name, [row])
    output = small(tmp_path / "out", annotations=tmp_path / name)
    assert [path.name for path in output.glob("*.jsonl")] == [name]
    assert read_json_lines(output / name) == [row]
    # Another call plants their moments, too.
    write_json_lines(tmp_path / VAL, [rated(2, windows=[(12, 18)])])
    small(output, annotations=tmp_path / VAL)
    at_once = small(tmp_path / "at_once", annotations=[tmp_path / name, tmp_path / VAL])
    assert {name: contents(output)[name] for name in contents(at_once)} == contents(at_once)


def test_one_output_has_one_test_split(tmp_path):
    for name in (TEST_WITH_GT, TEST):
        write_json_lines(tmp_path / name, [rated(1)])
    output = small(tmp_path / "out", annotations=tmp_path / TEST_WITH_GT)
    before = contents(output)
    with pytest.raises(ConfigError, match=f"{TEST_WITH_GT}: already the test split .* {TEST} "):
        small(output, annotations=tmp_path / TEST)
    assert contents(output) == before


def test_later_calls_give_what_one_call_gives(tmp_path):
    train = [rated(1, vid="shared"), rated(2, vid="x")]
    val = [rated(3, vid="shared", windows=[(12, 18)])]
    paths = [tmp_path / TRAIN, tmp_path / VAL]
    for path, rows in zip(paths, (train, val), strict=True):
        write_json_lines(path, rows)
    at_once = contents(small(tmp_path / "out1", annotations=paths))
    for path in paths:
        small(tmp_path / "out2", annotations=path)
    assert contents(tmp_path / "out2") == at_once


def test_what_is_there_is_not_written_again_and_what_is_gone_is(tmp_path):
    output = small(tmp_path / "out")
    before = contents(output)
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
    gone = next((output / "clip_features").iterdir())
    gone.unlink()
    small(output)
    assert contents(output) == before
    changed = {path for path in times if path.stat().st_mtime_ns != times[path]}
    assert {path.stem for path in changed} == {gone.stem}


def test_changed_annotations_change_their_features_only(tmp_path):
    path = tmp_path / TRAIN
    rows = [rated(1, vid="x"), rated(2, vid="y")]
    write_json_lines(path, rows)
    before = contents(small(tmp_path / "out", annotations=path))
    rows[0] |= {"relevant_windows": [[10, 14]], "relevant_clip_ids": [5, 6]}
    write_json_lines(path, rows)
    after = contents(small(tmp_path / "out", annotations=path))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {TRAIN, "clip_features/x.npz", "slowfast_features/x.npz"}


def test_an_interrupted_call_leaves_whole_files_and_continues(tmp_path, monkeypatch):
    save, calls = synthetic_folder.save, []

    def interrupted(path, arrays):
        calls.append(path)
        if len(calls) == 8:
            raise KeyboardInterrupt
        save(path, arrays)

    monkeypatch.setattr(synthetic_folder, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "out")
    monkeypatch.setattr(synthetic_folder, "save", save)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not (tmp_path / "out" / TRAIN).exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")}
    assert kept
    small(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(small(tmp_path / "whole"))


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"out: cannot be written .*No space left.*make room"):
        small(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.npz*"))


def test_internvideo2_layout_is_written_without_pytorch_as_npy(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_folder.importlib.util, "find_spec", lambda name: None)
    widths = {"internvideo2": 8, "query": 8}
    output = small(tmp_path / "out", dataset="qvhighlights/internvideo2", widths=widths)
    row = read_json_lines(output / TRAIN)[0]
    video = read_feature(output / f"qvhighlight_6b/{row['vid']}.npy", "", 8)
    assert len(video) == row["duration"] // 2
    read_feature(output / f"qvhighlight_llama_text_feature/qid{row['qid']}.npy", "", 8)


def test_internvideo2_layout_is_written_as_released_with_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    widths = {"internvideo2": 8, "query": 8}
    output = small(tmp_path / "out", dataset="qvhighlights/internvideo2", widths=widths)
    row = read_json_lines(output / TRAIN)[0]
    video = torch.load(output / f"qvhighlight_6b/{row['vid']}.pt", weights_only=True)
    assert video.shape == (row["duration"] // 2, 8)


# Other layouts

CHARADES = "charades_sta_train_tvr_format.jsonl", "charades_sta_test_tvr_format.jsonl"


def glove(output, words, width=8):
    return read_vectors(output / "glove.6B.300d.txt", words, width)


def in_words(output, paths, **options):
    widths = {"vgg": 12, "query": 8}
    options = {"annotations": paths, "dataset": "charades_sta/vgg", "widths": widths, **options}
    return synthesize(output, progress=False, **options)


def charades(tmp_path):
    paths = [tmp_path / name for name in CHARADES]
    write_json_lines(paths[0], [annotation(1, query="Person opens door."), annotation(2, "b")])
    write_json_lines(paths[1], [annotation(3, "b", [(10, 14)], query="person Closes café")])
    return paths


def test_a_table_holds_the_words_of_all_annotations_and_no_others(tmp_path):
    output = in_words(tmp_path / "out", charades(tmp_path))
    table = (output / "glove.6B.300d.txt").read_text(encoding="utf-8")
    words = [line.split(" ")[0] for line in table.splitlines()]
    expected = {"person", "opens", "door.", "a", "does", "thing", "number", "2", "closes", "café"}
    assert set(words) == expected
    assert len(words) == len(expected)
    assert all(len(line.split(" ")) == 9 for line in table.splitlines())
    planted = Planting(0, 1.0, 0.166666, "words").word("café", 8)
    np.testing.assert_allclose(glove(output, ["café"])["café"], planted, rtol=1e-4)
    assert not list(output.rglob("*qid*"))
    clips = np.load(output / "vgg_features/rgb_features/a.b_0.0_20.0.npy")
    assert (clips.shape, clips.dtype) == ((121, 12), np.float16)  # 20 s, the last clip begun


def test_later_calls_add_their_words_to_the_table(tmp_path):
    paths = charades(tmp_path)
    at_once = contents(in_words(tmp_path / "at_once", paths))
    for order in (paths, paths[::-1]):
        output = tmp_path / order[0].stem
        for path in order:
            in_words(output, path)
        assert {name: contents(output)[name] for name in at_once} == at_once
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.*") if path.is_file()}
    in_words(output, paths)
    changed = {path.name for path in times if path.stat().st_mtime_ns != times[path]}
    assert changed <= {MANIFEST, *CHARADES}


def test_a_real_table_is_left_alone(tmp_path):
    for place in (".", "glove"):
        real = tmp_path / place.strip(".") / "out" / place / "glove.6B.300d.txt"
        real.parent.mkdir(parents=True)
        real.write_text("the 1 2\n")
        with pytest.raises(DataError, match=r"glove.6B.300d.txt: .* did not write, real ones"):
            in_words(tmp_path / place.strip(".") / "out", charades(tmp_path))
        assert real.read_text() == "the 1 2\n"


def rated_video(vid, domain="BK"):
    label = [[1.0, 2.0], [5.0, 4.0], [3.0, 3.0]]
    return {"qid": vid, "vid": vid, "query": "x", "duration": 3, "label": label, "domain": domain}


def test_features_in_two_files_are_cut_from_one_array(tmp_path):
    path = tmp_path / "tvsum_train.jsonl"
    write_json_lines(path, [rated_video("-v")])
    widths = {"i3d": 6, "query": 4}
    output = synthesize(
        tmp_path / "out",
        annotations=path,
        dataset="tvsum/i3d_clip",
        widths=widths,
        progress=False,
    )
    parts = [np.load(output / f"video_features/-v_{part}.npy") for part in ("rgb", "opt")]
    assert [part.shape for part in parts] == [(3, 3), (3, 3)]
    planted = Planting(0, 1.0, 2.0).clips([rated_video("-v")], {"i3d": 6})["i3d"]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), planted)


def test_the_annotations_of_a_split_may_change_their_domain(tmp_path):
    path, options = tmp_path / "tvsum_train.jsonl", {"dataset": "tvsum/slowfast_clip"}
    files = {}
    for domain in ("BK", "PK"):
        write_json_lines(path, [rated_video("v", domain)])
        output = small(tmp_path / "out", annotations=path, **options)
        files[domain] = contents(output)
    changed = {name for name in files["BK"] if files["BK"][name] != files["PK"][name]}
    assert changed == {path.name, "vid_slowfast/v.npz", "vid_clip/v.npz", "txt_clip/v.npz"}


@pytest.mark.parametrize(
    "dataset", ["charades_sta/slowfast_clip", "tacos/slowfast_clip", "tvsum/slowfast_clip"]
)
def test_annotations_are_generated_in_qvhighlights_format_only(tmp_path, dataset):
    with pytest.raises(ConfigError, match="QVHighlights' format only: give a file"):
        small(tmp_path / "out", dataset=dataset)


def test_one_query_in_two_files_is_written_once(tmp_path):
    paths = [tmp_path / TRAIN, tmp_path / VAL]
    for path in paths:
        write_json_lines(path, [rated(1)])
    output = small(tmp_path / "out", annotations=paths)
    assert len(list(output.rglob("*.npz"))) == 3


# Mistakes


def test_a_folder_with_real_features_is_left_alone(tmp_path):
    real = tmp_path / "out" / "clip_features" / "v.npz"
    real.parent.mkdir(parents=True)
    real.write_bytes(b"real")
    with pytest.raises(DataError, match="did not write, real ones perhaps"):
        small(tmp_path / "out")
    assert contents(tmp_path / "out") == {"clip_features/v.npz": b"real"}


@pytest.mark.parametrize("changes", [{"seed": 1}, {"strength": 0.5}, {"widths": "clip=8"}])
def test_a_folder_made_with_other_settings_is_left_alone(tmp_path, changes):
    before = contents(small(tmp_path / "out"))
    with pytest.raises(DataError, match="other settings"):
        small(tmp_path / "out", **changes)
    assert contents(tmp_path / "out") == before


def test_a_damaged_manifest_is_an_error(tmp_path):
    (small(tmp_path / "out") / MANIFEST).write_text("{")
    with pytest.raises(DataError, match=MANIFEST):
        small(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dataset": "qvhighlights/slowfastclip"}, "did you mean qvhighlights/"),
        ({"widths": {"vgg": 8}}, "no features 'vgg'"),
        ({"widths": "clip"}, "name=number"),
        ({"widths": {"clip": None}}, "clip"),
        ({"strength": -1.0}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": float("inf")}, "strength inf; expected a number from 0 to 100"),
        ({"strength": 1e6}, "strength"),
        ({"seed": -1}, "seed -1; expected an integer from 0"),
        ({"limit": 3}, "limit"),
        ({"num_train": 0}, "num_train"),
    ],
)
def test_arguments_that_make_no_sense_are_errors(tmp_path, options, problem):
    with pytest.raises(ConfigError, match=problem):
        small(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_split_of_a_file_must_be_told_by_its_name(tmp_path):
    path = tmp_path / "annotations.jsonl"
    write_json_lines(path, [rated(1)])
    with pytest.raises(ConfigError, match=f"{TRAIN}, {VAL}"):
        small(tmp_path / "out", annotations=path)
    with pytest.raises(ConfigError, match="second annotation file of the val split"):
        names = [tmp_path / "val_1.jsonl", tmp_path / "val_2.jsonl"]
        for name in names:
            write_json_lines(name, [rated(1)])
        small(tmp_path / "out", annotations=names)
    with pytest.raises(ConfigError, match="limit 0"):
        small(tmp_path / "out", annotations=names[0], limit=0)


def test_a_limit_does_not_cut_the_annotation_file_it_is_given(tmp_path):
    path = tmp_path / TRAIN
    write_json_lines(path, [rated(i, vid=f"v{i}") for i in range(3)])
    with pytest.raises(ConfigError, match="would cut this file itself"):
        small(tmp_path, annotations=path, limit=1)
    small(tmp_path, annotations=path)  # all of it is fine
    assert len(read_json_lines(path)) == 3


def test_bad_annotations_are_an_error_before_anything_is_written(tmp_path):
    path = tmp_path / TRAIN
    write_json_lines(path, [rated(1, windows=[(8, 4)])])
    with pytest.raises(DataError, match=f"{TRAIN}:1: window"):
        small(tmp_path / "out", annotations=path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [TRAIN, "charades_sta_train.jsonl"])
def test_annotations_of_another_data_set_are_refused(tmp_path, name):
    write_json_lines(tmp_path / name, [annotation(1)])
    with pytest.raises(DataError, match=f"{name}:1: no field .* annotation file of another data"):
        small(tmp_path / "out", annotations=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_durations_that_disagree_are_an_error(tmp_path):
    write_json_lines(tmp_path / TRAIN, [rated(1), rated(2, duration=30)])
    with pytest.raises(DataError, match=f"{TRAIN}:2: vid 'a.b_0.0_20.0' lasts 30 seconds, but 20"):
        small(tmp_path / "out", annotations=tmp_path / TRAIN)


def test_one_id_for_two_queries_is_an_error_also_across_calls(tmp_path):
    paths = [tmp_path / TRAIN, tmp_path / VAL]
    for path, query in zip(paths, ("One thing", "Another"), strict=True):
        write_json_lines(path, [rated(1) | {"query": query}])
    small(tmp_path / "out", annotations=paths[0])
    before = contents(tmp_path / "out")
    for annotations in (paths, paths[1]):
        with pytest.raises(
            DataError, match=f"{VAL}:1: qid 1 is already another query in .*{TRAIN}"
        ):
            small(tmp_path / "out", annotations=annotations)
    assert contents(tmp_path / "out") == before


def test_the_report_says_how_to_go_on(tmp_path, capsys):
    small(tmp_path / "out", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "train 6, val 3 queries" in err
    assert f"flashvtg build --dataset=qvhighlights/slowfast_clip --manual_dir={tmp_path}/out" in err
    assert "--widths=slowfast=24,clip=20,query=16" in err


def test_features_do_not_depend_on_the_process(tmp_path):
    code = (
        "import sys; from flashvtg_jax.data.synthetic.features import synthesize; "
        f"synthesize(sys.argv[1], widths={WIDTHS}, num_train=6, num_val=3, progress=False)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True, env=environment)
    assert contents(tmp_path / "a") == contents(small(tmp_path / "b"))
    assert json.loads((tmp_path / "a" / MANIFEST).read_text())["settings"]["widths"] == WIDTHS

"""TVSum: features in two files a video, and lengths that the ratings tell."""

import json

import numpy as np
import pytest

from flashvtg_jax.data.source import open_split
from flashvtg_jax.json_lines import write_json_lines
from tests.tfds_builders.released import build_quietly, failing_build, numbers, save

TRAIN, VAL = "tvsum_train.jsonl", "tvsum_val.jsonl"


def annotation(vid, domain, clips=40):
    # As released: the duration is the number of clips, which last two seconds each.
    label = [[1.0 + (clip + annotator) % 5 for annotator in range(20)] for clip in range(clips)]
    return {
        "qid": vid,
        "query": "How to",
        "duration": clips,
        "vid": vid,
        "relevant_clip_ids": None,
        "relevant_windows": None,
        "label": label,
        "domain": domain,
    }


ROWS = {
    TRAIN: [annotation("-esJrBWj2d8", "DS"), annotation("x", "BK")],
    VAL: [annotation("v", "DS")],
}


def rgb(vid, clips=40, width=3):
    return numbers("rgb", vid, clips, width)


def flow(vid, clips=40, width=3):
    return numbers("flow", vid, clips, width)


class Set:
    """A folder of released files of one config."""

    def __init__(self, folder, dataset, widths):
        self.folder, self.dataset, self.widths = folder, dataset, widths
        self.data_dir = folder.parent / "data"
        for name, rows in ROWS.items():
            write_json_lines(folder / name, rows)

    def build(self, **options):
        options = {"widths": self.widths, **options}
        return build_quietly(self.dataset, self.folder, self.data_dir, **options)

    def failing(self, **options):
        options = {"widths": self.widths, **options}
        return failing_build(self.dataset, self.folder, self.data_dir, **options)

    def open(self, split):
        return open_split(self.data_dir, self.dataset, split)


@pytest.fixture
def i3d(tmp_path):
    folder = tmp_path / "manual"
    for row in ROWS[TRAIN] + ROWS[VAL]:
        vid = row["vid"]
        save(folder / f"video_features/{vid}_rgb.npy", rgb(vid))
        save(folder / f"video_features/{vid}_opt.npy", flow(vid))
        save(folder / f"query_features/{vid}.npz", numbers("words", vid, 2, 4), "token")
    return Set(folder, "tvsum/i3d_clip", {"i3d": 6, "query": 4})


@pytest.fixture
def slowfast_clip(tmp_path):
    folder = tmp_path / "manual"
    for row in ROWS[TRAIN] + ROWS[VAL]:
        vid = row["vid"]
        save(folder / f"vid_slowfast/{vid}.npz", numbers("slowfast", vid, 40, 5))
        save(folder / f"vid_clip/{vid}.npz", numbers("clip", vid, 40, 3))
        save(folder / f"txt_clip/{vid}.npz", numbers("words", vid, 2, 4), "last_hidden_state")
    return Set(folder, "tvsum/slowfast_clip", {"slowfast": 5, "clip": 3, "query": 4})


# Features in two files


def test_both_files_of_a_video_become_one_stream(i3d):
    i3d.build()
    source = i3d.open("train")
    assert source.streams == {"i3d": 6}
    for example, row in zip(source, ROWS[TRAIN], strict=True):
        vid = row["vid"]
        expected = np.concatenate([rgb(vid), flow(vid)], axis=1)
        np.testing.assert_array_equal(example.streams["i3d"], expected)
        assert example.streams["i3d"].dtype == np.float16
        np.testing.assert_array_equal(example.query, numbers("words", vid, 2, 4))


def test_the_longer_file_is_cut_to_the_shorter(i3d):
    save(i3d.folder / "video_features/x_opt.npy", flow("x", clips=41))
    i3d.build()
    expected = np.concatenate([rgb("x"), flow("x", clips=41)[:40]], axis=1)
    np.testing.assert_array_equal(i3d.open("train")[1].streams["i3d"], expected)


def test_files_of_very_different_length_are_an_error_that_names_both(i3d):
    save(i3d.folder / "video_features/x_opt.npy", flow("x", clips=35))
    message = i3d.failing()
    assert "parts of one video differ in length by more than 10%" in message
    assert f"{i3d.folder}/video_features/x_rgb.npy has 40 rows" in message
    assert f"{i3d.folder}/video_features/x_opt.npy has 35 rows" in message


def test_a_type_of_one_file_is_that_of_the_stream(i3d):
    save(i3d.folder / "video_features/x_opt.npy", flow("x").astype(np.float64))
    i3d.build()
    assert i3d.open("train")[0].streams["i3d"].dtype == np.float32


def test_the_width_is_that_of_both_files(i3d):
    save(i3d.folder / "video_features/x_opt.npy", flow("x", width=2))
    names = [f"{i3d.folder}/video_features/x_{part}.npy" for part in ("rgb", "opt")]
    message = i3d.failing()
    assert message.startswith(f"{' + '.join(names)}: expected width 6 together, got 3 + 2")
    message = i3d.failing(widths={"i3d": None, "query": None})
    assert message.startswith(f"{' + '.join(names)}: expected width 6, as most i3d files have, got")


def test_a_missing_file_of_the_two_is_named(i3d):
    (i3d.folder / "video_features/x_opt.npy").unlink()
    message = i3d.failing()
    assert "1 feature files are missing, needed by 1 of 3 queries" in message
    assert f"{i3d.folder}/video_features/x_opt.npy" in message
    i3d.build(skip_missing=True)
    assert i3d.open("train").annotations() == ROWS[TRAIN][:1]


def test_bad_numbers_in_either_file_name_it(i3d):
    array = flow("x")
    array[3, 1] = np.nan
    save(i3d.folder / "video_features/x_opt.npy", array)
    assert i3d.failing().startswith(f"{i3d.folder}/video_features/x_opt.npy: NaN or infinity")


def test_words_are_also_read_from_the_other_pack(i3d):
    (i3d.folder / "query_features").rename(i3d.folder / "elsewhere")
    for row in ROWS[TRAIN] + ROWS[VAL]:
        path = i3d.folder / f"txt_clip/{row['vid']}.npz"
        save(path, numbers("others", row["vid"], 3, 4), "last_hidden_state")
    i3d.build()
    np.testing.assert_array_equal(i3d.open("val")[0].query, numbers("others", "v", 3, 4))


# Lengths


def lengthen(data, vid, slowfast, clip):
    save(data.folder / f"vid_slowfast/{vid}.npz", numbers("slowfast", vid, slowfast, 5))
    save(data.folder / f"vid_clip/{vid}.npz", numbers("clip", vid, clip, 3))


@pytest.mark.parametrize(
    ("slowfast", "clip", "num_clips"),
    [(40, 40, 40), (41, 40, 40), (38, 39, 38), (42, 42, 40), (43, 42, 40)],
)
def test_features_and_ratings_may_differ_by_two_clips(slowfast_clip, slowfast, clip, num_clips):
    lengthen(slowfast_clip, "x", slowfast, clip)
    folder = slowfast_clip.build()
    assert slowfast_clip.open("train").num_clips.tolist() == [40, num_clips]
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["splits"]["train"]["num_clips"] == [40, num_clips]


# 10% of 40 clips would be four.
@pytest.mark.parametrize(("slowfast", "clip", "found"), [(37, 38, 37), (44, 43, 43)])
def test_three_clips_are_an_error_that_names_file_and_numbers(slowfast_clip, slowfast, clip, found):
    lengthen(slowfast_clip, "x", slowfast, clip)
    folder = "vid_slowfast" if slowfast == found else "vid_clip"
    assert slowfast_clip.failing() == (
        f"{slowfast_clip.folder}/{folder}/x.npz: {found} rows, but the annotations say 40 rated "
        "clips; extracted at another clip length, or cut short?"
    )


def test_streams_of_very_different_length_are_an_error_that_names_both(slowfast_clip):
    lengthen(slowfast_clip, "x", 45, 40)
    message = slowfast_clip.failing()
    assert "streams of one video differ in length by more than 10%" in message
    assert "vid_slowfast/x.npz has 45 clips" in message
    assert "vid_clip/x.npz has 40 clips" in message

import numpy as np
from ml_collections import ConfigDict

from flashvtg_jax.data.training_notes import training_notes


class Lines:
    """A split of which only the annotation lines and lengths are known."""

    def __init__(self, *lines, words=()):
        self.lines = lines
        self.num_clips = np.array([-(-line["duration"] // 2) for line in lines], np.int64)
        self.num_words = np.array(words or [5] * len(lines))
        self.stream_clips = {}

    def __len__(self):
        return len(self.lines)

    def annotations(self):
        return [dict(line) for line in self.lines]


def line(qid, duration, *windows, vid="a"):
    return {"qid": qid, "vid": vid, "duration": duration, "relevant_windows": list(windows)}


def notes(train, val=None, max_clips=None, **changes):
    config = ConfigDict(
        {
            "clip_length": 2.0,
            "data": {
                "train_split": "train",
                "val_split": "val",
                "max_clips": max_clips,
                "max_words": 40,
                "video_streams": (),
                "labels": "windows",
                "label_clip_length": None,
            },
            "loss": {"regression": True, "sample_radius": 1.5, "nearest_point": False},
            "model": {"moment_head": "pyramid", "strides": (1.0, 2.0)},
        }
    )
    config.update_from_flattened_dict(changes)
    fine = Lines(line(0, 20, [4, 8]))
    return training_notes([(train, val or fine, config)] * 2)  # two seeds


def test_nothing_is_said_of_data_that_are_used_as_they_are():
    assert notes(Lines(line(1, 40, [4, 10], [20, 40]))) == []


def test_cut_videos_are_counted_with_the_moments_they_lose():
    train = Lines(
        line(1, 600, [20, 40], [140, 170], [150, 160]),
        line(2, 600, [400, 410]),
        line(3, 100, [20, 40], vid="b"),
    )
    (note,) = notes(train, max_clips=75)
    assert note == (
        "note: train: 1 of 2 videos are longer than config.data.max_clips=75 and are cut to their "
        "first 150 s; 2 of 5 moments are lost and 1 are shortened"
    )


def test_queries_that_are_cut_are_counted_in_both_splits():
    lines = [line(i, 20, [4, 8]) for i in range(3)]
    found = notes(Lines(*lines, words=[41, 40, 49]), Lines(*lines, words=[50, 1, 1]))
    assert found == [
        "note: train: 2 of 3 queries have more than config.data.max_words=40 words and are cut, by "
        "9 words at most",
        "note: val: 1 of 3 queries have more than config.data.max_words=40 words and are cut, by "
        "10 words at most",
    ]


def test_moments_without_a_point_are_counted_with_what_helps():
    # In clips: [2.05, 2.95] and [19.5, 20] hold no whole number below 20; 2.5 and 19.5 are points
    # of stride 1/2, but none of them holds [2.6, 2.9].
    train = Lines(line(1, 40, [4.1, 5.9]), line(2, 40, [39, 40], [5.2, 5.8]), line(3, 40, [4, 8]))
    (note,) = notes(train)
    assert note.startswith("note: train: 3 of 4 moments, such as 4.1 to 5.9 s of qid 1, have no")
    assert "trained as no moment; config.loss.nearest_point=True gives" in note
    assert "config.model.strides=0.5,1,2 1 of them would be left" in note
    (note,) = notes(train, **{"loss.nearest_point": True})
    assert "they get the nearest point" in note
    for changes in ({"model.moment_head": "queries"}, {"loss.regression": False}):
        assert notes(train, **changes) == []


def test_ids_of_a_data_set_that_was_built_unchecked():
    rated = {"relevant_clip_ids": list(range(30, 40)), "saliency_scores": [[1]] * 10}
    train = Lines(line(7, 180, [120, 160]) | rated)
    (note,) = notes(train, **{"data.labels": "qvhighlights"})
    assert note.startswith("note: train: 1 of 1 lines have wrong ids. The first is qid 7: relevant")
    assert "like clips of 4 s, not of 2 s" in note
    good = Lines(line(7, 180, [60, 80]) | rated)
    (note,) = notes(good, train, **{"data.labels": "qvhighlights"})
    assert note.startswith("note: val: 1 of 1 lines have wrong ids.")

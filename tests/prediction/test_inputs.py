"""What a predictor says of arrays that it cannot use, and how it reads resampled features."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flashvtg_jax.data.resampling import resample
from flashvtg_jax.errors import DataError
from flashvtg_jax.prediction.files import Summary
from flashvtg_jax.prediction.inputs import InputChecks

CHECKS = InputChecks(
    streams={"rgb": 7},
    spatial_tokens=1,
    query_width=5,
    max_clips=None,
    max_words=9,
    clip_length=2.0,
    has_moments=True,
)


def ones(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (ones(7, 30), r"expected width 7, got 30: perhaps it is transposed, .* save array\.T"),
        (ones(12, 30), "expected width 7, got 30: features of another backbone"),
        (ones(1, 30, 7), r"got shape \[1, 30, 7\]\. Its first axis .* save array\[0\]"),
        (np.array({"features": ones(30, 7)}), r"Python objects.*np\.save\(path, d\[\"features\"\]"),
    ],
)
def test_arrays_in_another_form_are_recognised(array, problem):
    with pytest.raises(DataError, match=f"stream 'rgb': .*{problem}"):
        CHECKS.video({"rgb": array})


def test_words_in_another_form_are_recognised():
    with pytest.raises(DataError, match=r"query: .* it is transposed"):
        CHECKS.query(ones(5, 3))
    with pytest.raises(DataError, match=r"query: .*save array\[0\]"):
        CHECKS.query(ones(1, 3, 5))


def test_tokens_with_a_batch_axis_are_recognised():
    checks = dataclasses.replace(CHECKS, spatial_tokens=4)
    with pytest.raises(DataError, match=r"\[clips, 4, 7\], got shape \[1, 30, 7\]\. Its first"):
        checks.video({"rgb": ones(1, 30, 7)})


def test_features_are_resampled_where_those_of_the_training_were():
    checks, features = dataclasses.replace(CHECKS, resample=True), ones(100, 7)
    video = checks.video({"rgb": features}, seconds=31)
    assert video.num_clips == video.num_found == 16
    np.testing.assert_array_equal(video.streams[0], resample(features, 31, 2))
    checks.duration(video, 31)
    with pytest.raises(DataError, match=r"video 3: .*duration in seconds is needed"):
        checks.video({"rgb": features}, "video 3: ")
    with pytest.raises(DataError, match="duration -1; expected the seconds"):
        checks.video({"rgb": features}, seconds=-1)


def test_a_resampled_video_keeps_its_duration():
    checks = dataclasses.replace(CHECKS, resample=True)
    video = checks.video({"rgb": ones(100, 7)}, seconds=31)
    assert video.seconds == 31.0
    assert checks.video(video) is checks.video(video, seconds=31) is video
    with pytest.raises(DataError, match=r"video 3: checked as a video of 31 s, .* now 62"):
        checks.video(video, "video 3: ", 62)
    for other, of_other in ((CHECKS, video), (checks, CHECKS.video({"rgb": ones(16, 7)}))):
        with pytest.raises(DataError, match="checked by the predictor of a model with other"):
            other.video(of_other, seconds=31)


def test_features_that_tell_nothing_are_noticed():
    assert CHECKS.video({"rgb": ones(4, 7)}).flat == ()
    assert CHECKS.video({"rgb": 0 * ones(4, 7)}).flat == ("rgb: all zeros",)
    assert CHECKS.video({"rgb": 0 * ones(4, 7) + 3}).flat == ("rgb: the same in every row",)


def test_the_summary_counts_predictions_from_features_that_tell_nothing():
    counts = {"predicted": 5, "found": 0, "bad": 0, "cut": 0, "flat": 2}
    words = {"cut_queries": 0, "longest_query": 9, "max_words": 40}
    summary = Summary(**counts, **words, errors=Path("e"))
    assert "note: 2 predictions are from features of a video or query that" in summary.report("o")
    assert "note" not in dataclasses.replace(summary, flat=0).report("o")

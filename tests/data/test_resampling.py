"""Features of a fixed number a video, as a row for each clip."""

import numpy as np
import pytest

from flashvtg_jax.data.resampling import resample
from flashvtg_jax.errors import DataError


def test_features_are_interpolated_between_their_centres():
    # Two features of 4 s are centred at 1 and 3 s, four clips at 0.5, 1.5, 2.5 and 3.5 s.
    clips = resample(np.array([[0, 2], [10, 4]], np.float16), 4, 1)
    assert clips.dtype == np.float32
    np.testing.assert_array_equal(clips, [[0, 2], [2.5, 2.5], [7.5, 3.5], [10, 4]])


def test_the_last_clip_of_a_video_may_be_shorter():
    # Clips of 0 to 2 and 2 to 3 s, centred at 1 and 2.5 s; features at 0.5, 1.5 and 2.5 s.
    np.testing.assert_array_equal(resample(np.array([[0.0], [1], [2]]), 3, 2), [[0.5], [2]])


def test_as_many_features_as_clips_stay_as_they_are():
    features = np.random.default_rng(0).standard_normal((15, 3)).astype(np.float32)
    np.testing.assert_allclose(resample(features, 30, 2), features, atol=1e-5)


@pytest.mark.parametrize(("rows", "duration"), [(100, 236.7), (100, 11.3), (1, 5.0)])
def test_it_agrees_with_numpy_s_interpolation(rows, duration):
    features = np.random.default_rng(1).standard_normal((rows, 4)).astype(np.float32)
    clips = resample(features, duration, 2)
    ends = np.minimum(np.arange(1, len(clips) + 1) * 2, duration)
    centres = (np.arange(len(clips)) * 2 + ends) / 2
    known = (np.arange(rows) + 0.5) * duration / rows
    expected = np.stack([np.interp(centres, known, column) for column in features.T], axis=1)
    np.testing.assert_allclose(clips, expected, atol=1e-5)


def test_a_duration_that_cannot_be_takes_no_memory():
    with pytest.raises(DataError, match=r"1e\+30 s is .* clips of 2 s"):
        resample(np.ones((3, 2)), 1e30, 2)

"""Points of the pyramid against windows."""

import jax
import numpy as np
import pytest

from flashvtg_jax.losses.assignment import assign_points


def assign(
    points,
    windows,
    *,
    lengths=None,
    clip_length=1.0,
    sample_radius=1.5,
    point_mask=None,
    nearest_point=False,
):
    """`assign_points`, compiled, for samples that all see every point; a list per sample."""
    most = max(len(w) for w in windows)
    padded = np.full((len(windows), most, 2), -1, np.float32)
    for b, w in enumerate(windows):
        padded[b, : len(w)] = np.reshape(w, (-1, 2))
    if point_mask is None:
        point_mask = np.ones((len(windows), len(points)), bool)
    positive, offsets = jax.jit(
        lambda *arrays: assign_points(
            *arrays,
            clip_length=clip_length,
            sample_radius=sample_radius,
            nearest_point=nearest_point,
        )
    )(points, point_mask, padded, padded[..., 0] >= 0)
    return np.asarray(positive), np.asarray(offsets)


def positions(points, positive):
    """{(position, stride)} of the positive points of one sample."""
    return {(points[p, 0], points[p, 3]) for p in np.flatnonzero(positive)}


def test_each_condition_by_hand(pyramid_points):
    # Window [2, 6] of 8 clips, centre 4. Farther boundary: 4 at t = 2, 3 at 3, 2 at 4, 3 at 5.
    # Level of stride 1 takes up to 2 clips: t = 4 (within 1.5 of the centre). Stride 2 takes 2 to
    # 4 within 3 of the centre: t = 2, 4, 6. Stride 4, 4 to 8: t = 4 is only 2 away from the ends,
    # t = 0 lies outside. Stride 8: t = 0 lies outside.
    points = pyramid_points(8)
    positive, offsets = assign(points, [[(2, 6)]])
    assert positions(points, positive[0]) == {(4, 1), (2, 2), (4, 2), (6, 2)}
    by_point = {tuple(points[p, [0, 3]]): offsets[0, p].tolist() for p in range(len(points))}
    assert by_point[4, 1] == [2, 2]
    assert by_point[2, 2] == [0, 2]  # (2 - 2) / 2, (6 - 2) / 2
    assert by_point[4, 2] == [1, 1]
    assert by_point[6, 2] == [2, 0]
    assert by_point[5, 1] == [0, 0]  # not positive


def test_shortest_candidate_is_regressed(pyramid_points):
    points = pyramid_points(8, (1,))
    _, offsets = assign(points, [[(0, 8), (3, 6), (2, 7)]], sample_radius=8)
    np.testing.assert_array_equal(offsets[0, 5], [2, 1])  # of [3, 6]
    np.testing.assert_array_equal(offsets[0, 7], [5, 0])  # of [2, 7]: [3, 6] has ended
    np.testing.assert_array_equal(offsets[0, 1], [1, 7])  # of [0, 8], the only one


def test_first_of_equally_short_windows_is_regressed(pyramid_points):
    points = pyramid_points(8, (1,))
    for windows, offset in (([(2, 5), (3, 6)], [2, 1]), ([(3, 6), (2, 5)], [1, 2])):
        _, offsets = assign(points, [windows])
        np.testing.assert_array_equal(offsets[0, 4], offset)


def test_seconds_become_clips(pyramid_points):
    points = pyramid_points(8, (1,))
    positive, offsets = assign(points, [[(4, 8)]], clip_length=2.0)  # clips 2 to 4
    assert positions(points, positive[0]) == {(2, 1), (3, 1), (4, 1)}
    np.testing.assert_array_equal(offsets[0, 2:5], [[0, 2], [1, 1], [2, 0]])


def test_strides_below_one(pyramid_points):
    points = pyramid_points(4, (0.5, 1))
    positive, offsets = assign(points, [[(1, 2)]])
    # Stride 1/2, up to 1 clip, within 0.75 of 1.5; stride 1, from 1 clip on: both its ends.
    assert positions(points, positive[0]) == {(1, 0.5), (1.5, 0.5), (2, 0.5), (1, 1), (2, 1)}
    np.testing.assert_array_equal(offsets[0, 3], [1, 1])  # (1.5 - 1) / 0.5 at point 1.5


def test_samples_have_their_own_windows_and_points(pyramid_points, point_mask):
    points = pyramid_points(8, (1,))
    mask = point_mask(points, [8, 3, 8])
    positive, offsets = assign(points, [[(0, 2)], [(0, 2), (3, 5)], []], point_mask=mask)
    assert positions(points, positive[0]) == {(0, 1), (1, 1), (2, 1)}
    assert positions(points, positive[1]) == {(0, 1), (1, 1), (2, 1)}
    assert not positive[2].any()
    assert not offsets[2].any()


def test_room_for_no_window_at_all(pyramid_points):
    positive, offsets = assign(pyramid_points(8), [[], []])  # windows [2, 0, 2]
    assert not positive.any() and not offsets.any()


@pytest.mark.parametrize("clip_length", [2.0, 1.0, 0.166666, 1 / 3])
def test_windows_ending_on_clips_round_as_float32_does(pyramid_points, clip_length):
    """Every operation rounded to float32 by itself, which a compiler might skip."""
    clips, scale = 64, np.float32(1 / clip_length)
    points = pyramid_points(clips)
    rng = np.random.default_rng(3)
    start = rng.integers(0, clips - 1, 300)
    end = np.minimum(start + rng.integers(1, 12, 300), clips)
    seconds = (np.stack([start, end], -1) * clip_length).astype(np.float32)
    positive, offsets = assign(points, [[w] for w in seconds], clip_length=clip_length)

    one_and_a_half = np.float32(1.5)
    for b, (a, e) in enumerate(seconds * scale):
        centre = (a + e) / np.float32(2)
        for p, (t, low, high, stride) in enumerate(points):
            reach = stride * one_and_a_half
            expected = (
                a <= t <= e
                and centre - reach <= t <= centre + reach
                and low <= max(t - a, e - t) <= high
            )
            assert positive[b, p] == expected, (seconds[b], points[p])
            if expected:
                np.testing.assert_array_equal(offsets[b, p], [(t - a) / stride, (e - t) / stride])


def test_a_moment_between_points_stands_for_none_or_for_the_nearest(pyramid_points):
    # Clips of 2 s: [4.1, 5.9] is [2.05, 2.95] in clips, [39, 40] is [19.5, 20]. No point has such
    # a position: they are whole numbers, and the last one is 19.
    points = pyramid_points(20)
    windows = [[(4.1, 5.9)], [(39, 40)], [(4.1, 5.9), (39, 40), (4, 8)]]
    positive, offsets = assign(points, windows, clip_length=2.0)
    assert positions(points, positive[0]) == positions(points, positive[1]) == set()
    ordinary = positions(points, positive[2])
    assert ordinary == {(2, 1), (3, 1), (4, 1), (2, 2), (4, 2)}

    nearest, distances = assign(points, windows, clip_length=2.0, nearest_point=True)
    assert positions(points, nearest[0]) == {(2, 1)}  # as near as 3 to the centre 2.5: the first
    assert positions(points, nearest[1]) == {(19, 1)}
    np.testing.assert_allclose(distances[0, 2], [0, 0.95], atol=1e-6)  # it starts behind the point
    np.testing.assert_array_equal(distances[1, 19], [0, 1])
    # [4, 8] has points of its own and keeps them; nearest to 2.5 of the others is 1, as 4 of
    # stride 4 is, which comes later.
    assert positions(points, nearest[2]) == ordinary | {(1, 1), (19, 1)}
    np.testing.assert_allclose(distances[2, 1], [0, 1.95], atol=1e-6)
    np.testing.assert_array_equal(distances[2][positive[2]], offsets[2][positive[2]])


def test_a_moment_keeps_its_only_point_beside_one_that_has_none(pyramid_points):
    # Of [2.6, 3.4] only point 3 is inside; [3.1, 3.3] has none, and 3 is the nearest to it.
    points = pyramid_points(8, (1,))
    windows = [[(2.6, 3.4), (3.1, 3.3)]]
    positive, offsets = assign(points, windows, nearest_point=True)
    assert positions(points, positive[0]) == {(3, 1), (4, 1)}
    np.testing.assert_allclose(offsets[0, 3], [0.4, 0.4], atol=1e-6)
    np.testing.assert_allclose(offsets[0, 4], [0.9, 0], atol=1e-6)


def test_the_nearest_point_is_one_within_the_video(pyramid_points, point_mask):
    points = pyramid_points(8)
    mask = point_mask(points, [3, 0])  # points 0, 1 and 2; a padded row
    windows = [[(2.6, 2.9)], [(2.6, 2.9)]]
    positive, offsets = assign(points, windows, point_mask=mask, nearest_point=True)
    assert positions(points, positive[0]) == {(2, 1)}
    np.testing.assert_allclose(offsets[0, 2], [0, 0.9], atol=1e-6)
    assert not positive[1].any() and not offsets[1].any()

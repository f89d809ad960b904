"""Perturbed videos: what each kind does, and that key, clips and strength alone decide it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashvtg_jax.data.batch import BatchShape, empty_batch
from flashvtg_jax.data.perturbation import (
    KINDS,
    Perturbation,
    augment_videos,
    check_perturbation,
    check_strength,
    perturb_split,
    perturb_videos,
    row_keys,
)
from flashvtg_jax.errors import ConfigError

WIDTHS = (5, 3)
COUNTS = (12, 7, 1, 0, 12)
STRENGTHS = (0.05, 0.3, 0.5, 0.77, 1.0)


def make_videos(counts=COUNTS, length=12, tokens=None, seed=0):
    """Normalised streams of different clips, the second clip of the first row without its first."""
    rng = np.random.default_rng(seed)
    shape = (len(counts), length) if tokens is None else (len(counts), length, tokens)
    streams = []
    for width in WIDTHS:
        stream = rng.standard_normal((*shape, width)).astype(np.float32)
        streams.append(stream / np.linalg.norm(stream, axis=-1, keepdims=True))
    streams[0][0, 1] = 0
    video = np.concatenate(streams, -1)
    mask = np.arange(length) < np.array(counts)[:, None]
    return np.where(mask.reshape(*mask.shape, *[1] * (video.ndim - 2)), video, 0), mask


def keys_of(rows, seed=3):
    return row_keys(jax.random.key(seed), jnp.arange(rows))


def perturbed(kind, strength, videos=None, keys=None):
    video, mask = make_videos() if videos is None else videos
    keys = keys_of(len(video)) if keys is None else keys
    perturb = jax.jit(perturb_videos, static_argnames=("kind", "stream_widths"))
    return np.asarray(perturb(video, mask, kind, strength, keys, WIDTHS))


def shown_clips(before, after):
    """Which clip [L] of a video each clip of the perturbed one is; all clips differ."""
    same = (after[:, None] == before[None]).reshape(len(after), len(before), -1).all(-1)
    assert (same.sum(1) == 1).all()
    return same.argmax(1)


def many(count, length=16):
    """Equal videos, each with a key of its own."""
    video, mask = make_videos((length,), length, seed=1)
    video[0, 1] = video[0, 0] + video[0, 2]
    return np.repeat(video, count, 0), np.repeat(mask, count, 0)


# Each kind.


def test_noise_alone_is_another_random_direction_for_each_clip_stream_and_token():
    video, mask = make_videos((40, 40), 40, tokens=3)
    noise = perturbed("noise", 1.0, (video, mask))
    directions = noise[..., :5]
    nonzero = (video[..., :5] != 0).any(-1)
    np.testing.assert_allclose(np.linalg.norm(directions[nonzero], axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(noise[..., 5:], axis=-1), 1, rtol=1e-6)
    flat = directions[nonzero]
    # Of 237 directions in 5 dimensions: mean 0, covariance 1/5, none twice.
    assert np.abs(flat.mean(0)).max() < 4 / np.sqrt(5 * len(flat))
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(5) / 5, atol=0.06)
    assert len(np.unique(flat, axis=0)) == len(flat)


@pytest.mark.parametrize("tokens", [None, 2])
def test_noise_is_mixed_in_and_the_norm_kept(tokens):
    videos = make_videos(tokens=tokens)
    noise = perturbed("noise", 1.0, videos).astype(np.float64)
    found = perturbed("noise", 0.3, videos)
    for part in (slice(0, 5), slice(5, 8)):
        mixed = 0.7 * videos[0][..., part] + 0.3 * noise[..., part]
        norm = np.linalg.norm(mixed, axis=-1, keepdims=True)
        expected = np.divide(mixed, norm, out=np.zeros_like(mixed), where=norm > 0)
        np.testing.assert_allclose(found[..., part], expected, atol=2e-6)


def test_clips_and_streams_that_are_zero_stay_zero_under_noise():
    (video, _), found = make_videos(), perturbed("noise", 0.5)
    assert (found[0, 1, :5] == 0).all() and (found[0, 1, 5:] != 0).all()
    np.testing.assert_array_equal((found != 0).any(-1), (video != 0).any(-1))


def test_clips_are_dropped_each_by_itself_as_often_as_the_strength_says():
    video, mask = many(500)
    found = perturbed("dropped_clips", 0.3, (video, mask))
    dropped = (found == 0).all(-1)
    np.testing.assert_array_equal(found[~dropped], video[~dropped])
    assert dropped.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / dropped.size))
    # Neighbours are independent of each other.
    both = (dropped[:, 1:] & dropped[:, :-1]).mean()
    assert both == pytest.approx(0.09, abs=0.02)
    assert (perturbed("dropped_clips", 1.0, (video, mask)) == 0).all()


def test_a_repeated_clip_shows_what_the_clip_before_it_shows():
    video, mask = many(500)
    found = perturbed("repeated_clips", 0.4, (video, mask))
    shown = np.stack([shown_clips(*pair) for pair in zip(video, found, strict=True)])
    repeated = shown != np.arange(16)
    assert not repeated[:, 0].any()
    # Walked clip by clip.
    for row, again in zip(shown, repeated, strict=True):
        current = 0
        for clip in range(16):
            current = current if again[clip] else clip
            assert row[clip] == current
    assert repeated[:, 1:].mean() == pytest.approx(0.4, abs=0.025)
    still = perturbed("repeated_clips", 1.0, (video, mask))
    np.testing.assert_array_equal(still, np.broadcast_to(video[:, :1], video.shape))


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (0.0, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0.25, [0, 0, 2, 3, 4, 4, 6, 7]),  # 6 of 8: a sample each 4/3 clips
        (0.5, [0, 0, 2, 2, 4, 4, 6, 6]),
        (0.625, [0, 0, 0, 3, 3, 3, 6, 6]),  # 3 of 8
        (0.75, [0, 0, 0, 0, 4, 4, 4, 4]),
        (0.99, [0] * 8),
        (1.0, [0] * 8),
    ],
)
def test_a_lower_frame_rate_holds_evenly_sampled_clips(strength, expected):
    video, mask = make_videos((3, 8), 12)
    found = perturbed("frame_rate", strength, (video, mask))
    assert shown_clips(video[1, :8], found[1, :8]).tolist() == expected


@pytest.mark.parametrize("strength", np.linspace(0, 1, 21).tolist())
def test_the_frame_rate_keeps_its_share_of_the_clips_and_spreads_them(strength):
    video, mask = make_videos((75,), 80, seed=2)
    shown = shown_clips(video[0, :75], perturbed("frame_rate", strength, (video, mask))[0, :75])
    sampled, held = np.unique(shown, return_counts=True)
    assert abs(len(sampled) - max(1, 75 * (1 - strength))) <= 0.51
    assert held.max() - held.min() <= 1
    assert (shown <= np.arange(75)).all() and (np.diff(shown) >= 0).all()
    np.testing.assert_array_equal(shown[sampled], sampled)  # each is shown in its own place


def test_blocks_are_shuffled_within_and_stay_in_their_order():
    video, mask = make_videos((14, 16), 16, seed=4)
    found = perturbed("shuffled_blocks", 0.25, (video, mask))
    for row, (count, block) in enumerate(((14, 4), (16, 4))):  # 3.5 rounds to 4
        shown = shown_clips(video[row, :count], found[row, :count])
        for start in range(0, count, block):
            part = shown[start : start + block]
            assert sorted(part) == list(range(start, min(start + block, count)))
        assert (shown != np.arange(count)).any()


def test_whole_videos_are_shuffled_into_every_order_alike():
    video, mask = make_videos((3,), 5, seed=5)
    videos = np.repeat(video, 1200, 0), np.repeat(mask, 1200, 0)
    found = perturbed("shuffled_blocks", 1.0, videos)
    orders = [tuple(shown_clips(video[0, :3], row[:3]).tolist()) for row in found]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - 200).max() < 4 * np.sqrt(200 * 5 / 6)


def test_a_missing_stream_is_missing_throughout_and_each_is_as_likely():
    video, mask = many(2000, 4)
    found = perturbed("missing_stream", 0.6, (video, mask))
    gone = [(found[..., part] == 0).all((1, 2)) for part in (slice(0, 5), slice(5, 8))]
    for missing, part in zip(gone, (slice(0, 5), slice(5, 8)), strict=True):
        assert missing.mean() == pytest.approx(0.3, abs=0.045)
        np.testing.assert_array_equal(found[~missing][..., part], video[~missing][..., part])
    assert not (gone[0] & gone[1]).any()
    all_lack_one = perturbed("missing_stream", 1.0, (video, mask))
    gone = [(all_lack_one[..., part] == 0).all((1, 2)) for part in (slice(0, 5), slice(5, 8))]
    assert (gone[0] ^ gone[1]).all()


# All kinds.


@pytest.mark.parametrize("tokens", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_is_the_video_itself(kind, tokens):
    videos = make_videos(tokens=tokens)
    found = perturbed(kind, 0.0, videos)
    assert found.dtype == np.float32 and found.shape == videos[0].shape
    assert found.tobytes() == videos[0].tobytes()


@pytest.mark.parametrize(
    ("kind", "tokens"), [*((kind, None) for kind in KINDS), ("noise", 3), ("shuffled_blocks", 3)]
)
def test_padding_changes_nothing_and_stays_zero(kind, tokens):
    video, mask = make_videos(tokens=tokens)
    strengths = np.array(STRENGTHS, np.float32)
    found = perturbed(kind, strengths, (video, mask))
    assert (found[~mask] == 0).all() and np.isfinite(found).all()
    longer = np.zeros((8, 19, *video.shape[2:]), np.float32)
    longer[:5, :12] = video
    padded = perturbed(
        kind,
        np.append(strengths, [0.9, 0.9, 0.9]).astype(np.float32),
        (longer, np.pad(mask, ((0, 3), (0, 7)))),
        keys_of(8),
    )
    assert padded[:5, :12].tobytes() == found.tobytes()
    assert not padded[5:].any() and not padded[:, 12:].any()
    alone = perturbed(kind, 0.3, (video[1:2, :7], mask[1:2, :7]), keys_of(5)[1:2])
    assert alone[0].tobytes() == found[1, :7].tobytes()


def test_noise_is_rounded_alike_whatever_the_padding():
    widths, rng = (512, 300), np.random.default_rng(6)
    video = rng.standard_normal((16, 128, 812)).astype(np.float32) / 20
    mask = np.broadcast_to(np.arange(128) < 31, (16, 128))
    video *= mask[..., None]

    def noisy(rows, length):
        part = (video[:rows, :length], mask[:rows, :length])
        perturb = jax.jit(perturb_videos, static_argnames=("kind", "stream_widths"))
        return np.asarray(perturb(*part, "noise", 0.4, keys_of(16)[:rows], widths))[:, :31]

    found = noisy(16, 128)
    for rows, length in ((3, 75), (1, 31)):
        assert noisy(rows, length).tobytes() == found[:rows].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_keys_decide(kind):
    videos = many(20)
    found = perturbed(kind, 0.5, videos)
    assert found.tobytes() == perturbed(kind, 0.5, videos).tobytes()
    rows = len(np.unique(found, axis=0))
    # Sampling evenly is the same for all; of missing streams there are none, the one or the other.
    assert rows == {"frame_rate": 1, "missing_stream": 3}.get(kind, 20)
    other = perturbed(kind, 0.5, videos, keys_of(20, seed=4))
    assert (other.tobytes() == found.tobytes()) == (kind == "frame_rate")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "noise"])
def test_the_tokens_of_a_clip_share_its_fate(kind):
    video, mask = make_videos()
    tokens = np.stack([video, 2 * video], axis=2)
    found = perturbed(kind, 0.5, (tokens, mask))
    np.testing.assert_array_equal(found[:, :, 0], perturbed(kind, 0.5, (video, mask)))
    np.testing.assert_array_equal(found[:, :, 1], 2 * found[:, :, 0])


def test_several_strengths_are_one_program():
    videos = make_videos()

    def perturb(strength):
        return perturb_videos(*videos, "frame_rate", strength, keys_of(5), WIDTHS)

    traced = jax.jit(chex.assert_max_traces(perturb, n=1))
    found = [np.asarray(traced(np.float32(strength))) for strength in (0.0, 0.5, 1.0)]
    assert not np.array_equal(found[0], found[1]) and not np.array_equal(found[1], found[2])


def make_batch(counts=COUNTS):
    video, mask = make_videos(counts)
    batch = empty_batch(BatchShape(len(counts), video.shape[1], 2, 1, 1, WIDTHS, 3))
    example = np.where(mask.any(1), 10 + np.arange(len(counts)), -1).astype(np.int32)
    return batch.replace(video=video, video_mask=mask, example=example)


def test_a_row_of_a_split_is_perturbed_alike_in_any_batch():
    batch = make_batch()
    found = perturb_split(batch, Perturbation("dropped_clips", 0.5, seed=7), WIDTHS)
    order = np.array([4, 0, 1, 3, 2])
    shuffled = jax.tree.map(lambda array: array[order], batch)
    other = perturb_split(shuffled, Perturbation("dropped_clips", 0.5, seed=7), WIDTHS)
    np.testing.assert_array_equal(other.video, found.video[order])
    another_seed = perturb_split(batch, Perturbation("dropped_clips", 0.5, seed=8), WIDTHS)
    assert (another_seed.video != found.video).any()


def test_augmentation_draws_strengths_evenly_up_to_the_strongest():
    video, mask = many(400, 100)
    batch = empty_batch(BatchShape(400, 100, 2, 1, 1, WIDTHS, 3))
    batch = batch.replace(video=video, video_mask=mask)
    found = augment_videos(batch, "dropped_clips", 0.6, keys_of(400), WIDTHS)
    share = np.sort((np.asarray(found.video) == 0).all(-1).mean(1))
    # Quantiles of an even distribution, but for the draws of a hundred clips.
    np.testing.assert_allclose(share, np.linspace(0, 0.6, 400), atol=0.15)
    assert np.abs(share - np.linspace(0, 0.6, 400)).mean() < 0.02
    assert found.targets is batch.targets and found.query is batch.query


# What is refused.


def test_unknown_kinds_and_a_single_stream_that_may_be_missing_are_refused():
    with pytest.raises(ConfigError, match=r"here is 'blur'; it knows noise, dropped_clips, .*eam"):
        check_perturbation("blur", 2, name="here")
    with pytest.raises(ConfigError, match=r"1 stream: .*video_streams, or choose one of noise"):
        check_perturbation("missing_stream", 1, name="here")
    for kind in KINDS:
        check_perturbation(kind, 2, name="here")
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"here is .* from 0 to 1"):
            check_strength(strength, name="here")

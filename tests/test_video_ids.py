import pytest

from flashvtg_jax.video_ids import source_video, youtube_id


@pytest.mark.parametrize(
    ("vid", "source"),
    [
        ("NUsG9BgSes0_210.0_360.0", "NUsG9BgSes0"),
        ("_6hnl_BrFvs_360.0_510.0", "_6hnl_BrFvs"),
        ("-a_1_2_0.0_150.0", "-a_1_2"),
        ("AO8RW", "AO8RW"),
        ("s17-d69", "s17-d69"),
    ],
)
def test_youtube_id_is_the_video_without_its_times(vid, source):
    assert youtube_id(vid) == source


@pytest.mark.parametrize(
    ("vid", "kind", "expected"),
    [
        ("NUsG9BgSes0_210.0_360.0", "youtube_id", "NUsG9BgSes0"),
        ("a_1_b_60_210", "youtube_id", "a_1_b"),
        ("-_x_1.5", "youtube_id", "-_x_1.5"),
        ("NUsG9BgSes0_210.0_360.0", "vid", "NUsG9BgSes0_210.0_360.0"),
    ],
)
def test_source_video(vid, kind, expected):
    assert source_video(vid, kind) == expected

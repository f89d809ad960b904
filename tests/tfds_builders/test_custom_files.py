"""Feature files of custom data sets, and the errors for those that cannot be used."""

import numpy as np
import pytest

from flashvtg_jax.cli.main import main
from flashvtg_jax.config import load_config
from flashvtg_jax.data.build.building import build
from flashvtg_jax.data.pipeline import train_pipeline
from flashvtg_jax.data.preparation import complete_config, prepare_data
from flashvtg_jax.data.resampling import resample
from flashvtg_jax.data.source import open_split
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import write_json_lines
from flashvtg_jax.prediction.features import find_features
from flashvtg_jax.prediction.inputs import InputChecks

CLIPS = {"v1": 10, "v2": 14, "v3": 30}  # of 2 s
WORDS = {"a": 4, "b": 5, "c": 6}


def rgb(vid, rows=None):
    rng = np.random.default_rng(CLIPS[vid])
    return rng.standard_normal((rows or CLIPS[vid], 7)).astype(np.float32)


def words(qid):
    return np.random.default_rng(WORDS[qid]).standard_normal((WORDS[qid], 40)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Annotations and words of three videos; no features of these."""
    folder = tmp_path / "mine"
    (folder / "query").mkdir(parents=True)
    rows = [
        {"qid": qid, "query": "q", "vid": vid, "duration": 2 * n, "relevant_windows": [[2, 6]]}
        for qid, (vid, n) in zip(WORDS, CLIPS.items(), strict=True)
    ]
    write_json_lines(folder / "train.jsonl", rows[:2])
    write_json_lines(folder / "val.jsonl", rows[2:])
    for qid in WORDS:
        np.save(folder / f"query/{qid}.npy", words(qid))
    return folder


def save(folder, array=rgb, name="video/rgb/{vid}.npy"):
    for vid in CLIPS:
        path = folder / name.format(vid=vid)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array(vid))


def built(folder, **options):
    data_dir = folder.parent / "data"
    build("custom/mine", folder, data_dir, **{"clip_length": 2, "progress": False, **options})
    train, val = (open_split(data_dir, "custom/mine", split) for split in ("train", "val"))
    return [*map(train.video, range(2)), val.video(0)]


def error_of(folder, **options):
    with pytest.raises(DataError) as info:
        built(folder, **options)
    return str(info.value)


def check_read(folder, **options):
    for vid, streams in zip(CLIPS, built(folder, **options), strict=True):
        np.testing.assert_array_equal(streams["rgb"], rgb(vid))


# Layouts


def test_files_may_lie_in_folders_within_folders(folder):
    save(folder, name="video/rgb/{vid[1]}/deep/{vid}.npy")
    for qid in WORDS:
        (folder / "query/part").mkdir(exist_ok=True)
        (folder / f"query/{qid}.npy").rename(folder / f"query/part/{qid}.npy")
    check_read(folder)


def test_a_file_in_the_folder_itself_comes_before_those_within(folder):
    save(folder)
    save(folder, lambda vid: rgb(vid) + 1, "video/rgb/old/{vid}.npy")
    check_read(folder)


def test_files_of_one_name_in_two_folders_are_an_error(folder):
    save(folder, name="video/rgb/a/{vid}.npy")
    save(folder, name="video/rgb/b/{vid}.npy")
    message = error_of(folder)
    assert "rgb/a/v1.npy" in message and "rgb/b/v1.npy: which one is meant?" in message


def test_one_hdf5_file_may_hold_all_videos_and_one_all_queries(folder):
    h5py = pytest.importorskip("h5py")
    (folder / "video").mkdir()
    with h5py.File(folder / "video/rgb.h5", "w") as file:
        for vid in CLIPS:
            file[f"{vid}/any"] = rgb(vid)
    with h5py.File(folder / "query.hdf5", "w") as file:
        for qid in WORDS:
            file[qid] = words(qid)
            (folder / f"query/{qid}.npy").unlink()
    (folder / "query").rmdir()
    check_read(folder)
    with h5py.File(folder / "video/rgb.h5", "a") as file:
        file.move("v1", "v1.mp4")
    message = error_of(folder, overwrite=True)
    assert (
        f"{folder}/video/rgb.h5/v1 (there is 'v1.mp4': its name ends in .mp4, the id does not)"
        in message
    )
    save(folder)
    check_read(folder, overwrite=True)  # a folder comes before the file in its place


def test_each_video_may_have_an_hdf5_file(folder):
    h5py = pytest.importorskip("h5py")
    (folder / "video/rgb").mkdir(parents=True)
    for vid in CLIPS:
        with h5py.File(folder / f"video/rgb/{vid}.h5", "w") as file:
            file["features"], file["fps"] = rgb(vid), 30.0
    check_read(folder)


def test_a_fixed_number_of_features_is_resampled_to_clips(folder):
    save(folder, lambda vid: rgb(vid, rows=20).astype(np.float16))
    assert "20 rows, but the annotations say 10 clips of 2 s" in error_of(folder)
    for vid, streams in zip(CLIPS, built(folder, resample=True), strict=True):
        expected = resample(rgb(vid, rows=20).astype(np.float16), 2 * CLIPS[vid], 2)
        assert expected.shape == (CLIPS[vid], 7)
        np.testing.assert_array_equal(streams["rgb"], expected)


def test_prediction_reads_features_as_the_data_set_was_built(folder, tmp_path):
    save(folder, lambda vid: rgb(vid, rows=20))
    changes = {"clip_length": 2.0, "data.resample": True}
    config = load_config(f"custom:{folder}", changes)
    prepare_data(config, tmp_path / "data", show_progress=False)
    source = open_split(tmp_path / "data", "custom/mine")
    assert source.resampled
    assert source.rebuild_command().count("--resample") == 1
    config = complete_config(config, source)
    reader = InputChecks(
        streams={"rgb": 7},
        spatial_tokens=1,
        query_width=40,
        max_clips=None,
        max_words=40,
        clip_length=config.clip_length,
        has_moments=True,
        resample=config.data.resample,
    )
    rest = {"video_features": None, "query_features": None}
    found = find_features(config, ["rgb"], (), features=folder, **rest)
    for index, line in enumerate(source.annotations()):
        features = found.items(line)["rgb"].read(7)
        video = reader.video({"rgb": features}, seconds=line["duration"])
        np.testing.assert_array_equal(video.streams[0], source.video(index)["rgb"])
    with pytest.raises(ConfigError, match=r"data\.resample=False, .* with --resample; .* to True"):
        config = load_config(f"custom:{folder}", {"clip_length": 2.0})
        train_pipeline(source, complete_config(config, source))


def test_rated_clips_and_released_features_are_not_resampled(folder, tmp_path):
    save(folder)
    with pytest.raises(ConfigError, match="resample is for custom/NAME only"):
        build("tacos/slowfast_clip", folder, tmp_path, resample=True, progress=False)
    row = {"qid": "a", "query": "q", "vid": "v1", "duration": 20, "label": [[1]] * 10}
    write_json_lines(folder / "train.jsonl", [row])
    (folder / "val.jsonl").unlink()
    with pytest.raises(ConfigError, match="a rating for each clip"):
        built(folder, resample=True)


# What is not there


def test_missing_files_are_named_with_what_is_there(folder):
    save(folder, name="video/rgb/{vid}.mp4.npy")
    lines = error_of(folder).splitlines()
    path = f"{folder}/video/rgb/v1.npy"
    assert lines[1] == f"  {path} (there is 'v1.mp4.npy': its name ends in .mp4, the id does not)"


def test_missing_folders_are_named_with_what_is_there(folder):
    (folder / "videos").mkdir()
    assert f"{folder} holds query/, videos/, train.jsonl, val.jsonl" in error_of(folder)
    save(folder)
    (folder / "query").rename(folder / "queries")
    assert f"{folder} holds queries/, video/, videos/, train.jsonl" in error_of(folder)
    assert f"{folder} holds queries/, video/" in error_of(folder / "nowhere")
    assert f"{folder}/video holds rgb/" in error_of(folder / "video")


# Arrays


def test_transposed_videos_are_recognised_by_their_durations(folder):
    save(folder, lambda vid: rgb(vid).T)
    lines = error_of(folder).splitlines()
    assert len(lines) == 3
    path = f"{folder}/video/rgb/v1.npy"
    advice = "perhaps it is transposed, [width, rows]; save array.T"
    assert lines[0] == f"{path}: shape [7, 10], of 10 clips: {advice}"
    # Announced, the width itself shows it, and is not taken for another one.
    assert error_of(folder, widths={"rgb": 7}).splitlines()[0] == (
        f"{path}: expected width 7, got 10: {advice}"
    )


def test_one_transposed_file_among_others(folder):
    save(folder)
    np.save(folder / "video/rgb/v2.npy", rgb("v2").T)
    np.save(folder / "query/b.npy", words("b").T)
    assert "v2.npy: shape [7, 14], of 14 clips: perhaps it is transposed" in error_of(folder)
    np.save(folder / "video/rgb/v2.npy", rgb("v2"))
    assert "b.npy: expected width 40, as most query files have, got 5: perhaps it" in error_of(
        folder
    )


def test_transposed_words_are_recognised_by_their_many_widths(folder):
    save(folder)
    for qid in WORDS:
        np.save(folder / f"query/{qid}.npy", words(qid).T)
    assert "a.npy: shape [40, 4], and 3 different widths in all query files" in error_of(folder)


def test_a_batch_axis_is_recognised(folder):
    save(folder, lambda vid: rgb(vid)[None])
    advice = "Its first axis is that of a batch of one; save array[0]."
    assert f"v1.npy: shape [1, 10, 7], of 10 clips. {advice}" in error_of(folder)
    assert f"v1.npy: shape [1, 10, 7]. {advice}" in error_of(folder, resample=True)
    save(folder)
    np.save(folder / "query/a.npy", words("a")[None])
    assert f"a.npy: expected an array [rows, width], found shape [1, 4, 40]. {advice}" in error_of(
        folder
    )


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_python_objects_are_recognised_and_not_read(folder, suffix):
    save(folder)
    (folder / "query/a.npy").unlink()
    content = {"features": words("a")}
    if suffix == ".npy":
        np.save(folder / "query/a.npy", content)
    else:
        np.savez(folder / "query/a.npz", features=content)
    message = error_of(folder)
    assert f"a{suffix}: Python objects, a dictionary perhaps" in message
    assert 'save the array alone: np.save(path, d["features"])' in message


# Streams that are not used


@pytest.fixture
def two_streams(folder):
    """Beside the features that are used those of twice the length, a file of them missing."""
    save(folder)
    save(folder, lambda vid: rgb(vid, 2 * CLIPS[vid]), "video/audio/{vid}.npy")
    (folder / "video/audio/v1.npy").unlink()
    (folder / "video/2d").mkdir()  # not even a name
    return folder


def test_only_the_streams_that_are_used_are_checked(two_streams, tmp_path):
    own = f"custom:{two_streams}"
    config = load_config(own, {"clip_length": 2.0, "data.video_streams": ("rgb",)})
    prepare_data(config, tmp_path / "data", show_progress=False)
    source = open_split(tmp_path / "data", "custom/mine")
    assert (list(source.streams), source.left_out) == (["rgb"], ("2d", "audio"))
    assert complete_config(config, source).data.video_streams == ("rgb",)
    command = source.rebuild_command()
    assert command.startswith("flashvtg build ") and "--streams" not in command
    # Another run on the same data set does not get less than it asked for.
    for streams, problem in ((("rgb", "audio"), "names 'audio'"), ((), r"is \(\), all streams")):
        other = load_config(own, {"clip_length": 2.0, "data.video_streams": streams})
        with pytest.raises(ConfigError, match=rf"{problem}.* has 'rgb' only: .*flashvtg build"):
            complete_config(other, source)
    with pytest.raises(DataError, match=r"no split 'test'.*--streams=rgb"):
        open_split(tmp_path / "data", "custom/mine", "test")


def test_the_command_builds_the_streams_it_names(two_streams, tmp_path, capsys):
    command = ["build", "--dataset=custom/mine", f"--manual_dir={two_streams}", "--clip_length=2"]
    command.append(f"--data_dir={tmp_path / 'data'}")
    assert main([*command, "--streams=audio,rgb"]) == 1
    err = capsys.readouterr().err
    assert "audio/v1.npy" in err and "--streams=audio,rgb" in err
    assert main([*command, "--streams=clip"]) == 1
    assert "no stream 'clip'; the data set has '2d', 'audio', 'rgb'" in capsys.readouterr().err
    assert main([*command, "--streams=rgb"]) == 0


# Features that tell nothing


def test_features_that_tell_nothing_are_counted_and_named(folder, capsys):
    arrays = {"v1": np.zeros((10, 7)), "v2": np.ones((14, 7)), "v3": rgb("v3")}
    arrays["v3"][4] = 0
    save(folder, lambda vid: arrays[vid].astype(np.float32))
    np.save(folder / "query/b.npy", 0 * words("b"))
    built(folder, progress=True)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    end = "; did their extraction fail?"
    assert notes == [
        f"note: query features are all zeros for 1 of 3 queries (b){end}",
        f"note: rgb features are all zeros for 1 of 3 videos (v1){end}",
        f"note: rgb features are the same in every row for 1 of 3 videos (v2){end}",
        f"note: rgb features are zeros in some clips for 1 of 3 videos (v3){end}",
    ]

"""What is made ready before training, and what is left alone."""

import json
import os
import shlex
import shutil
from types import SimpleNamespace

import pytest

from flashvtg_jax.cli.main import main
from flashvtg_jax.config import config_from_json, config_to_json, load_config
from flashvtg_jax.data.build_command import build_command
from flashvtg_jax.data.preparation import complete_config, prepare_data
from flashvtg_jax.data.source import built_folder, open_split
from flashvtg_jax.data.synthetic.features import synthesize
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import write_json_lines

WIDTHS = {"slowfast": 6, "clip": 5, "query": 4}
SMALL = {
    "synthetic.num_train": 3,
    "synthetic.num_val": 2,
    "data.video_widths.slowfast": 6,
    "data.video_widths.clip": 5,
    "data.query_width": 4,
}


def demo(**changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config("demo", {**SMALL, **changes})


def released(**changes):
    """A configuration without a synthetic section."""
    config = demo(**changes)
    with config.unlocked():
        del config.synthetic
    return config


def prepare(config, data_dir):
    prepare_data(config, data_dir, show_progress=False)


def sizes(data_dir):
    return [len(open_split(data_dir, split=split)) for split in ("train", "val")]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(demo(), folder)
    return folder


def test_a_synthetic_section_is_synthesised_and_built(prepared):
    assert sizes(prepared) == [3, 2]
    source = open_split(prepared)
    assert (source.streams, source.query_dim) == ({"slowfast": 6, "clip": 5}, 4)


def test_what_is_built_is_left_as_it_is(prepared):
    before = times(prepared)
    prepare(demo(), prepared)
    assert times(prepared) == before


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": 7}, r"made with seed=2024, but the configuration says seed=7; use another work"),
        ({"synthetic__strength": 0.5}, r"strength=1\.0, .* says strength=0\.5"),
        ({"synthetic__num_train": 4}, r"num_train=3, .* says num_train=4"),
        ({"synthetic__num_val": 1}, r"num_val=2, .* says num_val=1"),
        ({"data__query_width": 8}, r"'query': 4.* says widths=.*'query': 8"),
    ],
)
def test_a_synthetic_data_set_of_other_settings_is_noticed(prepared, changes, problem):
    with pytest.raises(ConfigError, match=problem):
        prepare(demo(**changes), prepared)


def test_the_features_may_be_removed_once_they_are_built(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "synthetic")
    prepare(demo(), tmp_path)
    assert not (tmp_path / "synthetic").exists()


def test_manual_dir_is_built(tmp_path):
    options = {"widths": WIDTHS, "num_train": 2, "num_val": 1, "progress": False}
    manual_dir = synthesize(tmp_path / "manual", **options)
    prepare(released(data__manual_dir=str(manual_dir)), tmp_path / "data")
    assert sizes(tmp_path / "data") == [2, 1]

    shutil.rmtree(manual_dir)  # what is built needs it no more
    prepare(released(data__manual_dir=str(manual_dir)), tmp_path / "data")
    with pytest.raises(DataError, match=r"manual: no such folder"):
        prepare(released(data__manual_dir=str(manual_dir)), tmp_path / "other")


@pytest.fixture
def two_folders(tmp_path):
    """Two folders of the same release, one of them built."""
    options = {"widths": WIDTHS, "num_train": 2, "num_val": 1, "progress": False}
    folders = [synthesize(tmp_path / name, **options) for name in ("one", "other")]
    prepare(released(data__manual_dir=str(folders[0])), tmp_path / "data")
    return folders


def test_a_released_data_set_is_not_taken_for_that_of_another_folder(two_folders, tmp_path):
    one, other = two_folders
    data_dir = tmp_path / "data"
    with pytest.raises(DataError) as info:
        prepare(released(data__manual_dir=str(other)), data_dir)
    message = str(info.value)
    assert f"built from {one}, but the configuration is about {other}. For the new" in message
    assert "use another config.data.data_dir. If the folder was moved, keep the built" in message
    assert "same name" not in message and "custom" not in message
    command = message.partition("or build it again: ")[2]
    assert shlex.split(command) == [
        *("flashvtg", "build", "--dataset=qvhighlights/slowfast_clip", f"--manual_dir={other}"),
        *("--widths=slowfast=6,clip=5,query=4", f"--data_dir={data_dir}", "--overwrite"),
    ]
    assert main(shlex.split(command)[1:]) == 0
    prepare(released(data__manual_dir=str(other)), data_dir)


def test_a_folder_is_the_same_however_its_path_is_written(two_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(two_folders[0])
    info = built_folder(tmp_path / "data", "qvhighlights/slowfast_clip") / "dataset_info.json"
    built_at = info.stat().st_mtime_ns
    for path in ("../one", "~/one", f"{tmp_path}/link", f"{tmp_path}/other/../one/"):
        prepare(released(data__manual_dir=path), tmp_path / "data")
    assert info.stat().st_mtime_ns == built_at


def test_a_folder_may_be_moved_or_removed_once_it_is_built(two_folders, tmp_path):
    one, moved = two_folders[0], tmp_path / "moved"
    one.rename(moved)
    for same in (None, str(one)):
        prepare(released(data__manual_dir=same), tmp_path / "data")
    with pytest.raises(DataError, match=r"moved, keep the built .*manual_dir=None, or"):
        prepare(released(data__manual_dir=str(moved)), tmp_path / "data")


def test_data_sets_of_earlier_versions_do_not_know_their_folder(two_folders, tmp_path):
    metadata = built_folder(tmp_path / "data", "qvhighlights/slowfast_clip") / "metadata.json"
    content = json.loads(metadata.read_text())
    del content["manual_dir"]
    metadata.write_text(json.dumps(content))
    prepare(released(data__manual_dir=str(two_folders[1])), tmp_path / "data")
    assert json.loads(metadata.read_text()) == content  # used as it is


def test_a_synthetic_data_set_may_be_moved_but_is_no_other_folder_s(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    for changes in ({}, {"data__manual_dir": str(tmp_path)}):  # which `synthetic` overrules
        prepare(demo(**changes), tmp_path / "copy")
    with pytest.raises(DataError, match=rf"built from {prepared}/synthetic, but"):
        prepare(released(data__manual_dir=str(tmp_path)), tmp_path / "copy")


def test_with_neither_nothing_is_done(tmp_path):
    prepare(released(), tmp_path / "data")
    assert not (tmp_path / "data").exists()


# Custom data sets


def own(folder, **changes):
    changes = {"clip_length": 2.0, **changes}
    return load_config(f"custom:{folder}", {n.replace("__", "."): v for n, v in changes.items()})


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "my data"
    widths = {"resnet": 6, "audio": 5, "query": 4}
    sizes = {"num_train": 2, "num_val": 1}
    settings = {"dataset": "custom/any", "clip_length": 2, "progress": False}
    return synthesize(folder, widths=widths, **sizes, **settings)


@pytest.fixture(scope="module")
def own_data(own_folder, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("own_data")
    prepare(own(own_folder), data_dir)
    return data_dir


@pytest.fixture(scope="module")
def own_source(own_data):
    return open_split(own_data, "custom/my_data")


def test_one_s_own_folder_is_built_with_the_widths_of_its_files(own_source):
    assert own_source.streams == {"audio": 5, "resnet": 6}
    assert (own_source.query_dim, own_source.clip_length) == (4, 2.0)


def test_one_s_own_clip_length_comes_from_the_configuration(own_folder, tmp_path):
    with pytest.raises(DataError, match=r"like clips of 2 s, not of 1 s: set clip_length=2"):
        prepare(own(own_folder, clip_length=1.0), tmp_path)
    with pytest.raises(DataError, match="the annotations say 150 clips of 1 s"):
        prepare(own(own_folder, clip_length=1.0, data__label_clip_length=2.0), tmp_path)


def test_one_s_own_data_need_a_folder_or_to_be_built(own_data, tmp_path):
    with pytest.raises(DataError, match=r"custom/mine: not built yet; .*--config=custom:DIR"):
        prepare(load_config("custom", {"clip_length": 2}), tmp_path)
    prepare(load_config("custom", {"data.dataset": "custom/my_data", "clip_length": 2}), own_data)


def test_one_s_own_clip_length_has_to_be_given(own_folder, own_data, tmp_path):
    for data_dir in (own_data, tmp_path):
        with pytest.raises(ConfigError, match=r"how many seconds .* --config\.clip_length=2"):
            prepare(own(own_folder, clip_length=None), data_dir)
    assert not any(tmp_path.iterdir())


def test_another_folder_of_the_same_name_is_not_taken_for_the_first(own_folder, own_data, tmp_path):
    other = tmp_path / own_folder.name
    shutil.copytree(own_folder, other)
    with pytest.raises(DataError, match=rf"built from {own_folder}, but .* about {other}, a fold"):
        prepare(own(other), own_data)
    (tmp_path / "link").symlink_to(own_folder)
    same = own(tmp_path / "link", data__dataset="custom/my_data")
    prepare(same, own_data)
    prepare(own(other, data__manual_dir=None, data__dataset="custom/my_data"), own_data)
    prepare(own(other, data__dataset="custom/other"), own_data)
    metadata = own_data / "custom/other/1.0.0/metadata.json"
    content = json.loads(metadata.read_text())
    assert content.pop("manual_dir") == str(other)
    metadata.write_text(json.dumps(content))  # as earlier versions built it
    prepare(own(own_folder, data__dataset="custom/other"), own_data)


@pytest.mark.parametrize(
    ("changes", "error", "problem"),
    [
        (
            {"data__val_split": "test"},
            DataError,
            r"'test', which config\.data\.val_split names; put",
        ),
        ({"data__train_split": "all"}, DataError, r"choose another split: there are train, val"),
        ({"train__selection_metrics": ("HD-mAP",)}, ConfigError, "computed from label, but"),
        ({"data__video_streams": ("clip",)}, ConfigError, r"has 'audio', 'resnet'"),
    ],
)
def test_what_a_run_lacks_is_known_before_building(own_folder, tmp_path, changes, error, problem):
    with pytest.raises(error, match=problem):
        prepare(own(own_folder, **changes), tmp_path)
    assert not any(tmp_path.iterdir())


def test_widths_of_streams_that_a_data_set_does_not_have_do_no_harm(tmp_path):
    rows = [
        {"qid": vid, "vid": vid, "query": "a", "duration": 4, "domain": domain, "label": [[1], [2]]}
        for vid, domain in (("a", "BK"), ("b", "BT"))
    ]
    for split in ("train", "val"):
        write_json_lines(tmp_path / f"tvsum_{split}.jsonl", rows)
    manual_dir, widths = tmp_path / "manual", "i3d=6,query=4"
    paths = [tmp_path / f"tvsum_{split}.jsonl" for split in ("train", "val")]
    dataset = "tvsum/i3d_clip"
    synthesize(manual_dir, annotations=paths, dataset=dataset, widths=widths, progress=False)
    given = {"data.dataset": dataset, "data.video_streams": "i3d", "data.query_width": 4}
    config = load_config("tvsum_slowfast_clip", {**given, "data.manual_dir": str(manual_dir)})
    with pytest.raises(DataError, match="if that is meant: --widths=i3d=6 "):
        prepare(config, tmp_path)
    with config.unlocked():
        config.data.video_widths.i3d = 6
    prepare(config, tmp_path)
    with config.unlocked():
        del config.data.video_widths.i3d
    data = complete_config(config, open_split(tmp_path, dataset)).data
    assert data.video_streams == ("i3d",) and data.video_widths.i3d == 6


def test_of_several_versions_the_newest_by_number_counts(tmp_path):
    for version in ("1.0.0", "2.0.0", "10.0.0", "11.0.0.incomplete"):
        (tmp_path / "a/b" / version).mkdir(parents=True)
        (tmp_path / "a/b" / version / "dataset_info.json").touch()
    assert built_folder(tmp_path, "a/b").name == "10.0.0"
    assert built_folder(tmp_path, "a/c") is None


def test_what_is_left_open_is_completed_from_the_data(own_folder, own_source):
    config = own(own_folder, seed=7)
    completed = complete_config(config, own_source)
    data = completed.data
    assert (data.video_streams, data.query_width) == (("audio", "resnet"), 4)
    assert data.video_widths.to_dict() == {"audio": 5, "resnet": 6}
    assert (data.labels, completed.seed, config.data.query_width) == ("qvhighlights", 7, None)
    assert completed.is_locked


def test_a_completed_configuration_is_saved_and_completed_again_to_the_same(own_folder, own_source):
    completed = complete_config(own(own_folder), own_source)
    restored = config_from_json(config_to_json(completed))
    assert restored == completed
    assert complete_config(restored, own_source) == completed
    assert config_to_json(complete_config(completed, own_source)) == config_to_json(completed)


def test_what_is_given_stays(own_folder, own_source):
    given = {"data__video_streams": ("resnet",), "data__labels": "windows"}
    data = complete_config(own(own_folder, **given), own_source).data
    assert (data.video_streams, data.labels) == (("resnet",), "windows")
    assert data.video_widths.to_dict() == {"resnet": 6}
    order = complete_config(own(own_folder, data__video_streams="resnet,audio"), own_source).data
    assert order.video_streams == ("resnet", "audio")


def test_a_complete_configuration_stays_as_it_is(prepared):
    config = demo()
    assert complete_config(config, open_split(prepared)) == config


def test_a_stream_that_the_data_do_not_have(own_folder, own_source):
    config = own(own_folder, data__video_streams=("clip",))
    with pytest.raises(ConfigError, match=r"names 'clip', but .* has 'audio', 'resnet'"):
        complete_config(config, own_source)


@pytest.mark.parametrize("metric", ["HD-mAP", "HD-mAP-dog"])
def test_a_score_that_the_labels_do_not_give(own_folder, own_source, metric):
    config = own(own_folder, train__selection_metrics=("MR-full-mAP", metric))
    with pytest.raises(ConfigError, match=rf"{metric}', .* from label, but .* relevant_windows"):
        complete_config(config, own_source)


def test_files_that_changed_after_the_data_set_was_built_are_mentioned(
    own_folder, tmp_path, capsys
):
    folder, data_dir = tmp_path / "mine", tmp_path / "data"
    shutil.copytree(own_folder, folder)
    for _ in range(2):
        prepare_data(own(folder), data_dir)
        assert "note:" not in capsys.readouterr().err
    now = (data_dir / "custom/mine/1.0.0/dataset_info.json").stat().st_mtime + 10
    os.utime(folder / "val.jsonl", (now, now))
    prepare_data(own(folder), data_dir)
    note = capsys.readouterr().err
    assert note.startswith(f"note: {folder}/val.jsonl changed after custom/mine was built")
    command = f"flashvtg build --dataset=custom/mine --manual_dir={folder} --clip_length=2"
    assert note.endswith(f"{command} --data_dir={data_dir} --overwrite\n")
    shutil.rmtree(folder)  # what is built needs it no more
    prepare_data(own(folder), data_dir)
    assert capsys.readouterr().err == ""


def test_one_s_own_data_may_be_synthesised_as_well(tmp_path):
    config = own(tmp_path / "mine")
    with config.unlocked():
        config.synthetic = demo().synthetic
        config.data.video_widths.resnet, config.data.query_width = 6, 4
    for _ in range(2):  # synthesised and built, then found
        prepare(config, tmp_path)
    assert open_split(tmp_path, "custom/mine").streams == {"resnet": 6}
    with config.unlocked():
        config.clip_length = 1.0
    with pytest.raises(ConfigError, match=r"clip_length=2\.0.* says clip_length=1\.0"):
        prepare(config, tmp_path)


def test_a_length_of_rated_clips_needs_rated_clips(own_folder, own_source):
    config = own(own_folder, data__label_clip_length=2.0)
    assert complete_config(config, own_source).data.label_clip_length == 2.0
    lines = SimpleNamespace(streams=own_source.streams, left_out=(), labels="windows", query_dim=4)
    with pytest.raises(ConfigError, match=r"label_clip_length=2 is for relevant_clip_ids .*have r"):
        complete_config(config, lines)


def test_commands_name_clip_lengths_with_all_digits():
    command = build_command("custom/a", "data", clip_length=1 / 6, label_clip_length=2.0)
    assert f" --clip_length={1 / 6!r} --label_clip_length=2 " in command

"""Loading, overriding, keeping and comparing configurations."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from flashvtg_jax.config import (
    add_new_fields,
    apply_overrides,
    config_from_json,
    config_names,
    config_to_json,
    diff_configs,
    load_config,
    read_config,
    save_config,
)
from flashvtg_jax.errors import ConfigError

EXPERIMENT = """
from flashvtg_jax.configs import common


def get_config(arg=None):
    config = common.get_common()
    config.name = f"experiment of {arg}"
    return config
"""


@pytest.fixture
def config() -> ConfigDict:
    """One field of every kind; `seconds` and `data.seconds` are one value."""
    seconds = FieldReference(2.0, required=True)
    return ConfigDict(
        {
            "seed": 7,
            "name": "small",
            "seconds": seconds,
            "data": {"seconds": seconds, "folder": placeholder(str), "streams": ("a", "b")},
            "optimizer": {"learning_rate": 1e-3, "drop_last": False},
            "max_clips": FieldReference(75, field_type=int),
            "buckets": (32, 75),
            "strides": (0.5, 1, 2),
            "window": placeholder(tuple),
        }
    )


def test_every_name_loads_locked_and_under_its_own_name():
    assert {"demo", "qvhighlights_slowfast_clip"} <= set(config_names())
    for name in config_names():
        config = load_config(name)
        assert config.is_locked and config.model.is_locked
        assert config.name == name


def test_unknown_name_lists_the_names_and_the_nearest():
    with pytest.raises(
        ConfigError, match=r'nearest is "demo"\. There are .*slowfast_clip'
    ) as error:
        load_config("dmeo")
    assert "common" not in str(error.value)


@pytest.mark.parametrize(("suffix", "name"), [("", "of None"), (":x:y", "of x:y")])
def test_a_file_loads_from_its_path_with_its_argument(tmp_path, suffix, name):
    path = tmp_path / "a:b" / "experiment.py"
    path.parent.mkdir()
    path.write_text(EXPERIMENT)
    assert load_config(f"{path}{suffix}").name == f"experiment {name}"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.py: no such configuration file"):
        load_config(tmp_path / "absent.py")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "defines get_config"),
        ("def get_config(arg=None): return {}", "returns a ConfigDict, not dict"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, source, message):
    path = tmp_path / "other.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_configuration_without_variants_refuses_an_argument():
    with pytest.raises(ConfigError, match='demo: takes no argument, but ":large" was given'):
        load_config("demo:large")


def test_overrides_of_the_command_line_reach_the_configuration():
    config = load_config("demo", ["--config.optimizer.learning_rate=1e-4", "train.epochs=3"])
    assert config.optimizer.learning_rate == 1e-4
    assert config.train.epochs == 3


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", "11", 11),
        ("seed", 11, 11),
        ("name", "other=1", "other=1"),
        ("name", "None", "None"),
        ("optimizer.learning_rate", "1e-4", 1e-4),
        ("optimizer.learning_rate", 1, 1.0),
        ("optimizer.learning_rate", "1", 1.0),
        ("optimizer.drop_last", "true", True),
        ("optimizer.drop_last", "False", False),
        ("optimizer.drop_last", True, True),
        ("buckets", "(16,32,75)", (16, 32, 75)),
        ("buckets", "16, 32", (16, 32)),
        ("buckets", "(16,)", (16,)),
        ("buckets", [16], (16,)),
        ("buckets", "()", ()),
        ("strides", "0.5,4", (0.5, 4.0)),
        ("data.streams", "('b', \"a\")", ("b", "a")),
        ("data.streams", "b", ("b",)),
        ("data.folder", "here", "here"),
        ("data.folder", "none", None),
        ("max_clips", "None", None),
        ("max_clips", None, None),
        ("max_clips", "100", 100),
        ("window", "(0, 1.5)", (0, 1.5)),
    ],
)
def test_a_value_takes_the_type_of_the_field(config, key, value, expected):
    changed = apply_overrides(config, {key: value})
    assert changed[key] == expected
    assert type(changed[key]) is type(expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "1.0"),
        ("seed", 1.0),
        ("seed", True),
        ("seed", "none"),
        ("seed", None),
        ("name", 3),
        ("name", None),
        ("seconds", None),
        ("optimizer.learning_rate", "fast"),
        ("optimizer.learning_rate", "nan"),
        ("optimizer.learning_rate", True),
        ("optimizer.drop_last", "1"),
        ("optimizer.drop_last", 1),
        ("buckets", "16,32.5"),
        ("buckets", 16),
        ("buckets", "16,,32"),
        ("data.streams", (1, 2)),
        ("max_clips", "many"),
    ],
)
def test_a_value_of_another_type_is_refused_and_its_key_named(config, key, value):
    with pytest.raises(ConfigError, match=rf"^config\.{key}: .* does not fit, it is of type"):
        apply_overrides(config, {key: value})


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optimizer.learning_rat", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("data.learning_rate", "optimizer.learning_rate"),
        ("optimiser.drop_last", "optimizer.drop_last"),
        ("max_clip", "max_clips"),
        ("seed.value", "seed"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(config, key, nearest):
    message = rf"config\.{key}: no such key; the nearest is config\.{nearest}$"
    with pytest.raises(ConfigError, match=message):
        apply_overrides(config, {key: "1"})


def test_a_section_cannot_be_set_as_a_whole(config):
    with pytest.raises(ConfigError, match=r"a section; .*: optimizer\.drop_last, optimizer\.learn"):
        apply_overrides(config, {"optimizer": "adam"})


@pytest.mark.parametrize("text", ["--config.seed", "--config.=3", "3"])
def test_an_argument_without_key_and_value_is_refused(config, text):
    with pytest.raises(ConfigError, match=r"given as --config\.KEY=VALUE"):
        apply_overrides(config, [text])


def test_the_given_configuration_is_left_as_it_is(config):
    changed = apply_overrides(config, {"seconds": 1.0, "seed": 8})
    assert (changed.seconds, changed.seed) == (1.0, 8)
    assert (config.seconds, config.seed, config.is_locked) == (2.0, 7, False)


@pytest.mark.parametrize("key", ["seconds", "data.seconds"])
def test_a_shared_value_changes_under_all_its_names(config, key):
    changed = apply_overrides(config, {key: "0.5"})
    assert changed.seconds == changed.data.seconds == 0.5


@pytest.mark.parametrize("key", ["clip_length", "data.clip_length", "loss.clip_length"])
def test_clip_length_of_data_and_loss_are_one(key):
    changed = load_config("demo", {key: 1})
    assert changed.clip_length == changed.data.clip_length == changed.loss.clip_length == 1.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "there are bool, int, float, str, tuple"),
        (np.float32(1), "there are bool"),
        (None, "None has no type"),
        ((1, "a"), "not of one type"),
        (((1, 2),), "not of one type"),
    ],
)
def test_values_that_a_configuration_cannot_hold_are_refused(config, value, message):
    config.data.other = value
    with pytest.raises(ConfigError, match=rf"config\.data\.other: .*{message}"):
        apply_overrides(config, {})


def test_json_gives_the_same_configuration_back(config):
    back = config_from_json(config_to_json(config))
    assert back == config.lock()
    assert back.buckets == (32, 75) and isinstance(back.buckets, tuple)
    assert config_to_json(back) == config_to_json(config)


def test_json_keeps_types_of_absent_values_and_what_is_shared(config):
    back = config_from_json(config_to_json(config))
    changed = apply_overrides(back, {"data.folder": "x", "max_clips": None, "data.seconds": "1"})
    assert (changed.data.folder, changed.max_clips, changed.seconds) == ("x", None, 1.0)
    with pytest.raises(ConfigError, match=r"config\.seconds"):
        apply_overrides(back, {"seconds": None})


def test_json_keeps_an_absent_value_that_is_shared():
    limit = placeholder(int)
    config = ConfigDict({"limit": limit, "data": {"limit": limit}})
    back = config_from_json(config_to_json(config))
    assert apply_overrides(back, {"limit": "4"}).data.limit == 4


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 9}', '{"format": 1, "config": 3}'])
def test_other_text_is_no_configuration(text):
    with pytest.raises(ConfigError, match="configuration"):
        config_from_json(text)


def test_a_saved_configuration_is_read_back(tmp_path):
    config = load_config("demo", {"data.manual_dir": "elsewhere"})
    save_config(config, tmp_path / "config.json")
    assert read_config(tmp_path / "config.json") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json: "):
        read_config(path)


def test_differences_name_key_and_both_values(config):
    other = apply_overrides(config, {"seed": 8, "buckets": (75,), "data.folder": "x"})
    assert diff_configs(config, other) == [
        "buckets: (32, 75) in the first, (75,) in the second",
        "data.folder: None in the first, 'x' in the second",
        "seed: 7 in the first, 8 in the second",
    ]
    (line,) = diff_configs(config, other, ignore=["data", "buckets", "see"])
    assert line.startswith("seed: ")
    assert diff_configs(config, config_from_json(config_to_json(config))) == []


def test_differences_name_keys_that_one_side_lacks(config):
    other = apply_overrides(config, {})
    with other.unlocked():
        other.extra = 1
        del other.name
    assert diff_configs(config, other) == [
        "extra: absent in the first, 1 in the second",
        "name: 'small' in the first, absent in the second",
    ]


def test_a_configuration_saved_before_a_field_existed_gets_it():
    config = load_config("demo", {"train.epochs": 7, "clip_length": 1.5})
    with config.unlocked():
        del config.seeds, config.data.cache
    found = add_new_fields(config)
    assert (found.seeds, found.data.cache) == ((), False)
    assert diff_configs(config, found, ignore=("seeds", "data.cache")) == []
    assert "seeds" not in config
    assert add_new_fields(found) == found
    assert config_from_json(config_to_json(found)) == found


def test_fields_that_were_removed_are_left_out_of_saved_configurations(config):
    with_removed = apply_overrides(config, {})
    with with_removed.unlocked():
        with_removed.train = ConfigDict({"runs_together": 8, "epochs": 2})
    back = config_from_json(config_to_json(with_removed))
    assert dict(back.train) == {"epochs": 2}
    assert back.is_locked


def test_fields_of_a_newer_version_are_refused():
    config = load_config("demo")
    with config.unlocked():
        config.train.warp = 1
    with pytest.raises(ConfigError, match=r"config\.train has no field warp"):
        add_new_fields(config)


FORMAT_1 = """{
  "format": 1,
  "config": {
    "seconds": 2.0, "limit": null, "buckets": [32, 75],
    "data": {"seconds": 2.0, "limit": null, "folder": null},
    "train": {"runs_together": 4}
  },
  "optional": {"limit": "int", "data.limit": "int", "buckets": "tuple", "data.folder": "str"},
  "shared": [["seconds", "data.seconds"], ["limit", "data.limit"]]
}"""


def test_a_configuration_of_an_earlier_version_is_read():
    config = config_from_json(FORMAT_1)
    assert config.buckets == (32, 75) and "runs_together" not in config.train
    changed = apply_overrides(config, {"limit": "3", "data.seconds": 1, "buckets": "none"})
    assert (changed.limit, changed.data.limit, changed.buckets) == (3, 3, None)
    assert changed.seconds == changed.data.seconds == 1.0
    with pytest.raises(ConfigError, match=r"config\.seconds"):
        apply_overrides(config, {"seconds": None})
    assert config_from_json(config_to_json(changed)) == changed

"""Checkpoint files of PyTorch: what is read, and that nothing in a file is ever run."""

import collections
import os
import pickle
import shutil
import sys
import types

import numpy as np
import pytest

from flashvtg_jax.errors import CheckpointError
from flashvtg_jax.interop.torch_files import read_torch_file, write_torch_file
from tests.interop import checkpoints


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


WEIGHTS = {
    "transformer.a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "x": np.array(0.5, np.float32),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_checkpoint_of_the_authors_program_is_read(torch, tmp_path, zipped):
    options = checkpoints.small_options()
    path = tmp_path / "model_best.ckpt"
    checkpoints.save(path, WEIGHTS, options, _use_new_zipfile_serialization=zipped)
    found = read_torch_file(path)
    assert found.epoch == 6
    assert found.config_json is None
    assert {**found.options, "device": None} == {**options, "device": None}
    assert type(found.options["cfg"]["model"]["loss_cfg"]) is dict
    assert found.state_dict.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        assert found.state_dict[name].dtype == np.float32
        np.testing.assert_array_equal(found.state_dict[name], array)
    known = torch.serialization.get_safe_globals()
    assert not any("nncore" in str(name) or "argparse" in str(name) for name in known)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_types_are_read(torch, tmp_path, dtype):
    torch.save({"x": torch.arange(4).to(getattr(torch, dtype))}, tmp_path / "f.pt")
    np.testing.assert_array_equal(read_torch_file(tmp_path / "f.pt").state_dict["x"], range(4))


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_state_dict_alone_is_read(torch, tmp_path, key):
    weights = collections.OrderedDict(x=torch.ones(2))
    torch.save({key: weights, "other": "things"} if key else weights, tmp_path / "f.pt")
    found = read_torch_file(tmp_path / "f.pt")
    assert list(found.state_dict) == ["x"]
    assert found.options is None


@pytest.mark.parametrize("write", [checkpoints.write_zip, checkpoints.write_old])
def test_a_malicious_file_does_nothing(torch, tmp_path, write):
    marker = tmp_path / "marker"
    evil = checkpoints.Calling(os.system, f"touch {marker}")
    path = write(tmp_path / "model_best.ckpt", pickle.dumps({"model": {}, "opt": evil}, 2))
    with pytest.raises(CheckpointError, match=r"model_best.ckpt: names (posix|nt)\.system, which"):
        read_torch_file(path)
    assert not marker.exists()
    # The test is one: whoever unpickles it the usual way calls it.
    pickle.loads(pickle.dumps(evil, 2))
    assert marker.exists()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (checkpoints.Calling(eval, "1 + 1"), "eval"),
        (checkpoints.Calling(exec, "1 + 1"), "exec"),
        (checkpoints.Calling(getattr, "text", "upper"), "getattr"),
        (checkpoints.Calling(shutil.rmtree, "nothing of that name"), r"shutil\.rmtree"),
    ],
)
def test_whatever_a_file_names_is_refused_by_name(torch, tmp_path, call, named):
    path = checkpoints.write_zip(tmp_path / "f.ckpt", pickle.dumps([call], 2))
    with pytest.raises(CheckpointError, match=f"names {named}, which no FlashVTG checkpoint needs"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "name", ["nncore.utils.config Registry", "argparse ArgumentParser", "nncore.utils.io load"]
)
def test_neighbours_of_the_known_classes_are_refused(torch, tmp_path, name):
    path = checkpoints.write_zip(tmp_path / "f.ckpt", checkpoints.named_call(*name.split()))
    with pytest.raises(CheckpointError, match=f"names {name.replace(' ', '.')}, which"):
        read_torch_file(path)


def test_dictionaries_of_another_make_of_nncore_are_read(torch, tmp_path):
    # A subclass of dict is pickled otherwise than one of OrderedDict: made by NEWOBJ.
    path = tmp_path / "f.ckpt"
    checkpoints.save(path, WEIGHTS, checkpoints.small_options(), base=dict)
    found = read_torch_file(path).options["cfg"]
    assert found == checkpoints.small_options()["cfg"]


def test_known_classes_take_no_arguments(torch, tmp_path):
    pickled = checkpoints.named_call("nncore.utils.config", "Config", "config.py")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_torch_file(checkpoints.write_zip(tmp_path / "f.ckpt", pickled))


@pytest.mark.parametrize("part", [0, 3, 100, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_truncated_files_are_refused_in_one_error(torch, tmp_path, part, zipped):
    path = tmp_path / "model_best.ckpt"
    options = checkpoints.small_options()
    checkpoints.save(path, WEIGHTS, options, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: part if isinstance(part, int) else int(part * len(whole))])
    with pytest.raises(CheckpointError, match=r"model_best.ckpt: not a checkpoint of PyTorch, or "):
        read_torch_file(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 no zip", b"\x89PNG\r\n\x1a\n", b"config: 1\n"])
def test_foreign_files_are_refused(torch, tmp_path, content):
    (tmp_path / "f.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"f.ckpt: "):
        read_torch_file(tmp_path / "f.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not the parameters"),
        ({}, "holds no parameters"),
        ({"model": {}}, "holds no parameters"),
        ({"epoch": 3, "optimizer": {}}, "entry 'epoch' is an int, not a tensor"),
        ({"model": {"x": "text"}}, "entry 'x' of 'model' is a str, not a tensor"),
    ],
)
def test_other_content_is_refused(torch, tmp_path, content, message):
    torch.save(content, tmp_path / "f.ckpt")
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(tmp_path / "f.ckpt")


def test_options_of_another_kind_are_refused(torch, tmp_path):
    torch.save({"model": {"x": torch.ones(1)}, "opt": [1]}, tmp_path / "f.ckpt")
    with pytest.raises(CheckpointError, match='"opt" is a list'):
        read_torch_file(tmp_path / "f.ckpt")


def test_what_is_written_is_read(torch, tmp_path):
    path = tmp_path / "new" / "model.ckpt"
    write_torch_file(path, WEIGHTS, '{"a": 1}')
    found = read_torch_file(path)
    assert found.config_json == '{"a": 1}'
    assert found.state_dict.keys() == WEIGHTS.keys()
    assert all(np.array_equal(found.state_dict[name], a) for name, a in WEIGHTS.items())
    assert [file.name for file in path.parent.iterdir()] == ["model.ckpt"]
    with pytest.raises(CheckpointError, match="exists"):
        write_torch_file(path, WEIGHTS, "{}")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_torch_file(tmp_path / "f.ckpt")
    with pytest.raises(CheckpointError, match="no such file"):
        read_torch_file(tmp_path)


def test_without_pytorch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "f.ckpt").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"pip install 'flashvtg-jax\[torch\]'"):
        read_torch_file(tmp_path / "f.ckpt")
    with pytest.raises(CheckpointError, match=r"pip install 'flashvtg-jax\[torch\]'"):
        write_torch_file(tmp_path / "new.ckpt", WEIGHTS, "{}")


def test_a_pytorch_that_cannot_read_safely_is_refused(tmp_path, monkeypatch):
    module = types.ModuleType("torch")
    module.__version__ = "2.5.1+cpu"
    monkeypatch.setitem(sys.modules, "torch", module)
    (tmp_path / "f.ckpt").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"PyTorch 2\.5\.1\+cpu is too old"):
        read_torch_file(tmp_path / "f.ckpt")

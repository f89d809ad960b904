"""From a checkpoint of the authors to a work directory and back: every bit, or one clear error."""

import contextlib
import sys

import jax
import numpy as np
import pytest

from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.checkpoints.restore import restore
from flashvtg_jax.cli import main as cli
from flashvtg_jax.config import diff_configs, load_config, read_config
from flashvtg_jax.errors import CheckpointError, ConfigError
from flashvtg_jax.interop import conversion
from flashvtg_jax.interop.conversion import from_torch_file, to_torch_file
from flashvtg_jax.interop.pytorch import params_from_torch
from flashvtg_jax.interop.torch_files import TorchCheckpoint
from flashvtg_jax.models.flashvtg import build_model
from tests.interop import checkpoints


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def file_holding(monkeypatch, tmp_path):
    """Makes reading a file give a checkpoint, without PyTorch."""

    def hold(state_dict, options=None, **more):
        found = TorchCheckpoint(state_dict, options, **more)
        monkeypatch.setattr(conversion, "read_torch_file", lambda path: found)
        return tmp_path / "model_best.ckpt"

    return hold


def assert_same_params(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_work_directory_has_parameters_and_configuration(file_holding, tmp_path, prefix):
    weights = checkpoints.small_state_dict()
    named = {f"{prefix}{name}": array for name, array in weights.items()}
    file = file_holding(named, checkpoints.small_options(bsz=12), epoch=6)
    converted = from_torch_file(file, tmp_path / "new" / "run")
    restored = restore(tmp_path / "new" / "run")
    assert converted.epoch == 6
    assert restored.step == 0
    assert restored.config.train.batch_size == 12
    assert restored.config.data.dataset == "qvhighlights/slowfast_clip"
    assert (
        diff_configs(read_config(tmp_path / "new" / "run" / "config.json"), restored.config) == []
    )
    assert restored.model == build_model(converted.config.model)
    assert_same_params(jax.device_get(restored.params), params_from_torch(weights))
    with contextlib.closing(Checkpoints(tmp_path / "new" / "run", read_only=True)) as found:
        meta = found.read_meta(0)
    assert meta["converted_from"] == {"file": "model_best.ckpt", "epoch": 6}
    assert [folder.name for folder in (tmp_path / "new").iterdir()] == ["run"]


def test_an_empty_folder_is_filled_and_another_left_alone(file_holding, tmp_path):
    file = file_holding(checkpoints.small_state_dict(), checkpoints.small_options())
    (tmp_path / "run").mkdir()
    from_torch_file(file, tmp_path / "run")
    for output in (tmp_path / "run", tmp_path / "run" / "config.json"):
        with pytest.raises(CheckpointError, match="exists and is not empty; give another --output"):
            from_torch_file(file, output)


def test_nothing_is_left_of_a_conversion_that_failed(file_holding, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    file = file_holding(checkpoints.small_state_dict(), checkpoints.small_options())
    monkeypatch.setattr(conversion, "save_config", fail)
    with pytest.raises(CheckpointError, match="No space left on device"):
        from_torch_file(file, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_state_dict_alone_needs_a_configuration(file_holding, tmp_path):
    file = file_holding(checkpoints.small_state_dict())
    with pytest.raises(ConfigError, match=r"model_best.ckpt: .*--config=NAME"):
        from_torch_file(file, tmp_path / "run")
    with pytest.raises(ConfigError, match="no configuration is called"):
        from_torch_file(file, tmp_path / "run", "unknown")
    from_torch_file(file, tmp_path / "run", "qvhighlights_slowfast_clip")
    config = restore(tmp_path / "run").config
    assert diff_configs(load_config("qvhighlights_slowfast_clip"), config, ignore=["model"]) == []
    assert config.model.hidden_dim == 16


def test_half_precision_is_read_as_it_is(file_holding, tmp_path):
    weights = {n: a.astype(np.float16) for n, a in checkpoints.small_state_dict().items()}
    from_torch_file(file_holding(weights, checkpoints.small_options()), tmp_path / "run")
    assert_same_params(jax.device_get(restore(tmp_path / "run").params), params_from_torch(weights))


def test_parameters_that_do_not_fit_are_listed(file_holding, tmp_path):
    weights = checkpoints.small_state_dict()
    del weights["saliency_proj1.bias"]
    with pytest.raises(
        CheckpointError, match=r"model_best.ckpt: [^/]*missing: saliency_proj1.bias"
    ):
        from_torch_file(file_holding(weights, checkpoints.small_options()), tmp_path / "run")


def test_another_model_is_told_before_anything_is_asked_for(file_holding, tmp_path):
    with pytest.raises(CheckpointError, match="not the parameters of a FlashVTG model"):
        from_torch_file(file_holding({"fc.weight": np.ones((2, 2))}), tmp_path / "run")


def test_a_training_that_diverged_is_refused(file_holding, tmp_path):
    weights = checkpoints.small_state_dict()
    weights["x"] = np.array(np.nan, np.float32)
    with pytest.raises(
        CheckpointError, match=r"1 parameters hold numbers that are not finite.* x:"
    ):
        from_torch_file(file_holding(weights, checkpoints.small_options()), tmp_path / "run")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_file_comes_back_bit_for_bit(torch, tmp_path, capsys, zipped):
    weights = checkpoints.small_state_dict()
    file, run, back = tmp_path / "model_best.ckpt", tmp_path / "run", tmp_path / "back.ckpt"
    options = checkpoints.small_options()
    checkpoints.save(file, weights, options, _use_new_zipfile_serialization=zipped)
    assert cli.main(["convert", f"--torch_checkpoint={file}", f"--output={run}"]) == 0
    assert "of epoch 7: qvhighlights/slowfast_clip, features slowfast" in capsys.readouterr().out
    assert cli.main(["convert", f"--workdir={run}", f"--to_torch={back}"]) == 0
    assert "this model has 16 and 8" in capsys.readouterr().err
    found = torch.load(back, weights_only=True)["model"]
    assert found.keys() == weights.keys()
    for name, array in weights.items():
        assert found[name].shape == array.shape
        assert found[name].numpy().tobytes() == array.tobytes()
    # The file that we wrote says itself what it is for.
    from_torch_file(back, tmp_path / "again")
    assert diff_configs(restore(tmp_path / "again").config, restore(run).config) == []
    with pytest.raises(CheckpointError, match="exists"):
        to_torch_file(run, back)


def test_a_run_of_ours_has_what_strict_loading_wants(torch, file_holding, tmp_path):
    weights = checkpoints.small_state_dict()
    read = {n: a for n, a in weights.items() if not n.startswith("txt_position_embed.")}
    from_torch_file(file_holding(read, checkpoints.small_options()), tmp_path / "run")
    assert to_torch_file(tmp_path / "run", tmp_path / "back.ckpt").step == 0
    found = torch.load(tmp_path / "back.ckpt", weights_only=True)["model"]
    assert {n: tuple(t.shape) for n, t in found.items()} == {n: a.shape for n, a in weights.items()}


def test_a_window_that_the_authors_program_lacks_is_not_lost_in_silence(
    file_holding, tmp_path, monkeypatch
):
    file = file_holding(checkpoints.small_state_dict())
    for window in (73, 74):  # videos have up to 75 clips: one of 74 covers them
        config = load_config("qvhighlights_slowfast_clip", {"model.attention_window": window})
        from_torch_file(file, tmp_path / str(window), config)
    monkeypatch.setattr(conversion, "write_torch_file", lambda *arguments: None)
    with pytest.raises(ConfigError, match=r"73: trained with .*attention_window=73; the authors'"):
        to_torch_file(tmp_path / "73", tmp_path / "back.ckpt")
    assert to_torch_file(tmp_path / "74", tmp_path / "back.ckpt").step == 0


def test_a_malicious_file_leaves_nothing(torch, tmp_path, capsys):
    marker = tmp_path / "marker"
    pickled = checkpoints.named_call("os", "system", f"touch {marker}")
    file = checkpoints.write_zip(tmp_path / "model_best.ckpt", pickled)
    arguments = [f"--torch_checkpoint={file}", f"--output={tmp_path / 'run'}"]
    assert cli.main(["convert", *arguments]) == 1
    assert "names os.system, which no FlashVTG checkpoint needs" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model_best.ckpt"]


def test_without_pytorch_the_command_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "f.ckpt").write_bytes(b"anything")
    arguments = [f"--torch_checkpoint={tmp_path / 'f.ckpt'}", f"--output={tmp_path / 'run'}"]
    assert cli.main(["convert", *arguments]) == 1
    assert "pip install 'flashvtg-jax[torch]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--torch_checkpoint=a"],
        ["--torch_checkpoint=a", "--output=b", "--workdir=c"],
        ["--torch_checkpoint=a", "--output=b", "--step=3"],
        ["--workdir=a", "--to_torch=b", "--config=demo"],
        ["--workdir=a", "--to_torch=b", "--widths=clip=3"],
        ["--workdir=a", "--output=b"],
    ],
)
def test_half_a_command_is_refused(arguments, capsys):
    assert cli.main(["convert", *arguments]) == 2
    assert "give --torch_checkpoint=FILE --output=DIR" in capsys.readouterr().err

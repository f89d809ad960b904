"""One writer for each work directory."""

import os
import signal
import subprocess
import sys

import pytest

from flashvtg_jax.errors import CheckpointError, ConfigError
from flashvtg_jax.experiments.lock import LOCK_FILE, locked
from flashvtg_jax.experiments.train import train

HOLD = (
    "import sys, time; from pathlib import Path; from flashvtg_jax.experiments.lock import locked\n"
    "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another program that writes into `tmp_path / "run"`."""
    command = [sys.executable, "-c", HOLD, tmp_path / "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_in_a_live_work_directory_is_refused(tmp_path, tiny_config, holder):
    before = sorted((tmp_path / "run").iterdir())
    with pytest.raises(ConfigError, match=rf"process {holder.pid} on .* since 20"):
        train(tiny_config(), tmp_path / "run", show_progress=False)
    assert sorted((tmp_path / "run").iterdir()) == before


def test_one_run_of_several_that_is_live_is_named(tmp_path, tiny_config, holder):
    (tmp_path / "run").rename(tmp_path / "seed2")
    with pytest.raises(ConfigError, match="seed2: another run writes"):
        train(tiny_config(seeds=(1, 2)), tmp_path, show_progress=False)
    assert not (tmp_path / "seed1").exists()


def test_a_killed_run_leaves_no_lock(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK_FILE).exists()
    with locked(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / LOCK_FILE).read_text()
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_a_start_that_failed_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "new" / "run"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file: this work directory cannot be written"):  # noqa: SIM117
        with locked(tmp_path / "file"):
            pass

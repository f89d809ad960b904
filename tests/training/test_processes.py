"""Several processes on this machine that train, evaluate and save one model, over loopback."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from flashvtg_jax.config import load_config
from flashvtg_jax.data.pipeline import evaluation_batches, train_pipeline
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.distributed.processes import (
    all_or_none,
    check_same,
    connect,
    from_lead_host,
    on_lead_host,
)
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.experiments.train import train
from tests.training.conftest import TINY
from tests.training.run_comparison import TOLERANCE, compare_runs

SECONDS = 240  # for all processes of a command, on a machine that does other things as well

# XLA has as many threads as there are cores: too few for devices that wait for each other.
POOL = {"NPROC": "16"}

CONFIG = """
from flashvtg_jax.config import load_config


def get_config():
    return load_config("demo", {overrides!r})
"""


class Program:
    """A command in several processes."""

    def __init__(
        self,
        folder: Path,
        count: int,
        *arguments: str,
        devices: int = 1,
        each: Sequence[Sequence[str]] | None = None,
    ):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        flags = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        )
        self.outputs = [folder / f"output{index}" for index in range(count)]
        self.processes = []
        for index, output in enumerate(self.outputs):
            hosts = (f"--coordinator=localhost:{port}", f"--num_processes={count}")
            command = [sys.executable, "-m", "flashvtg_jax", *arguments]
            command += [*hosts, f"--process_id={index}", *(each[index] if each else ())]
            with output.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **POOL, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                    )
                )

    def wait(self) -> list[int]:
        """The exit statuses; everything is killed after too long."""
        deadline = time.monotonic() + SECONDS
        try:
            return [p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes]
        except subprocess.TimeoutExpired:
            raise AssertionError("\n".join(self.told())) from None
        finally:
            for process in self.processes:
                process.kill()

    def told(self) -> list[str]:
        """What each process wrote, without the lines of its transport."""
        lines = [output.read_text().splitlines() for output in self.outputs]
        return ["\n".join(line for line in part if "[Gloo]" not in line) for part in lines]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, tiny_data):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG.format(overrides={**TINY, "data.data_dir": str(tiny_data)}))
    return path


def run(config_file, workdir, count, *flags, devices=1):
    """Trains in `count` processes, which must end well; returns what they told."""
    command = ("train", f"--config={config_file}", f"--workdir={workdir}", *flags)
    program = Program(workdir.parent, count, *command, devices=devices)
    statuses = program.wait()
    assert statuses == [0] * count, "\n".join(program.told())
    return program.told()


def wait_for_step(workdir, step, program):
    deadline = time.monotonic() + SECONDS
    path = workdir / "train.jsonl"
    while not path.exists() or f'"step": {step},' not in path.read_text():
        assert time.monotonic() < deadline and program.processes[0].poll() is None, program.told()
        time.sleep(0.02)


def losses(workdir):
    lines = (workdir / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def check_goes_on(undisturbed, tiny_config, workdir):
    """Trains an epoch more, in this process: everything before is as if nothing had happened."""
    saved = max(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))
    train(tiny_config(train__epochs=saved // 3 + 2), workdir, show_progress=False)
    both = slice(0, len(losses(undisturbed)))
    assert len(losses(workdir)) == (saved // 3 + 2) * 3
    np.testing.assert_allclose(
        losses(workdir)[both], losses(undisturbed)[: len(losses(workdir))], rtol=TOLERANCE
    )


@pytest.mark.slow
def test_two_processes_end_as_one_does_and_evaluate_alike(finished, config_file, tmp_path):
    workdir = tmp_path / "run"
    told = run(config_file, workdir, 2)
    problems, differences = compare_runs(finished[0], workdir, exact=False)
    assert not problems and differences["best/params"] < TOLERANCE
    assert not (workdir / ".lock").exists()
    assert "2 cpu device(s) of 2 processes" in told[0] and "MR-full-mAP" in told[0]
    assert told[1] == ""  # the first process speaks
    rows = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    expected = (finished[0] / "predictions.jsonl").read_text().splitlines()
    assert [row["qid"] for row in rows] == [json.loads(line)["qid"] for line in expected]
    assert json.loads((workdir / "metrics.json").read_text())["MR-full-mAP"] == pytest.approx(
        finished[1][0]["MR-full-mAP"], abs=0.01
    )

    evaluation = Program(
        tmp_path, 2, "evaluate", f"--workdir={workdir}", f"--output={tmp_path / 'again'}"
    )
    assert evaluation.wait() == [0, 0]
    for name in ("predictions.jsonl", "predictions_nms.jsonl", "metrics.json"):
        assert (tmp_path / "again" / name).read_text() == (workdir / name).read_text()


@pytest.mark.slow
def test_a_run_moves_from_one_process_to_four_is_stopped_by_a_signal_to_one_and_moves_back(
    finished, config_file, tiny_config, tmp_path
):
    workdir = tmp_path / "run"
    train(tiny_config(train__epochs=1), workdir, show_progress=False)
    command = ("train", f"--config={config_file}", f"--workdir={workdir}")
    endless = ("--config.train.epochs=10000", "--config.train.evaluate_every_epochs=10000")
    program = Program(tmp_path, 4, *command, *endless)
    wait_for_step(workdir, 12, program)  # there were saves by then
    os.kill(program.processes[2].pid, signal.SIGTERM)
    assert program.wait() == [143] * 4
    saved = max(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))
    assert all(f"SIGTERM at step {saved}" in text for text in program.told())
    assert len(losses(workdir)) == saved
    check_goes_on(finished[0], tiny_config, workdir)


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_the_run_goes_on(
    finished, config_file, tiny_config, tmp_path
):
    workdir = tmp_path / "run"
    train(tiny_config(train__epochs=1), workdir, show_progress=False)
    command = ("train", f"--config={config_file}", f"--workdir={workdir}")
    endless = ("--config.train.epochs=10000", "--config.train.evaluate_every_epochs=10000")
    # In a step the loss of a process is felt at once. Who waits for it to finish a save learns of
    # it by its silence, after 100 s: too long for a test.
    unsaved = "--config.train.checkpoint_every_epochs=10000"
    program = Program(tmp_path, 2, *command, *endless, unsaved)
    wait_for_step(workdir, 7, program)
    started = time.monotonic()
    program.processes[1].kill()
    statuses = program.wait()
    assert statuses[1] == -signal.SIGKILL and statuses[0] != 0
    assert time.monotonic() - started < 60
    check_goes_on(finished[0], tiny_config, workdir)


@pytest.mark.slow
def test_processes_that_do_not_fit_together_are_refused(config_file, tmp_path):
    command = ("train", f"--config={config_file}", f"--workdir={tmp_path / 'run'}")
    program = Program(tmp_path, 2, *command, each=[(), ("--config.seed=7",)])
    assert program.wait() == [1, 1]
    assert all("process 1 has another configuration than process 0" in t for t in program.told())
    program = Program(tmp_path, 2, *command, "--config.train.batch_size=5")
    assert program.wait() == [1, 1]
    assert all("batch_size is 5, which 2 devices cannot share" in t for t in program.told())
    assert not (tmp_path / "run").exists()


def test_every_process_reads_its_share_and_together_they_read_all(tiny_data, monkeypatch):
    config = load_config("demo", {**TINY, "train.epochs": 2})
    train_source, val_source = (
        open_split(tiny_data, config.data.dataset, s) for s in ("train", "val")
    )
    reads = []
    read = SplitSource.__getitem__
    monkeypatch.setattr(
        SplitSource, "__getitem__", lambda source, row: reads.append(row) or read(source, row)
    )

    def rows_read(open_batches, source, index, count):
        reads.clear()
        share = {"process_index": index, "process_count": count}
        with contextlib.closing(open_batches(source, config, **share)) as batches:
            shares = [batch.example for batch in batches]
        return shares, sorted(reads)

    for open_batches, source in ((train_pipeline, train_source), (evaluation_batches, val_source)):
        whole, all_reads = rows_read(open_batches, source, 0, 1)
        for count in (2, 4):
            parts = [rows_read(open_batches, source, index, count) for index in range(count)]
            # Side by side they are the batches of the single process, in the same order.
            for step, batch in enumerate(whole):
                shares = [shares[step] for shares, _ in parts]
                np.testing.assert_array_equal(np.concatenate(shares), batch)
            assert sorted(row for _, rows in parts for row in rows) == all_reads
            # None reads more than its rows of each batch.
            assert max(len(rows) for _, rows in parts) <= sum(len(b) // count for b in whole)


def test_one_process_needs_no_others():
    with all_or_none():
        pass
    assert from_lead_host(lambda: {"a": (1, 2)}) == {"a": [1, 2]}
    with pytest.raises(RuntimeError, match="here"):
        on_lead_host(lambda: (_ for _ in ()).throw(RuntimeError("here")))
    check_same("anything", object())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "host:1"}, "give all of --coordinator"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "counts from 0 to 1"),
        ({}, "could not be connected"),
    ],
)
def test_processes_that_cannot_be_connected_are_told_how(given, message):
    with pytest.raises(ConfigError, match=message):
        connect(**given)

"""One device and many compute the same, and exchange what they must and no more.

One program trains on up to eight simulated devices (`parallel_program`); the tests look at what it
found.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import jax
import pytest

from benchmarks.hlo import collectives
from flashvtg_jax.config import load_config, save_config
from flashvtg_jax.data.preparation import prepare_data
from flashvtg_jax.distributed import sharding
from flashvtg_jax.distributed.sharding import make_mesh
from flashvtg_jax.errors import ConfigError
from tests.training.conftest import TINY

DEVICES = 8
ROWS = 16
TOLERANCE = 1e-5
SMALL = {
    **TINY,
    # Kernels of 64 x 64 are large enough to be split over devices.
    "model.hidden_dim": 64,
    "model.ffn_dim": 64,
    "model.n_input_proj": 1,
    "model.strides": (1.0, 2.0),
    "synthetic.num_train": 40,  # every third batch is half full
    "train.batch_size": ROWS,
    "train.epochs": 7,
    # Sums over devices are rounded in another order, and a high rate amplifies that: at 2e-3 twenty
    # steps turn 1e-8 into 1e-2. Here it stays what it is.
    "optimizer.learning_rate": 1e-4,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the program found, and what devices exchange in its compiled steps."""
    folder = tmp_path_factory.mktemp("parallel")
    fields = {**SMALL, "data.data_dir": str(folder / "data")}
    config = load_config("demo", fields)
    prepare_data(config, folder / "data", show_progress=False)
    save_config(config, folder / "config.json")
    command = [sys.executable, "-W", "error", "-m", "tests.training.parallel_program"]
    command += [str(folder / "config.json"), str(folder)]
    # XLA has as many threads as there are cores: too few for devices that wait for each other.
    environment = {**os.environ, "NPROC": "16"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    exchanged = {
        mode: collectives((folder / f"{name}.hlo").read_text())
        for mode, name in {"jit": "8", "shard_state": "shard_state", "pmap": "pmap"}.items()
    }
    found = SimpleNamespace(**json.loads((folder / "found.json").read_text()))
    return SimpleNamespace(config=config, found=found, exchanged=exchanged)


def assert_agree(comparison, tolerance=TOLERANCE):
    """Every metric of every step agrees, and the parameters after the last one.

    The difference of parameters is measured by its norm, over all of them, relative to theirs.
    """
    assert comparison["params"]["all"] <= tolerance, comparison
    assert max(comparison["metrics"].values()) <= tolerance, comparison
    assert {"loss", "alignment", "gradient_norm"} < comparison["metrics"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("count", ["2", "4", "8"])
def test_many_devices_compute_what_one_does(run, count):
    assert run.found.valid_rows == [16, 16, 8] * 6 + [16, 16]
    assert run.found.moved > 1e-3  # twenty steps change the parameters by far more
    assert_agree(run.found.devices[count])


@pytest.mark.slow
def test_a_split_state_computes_what_a_whole_one_does(run):
    assert_agree(run.found.shard_state)


@pytest.mark.slow
def test_every_large_array_of_a_split_state_is_split(run):
    split = Counter()
    for array in run.found.placement:
        size = math.prod(array["shape"])
        assert array["devices"] == DEVICES
        if size >= 64 * 64:
            assert array["parts"] == [size // DEVICES], array
            split[array["name"].split("/")[0]] += size
        else:
            assert array["parts"] == [size], array
    # Both of Adam's moments are split as the parameters are.
    assert split["opt_state"] == 2 * split["params"] > 0


@pytest.mark.slow
def test_pmap_computes_the_mean_of_the_shards(run):
    # Of eight shards, four hold padding rows only in the third step; their gradients are 0.
    assert_agree(run.found.pmap)
    # The losses of two rows are not those of sixteen: the global ones would not pass.
    assert run.found.pmap_and_jit > 10 * TOLERANCE


@pytest.mark.slow
def test_pmap_has_the_same_state_on_every_device_and_gives_it_back(run):
    for array in run.found.spread:
        size = math.prod(array["shape"])
        assert array["shape"][0] == array["devices"] == DEVICES
        assert array["parts"] == [size // DEVICES]
    assert run.found.round_trip["equal"]
    assert run.found.each_device == [True] * DEVICES
    for array in run.found.view:
        assert (array["devices"], array["parts"]) == (DEVICES, [math.prod(array["shape"])])


# What devices exchange. `branch` is that of the conditional in `take_rows`: 0 gathers the rows of
# all devices and is for batches whose padding rows are not last, which no pipeline makes.
GATHERS, FOLLOWS = 0, 1


def size_of_query(run):
    """Numbers that a row lends its neighbour as a negative: words and dummy keys."""
    words, dummies = run.found.num_words, run.config.model.num_dummies
    return (words + dummies) * run.config.model.hidden_dim


def total(found, kind):
    return sum(collective.nbytes for collective in found if collective.kind == kind)


def param_bytes(run):
    return 4 * sum(math.prod(shape) for shape in run.found.param_shapes)


@pytest.mark.slow
def test_padding_rows_are_last_in_every_batch_of_a_pipeline(run):
    assert all(run.found.padding_is_last)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "shard_state"])
def test_gradients_are_reduced_once_and_the_rest_is_a_few_numbers_a_row(run, mode):
    always = [c for c in run.exchanged[mode] if c.branch is None]
    assert {c.kind for c in always} <= {"all-reduce", "all-gather", "reduce-scatter"}
    # On CPU what is reduced and then split is an all-reduce; a reduce-scatter has an eighth of it.
    reduced = total(always, "all-reduce") + DEVICES * total(always, "reduce-scatter")
    # The dummy encoder's positions, padded by those of words, are reduced before they are cut.
    positions = 4 * size_of_query(run)
    numbers_of_rows = 4 * (16 * ROWS + 64)
    assert 0 <= reduced - param_bytes(run) <= positions + numbers_of_rows
    small = [c for c in always if c.kind == "all-gather" and c.nbytes <= 4 * ROWS]
    assert len(small) <= 8
    gathered = [c for c in always if c.kind == "all-gather" and c.nbytes > 4 * ROWS]
    large = [math.prod(shape) for shape in run.found.param_shapes if math.prod(shape) >= 64 * 64]
    expected = large if mode == "shard_state" else []  # each of the split parameters, once
    assert sorted(array.size for c in gathered for array in c.arrays) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "shard_state"])
def test_a_device_lends_its_neighbour_one_row_and_the_last_one_the_first(run, mode):
    follows = [c for c in run.exchanged[mode] if c.branch == FOLLOWS]
    moved = [c for c in follows if c.kind == "collective-permute"]
    row, mask = 4 * size_of_query(run), run.found.num_words
    for device in range(DEVICES):
        sent = [c for c in moved if device in c.senders]
        assert {array.shape[0] for c in sent for array in c.arrays} == {1}
        assert sum(c.nbytes for c in sent) == 2 * row + mask  # there, and its gradient back
    # The first row goes to all, as the last valid one may be anywhere, and its gradient back.
    assert {c.kind for c in follows} == {"collective-permute", "all-reduce"}
    assert total(follows, "all-reduce") <= 3 * row + mask


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "shard_state"])
def test_only_the_branch_that_is_never_taken_gathers_rows(run, mode):
    gathers = [c for c in run.exchanged[mode] if c.branch == GATHERS]
    assert total(gathers, "all-gather") >= ROWS * 4 * size_of_query(run)
    assert {c.branch for c in run.exchanged[mode]} == {None, GATHERS, FOLLOWS}
    assert "all-to-all" not in {c.kind for c in run.exchanged[mode]}


@pytest.mark.slow
def test_pmap_reduces_gradients_and_metrics_and_nothing_else(run):
    assert {(c.kind, c.branch) for c in run.exchanged["pmap"]} == {("all-reduce", None)}
    metrics = 4 * 6
    assert total(run.exchanged["pmap"], "all-reduce") == param_bytes(run) + metrics


# The mesh.


@dataclasses.dataclass(frozen=True)
class Device:
    """All that `make_mesh` looks at."""

    process_index: int
    id: int


@pytest.fixture
def two_processes(monkeypatch):
    """Two processes of four devices, which jax tells in an order of its own."""
    owners = [0, 0, 1, 1, 0, 0, 1, 1]
    devices = [Device(owners[device], device) for device in reversed(range(8))]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "process_count", lambda: 2)


def places(mesh):
    return [dataclasses.astuple(device) for device in mesh.devices.flat]


@pytest.mark.usefixtures("two_processes")
def test_a_mesh_has_the_devices_in_the_order_of_processes():
    expected = [(0, 0), (0, 1), (0, 4), (0, 5), (1, 2), (1, 3), (1, 6), (1, 7)]
    assert places(make_mesh()) == places(make_mesh(8)) == places(make_mesh(104)) == expected


@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (6, [(0, 0), (0, 1), (0, 4), (1, 2), (1, 3), (1, 6)]),
        (4, [(0, 0), (0, 1), (1, 2), (1, 3)]),
        (2, [(0, 0), (1, 2)]),
    ],
)
def test_fewer_rows_than_devices_take_as_many_of_each_process(rows, expected):
    assert places(make_mesh(rows)) == expected


@pytest.mark.usefixtures("two_processes")
def test_fewer_rows_than_processes_are_refused():
    with pytest.raises(ConfigError, match="2 processes cannot share batches of 1 rows"):
        make_mesh(1)


def test_a_batch_that_devices_cannot_share_is_refused(monkeypatch):
    devices = [SimpleNamespace(id=i, process_index=0) for i in range(3)]
    monkeypatch.setattr(sharding.jax, "devices", lambda: devices)
    monkeypatch.setattr(sharding, "mesh_of", list)
    with pytest.raises(ConfigError, match=r"train\.batch_size is 4, which 3 devices"):
        make_mesh(4)
    assert make_mesh(6) == make_mesh() == devices
    assert make_mesh(2) == devices[:2]

"""Checkpoints that were damaged on disk, and what a run does about them."""

import contextlib
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashvtg_jax.checkpoints import checksums, verification
from flashvtg_jax.checkpoints import manager as checkpoints_module
from flashvtg_jax.checkpoints.checksums import checksum
from flashvtg_jax.checkpoints.manager import Checkpoints
from flashvtg_jax.checkpoints.recovery import find_start
from flashvtg_jax.errors import CheckpointError
from flashvtg_jax.experiments.train import train
from flashvtg_jax.experiments.workdir import finished_steps
from flashvtg_jax.training.state import TrainState

FIRST_DUE = 3  # a checkpoint every epoch of three steps
SELECTION = {"step": 6, "best_step": 6, "best": 1.5, "without_better": 0}
META = {"seed": 2024, "selection": SELECTION}

# Orbax drops the coroutines that were to read the rest of what is damaged.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def data_file(folder):
    """The largest file of an item: the numbers themselves."""
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def cut_short(folder):
    content = data_file(folder).read_bytes()
    data_file(folder).write_bytes(content[: len(content) // 3])


def zero_the_end(folder):  # as after a power cut
    content = data_file(folder).read_bytes()
    half = len(content) // 2
    data_file(folder).write_bytes(content[:half] + bytes(len(content) - half))


def flip_bits(folder):
    content = bytearray(data_file(folder).read_bytes())
    for place in range(0, len(content), 100):  # some bytes of the file are not read
        content[place] ^= 4
    data_file(folder).write_bytes(bytes(content))


def flip_one_bit(folder):
    content = bytearray(data_file(folder).read_bytes())
    content[len(content) // 2] ^= 4
    data_file(folder).write_bytes(bytes(content))


def delete(folder):
    shutil.rmtree(folder)


def make_state(step):
    rng = np.random.default_rng(step)
    params = {"w": rng.normal(size=(60, 50)).astype(np.float32), "b": np.zeros(7, np.float32)}
    opt_state = (optax.EmptyState(), optax.adamw(1e-3).init(params))
    return jax.tree.map(jnp.asarray, TrainState(np.int32(step), params, opt_state, np.uint32(2024)))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A work directory with checkpoints of steps 9 and 12, and the best parameters, of step 6."""
    folder = tmp_path_factory.mktemp("original")
    with contextlib.closing(Checkpoints(folder, keep=2)) as checkpoints:
        checkpoints.save_best(6, make_state(6).params, META)
        for step in (6, 9, 12):
            checkpoints.save(make_state(step), META)
    return folder


@pytest.fixture
def saved(original, tmp_path):
    """A copy of `original`, to be damaged."""
    return shutil.copytree(original, tmp_path / "saved")


@pytest.mark.parametrize("item", ["params", "rest"])
@pytest.mark.parametrize("damage", [cut_short, zero_the_end, flip_bits, flip_one_bit, delete])
def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(saved, capsys, damage, item):
    damage(saved / "checkpoints" / "12" / item)
    assert find_start(saved, FIRST_DUE) == 9
    assert [path.name for path in (saved / "checkpoints").glob("[0-9]*")] == ["9"]
    assert (saved / "damaged" / "checkpoints-12").is_dir()
    told = capsys.readouterr().err
    assert f"warning: {saved}/checkpoints/12: this checkpoint is damaged" in told
    assert "resumes from step 9" in told


@pytest.mark.parametrize(
    ("old", "new"), [('"seed": 2024', '"seed": 2025'), ("{", ""), ("step", "stop")]
)
def test_a_damaged_description_is_found(saved, old, new):
    path = saved / "checkpoints" / "12" / "meta" / "metadata"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert find_start(saved, FIRST_DUE) == 9


def test_a_whole_folder_is_left_alone(saved, capsys):
    assert find_start(saved, FIRST_DUE) == 12
    assert not (saved / "damaged").exists()
    assert not capsys.readouterr().err


def test_the_first_save_in_a_folder_is_read_back(tmp_path, monkeypatch):
    read = []
    original = verification.read_whole
    monkeypatch.setattr(
        verification,
        "read_whole",
        lambda folder, items: read.append((folder, items)) or original(folder, items),
    )
    with contextlib.closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        checkpoints.save_best(6, make_state(6).params, META)
        for step in (6, 9):
            checkpoints.save(make_state(step), META)
    expected = [
        (tmp_path / "best/6", ("params",)),
        (tmp_path / "checkpoints/6", ("params", "rest")),
    ]
    assert read == expected
    with contextlib.closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        checkpoints.save(make_state(12), META)
    assert read == expected  # the others were read when the run continued


def test_a_first_save_that_cannot_be_read_ends_the_run_and_leaves_nothing(tmp_path, monkeypatch):
    # What Orbax finds, of the files that it is to merge, below a folder with brackets in its name.
    monkeypatch.setattr(checkpoints_module.LiteralPath, "glob", lambda self, pattern: iter(()))
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        with pytest.raises(CheckpointError, match=r"checkpoints/3: .* cannot be read back"):
            checkpoints.save(make_state(3), META)
        assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [(MemoryError("full"), "full"), (OSError(5, "I/O"), "cannot be read: I/O")],
)
def test_a_checkpoint_that_cannot_be_read_just_now_is_not_deleted(
    saved, monkeypatch, error, message
):
    def fail(folder, items):
        raise error

    monkeypatch.setattr(verification, "read_whole", fail)
    expected = MemoryError if isinstance(error, MemoryError) else CheckpointError
    folder = saved / "checkpoints" / "12"
    for read in (
        lambda: checkpoints_module._read_back(folder, ("params", "rest")),
        lambda: find_start(saved, FIRST_DUE),
    ):
        with pytest.raises(expected, match=message):
            read()
    assert finished_steps(folder.parent) == [9, 12]


def test_the_first_process_decides_whether_a_save_is_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints_module, "from_lead_host", lambda compute: [3])
    monkeypatch.setattr(checkpoints_module, "_read_back", lambda *_: pytest.fail("read back"))
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(make_state(6), META)


def test_a_folder_of_any_name_gives_back_what_was_saved(tmp_path):
    folder = tmp_path / "-a[2]" / " [!b] {c} ** ?#%&'\" é e\u0301 🎬 "
    for step, kept in ((3, [3]), (6, [3, 6]), (9, [6, 9])):  # each by a program of its own
        with contextlib.closing(Checkpoints(folder, keep=2)) as checkpoints:
            checkpoints.save_best(step, make_state(step).params, META)
            checkpoints.save(make_state(step), META)
        assert finished_steps(folder / "checkpoints") == kept
    (folder / "checkpoints" / "12.orbax-checkpoint-tmp").mkdir()
    with contextlib.closing(Checkpoints(folder, keep=2)) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.restore(9, make_state(0)), make_state(9))
        checkpoints.drop_best_after(6)
        assert checkpoints.best_step() == 6
    assert not list(folder.glob("checkpoints/*tmp*"))
    flip_one_bit(folder / "checkpoints" / "9" / "rest")
    assert find_start(folder, FIRST_DUE) == 6
    assert (folder / "damaged" / "checkpoints-9").is_dir()


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_ends_as_an_undisturbed_one(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    cut_short(workdir / "checkpoints" / "12" / "rest")
    assert train(finished[2], workdir, show_progress=False) == finished[1]
    for name in ("train.jsonl", "evaluations.jsonl", "predictions.jsonl", "metrics.json"):
        assert (workdir / name).read_text() == (finished[0] / name).read_text()
    now, then = (
        json.loads((folder / "checkpoints" / "12" / "meta" / "metadata").read_text())
        for folder in (workdir, finished[0])
    )
    assert now["checksums"] == then["checksums"]


def test_a_checkpoint_whose_best_parameters_are_damaged_is_of_no_use(saved):
    flip_bits(saved / "best" / "6" / "params")
    with pytest.raises(CheckpointError, match="the best parameters, of step 6, are missing"):
        find_start(saved, FIRST_DUE)
    assert (saved / "best" / "6").is_dir()  # nothing is moved as long as nothing is decided


def test_best_parameters_are_also_taken_from_the_checkpoint_of_that_step(saved):
    flip_bits(saved / "best" / "6" / "params")
    (saved / "checkpoints" / "9").rename(saved / "checkpoints" / "6")
    assert find_start(saved, FIRST_DUE) == 12
    assert (saved / "damaged" / "best-6").is_dir()
    with contextlib.closing(Checkpoints(saved, read_only=True)) as checkpoints:
        assert not checkpoints.has_best(6)  # to be written again, before step 6 goes


def test_what_a_kill_left_half_deleted_goes_without_a_word(saved, capsys):
    shutil.rmtree(saved / "checkpoints" / "9" / "rest")
    shutil.copytree(saved / "best" / "6", saved / "best" / "3")
    (saved / "best" / "3" / "meta" / "metadata").unlink()
    assert find_start(saved, FIRST_DUE) == 12
    assert sorted(path.name for path in saved.glob("*/[0-9]*")) == ["12", "6"]
    assert not (saved / "damaged").exists()
    assert not capsys.readouterr().err


def test_where_nothing_can_be_used_a_person_decides(saved):
    for step in ("9", "12"):
        cut_short(saved / "checkpoints" / step / "params")
    with pytest.raises(CheckpointError, match="none of its checkpoints can be used") as error:
        find_start(saved, FIRST_DUE)
    assert "checkpoints/9: " in str(error.value) and "checkpoints/12: " in str(error.value)
    assert not (saved / "damaged").exists()


def test_a_run_whose_first_checkpoint_is_damaged_starts_anew(saved, capsys):
    for name in ("checkpoints/12", "best"):
        shutil.rmtree(saved / name)
    (saved / "checkpoints" / "9").rename(saved / "checkpoints" / "3")
    cut_short(saved / "checkpoints" / "3" / "params")
    assert find_start(saved, FIRST_DUE) == 0
    assert "training starts again from step 0" in capsys.readouterr().err


def test_a_checkpoint_of_another_version_is_not_taken_for_damaged(saved):
    path = saved / "checkpoints" / "12" / "meta" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 7}))
    with pytest.raises(CheckpointError, match="another version of flashvtg-jax"):
        find_start(saved, FIRST_DUE)


def test_damage_is_noticed_by_who_only_reads(saved):
    with contextlib.closing(Checkpoints(saved, read_only=True)) as checkpoints:
        target = make_state(0)
        chex.assert_trees_all_equal(checkpoints.restore(12, target), make_state(12))
        flip_one_bit(saved / "checkpoints" / "12" / "params")
        with pytest.raises(CheckpointError, match=r"12: this checkpoint (is damaged|cannot be)"):
            checkpoints.restore_params(12, target.params)


def test_the_checksum_sees_every_bit_every_place_and_every_name():
    rng = np.random.default_rng(0)
    tree = {
        "a": rng.normal(size=(5, 7)).astype(np.float32),
        "b": np.arange(6, dtype=np.int32),
        "c": np.array([True, False]),
        "d": rng.normal(size=3).astype(jnp.bfloat16),
        "e": np.uint32(7),
    }
    expected = checksum(tree)
    assert checksum(jax.tree.map(jnp.asarray, tree)) == expected
    for array in tree.values():  # where they are, or on this host
        assert int(checksums._sum(jnp.asarray(array))) == checksums._sum_on_host(array)
    for name, array in tree.items():
        raw = np.array(array).view(np.uint8) if np.ndim(array) else np.array([array]).view(np.uint8)
        flat = raw.reshape(-1)
        if array.dtype == bool:
            changed = ~array
            assert checksum({**tree, name: changed}) != expected
            continue
        for bit in range(0, 8 * flat.size, 3):
            damaged = flat.copy()
            damaged[bit // 8] ^= 1 << bit % 8
            changed = damaged.view(array.dtype).reshape(np.shape(array))
            assert checksum({**tree, name: changed}) != expected
    assert checksum({**tree, "a": tree["a"][::-1]}) != expected
    assert checksum({**tree, "a": tree["a"].reshape(7, 5)}) != expected
    assert checksum({**{k: v for k, v in tree.items() if k != "b"}, "z": tree["b"]}) != expected

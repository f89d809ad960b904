"""What devices and the system say of their memory, and what programs take of it."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from flashvtg_jax.system import memory
from flashvtg_jax.system.memory import (
    DoesNotFitError,
    check_fits,
    free_host_memory,
    free_memory,
    program_memory,
)


def device(platform, stats=None):
    return SimpleNamespace(platform=platform, memory_stats=lambda: stats)


@pytest.fixture
def system(tmp_path, monkeypatch):
    table = tmp_path / "meminfo"
    table.write_text("MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:  4 kB\n")
    monkeypatch.setattr(memory, "_TABLE", table)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    return tmp_path


def test_an_accelerator_tells_what_is_left(system):
    assert free_memory(device("gpu", {"bytes_limit": 100, "bytes_in_use": 30})) == 70
    assert free_memory(device("gpu")) is None


def test_a_cpu_has_what_the_system_can_give(system):
    assert free_memory(device("cpu")) == free_host_memory() == 4096


@pytest.mark.parametrize(("limit", "used", "free"), [("max", 9, 4096), ("3000", 1000, 2000)])
def test_a_container_has_a_limit_of_its_own(system, limit, used, free):
    (system / "memory.max").write_text(f"{limit}\n")
    (system / "memory.current").write_text(f"{used}\n")
    assert free_host_memory() == free


def test_other_systems_do_not_tell(system):
    (system / "meminfo").unlink()
    assert free_memory(device("cpu")) is None


def test_a_program_that_does_not_fit_is_not_run(monkeypatch):
    matrix = jax.ShapeDtypeStruct((256, 256), np.float32)
    compiled = jax.jit(lambda a: a + 1).lower(matrix).compile()
    planned = check_fits(compiled)
    assert planned["program_mib"] == pytest.approx(2 * 256 * 256 * 4 / 2**20, rel=0.01)

    donated = jax.jit(lambda a: a + 1, donate_argnums=0).lower(matrix).compile()
    assert program_memory(donated)["program_mib"] == pytest.approx(0.25, rel=0.01)

    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(DoesNotFitError, match=r"^needs 0.0 GiB, 0.0 GiB are free$"):
        check_fits(compiled)
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    check_fits(compiled)  # where nothing tells, it is tried

"""What devices and the system say of their memory."""

from types import SimpleNamespace

import pytest

from flashvtg_jax import memory
from flashvtg_jax.memory import free_host_memory, free_memory


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

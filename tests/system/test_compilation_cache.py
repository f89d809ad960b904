"""Compiled programs that are kept from one process to the next."""

import os
import subprocess
import sys

import jax
import pytest

from flashvtg_jax.system import compilation_cache
from flashvtg_jax.system.compilation_cache import use_compilation_cache

# Prints how many programs were found, and how many compiled and kept.
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from flashvtg_jax.system.compilation_cache import use_compilation_cache

use_compilation_cache()
counts = {"cache_hits": 0, "cache_misses": 0}
def count(event, **_):
    name = event.rpartition("/")[2]
    counts[name] = counts.get(name, 0) + 1
jax.monitoring.register_event_listener(count)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jnp.sort(x * int(sys.argv[1])))(jnp.ones(7))
print(counts["cache_hits"] > 0, counts["cache_misses"] > 0)
"""


@pytest.fixture
def jax_settings(monkeypatch):
    """JAX's settings as they are by default, and as they were afterwards."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.slow
def test_the_next_process_finds_what_was_compiled(tmp_path):
    def run(number):
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = [sys.executable, "-c", PROGRAM, str(number)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout.split()

    assert run(3) == ["False", "True"]
    assert run(3)[0] == "True"
    assert run(4)[1] == "True"


def test_the_folder_is_of_this_processor_and_version(tmp_path, monkeypatch, jax_settings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = []
    for features in ("flags: avx2", "flags: avx512f"):
        monkeypatch.setattr(compilation_cache, "_processor_features", lambda f=features: f)
        folders.append(use_compilation_cache())
        jax.config.update("jax_compilation_cache_dir", None)
    assert folders[0] != folders[1]
    assert all(folder.is_dir() and tmp_path in folder.parents for folder in folders)


def test_what_jax_was_told_comes_first(tmp_path, monkeypatch, jax_settings):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert use_compilation_cache() == tmp_path / "mine"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_without_a_place_to_write_it_goes_without(tmp_path, monkeypatch, jax_settings):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert use_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_processors_whose_programs_xla_would_not_take_back_go_without(
    tmp_path, monkeypatch, jax_settings
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation_cache, "_processor_features", lambda: "bugs\t\t: mds gds")
    assert use_compilation_cache() is None

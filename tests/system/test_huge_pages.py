"""Processes that start again with large pages."""

import os
import subprocess
import sys

import pytest

from flashvtg_jax.system import huge_pages
from flashvtg_jax.system.huge_pages import restart_with_huge_pages

PROGRAM = """
import os, sys
from pathlib import Path
from flashvtg_jax.system import huge_pages
huge_pages._SWITCH = Path(sys.argv[1])
huge_pages.restart_with_huge_pages()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[2:], sys.flags.utf8_mode)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux's C library")


@pytest.fixture
def starts(tmp_path, monkeypatch):
    """The commands that a process would have been replaced by; pages are given on request."""
    found = []
    switch = tmp_path / "enabled"
    switch.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_SWITCH", switch)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(os, "execv", lambda path, command: found.append(command))
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # so that it is put back
    monkeypatch.delenv("GLIBC_TUNABLES")
    return found


def test_a_process_starts_again_as_it_was_and_once(tmp_path):
    switch = tmp_path / "enabled"
    switch.write_text("always [madvise] never\n")
    environment = {name: v for name, v in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-X", "utf8=1", "-c", PROGRAM, switch, "train", "--a=b c"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        out = process.communicate(timeout=60)[0].strip()
    if not huge_pages.platform.libc_ver()[0]:
        pytest.skip("another C library")
    assert out == f"{process.pid} glibc.malloc.hugetlb=1 ['train', '--a=b c'] 1"


def test_it_starts_again_where_pages_are_given_on_request(starts):
    restart_with_huge_pages()
    assert starts == [[sys.executable, *sys.orig_argv[1:]]]
    restart_with_huge_pages()
    assert len(starts) == 1


def test_settings_of_the_user_stand(starts, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    restart_with_huge_pages()
    assert not starts and os.environ["GLIBC_TUNABLES"] == ""


@pytest.mark.parametrize("library", [("glibc", "2.34"), ("", "")])
def test_older_and_other_libraries_are_left_alone(starts, monkeypatch, library):
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: library)
    restart_with_huge_pages()
    assert not starts


@pytest.mark.parametrize("content", ["[always] madvise never", "always madvise [never]", None])
def test_systems_that_give_them_to_all_or_none_are_left_alone(starts, content):
    huge_pages._SWITCH.unlink()
    if content is not None:
        huge_pages._SWITCH.write_text(content)
    restart_with_huge_pages()
    assert not starts

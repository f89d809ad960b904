"""Memory in large pages, for processes that compute on a CPU.

XLA takes the memory of a program anew at every call, and Linux hands it out page by page: a fifth
of a training step goes by with pages of 4 KiB. The C library can ask for large ones, if it is asked
to before a process starts.
"""

import os
import platform
import sys
from pathlib import Path

_SETTING = "GLIBC_TUNABLES"
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Starts this process again, as it was started, with large pages, where that changes something.

    It does nothing where the C library has settings already (GLIBC_TUNABLES, even an empty one), on
    systems that give large pages to all or to none, and without glibc 2.35. To be called first, by
    a program of its own.
    """
    if _SETTING in os.environ or not sys.executable or not _are_given_on_request():
        return
    os.environ[_SETTING] = "glibc.malloc.hugetlb=1"
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError:  # it works without
        return


def _are_given_on_request() -> bool:
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return False
    try:
        return "[madvise]" in _SWITCH.read_text()
    except OSError:
        return False

"""`flashvtg` with a fault inside: at one moment of its writing it is killed, or the disk is full.

    python -m tests.training.faulty_train FAULT.json train --config=demo --workdir=runs/demo

A program of its own, for `tests.training.faults`: the fault strikes in the process that trains.
Moments are counted by Python's audit events: each time that a file or folder below the work
directory is made, opened for writing, renamed or removed. The array data of a checkpoint, which
TensorStore writes from C++, are not seen; what comes before and after them is, and a delay strikes
between.
"""

import collections
import dataclasses
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

_MAKE, _MOVE, _REMOVE = {"os.mkdir"}, {"os.rename"}, {"os.remove", "os.rmdir"}
_EVENTS = {"open"} | _MAKE | _MOVE | _REMOVE
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclasses.dataclass(frozen=True)
class Fault:
    """What goes wrong, and when.

    Attributes:
      workdir: of the training run.
      log: file that gets a line for each event, until the fault strikes.
      action: "count" only, "kill", "full_disk" (nothing can be written, and the system tells how
        much is free) or "quota" (files cannot grow beyond `size`, which shows when it is tried).
      place: first part of the path below the work directory whose events are counted.
      number: of the event that brings the fault, from 1.
      delay: seconds from the event to the fault.
      size: bytes, of a quota.
    """

    workdir: str
    log: str
    action: str = "count"
    place: str = ""
    number: int = 0
    delay: float = 0.0
    size: int = 0


class Injector:
    """An audit hook that brings a fault about."""

    def __init__(self, fault: Fault):
        self._fault = fault
        self._root = os.path.abspath(fault.workdir)
        self._log = os.open(fault.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._counts: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._struck = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or self._struck:
            return
        path = _written_path(event, arguments)
        if path is None or not f"{path}/".startswith(f"{self._root}/"):
            return
        path = os.path.relpath(path, self._root)
        place = path.split("/")[0].removesuffix(".partial")
        with self._lock:
            self._counts[place] += 1
            os.write(self._log, f"{place}\t{event}\t{path}\n".encode())
            self._struck = (place, self._counts[place]) == (self._fault.place, self._fault.number)
        if self._struck and self._fault.delay:
            threading.Thread(target=self._strike, daemon=True).start()
        elif self._struck:
            self._strike()

    def _strike(self) -> None:
        time.sleep(self._fault.delay)
        if self._fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        size = self._fault.size
        if self._fault.action == "full_disk":
            size = 0
            usage = shutil.disk_usage(self._root)
            shutil.disk_usage = lambda _: usage._replace(used=usage.total, free=0)
        # Python ignores the signal that comes with it: writes fail, as on a full disk.
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def _written_path(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The path that an event changes; None if it only reads, or if there is none."""
    path, folder = arguments[0], -1
    if event == "open":
        _, mode, flags = arguments
        if not flags & _WRITE_FLAGS and not set(mode or "") & set("wax+"):
            return None
    elif event in _MAKE:
        folder = arguments[2]
    elif event in _MOVE:
        path, folder = arguments[1], arguments[3]
    elif event in _REMOVE:
        folder = arguments[1]
    if not isinstance(path, str | bytes | os.PathLike):
        return None  # an open file's number
    path = os.fsdecode(path)
    if folder != -1:  # `shutil.rmtree` names what it removes relative to an open folder
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.abspath(path)


def main() -> int:
    """Runs the command with the fault; its exit status, if the fault leaves one."""
    path = sys.argv.pop(1)
    fault = Fault(**json.loads(Path(path).read_text()))
    sys.addaudithook(Injector(fault))
    from flashvtg_jax.cli.main import main as flashvtg

    return flashvtg(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

"""One writer for each work directory."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from flashvtg_jax.errors import CheckpointError, ConfigError

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # a file system that does not lock


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other programs from writing into a folder, which is made if need be.

    The system gives the lock back when the program ends, however it ends: a run that was killed
    leaves none behind. Where the file system knows no locks, a warning says so.

    Raises:
      ConfigError: another program writes there; says which.
      CheckpointError: the folder cannot be written.
    """
    path = workdir / LOCK_FILE
    new = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _lock(path)
    except BlockingIOError:
        raise ConfigError(
            f"{workdir}: another run writes into this work directory ({_holder(path)}); wait for "
            "its end, stop it, or use another --workdir"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{workdir}: this work directory cannot be written: {error.strerror or error}"
        ) from error
    about = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now().isoformat(" ", "seconds"),
    }
    with file:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its description
            file.truncate(0)
            file.write(json.dumps(about) + "\n")
            file.flush()
            os.fsync(file.fileno())  # other hosts read it
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
                for folder in new:  # of a start that failed: they go if nothing is in them
                    folder.rmdir()


def _lock(path: Path) -> TextIO:
    """The file, open and locked. Raises BlockingIOError if another program holds it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
            print(
                f"{path.parent}: this file system knows no locks: make sure that nothing else "
                "writes into this work directory",
                file=sys.stderr,
            )
            return file
        # Who held it may have removed it after it was opened here: then it locks nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _holder(path: Path) -> str:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"see {path}"

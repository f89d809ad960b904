"""Writing files so that a reader never finds half of one."""

import contextlib
import os
from pathlib import Path

from flashvtg_jax.errors import DataError


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes beside `path`, then renames: `path` is whole, or as it was before. Text is UTF-8.

    Parent folders are made.

    Raises:
      DataError: the file cannot be written (a full disk, no permission, a folder of that name).
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(partial, path)
        except BaseException:  # Ctrl-C as well
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error

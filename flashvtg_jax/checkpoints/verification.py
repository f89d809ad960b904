"""Whether a checkpoint on disk is whole: its format, its checksums, every array read back."""

import contextlib
import gc
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from flashvtg_jax.checkpoints.checksums import checksum
from flashvtg_jax.errors import CheckpointError

FORMAT = 1  # of what a checkpoint holds


class LiteralPath(type(epath.Path())):
    """A path as Orbax takes it, whose name is never read as a pattern.

    Orbax lists the files that it merges into a checkpoint with `glob`, and its own paths treat
    brackets and stars in the names of parent folders as patterns: it then finds nothing and
    reports nothing.
    """

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        return map(type(self), Path(self).glob(pattern))


def add_checksums(meta: Mapping[str, Any], items: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a checkpoint with the checksums of its items and of itself."""
    content = {**meta, "checksums": {name: checksum(item) for name, item in items.items()}}
    return {**content, "checksum": _meta_checksum(content)}


def _meta_checksum(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def check_format(folder: Path, meta: Mapping[str, Any]) -> None:
    """Raises CheckpointError if a checkpoint was written by a version that this one cannot read."""
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder}: written by another version of flashvtg-jax (format {meta.get('format')}, "
            f"this one reads {FORMAT})"
        )


def find_damage(found: Mapping[str, Any]) -> str:
    """What differs from what was saved, of the items read of a checkpoint; "" if nothing does."""
    meta = dict(found["meta"])
    own = meta.pop("checksum", None)  # checkpoints of earlier versions have none
    if own is not None and own != _meta_checksum(meta):
        return "its description is not what was saved"
    for name, expected in meta.get("checksums", {}).items():
        if name in found and checksum(found[name]) != expected:
            return f"{name}: the values are not those that were saved"
    return ""


def read_whole(folder: Path, items: Sequence[str]) -> dict[str, Any]:
    """Reads all of a checkpoint into memory: "meta", and each item as numpy arrays.

    It does not use Orbax's manager, whose barriers would wait for the other processes.

    Raises:
      ValueError: it is damaged; Orbax and the readers below it raise many other kinds.
      CheckpointError: it was written by another version.
    """
    meta = json.loads((folder / "meta" / "metadata").read_text(encoding="utf-8"))
    check_format(folder, meta)
    handler = ocp.PyTreeCheckpointHandler()
    found = {"meta": meta}
    for name in items:
        path = LiteralPath(folder / name)
        tree = handler.metadata(path).tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found[name] = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=kinds))
    damage = find_damage(found)
    if damage:
        raise ValueError(damage)
    return found


def read_or_damage(folder: Path, items: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What `read_whole` reads and "", or {} and what is damaged.

    Raises:
      CheckpointError: it was written by another version, or the disk cannot be read now.
      MemoryError: it does not fit into memory.
    """
    try:
        # Orbax also prints the outcome of each of its tasks when a checkpoint is damaged.
        with contextlib.redirect_stderr(io.StringIO()):
            return read_whole(folder, items), ""
    except (CheckpointError, MemoryError):
        raise  # the files themselves may be fine
    except Exception as error:  # Orbax and the readers below it raise many kinds
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        if isinstance(error, OSError) and not missing:
            raise CheckpointError(f"{folder}: cannot be read: {error.strerror or error}") from error
        damage = (str(error) or repr(error)).splitlines()[0]
    with contextlib.redirect_stderr(io.StringIO()):
        gc.collect()  # Orbax's tasks print when they are collected
    return {}, damage

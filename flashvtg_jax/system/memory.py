"""How much memory there is, and how much a program takes, before something large is put there."""

from pathlib import Path
from typing import Any

import jax

_TABLE = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")
_GIB = 2**30


class DoesNotFitError(Exception):
    """A program needs more memory than is free."""


def free_memory(device: jax.Device) -> int | None:
    """Returns the bytes that a device can still give; None if it does not report them."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return free_host_memory() if device.platform == "cpu" else None


def free_host_memory() -> int | None:
    """Returns the bytes that Linux could give without swapping, within the limit of a container.

    None on other systems.
    """
    if not _TABLE.exists():
        return None
    for line in _TABLE.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
            break
    else:
        return None
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        return free if limit == "max" else max(0, min(free, int(limit) - used))
    except (OSError, ValueError):  # no such container
        return free


def program_memory(compiled: Any) -> dict[str, float]:
    """MiB that a compiled program takes, as XLA planned it: in all, and for temporaries alone."""
    stats = compiled.memory_analysis()
    total = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )
    return {"program_mib": total / 2**20, "temporary_mib": stats.temp_size_in_bytes / 2**20}


def check_fits(compiled: Any) -> dict[str, float]:
    """Returns `program_memory`, before anything is run. Raises DoesNotFitError."""
    memory, free = program_memory(compiled), free_memory(jax.devices()[0])
    needed = memory["program_mib"] * 2**20
    if free is not None and needed > free:
        raise DoesNotFitError(f"needs {needed / _GIB:.1f} GiB, {free / _GIB:.1f} GiB are free")
    return memory

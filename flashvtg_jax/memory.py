"""How much memory there is, before something large is put there."""

from pathlib import Path

import jax

_TABLE = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def free_memory(device: jax.Device) -> int | None:
    """Returns the bytes that a device can still give; None if it does not tell."""
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

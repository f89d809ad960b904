"""How much memory there is, before something large is put there."""

from pathlib import Path

import jax


def free_memory(device: jax.Device) -> int | None:
    """Returns the bytes that a device can still give; None if it does not tell.

    Those of a CPU are what the system could give without writing to its swap file.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    table = Path("/proc/meminfo")
    if device.platform != "cpu" or not table.exists():
        return None
    for line in table.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None

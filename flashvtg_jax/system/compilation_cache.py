"""Compiled programs kept on disk, so that the same command starts at once the next time.

The library itself sets nothing; the command line calls `use_compilation_cache`, and so may any
other program.
"""

import hashlib
import os
import platform
from pathlib import Path

import jax
import jaxlib.version

_LEAST_SECONDS = 0.2  # of compilation, for a program to be kept


def use_compilation_cache() -> Path | None:
    """Makes JAX keep compiled programs below the user's cache folder, or in its configured folder.

    JAX's own settings come first: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=0 keeps none. To be called before anything is compiled.

    Returns:
      the folder; None where none is used: it cannot be written, or it would be of no use.
    """
    if not jax.config.jax_enable_compilation_cache:
        return None
    if jax.config.jax_compilation_cache_dir is not None:
        return Path(jax.config.jax_compilation_cache_dir)
    features = _processor_features()
    # For such processors XLA writes down preferences as if they were instructions that a machine
    # must have, and then refuses, with a page of errors, what it has compiled itself (jax#38445).
    if jax.default_backend() == "cpu" and " gds" in features:
        return None
    # Programs of one processor may use instructions that others of the same network do not have.
    machine = hashlib.sha256(features.encode()).hexdigest()[:12]
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = f"jaxlib-{jaxlib.version.__version__}-{platform.machine()}-{machine}"
    try:
        folder = Path(base).expanduser() / "flashvtg_jax" / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, no space, no permission: it works without
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    return folder


def _processor_features() -> str:
    """What distinguishes processors: the lines of Linux about model, instructions and bugs."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    first, _, _ = path.read_text().partition("\n\n")
    kept = ("vendor_id", "model name", "cpu family", "model", "flags", "Features", "bugs")
    return "\n".join(line for line in first.splitlines() if line.split("\t")[0].strip() in kept)

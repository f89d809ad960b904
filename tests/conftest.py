"""Settings of the whole suite; they must stand before jax is imported."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.typechecking

# Most of the suite's time is compilation of programs that run once: the quick kind halves it, and a
# cache for the session spares the repetitions, in other workers and subprocesses as well. Where XLA
# has the choice still, fusions do not pass through MLIR: a training step then takes a third.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="flashvtg_jax_tests_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Tracing makes many small objects, and the programs that tests share make a full collection slow.
gc.set_threshold(50_000, 20, 100)
# Subprocesses find the checkout as well, installed or not.
paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
# Shapes and types in signatures are checked wherever a test calls or traces a function.
install_import_hook(
    [
        "flashvtg_jax.models",
        "flashvtg_jax.losses",
        "flashvtg_jax.decoding",
        "flashvtg_jax.data.batch",
        "flashvtg_jax.data.feature_files",
        "flashvtg_jax.data.labels",
        "flashvtg_jax.data.normalization",
        "flashvtg_jax.data.perturbation",
        "flashvtg_jax.data.pipeline",
        "flashvtg_jax.data.resampling",
        "flashvtg_jax.metrics.arithmetic",
        "flashvtg_jax.metrics.highlight_detection",
        "flashvtg_jax.metrics.moment_retrieval",
    ],
    f"{tests.typechecking.__name__}.typechecker",
)


@pytest.fixture(scope="module", autouse=True)
def _young_heap():
    """What earlier files left is not looked through again by every collection."""
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Files with slow tests first: no worker is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)

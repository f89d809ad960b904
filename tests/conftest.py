"""Settings of the whole suite; they must stand before jax is imported."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import jaxtyping
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


# Folders whose tests have shapes and types checked: of the modules above, most of all tracing them.
CHECKED = ("models", "losses", "metrics", "data", "interop", "test_decoding.py", "test_examples.py")


@pytest.fixture(scope="module", autouse=True)
def _type_checks(request):
    """Checks slow down tracing by half: training, which calls the same modules, does without."""
    within = request.path.relative_to(Path(__file__).parent).parts[0]
    jaxtyping.config.update("jaxtyping_disable", within not in CHECKED)


# Fields of a configuration that nothing compiled depends on.
NOT_COMPILED = {
    "seed": 0,
    "seeds": (),
    "train.epochs": 1,
    "train.evaluate_every_epochs": 1,
    "train.evaluate_untrained": False,
    "train.early_stopping_evaluations": None,
    "train.checkpoint_every_epochs": 1,
    "train.keep_checkpoints": 1,
    "train.log_every_steps": 1,
    "train.init_from": None,
    "train.init_partial": False,
    "train.steps_per_dispatch": None,
    "data.data_dir": None,
    "data.domains": (),
    "data.cache_on_device": None,
}


@pytest.fixture(scope="session", autouse=True)
def _shared_trainers():
    """Runs that compile the same thing compile it once, whatever tests they are of."""
    from flashvtg_jax.config import apply_overrides, config_to_json
    from flashvtg_jax.experiments import train
    from flashvtg_jax.training.trainer import Trainer

    trainers = {}

    def shared(config, steps_per_epoch):
        compiled = config_to_json(apply_overrides(config, NOT_COMPILED))
        key = compiled, config.optimizer.lr_drop and steps_per_epoch
        if key not in trainers:
            trainers[key] = Trainer(config, steps_per_epoch)
        return trainers[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Trainer", shared)
        yield


@pytest.fixture(scope="module", autouse=True)
def _young_heap():
    """What earlier files left is not looked through again by every collection."""
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Files with slow tests first: no worker is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)

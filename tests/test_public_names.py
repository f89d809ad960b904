"""The names that README and design promise, and that they load when they are first used."""

import importlib
import subprocess
import sys

import pytest

import flashvtg_jax as fv

# What a user of JAX looks for in each namespace.
NAMESPACES = {
    "nn": "FlashVTG build_model init_params AdaptiveCrossAttention TemporalFeatureLayering "
    "AdaptiveScoreRefinement make_point_mask",
    "losses": "objective Targets alignment_loss saliency_loss clip_aware_loss",
    "data": "Batch BatchPlan open_split train_pipeline evaluation_batches",
    "metrics": "evaluate_predictions score_files per_query_metrics",
    "checkpoints": "load_params Restored",
    "training": "Hook Training TrainState make_train_step make_optimizer init_state",
}


def test_every_public_name_resolves_and_is_listed():
    assert set(fv.__all__) == set(dir(fv))
    assert all(getattr(fv, name) is not None for name in fv.__all__)
    assert callable(fv.train)  # the function; its parts are in fv.training


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_name_of_a_namespace_resolves_and_is_listed(namespace):
    module = getattr(fv, namespace)
    names = [name for name in dir(module) if not name.startswith("_")]
    assert set(NAMESPACES[namespace].split()) <= set(names)
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_a_name_is_the_same_object_in_its_namespace():
    assert fv.FlashVTG is fv.nn.FlashVTG
    assert fv.objective is fv.losses.objective
    assert fv.Batch is fv.data.Batch
    importlib.import_module("flashvtg_jax.losses.objective")  # a module of the same name
    assert callable(fv.losses.objective)


def test_importing_the_package_is_light():
    program = "import sys, flashvtg_jax as fv; fv.data, fv.training; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"jax", "numpy", "flax"} & set(found.stdout.split())

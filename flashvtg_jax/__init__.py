"""FlashVTG in JAX: the moments and highlights of a video that answer a sentence.

    import flashvtg_jax as fv

    config = fv.load_config("qvhighlights_slowfast_clip")
    model = fv.build_model(config.model)

`fv.nn`, `fv.losses`, `fv.data`, `fv.metrics`, `fv.checkpoints` and `fv.training` hold the parts.
Names load when they are first used: scoring a file, for example, does not import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from flashvtg_jax.lazy import attach
from flashvtg_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from flashvtg_jax import checkpoints as checkpoints
    from flashvtg_jax import data as data
    from flashvtg_jax import losses as losses
    from flashvtg_jax import metrics as metrics
    from flashvtg_jax import models as nn  # noqa: F401
    from flashvtg_jax import training as training
    from flashvtg_jax.config import load_config as load_config
    from flashvtg_jax.data.batch import Batch as Batch
    from flashvtg_jax.decoding import decode_moments as decode_moments
    from flashvtg_jax.errors import FlashVTGError as FlashVTGError
    from flashvtg_jax.experiments.evaluate import evaluate as evaluate
    from flashvtg_jax.experiments.train import train as train
    from flashvtg_jax.figures.inspection import plot_inspection as plot_inspection
    from flashvtg_jax.figures.prediction import plot_prediction as plot_prediction
    from flashvtg_jax.interop.pytorch import params_from_torch as params_from_torch
    from flashvtg_jax.interop.pytorch import params_to_torch as params_to_torch
    from flashvtg_jax.losses import Targets as Targets
    from flashvtg_jax.losses import objective as objective
    from flashvtg_jax.metrics import evaluate_predictions as evaluate_predictions
    from flashvtg_jax.models.flashvtg import FlashVTG as FlashVTG
    from flashvtg_jax.models.flashvtg import build_model as build_model
    from flashvtg_jax.models.fusion import AdaptiveCrossAttention as AdaptiveCrossAttention
    from flashvtg_jax.models.output import FlashVTGOutput as FlashVTGOutput
    from flashvtg_jax.models.pyramid import TemporalFeatureLayering as TemporalFeatureLayering
    from flashvtg_jax.models.pyramid import make_point_mask as make_point_mask
    from flashvtg_jax.models.score_refinement import (
        AdaptiveScoreRefinement as AdaptiveScoreRefinement,
    )
    from flashvtg_jax.prediction.inspection import inspect_query as inspect_query
    from flashvtg_jax.prediction.predictor import Prediction as Prediction
    from flashvtg_jax.prediction.predictor import Predictor as Predictor

_HOMES = {
    "AdaptiveCrossAttention": "models.fusion",
    "AdaptiveScoreRefinement": "models.score_refinement",
    "Batch": "data.batch",
    "FlashVTG": "models.flashvtg",
    "FlashVTGError": "errors",
    "FlashVTGOutput": "models.output",
    "Prediction": "prediction.predictor",
    "Predictor": "prediction.predictor",
    "Targets": "losses",
    "TemporalFeatureLayering": "models.pyramid",
    "build_model": "models.flashvtg",
    "decode_moments": "decoding",
    "evaluate": "experiments.evaluate",
    "evaluate_predictions": "metrics",
    "inspect_query": "prediction.inspection",
    "load_config": "config",
    "make_point_mask": "models.pyramid",
    "objective": "losses",
    "params_from_torch": "interop.pytorch",
    "params_to_torch": "interop.pytorch",
    "plot_inspection": "figures.inspection",
    "plot_prediction": "figures.prediction",
    "train": "experiments.train",
}

_NAMESPACES = {
    "checkpoints": "checkpoints",
    "data": "data",
    "losses": "losses",
    "metrics": "metrics",
    "nn": "models",
    "training": "training",
}

__all__ = ["__version__", *_HOMES, *_NAMESPACES]

_get_name, _, _ = attach(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return importlib.import_module(f"{__name__}.{_NAMESPACES[name]}")
    return _get_name(name)


def __dir__() -> list[str]:
    return sorted(__all__)

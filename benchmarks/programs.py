"""Compiled programs of a configuration, a training step and inference, and their memory."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import ml_collections

from flashvtg_jax.data.batch import Batch, feature_widths
from flashvtg_jax.evaluation.evaluator import apply_and_decode
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.models.init import init_params
from flashvtg_jax.system.memory import check_fits
from flashvtg_jax.training.optimizer import make_optimizer
from flashvtg_jax.training.state import init_state
from flashvtg_jax.training.step import TrainStep, make_train_step


@dataclasses.dataclass
class Compiled:
    """A compiled program.

    Attributes:
      init: makes its first argument, a state or parameters.
      run: the program itself; a training step overwrites the state that it is given.
      traced: the program as jax traced it.
      trace_seconds, compile_seconds: what it took.
      memory: MiB, as `check_fits` returns it.
    """

    init: Callable[[], Any]
    run: Callable[..., Any]
    traced: Any
    trace_seconds: float
    compile_seconds: float
    memory: dict[str, float]


def training_step(
    config: ml_collections.ConfigDict,
    batch: Batch,
    change: Callable[[TrainStep], TrainStep] = lambda step: step,
) -> Compiled:
    """The training step for batches like `batch`, arrays or their shapes; `change` wraps it.

    Raises DoesNotFitError if the memory that is free is too little for it.
    """
    model = build_model(config.model)
    optimizer = make_optimizer(config.optimizer, steps_per_epoch=100)
    init = jax.jit(partial(init_state, model, optimizer, *feature_widths(config.data), config.seed))
    step = change(make_train_step(model, optimizer, config.loss))
    return _compiled(init, jax.jit(step, donate_argnums=0), batch)


def inference(config: ml_collections.ConfigDict, batch: Batch) -> Compiled:
    """The model, decoding and NMS for batches like `batch`; raises as `training_step`."""
    model, widths = build_model(config.model), feature_widths(config.data)
    init = jax.jit(lambda: init_params(model, jax.random.key(config.seed), *widths))
    return _compiled(init, jax.jit(partial(apply_and_decode, model, config)), batch)


def _compiled(init: Callable[[], Any], function: Any, batch: Batch) -> Compiled:
    start = time.perf_counter()
    traced = function.trace(jax.eval_shape(init), batch)
    lowered = traced.lower()
    lowered_at = time.perf_counter()
    compiled = lowered.compile()
    seconds = lowered_at - start, time.perf_counter() - lowered_at
    return Compiled(init, compiled, traced, *seconds, check_fits(compiled))

"""Videos perturbed while training, and while a trained model is evaluated."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flashvtg_jax.config_checks import check_config
from flashvtg_jax.data.batch import BatchShape, empty_batch
from flashvtg_jax.data.device_cache import DeviceCache
from flashvtg_jax.data.perturbation import Perturbation
from flashvtg_jax.data.pipeline import train_pipeline, train_plan
from flashvtg_jax.data.source import open_split
from flashvtg_jax.distributed.sharding import make_mesh, replicate
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.evaluation import evaluator as evaluation
from flashvtg_jax.evaluation.evaluator import Decoded, Evaluator
from flashvtg_jax.training import step as step_module
from flashvtg_jax.training import trainer as trainer_module
from flashvtg_jax.training.state import TrainState
from flashvtg_jax.training.step import make_train_step, repeat_step

DATA = SimpleNamespace(
    augment="dropped_clips",
    augment_strength=0.8,
    video_streams=("slowfast", "clip"),
    video_widths={"slowfast": 4, "clip": 2},
)
LOSS = SimpleNamespace(negative_pairs=True)

# Of the kinds those that draw features, look along the clips, and sort them.
MOVING_KINDS = ("noise", "repeated_clips", "shuffled_blocks")


class ShownVideo(nn.Module):
    """In place of a model: gives back the video it gets, and a number of dropout's key."""

    spatial_tokens = 1

    @nn.compact
    def __call__(self, video, video_mask, query, query_mask, train=False, with_negatives=False):
        weight = self.param("w", nn.initializers.ones, ())
        draw = jax.random.uniform(self.make_rng("dropout")) if train else 0.0
        return weight * video, draw


@pytest.fixture
def make_step(monkeypatch):
    """A training step whose metrics are the video that the model got, and dropout's draw."""

    def objective(output, targets, config):
        return jnp.sum(output[0]), {"video": output[0], "dropout": output[1]}

    monkeypatch.setattr(step_module, "objective", objective)
    return lambda data=DATA, **kwargs: make_train_step(
        ShownVideo(), optax.sgd(0.0), LOSS, data_config=data, **kwargs
    )


def make_batch(rows=6, clips=10, seed=0):
    """The last row is a padding row, the one before it a short video."""
    batch = empty_batch(BatchShape(rows, clips, 2, 1, 1, (4, 2), 3))
    batch.video[:] = np.random.default_rng(seed).uniform(0.5, 1, batch.video.shape)
    counts = np.array([clips] * (rows - 2) + [3, 0])
    batch.video_mask[:] = np.arange(clips) < counts[:, None]
    batch.video[~batch.video_mask] = 0
    return batch


def make_state(step=0, seed=5):
    params = {"w": jnp.ones(())}
    opt_state = optax.sgd(0.0).init(params)
    return TrainState(jnp.int32(step), params, opt_state, jnp.uint32(seed))


def shown(step, batch, state):
    """The videos that the model sees."""
    return np.asarray(step(state, batch)[1]["video"])


def test_each_step_perturbs_each_valid_row_in_its_own_way(make_step):
    batch = make_batch()
    batch.video[:4] = batch.video[0]
    step = jax.jit(make_step())
    found = np.stack([shown(step, batch, make_state(number)) for number in range(6)])
    assert (found[:, ~batch.video_mask] == 0).all()
    full = found[:, :4].reshape(24, 10, 6)
    dropped = (full == 0).all(-1)
    np.testing.assert_array_equal(full, np.where(dropped[..., None], 0, batch.video[0]))
    assert len(np.unique(dropped, axis=0)) > 15
    share = dropped.mean(-1)  # each has a strength of its own
    assert share.min() <= 0.2 and share.max() >= 0.5


def test_augmentation_follows_from_seed_and_step(make_step):
    batch = make_batch()
    step = jax.jit(make_step())
    state, found = make_state(), []
    for _ in range(4):
        found.append(shown(step, batch, state))
        state, _ = step(state, batch)
    resumed = shown(jax.jit(make_step()), batch, make_state(step=3))
    assert resumed.tobytes() == found[3].tobytes()
    assert shown(step, batch, make_state(step=3, seed=6)).tobytes() != found[3].tobytes()
    # Several steps a dispatch.
    _, metrics = jax.jit(
        lambda state: repeat_step(
            make_step(), lambda data, choice: data, state, batch, jnp.arange(4), 4
        )
    )(make_state())
    np.testing.assert_array_equal(metrics["video"], found)


def test_dropout_is_what_it_is_without_augmentation(make_step):
    batch, state = make_batch(), make_state(step=2)
    _, augmented = make_step()(state, batch)
    for data in (None, SimpleNamespace(augment=None)):
        _, plain = make_step(data)(state, batch)
        assert plain["dropout"] == augmented["dropout"]
        np.testing.assert_array_equal(plain["video"], batch.video)
    by_hand = jax.random.fold_in(jax.random.key(5), 2)
    inputs = (batch.video, batch.video_mask, batch.query, batch.query_mask)
    _, draw = ShownVideo().apply(
        {"params": state.params}, *inputs, train=True, rngs={"dropout": by_hand}
    )
    assert plain["dropout"] == draw


@pytest.mark.parametrize("kind", MOVING_KINDS)
def test_seeds_mapped_are_augmented_as_each_alone(make_step, kind):
    data = SimpleNamespace(**{**vars(DATA), "augment": kind})
    batches, seeds = [make_batch(seed=0), make_batch(seed=1)], [3, 4]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *batches)
    states = jax.tree.map(lambda *a: jnp.stack(a), *[make_state(7, seed) for seed in seeds])
    together = shown(jax.jit(jax.vmap(make_step(data))), stacked, states)
    alone = jax.jit(make_step(data))
    for run, (batch, seed) in enumerate(zip(batches, seeds, strict=True)):
        assert together[run].tobytes() == shown(alone, batch, make_state(7, seed)).tobytes()


DEVICES = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from benchmarks.hlo import collectives
from flashvtg_jax.distributed.sharding import AXIS, make_mesh, put_batch
from tests.training import test_augmentation as here

jax.config.update("jax_num_cpu_devices", 4)
here.step_module.objective = lambda output, targets, config: (
    jnp.sum(output[0]), {"video": output[0]}
)
found = {}
batch = here.make_batch(rows=8)
for kind in here.MOVING_KINDS:
    data = here.SimpleNamespace(**{**vars(here.DATA), "augment": kind})
    make = lambda **axis: here.make_train_step(
        here.ShownVideo(), here.optax.sgd(0.0), here.LOSS, data_config=data, **axis
    )
    one = here.shown(jax.jit(make()), batch, here.make_state(4))
    spread = put_batch(batch, make_mesh())
    step = jax.jit(lambda state, batch: make()(state, batch)[1]["video"])
    many = step.lower(here.make_state(4), spread).compile()
    # Of each device its own rows: the mean over devices is taken of one row of the axis at a time.
    rows = jax.tree.map(lambda a: a.reshape(4, 2, *a.shape[1:]), batch)
    place = lambda video: jnp.zeros((4, *video.shape)).at[jax.lax.axis_index(AXIS)].set(video)
    here.step_module.objective, kept = (
        lambda output, *_: (jnp.sum(output[0]), {"video": place(output[0])})
    ), here.step_module.objective
    each = jax.pmap(make(axis_name=AXIS), axis_name=AXIS, in_axes=(None, 0))
    each = np.asarray(each(here.make_state(4), rows)[1]["video"][0]).reshape(one.shape) * 4
    here.step_module.objective = kept
    found[kind] = {
        "many": np.asarray(many(here.make_state(4), spread)).tobytes() == one.tobytes(),
        "each": each.tobytes() == one.tobytes(),
        "changed": bool((one != batch.video).any()),
        "exchanged": [c.kind for c in collectives(many.as_text())],
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_devices_augment_their_own_rows_as_one_would():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DEVICES],
        capture_output=True,
        text=True,
        env=os.environ | {"NPROC": "16"},
    )
    assert done.returncode == 0, done.stderr
    expected = {"many": True, "each": True, "changed": True, "exchanged": []}
    assert json.loads(done.stdout) == dict.fromkeys(MOVING_KINDS, expected)


@pytest.mark.usefixtures("make_step")
def test_cached_data_are_augmented_as_streamed(tiny_config, tiny_data, monkeypatch):
    monkeypatch.setattr(trainer_module, "build_model", lambda config: ShownVideo())
    config = tiny_config(data__augment="shuffled_blocks")
    source = open_split(tiny_data, config.data.dataset, "train")
    trainer = trainer_module.Trainer(config, 3)
    cache = DeviceCache(source, config, lambda tree: replicate(tree, trainer.mesh))
    plan = train_plan(source, config)
    examples = [plan.batch(step)[1].examples for step in range(3)]
    draws = [cache.draw(source, rows) for rows in examples]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *draws)
    clips = plan.batch(0)[1].length
    _, metrics = trainer.steps(trainer.init(np.uint32(3)), cache, stacked, clips, 3)

    state = trainer.init(np.uint32(3))
    with contextlib.closing(train_pipeline(source, config)) as batches:
        for step, batch in enumerate(itertools.islice(batches, 3)):
            state, streamed = trainer.step(state, trainer.put(batch))
            found = np.asarray(streamed["video"][0])
            np.testing.assert_allclose(metrics["video"][step], found, atol=1e-6)
            assert (found != batch.video).any()


# Evaluation.


@pytest.fixture
def source(tiny_data, tiny_config):
    """The validation split."""
    return open_split(tiny_data, tiny_config().data.dataset, "val")


@pytest.fixture
def make_evaluator(tiny_config, monkeypatch):
    """An evaluator whose scores of clips are sums of the features that the model would get."""

    def sums(model, config, params, batch):
        weights = 1 + jnp.arange(batch.video.shape[-1])
        return Decoded(params * (batch.video * weights).sum(-1), None, None, None)

    monkeypatch.setattr(evaluation, "apply_and_decode", sums)
    return lambda **fields: Evaluator(None, tiny_config(**fields), make_mesh())


def scores(results):
    """Of the clips of each example."""
    return [np.array(row["pred_saliency_scores"]) for row in results.predictions]


def assert_same_scores(one, other):
    for row, expected in zip(scores(one), scores(other), strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_what_an_example_gives_perturbed_depends_on_neither_batch_nor_cache(
    make_evaluator, source, tiny_config
):
    one = jnp.ones(())
    perturbed = {"perturbation": Perturbation("dropped_clips", 0.5, seed=1)}
    found = make_evaluator().evaluate(one, source, **perturbed)
    clean = make_evaluator().evaluate(one, source)
    for row, other in zip(scores(found), scores(clean), strict=True):
        assert {False, True} == {*(row == 0)}
        np.testing.assert_allclose(row[row != 0], other[row != 0], rtol=1e-5)
    smaller = make_evaluator(evaluation__batch_size=3)
    assert_same_scores(smaller.evaluate(one, source, **perturbed), found)
    cache = DeviceCache(source, tiny_config(), lambda tree: replicate(tree, make_mesh()))
    cached = {"cache": cache, **perturbed}
    assert_same_scores(smaller.evaluate(one, source, **cached), found)


def test_strengths_and_seeds_share_a_program(make_evaluator, source, monkeypatch):
    traced = []
    perturb_split = evaluation.perturb_split
    monkeypatch.setattr(
        evaluation, "perturb_split", lambda *args: traced.append(0) or perturb_split(*args)
    )
    evaluator, one = make_evaluator(), jnp.ones(())

    def perturbed(*args):
        return evaluator.evaluate(one, source, perturbation=Perturbation("noise", *args))

    found = perturbed(0.5)
    assert perturbed(0.5, 0) == found
    assert perturbed(0.5, 2**32 - 1) != found
    assert perturbed(1.0, 0) != found
    assert_same_scores(perturbed(0.0, 1), evaluator.evaluate(one, source))
    assert len(traced) == 1


def test_perturbations_that_do_not_fit_are_refused_before_anything_is_read(make_evaluator):
    evaluator = make_evaluator(data__video_streams=("clip",))
    for perturbation, message in (
        (Perturbation("blur", 0.5), "perturbation.kind is 'blur'; it knows noise"),
        (Perturbation("missing_stream", 0.5), "the videos have 1 stream"),
        (Perturbation("noise", 1.5), "perturbation.strength is 1.5; it must be from 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluator.evaluate(None, None, perturbation=perturbation)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data__augment": "blur"}, r"config.data.augment is 'blur'; it knows noise, dropped_cl"),
        ({"data__augment_strength": 1.5}, "config.data.augment_strength is 1.5; .* from 0 to 1"),
        ({"data__augment_strength": -0.1}, "config.data.augment_strength is -0.1"),
        (
            {"data__augment": "missing_stream", "data__video_streams": ("clip",)},
            "config.data.augment is 'missing_stream', but the videos have 1 stream",
        ),
    ],
)
def test_augmentations_that_mean_nothing_are_refused(tiny_config, fields, message):
    with pytest.raises(ConfigError, match=message):
        check_config(tiny_config(**fields))

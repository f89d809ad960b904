"""Variants of a configuration that studies compare: each a few values of documented fields."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from flashvtg_jax.config import apply_overrides, diff_configs
from flashvtg_jax.data.perturbation import KINDS, check_perturbation
from flashvtg_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Variant:
    """One model of a study.

    Attributes:
      name: of its folder, and on the command line.
      label: in tables and figures.
      overrides: values of fields that make it what it is.
      level: the number it stands for on an axis, if any.
    """

    name: str
    label: str
    overrides: Mapping[str, Any]
    level: float | None = None

    def config(self, config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        """The configuration of this variant."""
        return apply_overrides(config, self.overrides)


FULL = Variant("full", "full model", {})

_FULL_MODEL = {"moment_head": "pyramid", "score_refinement": "learned"}

_MOST_LEVELS = 6
_MIXES = {
    "intra": Variant("intra", "intra-scale score only", {"model.score_refinement": "intra"}),
    "inter": Variant("inter", "inter-scale score only", {"model.score_refinement": "inter"}),
    "fixed": Variant("fixed", "fixed mix of scores", {"model.score_refinement": "fixed"}),
}


def ablation_variants(config: ml_collections.ConfigDict) -> list[Variant]:
    """The full model, and what is left of it without each of its parts.

    Parts that a configuration does not have are left out: there is no pyramid to take away where
    boundaries are not learned, and no clip-aware loss where its weight is 0.
    Raises ConfigError for a configuration that is itself such a variant.
    """
    if config.loss.regression:
        _check_full(config)
    variants = [FULL]
    if config.loss.regression:
        variants += [
            Variant("queries", "moment queries, no pyramid", {"model.moment_head": "queries"}),
            *_MIXES.values(),
        ]
    if config.loss.label_loss_coef:
        variants.append(
            Variant("no_clip_aware", "no clip-aware score loss", {"loss.label_loss_coef": 0.0})
        )
    if config.loss.negative_pairs:
        variants.append(
            Variant("no_negatives", "no negative pairs", {"loss.negative_pairs": False})
        )
    if config.model.num_dummies:
        without = {"model.num_dummies": 0, "loss.lw_wattn": 0.0}
        variants.append(Variant("no_dummies", "no dummy tokens", without))
    return variants


def scale_variants(config: ml_collections.ConfigDict) -> list[Variant]:
    """Pyramids of K levels of strides 1, 2, 4, ..., and one with a level that is upsampled.

    Raises ConfigError for a configuration without a pyramid.
    """
    _check_full(config, ("moment_head",))
    variants = []
    for levels in range(1, _MOST_LEVELS + 1):
        strides = tuple(2.0**level for level in range(levels))
        if strides == tuple(config.model.strides):
            variants.append(dataclasses.replace(FULL, label=f"K = {levels}", level=levels))
        else:
            overrides = {"model.strides": strides}
            variants.append(Variant(f"k{levels}", f"K = {levels}", overrides, levels))
    if FULL.name not in {variant.name for variant in variants}:
        variants.insert(0, dataclasses.replace(FULL, label="strides of the configuration"))
    finest = min(config.model.strides) / 2
    label = f"with stride {finest:g}" if finest >= 1 else f"with stride 1/{1 / finest:g}"
    finer = (finest, *config.model.strides)
    variants.append(Variant("upsampled", label, {"model.strides": finer}))
    return variants


def refinement_variants(config: ml_collections.ConfigDict) -> list[Variant]:
    """The learned mix of scores within and across scales, a fixed one, and either alone.

    Raises ConfigError for a configuration without the learned mix.
    """
    _check_full(config)
    learned = dataclasses.replace(FULL, label="learned mix of scores")
    return [learned, _MIXES["fixed"], _MIXES["intra"], _MIXES["inter"]]


def robustness_variants(config: ml_collections.ConfigDict) -> list[Variant]:
    """The model trained on clean videos, and one for each perturbation trained with it.

    Raises ConfigError for a configuration that perturbs its training videos.
    """
    if config.data.augment is not None:
        raise ConfigError(
            f"config.data.augment={config.data.augment!r}: the study compares with a model trained "
            "on clean videos; leave it out"
        )
    clean = dataclasses.replace(FULL, label="trained clean")
    return [
        clean,
        *(
            Variant(f"augment_{kind}", f"augmentation: {kind.replace('_', ' ')}", _augment(kind))
            for kind in perturbations(config)
        ),
    ]


def perturbations(config: ml_collections.ConfigDict) -> list[str]:
    """The kinds of perturbation that videos of a configuration can undergo."""
    kinds = []
    for kind in KINDS:
        try:
            check_perturbation(kind, len(config.data.video_streams), name="perturbation")
        except ConfigError:  # there is no stream to miss
            continue
        kinds.append(kind)
    return kinds


def _augment(kind: str) -> dict[str, Any]:
    return {"data.augment": kind, "data.augment_strength": 0.8}


def _check_full(
    config: ml_collections.ConfigDict, names: Sequence[str] = ("moment_head", "score_refinement")
) -> None:
    """Raises ConfigError for a model that lacks what a study takes away."""
    for name in names:
        value, full = config.model[name], _FULL_MODEL[name]
        if value != full:
            raise ConfigError(
                f"config.model.{name}={value!r}: the study compares variants with a model of "
                f"{full!r}; leave it out"
            )


def choose(
    variants: Sequence[Variant], names: Sequence[str] | None, config: ml_collections.ConfigDict
) -> list[Variant]:
    """The variants of some names (None: all), and always the full one, to compare them with.

    One that changes nothing of the configuration is left out.
    Raises ConfigError for a name that none of them has.
    """
    known = {variant.name: variant for variant in variants}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(
            f"no variant {', '.join(map(repr, unknown))} in this study; there are "
            f"{', '.join(known)}"
        )
    return [
        variant
        for variant in variants
        if variant.name == FULL.name
        or (variant.name in (names or known) and diff_configs(config, variant.config(config)))
    ]

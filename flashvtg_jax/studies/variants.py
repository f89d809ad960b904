"""Variants of a configuration that studies compare: each a few values of documented fields."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from flashvtg_jax.config import apply_overrides
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
    """
    variants = [FULL]
    if config.loss.regression:
        variants += [
            Variant("queries", "no layering: moment queries", {"model.moment_head": "queries"}),
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
    """Pyramids of K levels of strides 1, 2, 4, ..., and one with a level that is upsampled."""
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
    finer = (0.5, *config.model.strides)
    variants.append(Variant("upsampled", "with stride 1/2", {"model.strides": finer}))
    return variants


def refinement_variants(config: ml_collections.ConfigDict) -> list[Variant]:
    """The learned mix of scores within and across scales, a fixed one, and either alone."""
    learned = dataclasses.replace(FULL, label="learned mix of scores")
    return [learned, _MIXES["fixed"], _MIXES["intra"], _MIXES["inter"]]


def robustness_variants(config: ml_collections.ConfigDict) -> list[Variant]:
    """The model trained on clean videos, and one for each perturbation trained with it."""
    clean = dataclasses.replace(FULL, label="trained clean")
    return [
        clean,
        *(
            Variant(f"augment_{kind}", f"trained with {kind.replace('_', ' ')}", _augment(kind))
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


def choose(variants: Sequence[Variant], names: Sequence[str] | None) -> list[Variant]:
    """The variants of some names (None: all), and always the full one, to compare them with.

    Raises ConfigError for a name that none of them has.
    """
    known = {variant.name: variant for variant in variants}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(
            f"no variant {', '.join(map(repr, unknown))} in this study; there are "
            f"{', '.join(known)}"
        )
    return [v for v in variants if names is None or v.name in names or v.name == FULL.name]

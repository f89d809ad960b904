"""`flashvtg study robustness`: how much worse videos cost, and what training with such ones saves.

Each model is evaluated on videos perturbed at five strengths: the one trained on clean videos with
every kind of perturbation, the others with the kind that they were trained with.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashvtg_jax.data.perturbation import Perturbation
from flashvtg_jax.figures.entries import Entry
from flashvtg_jax.metrics.per_query import per_query_metrics
from flashvtg_jax.studies.comparisons import ABLATION_METRICS, Values, entry
from flashvtg_jax.studies.running import Runs, Subject
from flashvtg_jax.studies.trials import Trials
from flashvtg_jax.studies.variants import FULL, Variant
from flashvtg_jax.system.progress import progress_bar

STRENGTHS = (0.1, 0.2, 0.4, 0.6, 0.8)
AUGMENTED = "trained with it"  # the label of models that met the perturbation in training
ABOUT_STRENGTHS = (
    "Columns are strengths s. noise: the features of each clip become (1 - s) x + s n, n a random "
    "direction; dropped clips: a clip is 0 with probability s; repeated clips: a clip shows what "
    "the one before it shows with probability s; frame rate: a share 1 - s of the clips is kept, "
    "each held until the next; shuffled blocks: clips are shuffled within blocks of s times the "
    "video; missing stream: a video lacks one of its streams with probability s. Trained with it: "
    "each training video at a strength drawn evenly from 0 to the one below."
)

_SEED = 0  # of the perturbations, the same for all models


def robustness(
    subject: Subject,
    variants: Sequence[Variant],
    runs: Runs,
    *,
    intervals: bool = True,
    show_progress: bool = True,
) -> list[Entry]:
    """An entry for each kind of perturbation, strength, model and metric.

    The condition is the kind, the level the strength; the clean model on clean videos has no
    condition. What was evaluated is kept in the runs' folders and not done again.

    Args:
      subject: of the study.
      variants: the full model first, then one for each `config.data.augment`.
      runs: their folders.
      intervals: of what training with a perturbation changes.
      show_progress: a bar of the evaluations.
    """
    trials = Trials(subject)
    kinds = {v.name: v.overrides["data.augment"] for v in variants if v.name != FULL.name}
    # Run by run, for each is restored once.
    work = [
        (folder, perturbation)
        for name, folders in runs.items()
        for folder in folders
        for perturbation in _perturbations([kinds[name]] if name in kinds else kinds.values())
    ]
    for folder, perturbation in progress_bar(
        work, len(work), "evaluating perturbed videos", show_progress
    ):
        trials.of_run(folder, _name(perturbation), _metrics, perturbation=perturbation)

    entries = []

    def values(name: str, perturbation: Perturbation | None) -> Values:
        name_of_trial = _name(perturbation)
        return trials.of_variant(runs[name], name_of_trial, _metrics, perturbation=perturbation)

    def add(key: tuple[str, str, float], own: Values, reference: Values | None) -> None:
        for metric in own:
            other = None if reference is None else reference[metric]
            entries.append(entry(subject, (*key, metric), own[metric], other, intervals=intervals))

    clean = values(FULL.name, None)
    add((variants[0].label, "", 0.0), clean, None)
    for name, kind in kinds.items():
        condition = kind.replace("_", " ")
        add((AUGMENTED, condition, 0.0), values(name, None), clean)
        for perturbation in _perturbations([kind])[1:]:
            of_clean = values(FULL.name, perturbation)
            add((variants[0].label, condition, perturbation.strength), of_clean, None)
            own = values(name, perturbation)
            add((AUGMENTED, condition, perturbation.strength), own, of_clean)
    return entries


def by_strength(entries: Sequence[Entry], metric: str) -> tuple[list[Entry], list[str]]:
    """One metric of the study for a table with a column for each strength: entries and columns."""
    columns = [f"{strength:g}" for strength in (0.0, *STRENGTHS)]
    of_metric = [e for e in entries if e.metric == metric]
    clean = next(e for e in of_metric if not e.condition)
    rows = []
    for condition in dict.fromkeys(e.condition for e in of_metric if e.condition):
        own = [e for e in of_metric if e.condition == condition]
        own.insert(0, dataclasses.replace(clean, condition=condition))
        own.sort(key=lambda e: (e.variant != clean.variant, e.level))
        rows += [dataclasses.replace(e, metric=f"{e.level:g}") for e in own]
    return rows, columns


def _perturbations(kinds: Any) -> list[Perturbation | None]:
    """None, for videos as they are, and each kind at each strength."""
    return [None, *(Perturbation(kind, s, _SEED) for kind in kinds for s in STRENGTHS)]


def _name(perturbation: Perturbation | None) -> str:
    return "clean" if perturbation is None else f"{perturbation.kind}_{perturbation.strength:g}"


def _metrics(
    predictions: list[dict], annotations: list[dict], clips: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    values = per_query_metrics(predictions, annotations, **clips)
    return {metric: values[metric] for metric in ABLATION_METRICS if metric in values}

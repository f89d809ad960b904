"""`flashvtg study robustness`: how much worse videos cost, and what training with such ones saves.

Each model is evaluated on videos perturbed at five strengths: the one trained on clean videos with
every kind of perturbation, the others with the kind that they were trained with.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashvtg_jax.config import apply_overrides, config_to_json
from flashvtg_jax.data.perturbation import Perturbation
from flashvtg_jax.data.source import open_split
from flashvtg_jax.evaluation import Evaluator
from flashvtg_jax.files import write_atomically
from flashvtg_jax.metrics.per_query import metric_groups, per_query_numbers
from flashvtg_jax.studies.comparisons import ABLATION_METRICS, entry
from flashvtg_jax.studies.running import Runs, Subject, by_seed, stacked
from flashvtg_jax.studies.tables import Entry
from flashvtg_jax.studies.variants import FULL, Variant
from flashvtg_jax.training.parallel import make_mesh, replicated
from flashvtg_jax.training.restoring import restore

STRENGTHS = (0.1, 0.2, 0.4, 0.6, 0.8)
METRICS = ABLATION_METRICS

_SEED = 0  # of the perturbations, the same for all models


def robustness(
    subject: Subject,
    variants: Sequence[Variant],
    runs: Runs,
    *,
    intervals: bool = True,
    show_progress: bool = True,
) -> list[Entry]:
    """An entry for each kind of perturbation, strength, model and number.

    The condition is the kind, the level the strength; the entries of strength 0 have no condition.
    What was evaluated is kept in `workdir`/robustness and not done again.

    Args:
      subject: of the study.
      variants: the full model first, then one for each `config.data.augment`.
      runs: their folders.
      intervals: of what training with a perturbation changes.
      show_progress: say on stderr what is evaluated.
    """
    trials = _Trials(subject)
    entries = []

    def add(label: str, condition: str, level: float, values: Any, reference: Any) -> None:
        annotations = subject.source.annotations()
        for metric in (name for name in METRICS if name in values):
            groups = metric_groups(metric, annotations)
            key = (label, condition, level, metric)
            other = None if reference is None else reference[metric]
            entries.append(entry(key, values[metric], other, groups=groups, intervals=intervals))

    clean = trials.values(runs[FULL.name], None)
    add(variants[0].label, "", 0.0, clean, None)
    for variant in variants[1:]:
        kind = variant.overrides["data.augment"]
        condition = kind.replace("_", " ")
        if show_progress:
            print(f"evaluating on {condition} at {len(STRENGTHS)} strengths", file=sys.stderr)
        add("trained with it", condition, 0.0, trials.values(runs[variant.name], None), clean)
        for strength in STRENGTHS:
            perturbation = Perturbation(kind, strength, _SEED)
            of_clean = trials.values(runs[FULL.name], perturbation)
            of_augmented = trials.values(runs[variant.name], perturbation)
            add(variants[0].label, condition, strength, of_clean, None)
            add("trained with it", condition, strength, of_augmented, of_clean)
    return entries


class _Trials:
    """Evaluations of runs on perturbed videos, each done once."""

    def __init__(self, subject: Subject):
        self._subject = subject
        self._mesh = make_mesh()
        self._evaluators: dict[str, Evaluator] = {}
        self._restored: tuple[Path, Any] | None = None
        self._row_of = {
            str(row["qid"]): index for index, row in enumerate(subject.source.annotations())
        }

    def values(
        self, folders: Sequence[Path], perturbation: Perturbation | None
    ) -> dict[str, np.ndarray]:
        """What a variant's runs give for each query: [S, N], NaN where it does not count."""
        seeds = []
        for domains in by_seed(folders, len(self._subject.seeds)):
            found: dict[str, np.ndarray] = {}
            for folder in domains:
                result = self._result(folder, perturbation)
                rows = [self._row_of[qid] for qid in result["qids"]]
                for metric, values in result["values"].items():
                    of_all = found.setdefault(metric, np.full(len(self._row_of), np.nan))
                    of_all[rows] = [math.nan if value is None else value for value in values]
            seeds.append(found)
        return stacked(seeds)

    def _result(self, folder: Path, perturbation: Perturbation | None) -> dict[str, Any]:
        subject = self._subject
        run = folder.relative_to(subject.workdir / "runs")
        name = "clean" if perturbation is None else f"{perturbation.kind}_{perturbation.strength}"
        path = subject.workdir / "robustness" / subject.split / run / f"{name}.json"
        step = json.loads((folder / "metrics.json").read_text())["step"]
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            known = {}
        if known.get("step") != step:
            known = {"step": step, **self._evaluate(folder, step, perturbation)}
            write_atomically(path, json.dumps(known) + "\n")
        return known

    def _evaluate(
        self, folder: Path, step: int, perturbation: Perturbation | None
    ) -> dict[str, Any]:
        if self._restored is None or self._restored[0] != folder:
            self._restored = folder, restore(folder, step=step, sharding=replicated(self._mesh))
        restored = self._restored[1]
        config, data = self._subject.config, restored.config.data
        source = open_split(
            config.data.data_dir, data.dataset, self._subject.split, domains=data.domains
        )
        # Runs that differ in what they learned from share the programs that evaluate them.
        shared = {"seed": 0, "data.domains": (), "data.augment": None}
        config = apply_overrides(restored.config, shared)
        key = config_to_json(config)
        if key not in self._evaluators:
            self._evaluators[key] = Evaluator(restored.model, config, self._mesh)
        results = self._evaluators[key].evaluate(restored.params, source, perturbation=perturbation)
        annotations = source.annotations()
        values = per_query_numbers(results.predictions, annotations, config.clip_length)
        return {
            "qids": [str(row["qid"]) for row in annotations],
            "values": {
                metric: [None if math.isnan(value) else value for value in values[metric].tolist()]
                for metric in METRICS
                if metric in values
            },
        }

"""Runs of a study, evaluated in ways that training does not: once, and kept in their folders."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashvtg_jax.checkpoints.restore import Restored, restore
from flashvtg_jax.config import apply_overrides, config_to_json, read_config
from flashvtg_jax.data.perturbation import Perturbation
from flashvtg_jax.data.pipeline import clip_counts
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.distributed.sharding import make_mesh, replicated
from flashvtg_jax.evaluation.evaluator import Evaluator
from flashvtg_jax.files import write_atomically
from flashvtg_jax.metrics.scoring_settings import configured_clips
from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.models.pyramid import level_length
from flashvtg_jax.studies.running import Subject, by_seed, stacked

Lines = list[dict[str, Any]]
# Of predictions, annotations and the arguments of `per_query_metrics` about clips.
Measure = Callable[[Lines, Lines, Mapping[str, Any]], dict[str, np.ndarray]]
Values = dict[str, np.ndarray]


class Trials:
    """Evaluations of the runs of a study.

    What one finds is kept in the folder of its run, with the step of the checkpoint and the
    queries: it goes where the run goes, and is found again for another checkpoint or other queries.
    """

    def __init__(self, subject: Subject):
        self._subject = subject
        self._mesh = make_mesh()
        self._evaluators: dict[str, Evaluator] = {}
        self._restored: tuple[Path, int, Restored] | None = None
        self._row_of = {str(row["qid"]): index for index, row in enumerate(subject.annotations)}

    def of_variant(
        self,
        folders: Sequence[Path],
        name: str,
        measure: Measure,
        *,
        perturbation: Perturbation | None = None,
        all_points: bool = False,
    ) -> Values:
        """What a variant's runs give for each query of the split: [S, N], NaN where none counts.

        Args:
          folders: of its runs.
          name: of what is measured, for the file.
          measure: what of the predictions.
          perturbation: of the videos.
          all_points: predict a moment from every point, not from the best alone.

        Raises CheckpointError or DataError where a run or its data cannot be read.
        """
        seeds = []
        for domains in by_seed(folders, len(self._subject.seeds)):
            found: Values = {}
            for folder in domains:
                kept = self.of_run(
                    folder, name, measure, perturbation=perturbation, all_points=all_points
                )
                rows = [self._row_of[qid] for qid in kept["qids"]]
                for metric, values in kept["values"].items():
                    of_all = found.setdefault(metric, np.full(len(self._row_of), np.nan))
                    of_all[rows] = [math.nan if value is None else value for value in values]
            seeds.append(found)
        return stacked(seeds)

    def of_run(
        self,
        folder: Path,
        name: str,
        measure: Measure,
        *,
        perturbation: Perturbation | None = None,
        all_points: bool = False,
    ) -> dict[str, Any]:
        """The same of one run, as it is kept: `qids` [N] and `values`, lists of each metric."""
        path = folder / "study" / self._subject.split / f"{name}.json"
        step = json.loads((folder / "metrics.json").read_text())["step"]
        try:
            kept = json.loads(path.read_text())
        except (OSError, ValueError):
            kept = {}
        data = read_config(folder / "config.json").data
        source = open_split(
            self._subject.config.data.data_dir, data.dataset, self._subject.split, data.domains
        )
        annotations = source.annotations()
        qids = [str(row["qid"]) for row in annotations]
        if (kept.get("step"), kept.get("qids")) == (step, qids):
            return kept
        restored = self._restore(folder, step)
        evaluator = self._evaluator(restored, source, all_points)
        results = evaluator.evaluate(restored.params, source, perturbation=perturbation)
        values = measure(results.predictions, annotations, configured_clips(restored.config))
        kept = {
            "step": step,
            "qids": qids,
            "values": {  # JSON has no NaN
                metric: [None if math.isnan(value) else value for value in array.tolist()]
                for metric, array in values.items()
            },
        }
        write_atomically(path, json.dumps(kept) + "\n")
        return kept

    def _restore(self, folder: Path, step: int) -> Restored:
        if self._restored is None or self._restored[:2] != (folder, step):
            restored = restore(folder, step=step, sharding=replicated(self._mesh))
            self._restored = folder, step, restored
        return self._restored[2]

    def _evaluator(self, restored: Restored, source: SplitSource, all_points: bool) -> Evaluator:
        # Runs that differ in what they learned from share the programs that evaluate them.
        shared: dict[str, Any] = {
            "seed": 0,
            "data.domains": (),
            "data.augment": None,
            "data.augment_strength": 0.0,
        }
        if all_points:
            longest = int(clip_counts(source, restored.config).max())
            shared["evaluation.max_moments"] = num_points(restored.model, longest)
        config = apply_overrides(restored.config, shared)
        key = config_to_json(config)
        if key not in self._evaluators:
            self._evaluators[key] = Evaluator(restored.model, config, self._mesh)
        return self._evaluators[key]


def num_points(model: FlashVTG, num_clips: int) -> int:
    """How many moments a model can propose for a video of so many clips."""
    if model.moment_head == "queries":
        return model.num_moment_queries
    return sum(level_length(num_clips, stride) for stride in model.strides)

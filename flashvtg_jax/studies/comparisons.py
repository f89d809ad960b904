"""Studies that train variants of a model and compare what they predict for the same queries."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from flashvtg_jax.figures.entries import Entry
from flashvtg_jax.metrics.per_query import metric_groups, per_query_metrics, score_iou_correlation
from flashvtg_jax.metrics.scoring_settings import configured_clips
from flashvtg_jax.studies.running import (
    Found,
    Runs,
    Subject,
    by_seed,
    check_variants,
    open_subject,
    predictions_of,
    stacked,
    train_variants,
)
from flashvtg_jax.studies.statistics import on_common_queries, seed_means
from flashvtg_jax.studies.tables import summarise
from flashvtg_jax.studies.trials import Trials
from flashvtg_jax.studies.variants import FULL, Variant, choose
from flashvtg_jax.system.progress import progress_bar

RANK_CORRELATION = "rank correlation"

# Metrics of a study, of those that a data set has.
ABLATION_METRICS = (
    "MR-full-mAP",
    "MR-full-R1@0.5",
    "MR-full-R1@0.7",
    "HL-min-VeryGood-mAP",
    "HD-mAP",
)
SCALE_METRICS = ("MR-full-mAP", "MR-short-mAP", "MR-middle-mAP", "MR-long-mAP")
REFINEMENT_METRICS = ("MR-full-mAP", "MR-full-R1@0.5", "MR-full-R1@0.7", RANK_CORRELATION)

Values = dict[str, np.ndarray]  # [S, N] of each metric


def compare_trained(
    make_variants: Callable[[ml_collections.ConfigDict], list[Variant]],
    compare: Callable[..., list[Entry]],
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    num_seeds: int,
    split: str | None,
    names: Sequence[str] | None,
    intervals: bool,
    show_progress: bool,
) -> Found:
    """Train the variants of a configuration on its data set and compare them on a split of it.

    Args:
      make_variants: of the configuration.
      compare: takes subject, variants and runs; `compare` below, or the like.
      config: of the full model.
      workdir: of the study.
      num_seeds: of each variant.
      split: to compare on; None: the validation split.
      names: of the variants to train besides the full model; None: all.
      intervals: whether differences get theirs.
      show_progress: whether to report progress on stderr.

    Raises as `open_subject`, `check_variants` and `flashvtg_jax.train`.
    """
    subject = open_subject(config, workdir, num_seeds, split=split, show_progress=show_progress)
    config = subject.config
    variants = choose(make_variants(config), names, config)
    check_variants(subject, variants)
    runs = train_variants(config, variants, subject.seeds, workdir, show_progress=show_progress)
    entries = compare(subject, variants, runs, intervals=intervals, show_progress=show_progress)
    about = (
        f"Compared on the {len(subject.source)} queries of split `{subject.split}`, of "
        f"{len(set(subject.videos))} source videos"
    )
    if subject.split == config.data.val_split:
        about += (
            ", on which the best checkpoint of each run was chosen as well: a variant whose scores "
            "vary more gains more from that. `--split` compares on another one"
        )
    return Found(variants, entries, [f"{about}."])


def compare(
    subject: Subject,
    variants: Sequence[Variant],
    runs: Runs,
    *,
    metrics: Sequence[str],
    intervals: bool = True,
    show_progress: bool = True,
) -> list[Entry]:
    """An entry for each variant and metric, compared with the full model's.

    Args:
      subject: of the study.
      variants: that were trained, the full model among them.
      runs: their folders.
      metrics: to compare; those that the data set does not have are left out.
      intervals: of the differences, over videos and seeds, of which there are two or more then.
      show_progress: bars of the evaluations that training has not done.

    Raises CheckpointError where a run is not finished, DataError where its results cannot be read.
    """
    values = {
        v.name: values_of(subject, runs[v.name], metrics, show_progress=show_progress)
        for v in variants
    }
    if RANK_CORRELATION in metrics:
        trials = Trials(subject)
        about = "evaluating all points"
        correlations = [
            trials.of_variant(runs[v.name], "rank_correlation", _rank_correlation, all_points=True)[
                RANK_CORRELATION
            ]
            for v in progress_bar(variants, len(variants), about, show_progress)
        ]
        # A query counts where all of them have candidates that differ.
        for variant, array in zip(variants, on_common_queries(correlations), strict=True):
            values[variant.name][RANK_CORRELATION] = array
    return [
        entry(
            subject,
            (variant.label, "", variant.level, metric),
            values[variant.name][metric],
            None if variant.name == FULL.name else values[FULL.name][metric],
            intervals=intervals,
        )
        for variant in variants
        for metric in metrics
        if metric in values[FULL.name]
    ]


def values_of(
    subject: Subject,
    folders: Sequence[Path],
    metrics: Sequence[str],
    *,
    show_progress: bool = True,
) -> Values:
    """Metrics of a variant's runs for each query, as far as the data set has them: [S, N].

    Raises as `compare`.
    """
    seeds = []
    for domains in by_seed(folders, len(subject.seeds)):
        predictions = [
            row
            for folder in domains
            for row in predictions_of(subject, folder, show_progress=show_progress)
        ]
        clips = configured_clips(subject.config)
        values = per_query_metrics(predictions, subject.annotations, **clips)
        seeds.append({name: values[name] for name in metrics if name in values})
    return stacked(seeds)


def entry(
    subject: Subject,
    key: tuple[str, str, float | None, str],
    values: np.ndarray,
    reference: np.ndarray | None,
    *,
    intervals: bool,
) -> Entry:
    """The entry of (variant, condition, level, metric), from values [S, N] and the reference's."""
    groups = metric_groups(key[-1], subject.annotations)
    if intervals or reference is None:
        return summarise(*key, values, reference, groups=groups, clusters=subject.videos)
    found = summarise(*key, values, groups=groups)
    difference = found.mean - seed_means(reference, groups=groups).mean()
    return dataclasses.replace(found, difference=float(difference))


def _rank_correlation(
    predictions: list[dict], annotations: list[dict], clips: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    del clips
    return {RANK_CORRELATION: score_iou_correlation(predictions, annotations)}

"""Studies that train variants of a model and compare what they predict for the same queries."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from flashvtg_jax.metrics.per_query import metric_groups, per_query_numbers, score_iou_correlation
from flashvtg_jax.studies.running import Runs, Subject, by_seed, predictions_of, stacked
from flashvtg_jax.studies.statistics import on_common_queries, seed_means
from flashvtg_jax.studies.tables import Entry, summarise
from flashvtg_jax.studies.variants import FULL, Variant

RANK_CORRELATION = "rank correlation"

# What a study looks at, of the numbers that a data set has.
ABLATION_METRICS = (
    "MR-full-mAP",
    "MR-full-R1@0.5",
    "MR-full-R1@0.7",
    "HL-min-VeryGood-mAP",
    "HD-mAP",
)
SCALE_METRICS = ("MR-full-mAP", "MR-short-mAP", "MR-middle-mAP", "MR-long-mAP")
REFINEMENT_METRICS = ("MR-full-mAP", "MR-full-R1@0.5", "MR-full-R1@0.7", RANK_CORRELATION)

Values = dict[str, np.ndarray]  # [S, N] of each number


def numbers_of(subject: Subject, predictions: list[dict], metrics: Sequence[str]) -> Values:
    """What each query of the split has in some numbers, as far as the data set has them: [N]."""
    annotations = subject.source.annotations()
    values = per_query_numbers(predictions, annotations, subject.config.clip_length)
    values = {name: values[name] for name in metrics if name in values}
    if RANK_CORRELATION in metrics:
        values[RANK_CORRELATION] = score_iou_correlation(predictions, annotations)
    return values


def values_of(subject: Subject, folders: Sequence, metrics: Sequence[str]) -> Values:
    """The same of a variant's runs, over seeds: [S, N]."""
    seeds = []
    for domains in by_seed(folders, len(subject.seeds)):
        predictions = [row for folder in domains for row in predictions_of(folder, subject.split)]
        seeds.append(numbers_of(subject, predictions, metrics))
    return stacked(seeds)


def compare(
    subject: Subject,
    variants: Sequence[Variant],
    runs: Runs,
    metrics: Sequence[str],
    *,
    intervals: bool = True,
) -> list[Entry]:
    """An entry for each variant and number, beside the full model's.

    Args:
      subject: of the study.
      variants: that were trained, the full model among them.
      runs: their folders.
      metrics: numbers to compare; those that the data set does not have are left out.
      intervals: of the differences, over queries and seeds, of which there are two or more then.
    """
    values = {v.name: values_of(subject, runs[v.name], metrics) for v in variants}
    names = [name for name in metrics if name in values[FULL.name]]
    if RANK_CORRELATION in names:  # a query counts where its candidates differ, in all of them
        found = on_common_queries([values[v.name][RANK_CORRELATION] for v in variants])
        for variant, array in zip(variants, found, strict=True):
            values[variant.name][RANK_CORRELATION] = array
    entries = []
    annotations = subject.source.annotations()
    for variant in variants:
        for name in names:
            own, full = values[variant.name][name], values[FULL.name][name]
            reference = None if variant.name == FULL.name else full
            groups = metric_groups(name, annotations)
            key = (variant.label, "", variant.level, name)
            entries.append(entry(key, own, reference, groups=groups, intervals=intervals))
    return entries


def entry(
    key: tuple[str, str, float | None, str],
    values: np.ndarray,
    reference: np.ndarray | None,
    *,
    groups: np.ndarray | None,
    intervals: bool,
) -> Entry:
    """`summarise`, or the same without an interval, which one seed does not have."""
    if intervals or reference is None:
        return summarise(*key, values, reference, groups=groups)
    found = summarise(*key, values, groups=groups)
    difference = found.mean - seed_means(reference, groups=groups).mean()
    return dataclasses.replace(found, difference=float(difference))

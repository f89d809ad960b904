"""Metrics of each query, for confidence intervals and paired comparisons."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from flashvtg_jax.errors import DataError
from flashvtg_jax.metrics.arithmetic import ranks
from flashvtg_jax.metrics.evaluate import compared_arrays
from flashvtg_jax.metrics.highlight_detection import (
    DOMAINS_MEAN,
    domain_values,
    highlight_detection_values,
)
from flashvtg_jax.metrics.moment_retrieval import moment_retrieval_values, temporal_iou
from flashvtg_jax.metrics.rows import (
    Rows,
    all_predicted_windows,
    domains,
    match_queries,
    relevant_windows,
)
from flashvtg_jax.metrics.scoring import CLIP_LENGTH, Scoring


def per_query_metrics(
    predictions: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    clip_length: float = CLIP_LENGTH,
    metrics: Collection[str] | None = None,
    *,
    label_clip_length: float | None = None,
    max_clips: int | None = None,
) -> dict[str, np.ndarray]:
    """The metrics of `evaluate_predictions` for each query by itself; same arguments.

    Ranges of lengths are always those of the official evaluator.

    Args:
      metrics: names of the metrics wanted; None: all.

    Returns:
      For each metric [N] float64 in percent, in the order of the annotations, NaN for queries that
      are not in it (no window of that length, a video of another domain). The mean over the others
      is the metric before rounding to two decimals. `HD-mAP` of several domains is instead the
      mean over `metric_groups` of each group's mean.

    Raises:
      DataError: as `evaluate_predictions`, or these predictions have no metric of such a name.
    """
    rows = Rows(predictions, "prediction"), Rows(annotations, "annotation")
    scoring = Scoring(clip_length, label_clip_length, max_clips)
    compared = compared_arrays(*rows, match_queries(*rows), scoring)
    fractions = {}
    if compared.moments is not None:
        fractions |= moment_retrieval_values(*compared.moments)
    if compared.highlights is not None:
        fractions |= highlight_detection_values(*compared.highlights)
    if compared.labelled is not None:
        fractions |= domain_values(*compared.labelled)
    wanted = fractions if metrics is None else metrics
    unknown = [name for name in wanted if name not in fractions]
    if unknown:
        raise DataError(
            f"{', '.join(unknown)}: no such metric of these predictions and annotations; "
            f"there are {', '.join(fractions)}"
        )
    result = {}
    for name in wanted:
        of_query = fractions[name].reshape(len(compared.order), -1).mean(axis=1)
        result[name] = _in_order_of_annotations(100.0 * of_query, compared.order)
    return result


def metric_groups(metric: str, annotations: Sequence[dict[str, Any]]) -> np.ndarray | None:
    """The groups of queries over whose means a metric is the mean: [N] of str, or None.

    Only `HD-mAP` has groups, the videos' domains, where the annotations name them.
    Raises DataError for a domain that is not a name.
    """
    if metric != DOMAINS_MEAN:
        return None
    names = domains(Rows(annotations, "annotation"), range(len(annotations)))
    return None if names is None else np.array(names)


def score_iou_correlation(
    predictions: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]]
) -> np.ndarray:
    """How well the scores of a query's candidates rank them: [N] in the order of the annotations.

    It is Spearman's rank correlation, from -1 to 1, between the scores of all predicted windows
    (which are best written without NMS) and their highest IoU with a ground-truth window; equal
    values share the mean of their ranks. NaN for a query without ground truth or without
    candidates, and where all scores or all IoUs are equal.

    Args:
      predictions: `qid` and `pred_relevant_windows` [[start, end, score], ...] in seconds.
      annotations: the same qids in any order: `qid` and `relevant_windows` [[start, end], ...].

    Raises:
      DataError: the qids differ, or a row is malformed or lacks its windows.
    """
    predicted, annotated = Rows(predictions, "prediction"), Rows(annotations, "annotation")
    order = match_queries(predicted, annotated)
    for rows, field in ((predicted, "pred_relevant_windows"), (annotated, "relevant_windows")):
        if not rows.has(field):
            raise rows.error(0, f"has no {field!r}, which candidates are compared by")
    windows, mask = relevant_windows(annotated, order)
    correlations = np.full(len(order), np.nan)
    for index, candidates in enumerate(all_predicted_windows(predicted)):
        truth = windows[index, mask[index]]
        if len(truth) and len(candidates):
            iou = temporal_iou(candidates[:, :2], truth).max(axis=1)
            correlations[index] = _rank_correlation(candidates[:, 2], iou)
    return _in_order_of_annotations(correlations, order)


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two arrays [K]; NaN where one is constant."""
    first, second = ranks(first), ranks(second)
    first, second = first - first.mean(), second - second.mean()
    # Deviations of ranks are multiples of a half: sums of squares are 0 or far from it.
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 0 else np.nan


def _in_order_of_annotations(values: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Values [N] of predictions, where `order` is the annotation row of each prediction."""
    result = np.empty_like(values)
    result[order] = values
    return result

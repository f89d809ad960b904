"""Predictions and annotations, in the format that the five data sets share -> their numbers."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import read_json_lines
from flashvtg_jax.metrics.highlight_detection import (
    DOMAINS_MEAN,
    RATING_LEVELS,
    domain_numbers,
    highlight_detection_numbers,
)
from flashvtg_jax.metrics.moment_retrieval import (
    AP_THRESHOLDS,
    LENGTH_RANGES,
    RECALL_THRESHOLDS,
    moment_retrieval_numbers,
)
from flashvtg_jax.metrics.names import METRIC_NAMES, domain_names
from flashvtg_jax.metrics.rows import (
    Rows,
    clip_ratings,
    domains,
    labels,
    match_queries,
    predicted_saliency,
    predicted_windows,
    relevant_windows,
)


@dataclasses.dataclass
class Compared:
    """Predictions and ground truth as arrays, of N queries in the order of the predictions.

    Each tuple is the arguments of the functions named, and None where a side lacks the fields.
    """

    order: list[int]  # the annotation row of each prediction
    moments: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # moment_retrieval_*
    highlights: tuple[list[np.ndarray], list[np.ndarray]] | None = None  # highlight_detection_*
    # domain_*
    labelled: tuple[list[np.ndarray], list[np.ndarray], list[str] | None] | None = None


def evaluate_predictions(
    predictions: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    clip_length: float = 2.0,
) -> dict[str, float]:
    """The numbers of the official evaluators, in percent with two decimals.

    What is scored follows from the fields: moments (QVHighlights, Charades-STA, TACoS) where
    predictions have `pred_relevant_windows` and annotations `relevant_windows`; highlights where
    predictions have `pred_saliency_scores` and annotations `saliency_scores` (QVHighlights) or
    `label` (one rating a clip: YouTube Highlights; several annotators': TVSum). Windows and
    saliency scores that `load_annotations` accepts can be scored: a query without windows counts
    in no number of moments, one without relevant clips counts as one whose clips are all rated 0.

    Args:
      predictions: `qid`, `pred_relevant_windows` [[start, end, score], ...] in seconds, best
        first, and `pred_saliency_scores`, one a clip.
      annotations: the same qids in any order: `qid`, `relevant_windows` [[start, end], ...];
        for highlights `duration`, `relevant_clip_ids` and `saliency_scores`, or `label`, a list
        of ratings for every clip, and, on all rows or none, `domain`.
      clip_length: seconds of the clips that were rated; no matter where `label` rates every clip.

    Returns:
      `MR-full-mAP`, `MR-full-mAP@0.5` ... `MR-full-R1@0.3` ... `MR-full-mIoU`, the same for
      `short`, `middle` and `long` windows, and `HL-min-Fair-mAP`, `HL-min-Fair-Hit1` ...;
      `brief` and `nested` give the official selections and layout. With `label`: `HD-mAP`, the
      mean over domains of each domain's mean over videos, and `HD-mAP-BK` for domain "BK".

    Raises:
      DataError: the qids differ, a row is malformed, or there is nothing to score.
    """
    return _evaluate(Rows(predictions, "prediction"), Rows(annotations, "annotation"), clip_length)


def score_files(
    predictions_path: str | os.PathLike,
    annotations_path: str | os.PathLike,
    clip_length: float = 2.0,
) -> dict[str, float]:
    """`evaluate_predictions` of two JSON-lines files; errors name the file and the line."""
    predictions = Rows(read_json_lines(predictions_path), "prediction", str(predictions_path))
    annotations = Rows(read_json_lines(annotations_path), "annotation", str(annotations_path))
    return _evaluate(predictions, annotations, clip_length)


def brief(numbers: Mapping[str, float]) -> dict[str, float]:
    """The official selection of the numbers, in the official order."""
    return {key: numbers[key] for key in METRIC_NAMES if key in numbers}


def nested(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers in the layout of the official evaluator's metrics files.

    Highlight detection over domains, for which there is no official file, stands under "HD".
    """
    result: dict[str, Any] = {"brief": brief(numbers)}
    for level in RATING_LEVELS:
        name = f"HL-min-{level}"
        if f"{name}-mAP" in numbers:
            result[name] = {
                "HL-mAP": numbers[f"{name}-mAP"],
                "HL-Hit1": numbers[f"{name}-Hit1"],
            }
    for name in sorted(LENGTH_RANGES):
        if f"MR-{name}-mAP" not in numbers:
            continue
        precisions = {f"{t:g}": numbers[f"MR-{name}-mAP@{t:g}"] for t in AP_THRESHOLDS}
        result[name] = {
            "MR-mIoU": numbers[f"MR-{name}-mIoU"],
            "MR-mAP": precisions | {"average": numbers[f"MR-{name}-mAP"]},
            "MR-R1": {f"{t:g}": numbers[f"MR-{name}-R1@{t:g}"] for t in RECALL_THRESHOLDS},
        }
    if DOMAINS_MEAN in numbers:
        found = domain_names(numbers)
        result["HD"] = {DOMAINS_MEAN: numbers[DOMAINS_MEAN]}
        if found:
            result["HD"]["domains"] = {domain: numbers[name] for name, domain in found.items()}
    return result


def compared_arrays(predictions: Rows, annotations: Rows, clip_length: float) -> Compared:
    """What there is to compare, checked and in the order of the predictions.

    Raises DataError as `evaluate_predictions` does.
    """
    if not clip_length > 0:
        raise DataError(f"clip_length is {clip_length!r}; expected seconds above 0")
    order = match_queries(predictions, annotations)
    # Both are asked, so that a row without its field is reported even where the other side
    # leaves nothing to compare it with.
    moments = _both(predictions, "pred_relevant_windows", annotations, "relevant_windows")
    highlights = _both(predictions, "pred_saliency_scores", annotations, "saliency_scores")
    labelled = _both(predictions, "pred_saliency_scores", annotations, "label")
    if not (moments or highlights or labelled):
        raise DataError(
            f"{predictions.path or 'predictions'} and {annotations.path or 'annotations'} have "
            "nothing to compare: expected 'pred_relevant_windows' with 'relevant_windows', or "
            "'pred_saliency_scores' with 'saliency_scores' or 'label'"
        )
    result = Compared(order)
    if moments:
        windows, mask = relevant_windows(annotations, order)
        result.moments = predicted_windows(predictions), windows, mask
    saliency = predicted_saliency(predictions) if highlights or labelled else []
    if highlights:
        result.highlights = saliency, clip_ratings(annotations, order, clip_length)
    if labelled:
        result.labelled = saliency, labels(annotations, order), domains(annotations, order)
    return result


def _evaluate(predictions: Rows, annotations: Rows, clip_length: float) -> dict[str, float]:
    compared = compared_arrays(predictions, annotations, clip_length)
    numbers = {}
    if compared.moments is not None:
        numbers |= moment_retrieval_numbers(*compared.moments)
    if compared.highlights is not None:
        numbers |= highlight_detection_numbers(*compared.highlights)
    if compared.labelled is not None:
        numbers |= domain_numbers(*compared.labelled)
    return numbers


def _both(predictions: Rows, predicted: str, annotations: Rows, annotated: str) -> bool:
    there = predictions.has(predicted), annotations.has(annotated)
    return all(there)

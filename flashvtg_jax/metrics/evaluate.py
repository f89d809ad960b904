"""From predictions and annotations, in the format of the five data sets, to metrics."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashvtg_jax.clips import clip_id_problem, label_length_problem, lengths_agree
from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import read_json_lines
from flashvtg_jax.metrics.highlight_detection import (
    DOMAINS_MEAN,
    RATING_LEVELS,
    domain_metrics,
    highlight_detection_metrics,
)
from flashvtg_jax.metrics.moment_retrieval import (
    AP_THRESHOLDS,
    RECALL_THRESHOLDS,
    LengthRanges,
    moment_retrieval_metrics,
)
from flashvtg_jax.metrics.names import (
    BRIEF,
    BY_DOMAIN,
    domain_names,
    quoted_names,
    range_names,
)
from flashvtg_jax.metrics.rows import (
    Rows,
    clip_ratings,
    domains,
    durations,
    labels,
    match_queries,
    predicted_saliency,
    predicted_windows,
    relevant_windows,
)
from flashvtg_jax.metrics.scoring import (
    CLIP_LENGTH,
    Scoring,
    all_length_ranges,
    assumed_clip_length,
    count_problem,
    likely_clip_length,
    mean_over_rated_clips,
    rank_cut_clips_last,
)


@dataclasses.dataclass
class Compared:
    """Predictions and ground truth as arrays, of N queries in the order of the predictions.

    Each tuple holds the arguments of the functions named; None if a side lacks the fields.
    """

    order: list[int]  # the annotation row of each prediction
    moments: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # moment_retrieval_*
    highlights: tuple[list[np.ndarray], list[np.ndarray]] | None = None  # highlight_detection_*
    # domain_*
    labelled: tuple[list[np.ndarray], list[np.ndarray], list[str] | None] | None = None


def evaluate_predictions(
    predictions: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    clip_length: float = CLIP_LENGTH,
    *,
    label_clip_length: float | None = None,
    max_clips: int | None = None,
    length_ranges: LengthRanges | None = None,
) -> dict[str, float]:
    """The metrics of the official evaluators, in percent with two decimals.

    What is scored follows from the fields: moments (QVHighlights, Charades-STA, TACoS) where
    predictions have `pred_relevant_windows` and annotations `relevant_windows`; highlights where
    predictions have `pred_saliency_scores` and annotations `saliency_scores` (QVHighlights) or
    `label` (one rating a clip: YouTube Highlights; several annotators': TVSum). Windows and
    saliency scores that `load_annotations` accepts can be scored: a query without windows counts
    in no metric of moments, one without relevant clips counts as one whose clips are all rated 0.
    A query for which no moment was predicted ([]) is a miss.

    Args:
      predictions: `qid`, `pred_relevant_windows` [[start, end, score], ...] in seconds, best
        first, and `pred_saliency_scores`, one a clip.
      annotations: the same qids in any order: `qid`, `relevant_windows` [[start, end], ...];
        for highlights `duration`, `relevant_clip_ids` and `saliency_scores`, or `label`, a list
        of ratings for every clip, and, on all rows or none, `domain`.
      clip_length: seconds of the clips of `pred_saliency_scores`; not used where `label` rates
        every clip.
      label_clip_length: seconds of the clips that `relevant_clip_ids` count; None: `clip_length`.
        Where the two differ, a rated clip's score is the mean of those predicted in its time.
      max_clips: of a video that have scores, at most, where longer ones were cut
        (`config.data.max_clips`); the other clips rank behind those.
      length_ranges: seconds of the moments that are scored by themselves, {"short": (0, 10)}: more
        than the first and at most the second; None: the official short, middle and long.

    Returns:
      `MR-full-mAP`, `MR-full-mAP@0.5` ... `MR-full-R1@0.3` ... `MR-full-mIoU`, the same for
      `short`, `middle` and `long` windows (or those of `length_ranges`), and
      `HL-min-Fair-mAP`, `HL-min-Fair-Hit1` ...; `brief` and `nested` give the official selection
      and layout. With `label`: `HD-mAP`, the mean over domains of each domain's mean over videos,
      and `HD-mAP-BK` for domain "BK".

    Raises:
      DataError: the qids differ, a row is malformed, there is nothing to score, or half of the
        queries or more have so many or so few saliency scores that they differ from the clips of
        their videos by more than two and by more than 10%. Scores with smaller differences are cut,
        or padded with 0, as in the official evaluator; so are larger ones of fewer queries, with
        a warning.
      ConfigError: an invalid range of lengths.
    """
    scoring = Scoring(clip_length, label_clip_length, max_clips, all_length_ranges(length_ranges))
    rows = Rows(predictions, "prediction"), Rows(annotations, "annotation")
    compared = compared_arrays(*rows, match_queries(*rows), scoring)
    return _metrics(compared, scoring)


def score_files(
    predictions_path: str | os.PathLike,
    annotations_path: str | os.PathLike,
    clip_length: float | None = None,
    *,
    label_clip_length: float | None = None,
    max_clips: int | None = None,
    length_ranges: LengthRanges | None = None,
) -> dict[str, float]:
    """`evaluate_predictions` of two JSON-lines files; errors name the file and the line.

    If clip_length is None, it is inferred from the numbers of scores and the durations (with a note
    on stderr if it is not 2 s). `flashvtg_jax.metrics.scoring_settings.scoring_arguments` reads all
    of them from the files beside the predictions.
    """
    predictions = Rows(read_json_lines(predictions_path), "prediction", str(predictions_path))
    annotations = Rows(read_json_lines(annotations_path), "annotation", str(annotations_path))
    order = match_queries(predictions, annotations)
    if clip_length is None:
        clip_length = _clip_length_of(predictions, annotations, order)
    scoring = Scoring(clip_length, label_clip_length, max_clips, all_length_ranges(length_ranges))
    compared = compared_arrays(predictions, annotations, order, scoring)
    if compared.highlights is not None and annotations.has("relevant_windows"):
        # `load_annotations` checks it; training and evaluation have read their lines with that.
        _check_ids(annotations, scoring.rated_clip_length)
    return _metrics(compared, scoring)


def brief(metrics: Mapping[str, float]) -> dict[str, float]:
    """The official selection of the metrics, in the official order."""
    return {key: metrics[key] for key in quoted_names(metrics) if key in metrics}


def nested(metrics: Mapping[str, float]) -> dict[str, Any]:
    """The metrics in the layout of the official evaluator's metrics files.

    Highlight detection over domains, for which there is no official file, stands under "HD".
    """
    result: dict[str, Any] = {BRIEF: brief(metrics)}
    for level in RATING_LEVELS:
        name = f"HL-min-{level}"
        if f"{name}-mAP" in metrics:
            result[name] = {
                "HL-mAP": metrics[f"{name}-mAP"],
                "HL-Hit1": metrics[f"{name}-Hit1"],
            }
    for name in sorted(range_names(metrics)):
        precisions = {f"{t:g}": metrics[f"MR-{name}-mAP@{t:g}"] for t in AP_THRESHOLDS}
        result[name] = {
            "MR-mIoU": metrics[f"MR-{name}-mIoU"],
            "MR-mAP": precisions | {"average": metrics[f"MR-{name}-mAP"]},
            "MR-R1": {f"{t:g}": metrics[f"MR-{name}-R1@{t:g}"] for t in RECALL_THRESHOLDS},
        }
    if DOMAINS_MEAN in metrics:
        found = domain_names(metrics)
        result[BY_DOMAIN] = {DOMAINS_MEAN: metrics[DOMAINS_MEAN]}
        if found:
            result[BY_DOMAIN]["domains"] = {domain: metrics[name] for name, domain in found.items()}
    return result


def compared_arrays(
    predictions: Rows, annotations: Rows, order: list[int], scoring: Scoring
) -> Compared:
    """The arrays of all that can be compared, checked and in the order of the predictions.

    `order` is what `match_queries` found. Raises DataError as `evaluate_predictions` does.
    """
    # Both sides are checked, so that a row without its field is reported even if the other side
    # has nothing to compare it with.
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
        seconds = durations(annotations, order)
        _check_counts(predictions, saliency, seconds, scoring)
        ratings = clip_ratings(annotations, order, seconds, scoring.rated_clip_length)
        of_rated_clips = [mean_over_rated_clips(scores, scoring) for scores in saliency]
        for row, duration in enumerate(seconds):
            if scoring.cuts(duration):
                of_rated_clips[row] = rank_cut_clips_last(of_rated_clips[row], len(ratings[row]))
        result.highlights = of_rated_clips, ratings
    if labelled:
        rated = labels(annotations, order)
        _check_label_counts(predictions, saliency, rated, scoring)
        result.labelled = saliency, rated, domains(annotations, order)
    return result


def _check_counts(
    predictions: Rows,
    saliency: Sequence[np.ndarray],
    seconds: Sequence[float],
    scoring: Scoring,
) -> None:
    """Checks that scores are of clips of the length in `scoring`, as `_raise_or_warn` does."""
    counts = [len(scores) for scores in saliency]
    problems = [
        count_problem(count, duration, scoring)
        for count, duration in zip(counts, seconds, strict=True)
    ]
    if any(problems):
        likely = likely_clip_length(counts, seconds)
        advice = ""
        if likely not in (None, scoring.clip_length):
            advice = (
                f"; they seem to be of clips of {likely:g} s: give clip_length={likely:g} "
                f"(--clip_length={likely:g})"
            )
        _raise_or_warn(predictions, problems, advice)


def _check_label_counts(
    predictions: Rows, saliency: Sequence[np.ndarray], rated: Sequence[np.ndarray], scoring: Scoring
) -> None:
    """Checks that there are scores of the clips that 'label' rates, as `_raise_or_warn` does."""
    problems = []
    for scores, ratings in zip(saliency, rated, strict=True):
        expected = min(len(ratings), scoring.max_clips or len(ratings))
        problem = f"{len(scores)} saliency scores, but 'label' rates {len(ratings)} clips"
        problems.append(None if lengths_agree(len(scores), expected) else problem)
    _raise_or_warn(predictions, problems)


def _raise_or_warn(predictions: Rows, problems: Sequence[str | None], advice: str = "") -> None:
    """Raises DataError where half of the queries or more have a problem; warns of fewer.

    A wrong clip length is a problem of most queries; in single ones the official evaluator cuts
    scores and fills them up.
    """
    wrong = [index for index, problem in enumerate(problems) if problem]
    if not wrong:
        return
    error = predictions.error(wrong[0], f"{problems[wrong[0]]}{advice}")
    if 2 * len(wrong) >= len(problems):
        raise error
    warnings.warn(
        f"{error}; scores of {len(wrong)} of {len(problems)} queries are cut to their clips or "
        "filled up with 0, as the official evaluator does",
        stacklevel=2,
    )


def _clip_length_of(predictions: Rows, annotations: Rows, order: Sequence[int]) -> float:
    """The clip length inferred from the numbers of scores, if highlights are compared."""
    counts: list[int] = []
    seconds: list[float] = []
    if _both(predictions, "pred_saliency_scores", annotations, "saliency_scores"):
        counts = [len(scores) for scores in predicted_saliency(predictions)]
        seconds = durations(annotations, order)
    return assumed_clip_length(predictions.path, counts, seconds)


def _check_ids(annotations: Rows, clip_length: float) -> None:
    """Raises DataError for invalid windows, or windows that contradict their clip ids."""
    relevant_windows(annotations, range(len(annotations.rows)))
    for index, row in enumerate(annotations.rows):
        problem = clip_id_problem(
            row.get("relevant_clip_ids"), row["relevant_windows"], clip_length
        )
        if problem:
            raise annotations.error(index, problem)
    if problem := label_length_problem(annotations.rows, clip_length):
        raise DataError(f"{annotations.path}: {problem}")


def _metrics(compared: Compared, scoring: Scoring) -> dict[str, float]:
    metrics = {}
    if compared.moments is not None:
        metrics |= moment_retrieval_metrics(*compared.moments, scoring.length_ranges)
    if compared.highlights is not None:
        metrics |= highlight_detection_metrics(*compared.highlights)
    if compared.labelled is not None:
        metrics |= domain_metrics(*compared.labelled)
    return metrics


def _both(predictions: Rows, predicted: str, annotations: Rows, annotated: str) -> bool:
    there = predictions.has(predicted), annotations.has(annotated)
    return all(there)

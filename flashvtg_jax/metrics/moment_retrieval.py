"""Moment retrieval: mAP, R1 and mIoU of the QVHighlights protocol, for all queries at once."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float, Num

from flashvtg_jax.metrics.arithmetic import percent, sum_selected

MAX_PREDICTIONS = 10
AP_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(10, 20))  # 0.5, 0.55, ..., 0.95
RECALL_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(6, 20))  # 0.3, 0.35, ..., 0.95
FULL_RANGE = "full"  # every moment
# Seconds, lower end excluded and upper end included. Windows longer than 150 s count in "full".
LENGTH_RANGES = {FULL_RANGE: (0, np.inf), "short": (0, 10), "middle": (10, 30), "long": (30, 150)}
LengthRanges = Mapping[str, tuple[float, float]]


def moment_retrieval_metrics(
    predicted: Num[np.ndarray, "N K 3"],
    windows: Num[np.ndarray, "N M 2"],
    window_mask: Bool[np.ndarray, "N M"],
    length_ranges: LengthRanges = LENGTH_RANGES,
) -> dict[str, float]:
    """Every moment-retrieval metric, in percent with two decimals.

    A range of lengths covers the ground-truth windows within it, over the queries that have one;
    without such a query its metrics are 0. A query without any window is in no metric.

    Args:
      predicted: [N, K, 3] start, end (seconds), score, in the order predicted; the first window
        decides R1, the first ten enter mAP. Padding is a window of length zero at the end with
        score -inf.
      windows: [N, M, 2] ground truth, start and end in seconds.
      window_mask: [N, M], True where there is a window.
      length_ranges: in seconds, by name; lower end excluded, upper end included.

    Returns:
      For each range R: `MR-R-mAP`, `MR-R-mAP@t`, `MR-R-R1@t` and `MR-R-mIoU`.
    """
    metrics = {}
    by_range = _fractions_by_range(predicted, windows, window_mask, length_ranges)
    for name, counted, fractions in by_range:
        if counted.any():
            means = [values.mean(axis=0) for values in fractions]
        else:
            means = [np.zeros(values.shape[1:]) for values in fractions]
        metrics |= {key: percent(mean) for key, mean in _named(name, *means).items()}
    return metrics


def moment_retrieval_values(
    predicted: Num[np.ndarray, "N K 3"],
    windows: Num[np.ndarray, "N M 2"],
    window_mask: Bool[np.ndarray, "N M"],
) -> dict[str, Float[np.ndarray, " N"]]:
    """Each query's values of the metrics of `moment_retrieval_metrics`, for the same arguments.

    The ranges of lengths are the official ones.

    Returns:
      For each metric the queries' fractions [N], NaN for queries that are not in it.
    """
    result = {}
    by_range = _fractions_by_range(predicted, windows, window_mask, LENGTH_RANGES)
    for name, counted, fractions in by_range:
        for key, values in _named(name, *fractions).items():
            result[key] = np.full(len(counted), np.nan)
            result[key][counted] = values
    return result


def temporal_iou(
    first: Num[np.ndarray, "... K 2"], second: Num[np.ndarray, "... M 2"], hull: bool = False
) -> Float[np.ndarray, "... K M"]:
    """Intersection over union of every pair of windows, 0 where the union is empty.

    Args:
      first: [..., K, 2] start, end.
      second: [..., M, 2] start, end.
      hull: divide by the length from the earlier start to the later end, which is larger than
        the union when the windows do not touch.

    Returns:
      [..., K, M].
    """
    start, end = first[..., :, None, 0], first[..., :, None, 1]
    other_start, other_end = second[..., None, :, 0], second[..., None, :, 1]
    overlap = np.minimum(end, other_end) - np.maximum(start, other_start)
    intersection = np.maximum(overlap, 0.0)
    if hull:
        union = np.maximum(end, other_end) - np.minimum(start, other_start)
    else:
        union = (end - start) + (other_end - other_start) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union != 0)


def average_precision(
    iou: Float[np.ndarray, "N K M"], window_mask: Bool[np.ndarray, "N M"]
) -> Float[np.ndarray, "N T"]:
    """Interpolated average precision of each query at each threshold of AP_THRESHOLDS.

    Args:
      iou: [N, K, M] IoU of predictions, best first, with ground-truth windows.
      window_mask: [N, M], True for the windows to retrieve; at least one for each query.

    Returns:
      [N, T].
    """
    hits = _greedy_hits(np.where(window_mask[:, None], iou, -1.0))  # [N, T, K]
    retrieved = np.cumsum(hits, axis=2)
    precision = retrieved / np.arange(1, hits.shape[2] + 1)
    recall = retrieved / window_mask.sum(axis=1)[:, None, None]
    # The curve starts at recall 0 and ends at recall 1 with precision 0; its precision is the
    # best that is reached at this recall or a higher one.
    edge = np.zeros((*hits.shape[:2], 1))
    precision = np.concatenate([precision, edge], axis=2)
    precision = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    recall = np.concatenate([edge, recall, edge + 1.0], axis=2)
    step = np.diff(recall, axis=2)
    return sum_selected(step * precision, step != 0)


def _greedy_hits(iou: Float[np.ndarray, "N K M"]) -> Bool[np.ndarray, "N T K"]:
    """Which predictions retrieve a window [N, T, K], for IoU [N, K, M] of predictions best first.

    Each prediction takes the window of highest IoU among those that reach the threshold and are
    not yet taken; of equal ones the later in the list. (The official evaluator leaves equal ones
    to numpy's default sort, whose order depends on the processor; among windows that do not
    overlap or touch, as in all the benchmarks, no two reach a threshold.)
    """
    thresholds = np.array(AP_THRESHOLDS)[:, None]
    iou = iou[..., ::-1]  # argmax finds the first of equal values; reversed, that is the later
    queries, predictions, windows = iou.shape
    hits = np.zeros((queries, len(thresholds), predictions), bool)
    free = np.ones((queries, len(thresholds), windows), bool)
    for rank in range(predictions):
        candidates = iou[:, None, rank]  # [N, 1, M]
        open_windows = free & (candidates >= thresholds)
        hits[..., rank] = open_windows.any(axis=2)
        best = np.where(open_windows, candidates, -1.0).argmax(axis=2)[..., None]
        taken = np.take_along_axis(free, best, axis=2) & ~hits[..., rank, None]
        np.put_along_axis(free, best, taken, axis=2)
    return hits


def _fractions_by_range(
    predicted: np.ndarray,
    windows: np.ndarray,
    window_mask: np.ndarray,
    length_ranges: LengthRanges,
) -> Iterator[tuple[str, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """For each range of lengths: its name, the mask of its queries [N], and their values.

    The n queries have an average precision [n, T], whether the first window reaches each threshold
    of RECALL_THRESHOLDS [n, R], and its IoU [n].
    """
    predicted = predicted[:, :MAX_PREDICTIONS]
    first = predicted[:, :1, :2]
    first_iou = temporal_iou(first, windows)[:, 0]  # [N, M]
    # R1 chooses the window by IoU and scores it by IoU over the hull. For windows that overlap
    # the two differ in their rounding only, but so they may at a threshold.
    first_hull_iou = temporal_iou(first, windows, hull=True)[:, 0]
    ranking = np.argsort(-predicted[..., 2], axis=1, kind="stable")
    ranked = np.take_along_axis(predicted, ranking[..., None], axis=1)
    ranked_iou = temporal_iou(ranked[..., :2], windows)  # [N, K, M]
    length = windows[..., 1] - windows[..., 0]

    for name, (low, high) in length_ranges.items():
        in_range = window_mask & (low < length) & (length <= high)
        rows = in_range.any(axis=1)
        in_range = in_range[rows]
        chosen = np.zeros((len(in_range), 1), int)
        precision = np.zeros((len(in_range), len(AP_THRESHOLDS)))
        if len(in_range):
            precision = average_precision(ranked_iou[rows], in_range)
            chosen = np.where(in_range, first_iou[rows], -1.0).argmax(axis=1)[:, None]
        best = np.take_along_axis(first_hull_iou[rows], chosen, axis=1)[:, 0]
        yield name, rows, (precision, best[:, None] >= np.array(RECALL_THRESHOLDS), best)


def _named(
    name: str, precision: np.ndarray, reached: np.ndarray, iou: np.ndarray | np.floating
) -> dict[str, np.ndarray | np.floating]:
    """The metrics of a range by name, [...], from [..., T], [..., R] and [...]."""
    metrics = {f"MR-{name}-mAP": precision.mean(axis=-1)}
    for index, threshold in enumerate(AP_THRESHOLDS):
        metrics[f"MR-{name}-mAP@{threshold:g}"] = precision[..., index]
    for index, threshold in enumerate(RECALL_THRESHOLDS):
        metrics[f"MR-{name}-R1@{threshold:g}"] = reached[..., index]
    return metrics | {f"MR-{name}-mIoU": iou}

"""What an evaluation finds, and the files that hold it."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from flashvtg_jax.errors import DataError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.json_lines import write_json_lines

Predictions = list[dict[str, Any]]
Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Results:
    """What an evaluation finds.

    Attributes:
      metrics: without non-maximum suppression; empty without ground truth.
      metrics_nms: with it; empty without moments.
      predictions: a row for each query of the split, in its order, without suppression; with
        several processes, in the lead host alone.
      predictions_nms: the same with suppression; None without moments.
    """

    metrics: Metrics
    metrics_nms: Metrics
    predictions: Predictions
    predictions_nms: Predictions | None


class EvaluationResult(NamedTuple):
    """The metrics of a checkpoint, or their means over several runs. Empty without ground truth.

    Attributes:
      metrics: without non-maximum suppression.
      metrics_nms: with it; empty without moments.
    """

    metrics: Metrics
    metrics_nms: Metrics


def check_writable(folder: Path) -> None:
    """Raises DataError if no file can be written into the folder, which is made if need be."""
    probe = folder / ".flashvtg_probe"
    write_atomically(probe, "")
    probe.unlink()


def has_ground_truth(annotations: Iterable[dict[str, Any]]) -> bool:
    """Whether the rows of a split can be scored. Raises DataError if only some of them can."""
    known = [
        row.get("relevant_windows") is not None or row.get("label") is not None
        for row in annotations
    ]
    if any(known) and not all(known):
        raise DataError(
            f"{known.count(False)} of {len(known)} rows of this split have no ground truth; "
            "build it from annotations that have it on all lines, or on none"
        )
    return bool(known) and known[0]


def write_results(folder: Path, about: dict[str, Any], results: Results) -> None:
    """Write predictions.jsonl, predictions_nms.jsonl, and metrics.json if there are metrics.

    metrics.json holds `about`, such as split and step, the metrics without non-maximum suppression
    under the official keys, and the others under "with_nms". Files of an earlier evaluation that
    this one does not have are removed. Raises DataError if a file cannot be written.
    """
    write_json_lines(folder / "predictions.jsonl", results.predictions)
    if results.predictions_nms is None:
        (folder / "predictions_nms.jsonl").unlink(missing_ok=True)
    else:
        write_json_lines(folder / "predictions_nms.jsonl", results.predictions_nms)
    if results.metrics:
        with_nms = {"with_nms": results.metrics_nms} if results.metrics_nms else {}
        content = {**about, **results.metrics, **with_nms}
        write_atomically(folder / "metrics.json", json.dumps(content, indent=2) + "\n")
    else:
        (folder / "metrics.json").unlink(missing_ok=True)

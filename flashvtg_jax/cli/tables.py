"""Tables of metrics on standard output."""

import json
from collections.abc import Mapping
from pathlib import Path


def print_results(
    folder: Path,
    metrics: Mapping[str, float],
    metrics_nms: Mapping[str, float],
    untrained: Mapping[str, float] | None = None,
) -> None:
    """Print the metrics of a model, with the standard deviations in the folder's metrics.json.

    Args:
      folder: where the results were written.
      metrics: without non-maximum suppression.
      metrics_nms: with it; empty where there are no moments.
      untrained: before the first step, for comparison; empty or None: not computed.
    """
    deviations = json.loads((folder / "metrics.json").read_text()).get("std", {})
    columns = {"untrained": untrained} if untrained else {}
    columns["without NMS" if metrics_nms else "trained"] = {
        key: (value, deviations[key]) if deviations else value for key, value in metrics.items()
    }
    if metrics_nms:
        columns["with NMS"] = metrics_nms
    print_metrics(columns)


def print_metrics(columns: Mapping[str, Mapping[str, float]]) -> None:
    """Print a column for each name."""
    from flashvtg_jax.metrics import format_table

    print(format_table(columns))

"""Scores of predictions, as the benchmarks publish them: numpy on the host."""

from flashvtg_jax.metrics.evaluate import (
    METRIC_NAMES,
    brief,
    evaluate_predictions,
    nested,
    score_files,
)
from flashvtg_jax.metrics.highlight_detection import (
    tvsum_top5_average_precision,
    youtube_average_precision,
)
from flashvtg_jax.metrics.report import format_table

__all__ = [
    "METRIC_NAMES",
    "brief",
    "evaluate_predictions",
    "format_table",
    "nested",
    "score_files",
    "tvsum_top5_average_precision",
    "youtube_average_precision",
]

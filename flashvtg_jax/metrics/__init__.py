"""The benchmarks' metrics of predictions, with numpy on the host."""

from flashvtg_jax.metrics.evaluate import brief, evaluate_predictions, nested, score_files
from flashvtg_jax.metrics.highlight_detection import (
    tvsum_top5_average_precision,
    youtube_average_precision,
)
from flashvtg_jax.metrics.names import METRIC_NAMES, is_metric_name
from flashvtg_jax.metrics.per_query import (
    metric_groups,
    per_query_metrics,
    score_iou_correlation,
)
from flashvtg_jax.metrics.report import format_table, mean_and_std
from flashvtg_jax.metrics.scoring import parse_length_ranges

__all__ = [
    "METRIC_NAMES",
    "brief",
    "evaluate_predictions",
    "format_table",
    "is_metric_name",
    "mean_and_std",
    "metric_groups",
    "nested",
    "parse_length_ranges",
    "per_query_metrics",
    "score_files",
    "score_iou_correlation",
    "tvsum_top5_average_precision",
    "youtube_average_precision",
]

"""Metrics of one run or of several seeds, and a small table of them for the terminal."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from flashvtg_jax.errors import DataError
from flashvtg_jax.metrics.highlight_detection import DOMAINS_MEAN
from flashvtg_jax.metrics.moment_retrieval import FULL_RANGE
from flashvtg_jax.metrics.names import domain_names, range_names

Metric = float | Sequence[float]  # a value, or its mean and standard deviation

_PRECISION = ("MR-full-mAP", "MR-full-mAP@0.5", "MR-full-mAP@0.75")
_SECTIONS = (
    ("MR-full-R1@0.3", "MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mIoU"),
    ("HL-min-VeryGood-mAP", "HL-min-VeryGood-Hit1"),
)


def mean_and_std(values: Iterable[float]) -> tuple[float, float | None]:
    """The mean and the sample standard deviation of a metric over seeds.

    The deviation divides by the number of seeds minus 1; of a single seed it is None. With a NaN
    among the values the mean is NaN, without a deviation. Raises DataError for no values.
    """
    values = [float(value) for value in values]
    if not values:
        raise DataError("no seeds to take the mean of")
    if any(map(math.isnan, values)):
        return math.nan, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def format_table(metrics_by_name: Mapping[str, Mapping[str, Metric]]) -> str:
    """A table with one column for each name and the usually reported metrics as rows.

    Args:
      metrics_by_name: column title -> metrics of `evaluate_predictions`, or of `mean_and_std`,
        shown as "53.21 ± 0.42"; rows that no column has are left out, a metric that a column
        lacks is shown as "-". Domains stand below their mean, in the order of the columns' keys.
    """
    columns = list(metrics_by_name.values())
    titles = list(metrics_by_name)
    known = dict.fromkeys(key for column in columns for key in column)
    by_length = [f"MR-{name}-mAP" for name in range_names(known) if name != FULL_RANGE]
    sections = [
        [key for key in section if key in known]
        for section in (
            (*_PRECISION, *by_length),
            *_SECTIONS,
            (DOMAINS_MEAN, *domain_names(known)),
        )
    ]
    keys = [key for section in sections for key in section]
    label_width = max(map(len, keys), default=0)
    cells = {
        title: _cells([column.get(key) for key in keys])
        for title, column in zip(titles, columns, strict=True)
    }
    widths = [max(len(title), len("100.00"), *map(len, cells[title])) for title in titles]

    def line(label: str, texts: Sequence[str]) -> str:
        aligned = [f"{text:>{width}}" for text, width in zip(texts, widths, strict=True)]
        return "   ".join([f"{label:<{label_width}}", *aligned]).rstrip()

    rule = "-" * (label_width + sum(width + 3 for width in widths))
    lines = [line("", titles)]
    row = iter(zip(*cells.values(), strict=True))
    for section in sections:
        if section:
            lines.append(rule)
        lines += [line(key, next(row)) for key in section]
    return "\n".join(lines)


def _cells(column: Sequence[Metric | None]) -> list[str]:
    """The texts of a column, all of one width; means below means, deviations below deviations."""
    pairs = [entry if isinstance(entry, tuple | list) else (entry, None) for entry in column]
    means = ["-" if mean is None else f"{mean:.2f}" for mean, _ in pairs]
    spreads = ["" if spread is None else f"{spread:.2f}" for _, spread in pairs]
    mean_width = max(map(len, means), default=0)
    spread_width = max(map(len, spreads), default=0)
    cells = []
    for mean, spread in zip(means, spreads, strict=True):
        cell = f"{mean:>{mean_width}}"
        if spread_width:
            cell += f" ± {spread:>{spread_width}}" if spread else " " * (3 + spread_width)
        cells.append(cell)
    return cells

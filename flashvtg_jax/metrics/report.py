"""Metrics of one run or of several seeds, and a small table of them for the terminal."""

import statistics
from collections.abc import Mapping, Sequence

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


def mean_and_std(metrics: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """The mean and the sample standard deviation of each metric over several seeds.

    The deviation divides by n - 1 and is 0 for a single seed. The order is that of the first
    mapping.

    Raises:
      DataError: there is no mapping, or one lacks a metric that another has.
    """
    if not metrics:
        raise DataError("no metrics to take the mean of")
    known = dict.fromkeys(name for one in metrics for name in one)
    for index, one in enumerate(metrics, start=1):
        missing = [name for name in known if name not in one]
        if missing:
            raise DataError(
                f"the metrics of {index} of {len(metrics)} lack {missing[0]!r}, which others "
                "have: they are not from the same evaluation"
            )
    result = {}
    for name in known:
        values = [float(one[name]) for one in metrics]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        result[name] = (statistics.fmean(values), spread)
    return result


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

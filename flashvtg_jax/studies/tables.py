"""Entries of a study from values of seeds and queries; their CSV file and Markdown table."""

import csv
import dataclasses
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from flashvtg_jax.errors import DataError
from flashvtg_jax.figures.drawing import MINUS
from flashvtg_jax.figures.entries import FEW_SEEDS, Entry
from flashvtg_jax.files import write_atomically
from flashvtg_jax.metrics import mean_and_std
from flashvtg_jax.metrics.names import is_metric_name
from flashvtg_jax.studies.statistics import (
    FEWEST_DRAWN,
    LEVEL,
    NUM_SAMPLES,
    paired_bootstrap,
    seed_means,
)

# Browsers break the lines of narrow cells at hyphens and spaces, but not at `MINUS` and this.
_SPACE = "\N{NO-BREAK SPACE}"
_NO_NUMBER = "-"


def summarise(
    variant: str,
    condition: str,
    level: float | None,
    metric: str,
    values: np.ndarray | Sequence[float],
    reference: np.ndarray | Sequence[float] | None = None,
    *,
    groups: np.ndarray | None = None,
    clusters: Sequence[str] | np.ndarray | None = None,
) -> Entry:
    """The entry of a number, from what each seed and query has in it.

    Args:
      variant, condition, level, metric: as of `Entry`.
      values: [S, N], NaN where a query does not count: the mean over seeds of the mean over
        queries, and the interval of its difference. Or [S], for measurements that are not of
        queries (seconds, bytes): their difference has no interval.
      reference: what the reference has, of the same shape; None: this is the reference.
      groups: [N], as of `paired_bootstrap`.
      clusters: [N], the source videos of the queries, as of `paired_bootstrap`.

    Raises:
      ConfigError: an interval of fewer than two seeds.
      DataError: shapes do not fit, or values and reference are not of the same queries.
    """
    values = np.asarray(values, np.float64)
    difference = low = high = None
    queries = 0
    if values.ndim == 1:
        mean, std = mean_and_std(values)
        if reference is not None:
            difference = mean - mean_and_std(reference)[0]
    else:
        mean, std = mean_and_std(seed_means(values, groups=groups))
        queries = int((~np.isnan(values[0])).sum())
        if reference is not None:
            compared = paired_bootstrap(values, reference, groups=groups, clusters=clusters)
            difference, low, high = dataclasses.astuple(compared)
    key = (variant, condition, level, metric)
    return Entry(*key, mean, std, difference, low, high, len(values), queries)


def write_csv(path: str | os.PathLike, entries: Sequence[Entry]) -> None:
    """Write entries, a line each below the names of the fields; None is an empty cell.

    Raises DataError when the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Entry))
    for entry in entries:
        writer.writerow([_to_text(value) for value in dataclasses.astuple(entry)])
    write_atomically(path, text.getvalue())


def markdown_table(
    entries: Sequence[Entry],
    metrics: Sequence[str],
    *,
    title: str,
    command: str,
    notes: str = "",
    reference: str | None = None,
    drawn: str | None = "queries",
    decimals: int | None = None,
) -> str:
    """A page of Markdown: a row for each variant and condition, a column for each metric.

    Rows keep the order of the entries. A cell holds mean and deviation, and below them the
    difference to the reference with its interval, in bold where the interval excludes 0. A mean
    that is NaN is a dash.

    Args:
      entries: of the study; other metrics than `metrics` are left out.
      metrics: the columns, in their order.
      title: the heading.
      command: that makes the page.
      notes: Markdown to stand at the end; "": none.
      reference: the variant that others are compared with, whose rows are marked where any have
        differences. None: the only one that has rows without differences, if it is only one.
      drawn: what the bootstrap drew whole: the clusters of `summarise`. None: no entry has an
        interval, for none were asked for.
      decimals: of every number. None: by column, two for metrics of `evaluate_predictions`, as
        they are published, else three digits of the column's smallest number.

    Raises:
      DataError: there is no entry of a metric, or two of one cell.
    """
    cells: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in entries:
        if entry.metric in metrics:
            row = cells.setdefault((entry.variant, entry.condition), {})
            if entry.metric in row:
                raise DataError(
                    f"two entries of {entry.metric} for {entry.variant!r}, {entry.condition!r}"
                )
            row[entry.metric] = entry
    shown = {metric: [row[metric] for row in cells.values() if metric in row] for metric in metrics}
    for metric, column in shown.items():
        if not column:
            raise DataError(f"{title}: no entries of {metric}")
    places = {
        metric: _decimals(metric, column) if decimals is None else decimals
        for metric, column in shown.items()
    }
    with_conditions = any(condition for _, condition in cells)
    has_differences = any(_is_compared(row) for row in cells.values())
    if reference is None:
        alone = {variant for (variant, _), row in cells.items() if not _is_compared(row)}
        reference = alone.pop() if len(alone) == 1 else None

    head = ["", *([""] if with_conditions else []), *metrics]
    lines = []
    for (variant, condition), row in cells.items():
        label = variant
        if has_differences and variant == reference:
            label += " (reference)"
        texts = [
            _cell(row[metric], places[metric]) if metric in row else _NO_NUMBER
            for metric in metrics
        ]
        lines.append([label, *([condition] if with_conditions else []), *texts])

    everything = [entry for column in shown.values() for entry in column]
    numbers = aligned_table(head, lines, names=1 + with_conditions)
    parts = [f"# {title}", numbers, f"```sh\n{command}\n```", _counts(shown)]
    if has_differences:
        parts.append(_how_differences_were_made(everything, drawn))
    if notes:
        parts.append(notes.strip())
    return "\n\n".join(parts) + "\n"


def aligned_table(head: Sequence[str], lines: Iterable[Sequence[str]], *, names: int = 1) -> str:
    """A table of Markdown: columns of names, then numbers, aligned to the right.

    Cells may hold any text without line breaks.
    """

    def line(cells: Sequence[str]) -> str:
        escaped = (cell.replace("|", r"\|") for cell in cells)
        return "|" + "|".join(f" {cell} " if cell else " " for cell in escaped) + "|"

    rule = "|" + "---|" * names + "---:|" * (len(head) - names)
    return "\n".join([line(head), rule, *map(line, lines)])


def _is_compared(row: dict[str, Entry]) -> bool:
    return any(entry.difference is not None for entry in row.values())


def _has_difference(entry: Entry) -> bool:
    return entry.difference is not None and not math.isnan(entry.difference)


def _decimals(metric: str, column: Sequence[Entry]) -> int:
    """Two for percentages as they are published, else three digits of the smallest number."""
    sizes = [abs(entry.mean) for entry in column if entry.mean and math.isfinite(entry.mean)]
    if is_metric_name(metric) or not sizes:
        return 2
    return min(max(2 - math.floor(math.log10(min(sizes))), 0), 4)


def _cell(entry: Entry, decimals: int) -> str:
    if math.isnan(entry.mean):
        return _NO_NUMBER

    def number(value: float, sign: str = "") -> str:
        text = f"{value:{sign}.{decimals}f}"
        if not float(text):  # no sign where nothing is left
            text = text.lstrip("+-")
        return text.replace("-", MINUS)

    text = number(entry.mean)
    if entry.std is not None:
        text += f" ± {number(entry.std)}"
    if not _has_difference(entry):
        return text.replace(" ", _SPACE)
    difference = number(entry.difference, "+")
    if entry.low is not None and entry.high is not None:
        difference += f" [{number(entry.low, '+')}, {number(entry.high, '+')}]"
        if entry.low > 0 or entry.high < 0:
            difference = f"**{difference}**"
    return f"{text}<br>{difference}".replace(" ", _SPACE)


def _counts(shown: dict[str, list[Entry]]) -> str:
    """A sentence on how many seeds there are, and how many queries each metric counts."""
    seeds = _span(entry.seeds for column in shown.values() for entry in column)
    queries = {metric: _span(entry.queries for entry in column) for metric, column in shown.items()}
    of_queries = {metric: span for metric, span in queries.items() if span != "0"}
    text = f"Mean ± sample standard deviation over seeds. Seeds: {seeds}."
    if seeds == "1":
        text = "Of 1 seed."
    if of_queries:
        usual = Counter(of_queries.values()).most_common(1)[0][0]
        others = [f"{metric} {span}" for metric, span in of_queries.items() if span != usual]
        text += f" Queries: {usual}" + (f" ({', '.join(others)})" if others else "") + "."
    return text


def _span(counts: Iterable[int]) -> str:
    ordered = sorted(set(counts))
    return str(ordered[0]) if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _how_differences_were_made(entries: Sequence[Entry], drawn: str | None) -> str:
    text = "Below a number: its difference to the reference"
    if drawn is None:
        return f"{text}. Intervals were not asked for."
    compared = [entry for entry in entries if _has_difference(entry)]
    with_interval = [entry for entry in compared if entry.low is not None]
    if with_interval:
        whole = drawn if drawn == "queries" else f"whole {drawn}"
        text += (
            f" and, in brackets, the interval of {100 * LEVEL:g} % of {NUM_SAMPLES} bootstrap "
            f"samples, which draw seeds and {whole} in pairs (the variant's with the "
            "reference's); bold where it excludes 0"
        )
    text += "."
    # Those of one seed, and of what is not of queries, have none for another reason.
    if any(entry.low is None and entry.queries and entry.seeds > 1 for entry in compared):
        text += f" Where fewer than {FEWEST_DRAWN} {drawn} count, there is no interval."
    seeds = min((entry.seeds for entry in with_interval), default=FEW_SEEDS)
    if seeds < FEW_SEEDS:
        text += (
            f" {seeds} seeds show little of the spread between seeds: read the intervals as ones "
            f"over {drawn}, and look at the deviations beside them."
        )
    return text


def _to_text(value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return repr(value.item() if isinstance(value, np.generic) else value)

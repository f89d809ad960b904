"""The entries of a study, what each is of, and which of them a figure shows."""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

from flashvtg_jax.errors import DataError

WIDTH = 9.5  # inches, of the figures of studies
MAX_METRICS = 4  # of a figure with a column for each
FEW_SEEDS = 5  # below, intervals get a word of caution, in tables too
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A metric or measurement of a variant under a condition: a line of a study's CSV file."""

    variant: str  # its label: "full model", "intra-scale only"
    condition: str  # "10 min", "noise", "K = 3"; "" without
    level: float | None  # the number behind the condition (minutes, strength, K), for x axes
    metric: str  # "MR-full-mAP", "rank correlation", "seconds a query"
    mean: float  # over seeds; NaN where no query counts
    std: float | None  # sample standard deviation over seeds; None for one seed
    difference: float | None  # to the reference under this condition; None for the reference
    low: float | None  # of the interval of the difference, if it has one
    high: float | None
    seeds: int
    queries: int  # that count; 0 for measurements that are not of queries


def drawable(entries: Iterable[Entry], path: str | os.PathLike) -> list[Entry]:
    """The entries of metrics that have any finite mean.

    Raises DataError if there are none, or two for one place; the message names `path`.
    """
    entries = list(entries)
    finite = {entry.metric for entry in entries if math.isfinite(entry.mean)}
    if not finite:
        raise DataError(f"{path}: no number to draw: no entry of the study has a finite mean")
    seen = set()
    for entry in entries:
        key = (entry.variant, entry.condition, entry.level, entry.metric)
        if key in seen:
            raise DataError(f"{path}: two entries for {', '.join(map(str, key))}; which is meant?")
        seen.add(key)
    return [entry for entry in entries if entry.metric in finite]


def unique(names: Iterable[T]) -> list[T]:
    """Each once, in the order of their first appearance."""
    return list(dict.fromkeys(names))


def metrics_of(entries: Iterable[Entry]) -> list[str]:
    """The metrics, in the order of their first appearance."""
    return unique(entry.metric for entry in entries)


def chosen(entries: Iterable[Entry], first: Sequence[str]) -> list[str]:
    """At most four metrics: those of `first` that are there, then others."""
    metrics = metrics_of(entries)
    known = [metric for metric in first if metric in metrics]
    others = [metric for metric in metrics if metric not in known]
    return [*known, *others][:MAX_METRICS]


def reference_of(entries: Iterable[Entry]) -> str | None:
    """The variant that others are compared to: the first without a difference."""
    entries = [entry for entry in entries if math.isfinite(entry.mean)]
    compared = {entry.variant for entry in entries if entry.difference is not None}
    return next((entry.variant for entry in entries if entry.variant not in compared), None)


def std_of(entry: Entry | None) -> float:
    """The standard deviation over seeds; 0 where it is not known."""
    known = entry is not None and entry.std is not None and math.isfinite(entry.std)
    return entry.std if known else 0.0


def note_of(entries: Sequence[Entry]) -> str:
    """What means are taken over: "mean ± standard deviation over 5 seeds · 99 queries"."""
    seeds = _count({entry.seeds for entry in entries}, "seed", "seeds")
    of_queries = {entry.queries for entry in entries} - {0}  # 0: seconds, memory
    deviation = any(std_of(entry) > 0 for entry in entries)
    mean = f"mean {PLUS_MINUS} standard deviation over" if deviation else "mean over"
    queries = f" · {_count(of_queries, 'query', 'queries')}" if of_queries else ""
    return f"{mean} {seeds}{queries}"


def _count(numbers: set[int], one: str, many: str) -> str:
    low, high = min(numbers), max(numbers)
    if low < high:
        return f"{low:,} to {high:,} {many}"
    return f"{low:,} {one if low == 1 else many}"

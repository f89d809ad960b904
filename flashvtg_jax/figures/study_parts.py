"""What the figures of studies share: which numbers they show, their heads, names that fit."""

import functools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from flashvtg_jax.errors import DataError
from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flashvtg_jax.studies.tables import Entry

# Inches.
WIDTH = 9.5
MARGIN = 0.3
LINE = 0.165  # of text of size 9
GAP = 0.12
TICKS = 0.35  # below axes, for values
MAX_NAME = 1.85  # of variants and curves

MAX_METRICS = 4  # of a figure with a column for each
FEW_SEEDS = 5  # below, intervals get a word of caution, in tables too
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"

T = TypeVar("T")


def drawable(entries: "Iterable[Entry]", path: str | os.PathLike) -> "list[Entry]":
    """The entries of metrics that have any finite mean.

    Raises DataError if there are none, or two for one place; `path` is told in the message.
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


def metrics_of(entries: "Iterable[Entry]") -> list[str]:
    """The metrics, in the order of their first appearance."""
    return unique(entry.metric for entry in entries)


def chosen(entries: "Iterable[Entry]", first: Sequence[str]) -> list[str]:
    """At most four metrics: those of `first` that are there, then others."""
    metrics = metrics_of(entries)
    known = [metric for metric in first if metric in metrics]
    others = [metric for metric in metrics if metric not in known]
    return [*known, *others][:MAX_METRICS]


def reference_of(entries: "Iterable[Entry]") -> str | None:
    """The variant that others are compared to: the first without a difference."""
    entries = [entry for entry in entries if math.isfinite(entry.mean)]
    compared = {entry.variant for entry in entries if entry.difference is not None}
    return next((entry.variant for entry in entries if entry.variant not in compared), None)


def std_of(entry: "Entry | None") -> float:
    """The standard deviation over seeds; 0 where it is not known."""
    known = entry is not None and entry.std is not None and math.isfinite(entry.std)
    return entry.std if known else 0.0


def note_of(entries: "Sequence[Entry]") -> str:
    """What the numbers are taken over: "mean ± standard deviation over 5 seeds · 99 queries"."""
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


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float = 9) -> float:
    """Inches."""
    return _ruler(size)(text)


@functools.lru_cache(maxsize=8)
def _ruler(size: float) -> Callable[[str], float]:
    return drawing.text_ruler(drawing.new_figure(1, 1), size, ["DejaVu Sans", "sans-serif"])


def wrapped(text: str, width: float, max_lines: int = 2, size: float = 9) -> list[str]:
    """Lines no wider than `width` inches."""
    ruler = functools.partial(text_width, size=size)
    return drawing.wrap_text(drawing.clean_text(text), width, ruler, max_lines)


def headed_figure(
    width: float, title: str, notes: Sequence[str], height: float
) -> "tuple[Figure, float]":
    """A figure with a title and notes over `height` inches for the rest, and where this begins.

    The latter is in inches from the top.
    """
    room = width - 2 * MARGIN
    titles = wrapped(title, room, size=13)
    lines = [line for note in notes for line in wrapped(note, room, 3)]
    top = 0.28 + 0.26 * len(titles) + 0.2 * len(lines)
    figure = drawing.new_figure(width, top + height)
    y = 0.18
    for text in titles:
        y += 0.26
        write(figure, MARGIN, y, text, va="baseline", size=13)
    for text in lines:
        y += 0.2
        write(figure, MARGIN, y + 0.03, text, va="baseline", color=GREY)
    return figure, top


def write(figure: "Figure", left: float, top: float, text: str, **look: object) -> None:
    """Text at a place in inches from the figure's upper left corner."""
    if text:
        width, height = figure.get_size_inches()
        look = {"va": "center_baseline", "size": 9, **look}
        figure.text(left / width, 1 - top / height, text, **look)

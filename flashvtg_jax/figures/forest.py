"""Forest plots: a row for each variant, and how far it is from the full model."""

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import GREEN, GREY, INK, MINUS, VERMILLION, text_width
from flashvtg_jax.figures.entries import (
    FEW_SEEDS,
    PLUS_MINUS,
    WIDTH,
    Entry,
    chosen,
    drawable,
    note_of,
    reference_of,
    unique,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Inches.
_ROW = 0.36  # two lines of text
_NAME = 1.85
_AROUND = 0.85  # headings and ticks
_KEY = 0.25

_NOT_THERE = drawing.EN_DASH

# What the colour of a difference means.
_VERDICTS = {
    GREEN: "better",
    VERMILLION: "worse",
    GREY: "undecided: the interval covers the dotted line",
}


def plot_forest(
    entries: Sequence[Entry],
    path: str | os.PathLike,
    title: str,
    first: Sequence[str],
    *,
    of_differences: bool,
) -> None:
    """Draw a row for each variant and condition, a column for each of at most four metrics.

    Args:
      entries: of a study; differences are to the first variant without any, which stands on top.
      path: a .png or .svg file to write.
      title: over the figure.
      first: metrics to show rather than others.
      of_differences: along x are differences to the full model; otherwise means, with the
        intervals of the differences laid at the full model's mean.

    Raises DataError if there is nothing to draw, or the file cannot be written.
    """
    drawing.check_format(path)
    entries = drawable(entries, path)
    reference = reference_of(entries)
    metrics = chosen(entries, first)
    entries = [entry for entry in entries if entry.metric in metrics]
    rows = unique((entry.variant, entry.condition) for entry in entries)
    rows.sort(key=lambda row: row[0] != reference)
    names = [", ".join(part for part in row if part) for row in rows]
    compared = any(entry.difference is not None for entry in entries)
    seeds = min((e.seeds for e in entries if _has_interval(e)), default=0)
    notes = [note_of(entries)]
    if compared:
        notes.append(_what_is_drawn(reference, of_differences, seeds > 0))
    if 0 < seeds < FEW_SEEDS:
        notes.append(f"{seeds} seeds: intervals are of videos, not of seeds")

    with drawing.drawing(title + "".join((*names, *metrics))):
        tall = _ROW * len(rows) + _AROUND + _KEY
        figure, body = drawing.new_figure(WIDTH, tall, title, notes)
        grid = body.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(grid, metrics, strict=True):
            cells = _cells(entries, rows, metric)
            heading = drawing.wrap_text(metric, (WIDTH - _NAME) / len(metrics) - 0.3, 2)
            axes.set_title("\n".join(heading), size=9.5)
            _draw_cells(axes, cells, reference, of_differences)
            room = (WIDTH - _NAME) / len(metrics) - _write_values(axes, cells)
            _set_ticks(axes, room, signed=of_differences)
        _draw_names(figure, grid[0], names, has_reference=rows[0][0] == reference)
        if seeds:
            _draw_key(body)
        drawing.save_figure(figure, path)


def _cells(
    entries: Sequence[Entry], rows: Sequence[tuple[str, str]], metric: str
) -> list[Entry | None]:
    """The entries of a metric, row by row; None where there is no finite mean."""
    found = {
        (entry.variant, entry.condition): entry
        for entry in entries
        if entry.metric == metric and math.isfinite(entry.mean)
    }
    return [found.get(row) for row in rows]


def _write_values(axes: "Axes", cells: Sequence[Entry | None]) -> float:
    """Write means and deviations right of the axes; returns how many inches they take."""
    texts = _value_texts(cells)
    means, deviations = (max(map(text_width, part)) for part in zip(*texts, strict=True))
    look: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    look |= {"va": "center_baseline", "annotation_clip": False}
    for row, (mean, deviation) in enumerate(texts):
        place, end = (1, row + 0.5), (8 + 72 * means, 0)
        axes.annotate(mean, place, xytext=end, ha="right", **look)
        if deviation:
            axes.annotate(deviation, place, xytext=end, color=GREY, **look)
    return means + deviations + 0.8


def _value_texts(cells: Sequence[Entry | None]) -> list[tuple[str, str]]:
    """Means and standard deviations as they are written, with the same number of decimals."""
    size = max(abs(cell.mean) for cell in cells if cell is not None)
    decimals = 3 if size < 2 else (1 if size < 1000 else 0)
    texts = []
    for cell in cells:
        mean, deviation = _NOT_THERE, ""
        if cell is not None:
            mean = f"{cell.mean:,.{decimals}f}".replace("-", MINUS)
            if cell.std is not None and math.isfinite(cell.std):
                deviation = f" {PLUS_MINUS} {cell.std:,.{decimals}f}"
        texts.append((mean, deviation))
    return texts


def _what_is_drawn(reference: str | None, of_differences: bool, decided: bool) -> str:
    other = reference or "the full model"
    dots = f"difference to {other}" if of_differences else "mean"
    if not decided:
        return f"dots: {dots}, without an interval"
    lines = "its 95 % interval" if of_differences else f"95 % interval of the difference to {other}"
    return f"dots: {dots}; lines: {lines}"


def _draw_key(body: "SubFigure") -> None:
    """What the colours mean, in their colours."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", label=name, **_dot_look(color))
        for color, name in _VERDICTS.items()
    ]
    place = {"loc": "outside upper left", "ncols": len(handles), "borderaxespad": 1.2}
    legend = body.legend(handles=handles, handletextpad=0.1, columnspacing=1.2, **place)
    for text, color in zip(legend.get_texts(), _VERDICTS, strict=True):
        text.set_color(drawing.darker(color))


def _dot_look(color: str) -> dict[str, Any]:
    return {
        "color": color,
        "marker": "D" if color == INK else "o",
        "markersize": 5.5 if color == INK else 6,
        "markerfacecolor": "white" if color == GREY else color,
        "markeredgewidth": 1.3,
    }


def _draw_names(
    figure: "Figure", axes: "Axes", names: Sequence[str], *, has_reference: bool
) -> None:
    """Names left of the first axes, and every second row shaded over the whole width."""
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import blended_transform_factory

    lines = ["\n".join(drawing.wrap_text(drawing.clean_text(x), _NAME / 1.13, 2)) for x in names]
    axes.set_yticks(np.arange(len(names)) + 0.5, lines, color=INK, ha="left")
    axes.tick_params(axis="y", length=0, pad=72 * _NAME)
    if has_reference and len(names) > 1:
        axes.get_yticklabels()[0].set_weight("bold")
    across = blended_transform_factory(figure.transFigure, axes.transData)
    for row in range(0, len(names), 2):
        shade = Rectangle((0.015, row), 0.97, 1, transform=across, color="0.965", linewidth=0)
        figure.add_artist(shade).set_zorder(-1)


def _draw_cells(
    axes: "Axes", cells: Sequence[Entry | None], reference: str | None, of_differences: bool
) -> None:
    """Dots and intervals of one metric, and its limits."""
    known = [cell for cell in cells if cell is not None]
    bases = {cell.condition: cell.mean for cell in known if cell.variant == reference}
    if of_differences:
        bases = dict.fromkeys(bases, 0.0) or {"": 0.0}
    axes.set_ylim(len(cells), 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.patch.set_visible(False)
    axes.grid(axis="x")
    seen = list(bases.values())
    for base in sorted(set(seen)):
        axes.axvline(base, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=2, gid="base")
    for index, cell in enumerate(cells):
        if cell is None:
            continue
        color = INK if cell.variant == reference else _verdict(cell)
        place = cell.mean
        if of_differences:
            place = 0.0 if cell.variant == reference else cell.difference
        base = 0.0 if of_differences else bases.get(cell.condition)
        if _has_interval(cell) and base is not None:
            ends = [base + cell.low, base + cell.high]
            axes.hlines(index + 0.5, *ends, color=color, linewidth=1.8, zorder=3, gid="interval")
            seen += ends
        if place is not None and math.isfinite(place):
            axes.plot(place, index + 0.5, zorder=4, gid=f"dot-{cell.variant}", **_dot_look(color))
            seen.append(place)
    low, high = min(seen), max(seen)
    room = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_xlim(low - room, high + room)


def _has_interval(cell: Entry) -> bool:
    ends = cell.low, cell.high
    return None not in ends and all(map(math.isfinite, ends))


def _verdict(cell: Entry) -> str:
    """The colour of a difference: grey where its interval covers 0 or is not known."""
    if not _has_interval(cell) or cell.low <= 0 <= cell.high:
        return GREY
    return GREEN if cell.low > 0 else VERMILLION


def _set_ticks(axes: "Axes", width: float, *, signed: bool) -> None:
    """Ticks of x at round values, all with the same decimals; `width` in inches."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    low, high = axes.get_xlim()
    locator = MaxNLocator(max(3, int(width / 0.5)), steps=[1, 2, 5, 10])
    ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    step = min(np.diff(ticks), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))

    def text(value: float, _: object) -> str:
        value = round(value, decimals) + 0.0  # no negative zero
        sign = "+" if signed and value > 0 else ""
        return f"{sign}{value:,.{decimals}f}".replace("-", MINUS)

    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(text))
    axes.tick_params(axis="x", length=3, labelsize=8.5)

"""Curves of variants: lines with the deviation over seeds, named at their right ends."""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import GREY, LOOKS
from flashvtg_jax.figures.study_parts import (
    GAP,
    LINE,
    MARGIN,
    MAX_NAME,
    TICKS,
    WIDTH,
    headed_figure,
    std_of,
    text_width,
    unique,
    wrapped,
)
from flashvtg_jax.metrics.names import is_metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flashvtg_jax.studies.tables import Entry

# Inches.
_HEIGHT = 1.75  # least, of a panel
_HEIGHT_ALONE = 2.6
_VALUES = 0.62  # left of a panel, for its values
_TITLE = 0.38
_AXIS_NAME = 0.32
_HANDLE = 0.3  # a piece of a curve, before its name
_BEFORE_NAME = 0.08

_LOOKS = (*LOOKS, (GREY, "-", "P"))
_LOG_FROM = 8.0  # how many times the least value the greatest has, for a logarithmic scale


Look = tuple[str, Any, str]  # colour, line, marker


@dataclasses.dataclass(frozen=True)
class Curve:
    """Values at places in ascending order; nan where there is none, which leaves a gap."""

    x: np.ndarray  # [N]
    mean: np.ndarray  # [N]
    std: np.ndarray  # [N], 0 where it is not known


def curve_of(x: Sequence[float], entries: "Sequence[Entry | None]") -> Curve:
    """A curve through the means of entries, of which some may be missing."""
    mean = np.array([math.nan if entry is None else entry.mean for entry in entries])
    mean[~np.isfinite(mean)] = math.nan
    return Curve(np.array(x, float), mean, np.array([std_of(entry) for entry in entries]))


def looks_of(count: int) -> list[Look]:
    """Colour, line and marker of so many curves; with more than six, colours come again."""
    looks = []
    for index in range(count):
        color, line, _ = _LOOKS[index % len(_LOOKS)]
        marker = _LOOKS[(index + index // len(_LOOKS)) % len(_LOOKS)][2]
        looks.append((color, line, marker))
    return looks


def set_value_limits(axes: "Axes", curves: Iterable[Curve], *, score: bool = True) -> None:
    """Limits and ticks of y; what is no score begins at 0, or has a log scale if it varies much."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    curves = list(curves)
    means = np.concatenate([curve.mean for curve in curves])
    low = np.nanmin(np.concatenate([curve.mean - curve.std for curve in curves]))
    high = np.nanmax(np.concatenate([curve.mean + curve.std for curve in curves]))
    least = np.nanmin(means)
    if score or least <= 0 or np.nanmax(means) < _LOG_FROM * least:
        room = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(0 if not score and low >= 0 else low - room, high + room)
        drawing.set_value_ticks(axes, 5)
        return
    axes.set_yscale("log")
    low, high = max(low, least / 2) / 1.15, high * 1.15
    axes.set_ylim(low, high)
    powers = [10.0**exponent for exponent in range(-12, 16)]
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 6:
            break
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(drawing.format_power))


def draw_line(axes: "Axes", curve: Curve, look: Look, name: str) -> None:
    """A curve with a marker at each value."""
    axes.plot(curve.x, curve.mean, zorder=3, gid=f"curve-{name}", **_line_look(look))


def draw_bars(axes: "Axes", curve: Curve, look: Look) -> None:
    """The standard deviation at each value."""
    shown = np.isfinite(curve.mean) & (curve.std > 0)
    if shown.any():
        x, mean, std = curve.x[shown], curve.mean[shown], curve.std[shown]
        style = {"color": look[0], "linewidth": 2.2, "alpha": 0.45}
        axes.vlines(x, mean - std, mean + std, gid="deviation", **style)


def _line_look(look: Look) -> dict[str, Any]:
    color, line, marker = look
    return {
        "color": color,
        "linestyle": line,
        "linewidth": 1.6,
        "marker": marker,
        "markersize": 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def _draw_band(axes: "Axes", curve: Curve, look: Look) -> None:
    """The standard deviation about a curve; a bar where a value has no neighbour."""
    known = np.isfinite(curve.mean)
    beside = np.zeros(len(known), bool)
    beside[1:] |= known[:-1]
    beside[:-1] |= known[1:]
    if (known & beside & (curve.std > 0)).any():
        low, high = curve.mean - curve.std, curve.mean + curve.std
        style = {"color": look[0], "alpha": 0.16, "linewidth": 0, "zorder": 1}
        axes.fill_between(curve.x, low, high, gid="deviation", **style)
    draw_bars(axes, Curve(curve.x[~beside], curve.mean[~beside], curve.std[~beside]), look)


def name_curves(axes: "Axes", curves: Mapping[str, Curve], looks: Sequence[Look]) -> None:
    """Names right of the axes, as near to the ends of their curves as they fit."""
    from matplotlib.lines import Line2D

    box = axes.get_window_extent()
    width, height = box.width / axes.figure.dpi, box.height / axes.figure.dpi
    lines = {name: wrapped(name, MAX_NAME) for name in curves}
    wanted = {}
    for name, curve in curves.items():
        known = np.flatnonzero(np.isfinite(curve.mean))
        end = (curve.x[known[-1]], curve.mean[known[-1]]) if len(known) else None
        pixels = axes.transData.transform(end)[1] if end else box.y0
        wanted[name] = (pixels - box.y0) / box.height
    order = sorted(reversed(curves), key=lambda name: wanted[name])  # of equals, first on top
    gap = (LINE * max(map(len, lines.values())) + 0.03) / height
    places = drawing.spread_places([wanted[name] for name in order], gap)
    look_of = dict(zip(curves, looks, strict=True))
    for name, place in zip(order, places, strict=True):
        ends = np.array([GAP, GAP + _HANDLE / 2, GAP + _HANDLE]) / width + 1
        across = {"transform": axes.transAxes, "clip_on": False}
        handle = Line2D(ends, [place] * 3, markevery=[1], **across, **_line_look(look_of[name]))
        axes.add_artist(handle)
        axes.text(
            ends[-1] + _BEFORE_NAME / width,
            place,
            "\n".join(lines[name]),
            color=drawing.darker(look_of[name][0]),
            va="center",
            linespacing=1.1,
            transform=axes.transAxes,
        )


def names_width(names: Iterable[str]) -> float:
    """Inches that the names of curves take right of the axes."""
    widest = max(text_width(line) for name in names for line in wrapped(name, MAX_NAME))
    return GAP + _HANDLE + _BEFORE_NAME + widest


def plot_panels(
    panels: "Mapping[str, Sequence[Entry]]",
    path: str | os.PathLike,
    title: str,
    notes: Sequence[str],
    *,
    x_label: str,
    log_x: bool,
    same_y: bool,
) -> None:
    """Draw panels in rows, a curve for each variant, named right of each row's last panel.

    Args:
      panels: by name, the entries of each; all of them have levels, which are the places along x.
      path: a .png or .svg file to write.
      title: over the figure.
      notes: below the title.
      x_label: below the axes.
      log_x: a logarithmic scale, where levels are positive.
      same_y: one scale for all panels, of a score; otherwise panels are named by their metric.

    Raises DataError if the file cannot be written.
    """
    variants = unique(entry.variant for entries in panels.values() for entry in entries)
    looks = looks_of(len(variants))
    curves = {name: _curves_by_variant(entries, variants) for name, entries in panels.items()}
    every = [curve for of_panel in curves.values() for curve in of_panel.values()]
    levels = np.unique([entry.level for entries in panels.values() for entry in entries])
    columns = min(len(panels), 2 if len(panels) == 4 or not same_y else 3)
    rows = -(-len(panels) // columns)

    with drawing.drawing():
        beside = names_width(variants)
        most_lines = max(len(wrapped(variant, MAX_NAME)) for variant in variants)
        least = _HEIGHT_ALONE if len(panels) == 1 else _HEIGHT
        height = max(least, len(variants) * (most_lines * LINE + 0.03))
        gap = 0.3 if same_y else _VALUES
        left = MARGIN + _VALUES - 0.15
        width = (WIDTH - left - beside - MARGIN - gap * (columns - 1)) / columns
        step = _TITLE + height + TICKS
        figure, top = headed_figure(WIDTH, title, notes, rows * step + _AXIS_NAME)
        for index, (name, of_panel) in enumerate(curves.items()):
            row, column = divmod(index, columns)
            at = left + column * (width + gap), top + row * step + _TITLE
            axes = drawing.add_axes(figure, *at, width, height)
            score = same_y or is_metric_name(name)
            set_value_limits(axes, every if same_y else of_panel.values(), score=score)
            scale = ", log scale" if axes.get_yscale() == "log" else ""
            (shown,) = wrapped(name, width - text_width(scale, 10), 1, size=10)
            axes.set_title(shown + scale, loc="left")
            axes.grid(axis="y")
            _set_places(axes, levels, width, log=log_x)
            if same_y and column:
                axes.tick_params(axis="y", labelleft=False, length=0)
            if index + columns >= len(panels):
                axes.set_xlabel(x_label + (", log scale" if axes.get_xscale() == "log" else ""))
            for (variant, curve), look in zip(of_panel.items(), looks, strict=True):
                _draw_band(axes, curve, look)
                draw_line(axes, curve, look, variant)
            if column == columns - 1 or index == len(panels) - 1:
                name_curves(axes, of_panel, looks)
        drawing.save_figure(figure, path)


def _curves_by_variant(entries: "Sequence[Entry]", variants: Sequence[str]) -> dict[str, Curve]:
    """A curve for each variant, over the levels at which any was measured."""
    levels = sorted({entry.level for entry in entries})
    found = {(entry.variant, entry.level): entry for entry in entries}
    return {
        variant: curve_of(levels, [found.get((variant, level)) for level in levels])
        for variant in variants
    }


def _set_places(axes: "Axes", places: np.ndarray, width: float, *, log: bool) -> None:
    """The x axis over some places: a tick at each, its text where there is room.

    `width` is in inches. The scale is logarithmic if asked for and no place is 0.
    """
    from matplotlib.ticker import NullLocator

    log = log and places[0] > 0
    scaled = np.log(places) if log else places
    room = 0.05 * (scaled[-1] - scaled[0]) or 0.5
    low, high = scaled[0] - room, scaled[-1] + room
    if log:
        axes.set_xscale("log")
    axes.set_xlim(*(np.exp([low, high]) if log else (low, high)))
    texts = [f"{place:g}" for place in places]
    if places[0] >= 0 and places[-1] < 1:  # shares
        texts = [text.lstrip("0") or "0" for text in texts]
    end = -math.inf  # of the last text, inches
    for index, text in enumerate(texts):
        size = text_width(text)
        start = (scaled[index] - low) / (high - low) * width - size / 2
        if start < end + 0.08:
            texts[index] = ""
        else:
            end = start + size
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, texts)
    axes.tick_params(axis="x", length=3)
    axes.grid(axis="x")

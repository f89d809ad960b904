"""Curves of variants: lines with the deviation over seeds, and a legend that names them."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import LOOKS
from flashvtg_jax.figures.entries import WIDTH, Entry, std_of, unique
from flashvtg_jax.metrics.names import is_metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

# Inches.
_ROW = 2.5
_ROW_ALONE = 3.2
_LEGEND_LINE = 0.17
_NAME = 1.85  # of a curve in the legend

_LOG_FROM = 8.0  # how many times the least value the greatest has, for a logarithmic scale

Look = tuple[str, Any, str]  # colour, line, marker


@dataclasses.dataclass(frozen=True)
class Curve:
    """Values at ascending x; nan where there is none, which leaves a gap."""

    x: np.ndarray  # [N]
    mean: np.ndarray  # [N]
    std: np.ndarray  # [N], 0 where it is not known


def curve_of(x: Sequence[float], entries: Sequence[Entry | None]) -> Curve:
    """A curve through the means of entries, of which some may be missing."""
    mean = np.array([math.nan if entry is None else entry.mean for entry in entries])
    mean[~np.isfinite(mean)] = math.nan
    return Curve(np.array(x, float), mean, np.array([std_of(entry) for entry in entries]))


def looks_of(count: int) -> list[Look]:
    """Colour, line and marker of so many curves; with more than six, colours come again."""
    looks = []
    for index in range(count):
        color, line, _ = LOOKS[index % len(LOOKS)]
        marker = LOOKS[(index + index // len(LOOKS)) % len(LOOKS)][2]
        looks.append((color, line, marker))
    return looks


def set_value_limits(axes: "Axes", curves: Iterable[Curve], *, score: bool = True) -> None:
    """Limits and ticks of y; what is no score begins at 0, or has a log scale if it varies much."""
    curves = list(curves)
    means = np.concatenate([curve.mean for curve in curves])
    low = np.nanmin(np.concatenate([curve.mean - curve.std for curve in curves]))
    high = np.nanmax(np.concatenate([curve.mean + curve.std for curve in curves]))
    least = np.nanmin(means)
    if score or least <= 0 or np.nanmax(means) < _LOG_FROM * least:
        room = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(0 if not score and low >= 0 else low - room, high + room)
        drawing.set_value_ticks(axes, 5)
    else:
        axes.set_yscale("log")
        axes.set_ylim(max(low, least / 2) / 1.15, high * 1.15)
        drawing.set_log_ticks(axes)


def draw_line(axes: "Axes", curve: Curve, look: Look, name: str) -> None:
    """A curve with a marker at each value."""
    color, line, marker = look
    axes.plot(
        curve.x,
        curve.mean,
        color=color,
        linestyle=line,
        linewidth=1.6,
        marker=marker,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=3,
        gid=f"curve-{name}",
        label="\n".join(drawing.wrap_text(drawing.clean_text(name), _NAME, 2)),
    )


def draw_bars(axes: "Axes", curve: Curve, look: Look) -> None:
    """The standard deviation at each value."""
    shown = np.isfinite(curve.mean) & (curve.std > 0)
    if shown.any():
        x, mean, std = curve.x[shown], curve.mean[shown], curve.std[shown]
        style = {"color": look[0], "linewidth": 2.2, "alpha": 0.45}
        axes.vlines(x, mean - std, mean + std, gid="deviation", **style)


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


def add_legend(body: "SubFigure", curves: Sequence[Any]) -> None:
    """Name curves right of all axes, in their colours, the one that ends highest on top."""

    def end(curve: Any) -> float:
        values = curve.get_ydata()
        values = values[np.isfinite(values)]
        return -values[-1] if len(values) else math.inf

    curves = sorted(curves, key=end)
    legend = body.legend(handles=curves, loc="outside right upper", handlelength=2.6)
    for text, curve in zip(legend.get_texts(), curves, strict=True):
        text.set_color(drawing.darker(curve.get_color()))


def plot_panels(
    panels: Mapping[str, Sequence[Entry]],
    path: str | os.PathLike,
    title: str,
    notes: Sequence[str],
    *,
    x_label: str,
    log_x: bool,
    same_y: bool,
) -> None:
    """Draw panels in rows, a curve for each variant.

    Args:
      panels: by name, the entries of each; all of them have levels, which are x.
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
    log_x = log_x and bool(levels[0] > 0)
    columns = min(len(panels), 2 if len(panels) == 4 or not same_y else 3)
    rows = -(-len(panels) // columns)
    height = max(rows * (_ROW_ALONE if len(panels) == 1 else _ROW), 2 * _LEGEND_LINE * len(looks))

    with drawing.drawing(title + "".join((*variants, *panels))):
        figure, body = drawing.new_figure(WIDTH, height, title, notes)
        grid = body.add_gridspec(rows, columns)
        for index, (name, of_panel) in enumerate(curves.items()):
            axes = body.add_subplot(grid[index])
            score = same_y or is_metric_name(name)
            set_value_limits(axes, every if same_y else of_panel.values(), score=score)
            scale = ", log scale" if axes.get_yscale() == "log" else ""
            axes.set_title(drawing.wrap_text(name, WIDTH / columns - 1.8)[0] + scale)
            axes.grid()
            _set_levels(axes, levels, log=log_x, room=0.75 * WIDTH / columns)
            if same_y and index % columns:
                axes.tick_params(axis="y", labelleft=False, length=0)
            if index + columns >= len(panels):
                axes.set_xlabel(x_label + ", log scale" * log_x)
            for (variant, curve), look in zip(of_panel.items(), looks, strict=True):
                _draw_band(axes, curve, look)
                draw_line(axes, curve, look, variant)
        add_legend(body, figure.axes[0].lines)
        drawing.save_figure(figure, path)


def _curves_by_variant(entries: Sequence[Entry], variants: Sequence[str]) -> dict[str, Curve]:
    """A curve for each variant, over the levels at which any was measured."""
    levels = sorted({entry.level for entry in entries})
    found = {(entry.variant, entry.level): entry for entry in entries}
    return {
        variant: curve_of(levels, [found.get((variant, level)) for level in levels])
        for variant in variants
    }


def _set_levels(axes: "Axes", levels: np.ndarray, *, log: bool, room: float) -> None:
    """A tick at each level, with its text where that has room in axes of `room` inches."""
    scaled = np.log(levels) if log else levels
    margin = 0.05 * (scaled[-1] - scaled[0]) or 0.5
    low, high = scaled[0] - margin, scaled[-1] + margin
    if log:
        axes.set_xscale("log")
    axes.set_xlim(*(np.exp([low, high]) if log else (low, high)))
    texts = [f"{level:g}" for level in levels]
    if levels[0] >= 0 and levels[-1] < 1:  # shares
        texts = [text.lstrip("0") or "0" for text in texts]
    inches = (scaled - low) / (high - low) * room
    last = 0
    for index, right in itertools.islice(enumerate(inches), 1, None):
        widths = drawing.text_width(texts[last]) + drawing.text_width(texts[index])
        if right - inches[last] < widths / 2 + 0.08:
            texts[index] = ""
        else:
            last = index
    axes.set_xticks(levels, texts)
    axes.minorticks_off()

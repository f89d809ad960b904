"""One figure of how a model came to its answer: attention, logits, saliency, moments over time.

Blue is what the model says, the darker the more; orange what people said.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import BLUE, GREY, INK, ORANGE
from flashvtg_jax.figures.prediction import (
    ROW,
    TIME_AXIS,
    draw_bars,
    draw_moments,
    draw_saliency,
    draw_table,
    format_score,
    set_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from flashvtg_jax.figures.inspected import Inspection

MAX_MOMENTS = 8
MAX_QUERIES = 20  # moment queries

# Inches.
_WIDTH = 10.5
_LONGEST_NAME = 1.5  # of a word
_TITLE = 0.33  # above the axes of a panel
_WORD = 0.2
_WORDS = 5.0  # all words together, at most
_NARROWEST_NAME = 0.115  # rows that are narrower share a name
_LEVEL = 0.2
_CURVE = 1.2
_CURVE_ALONE = 1.9
_SCALE = 0.09

_BADGE = 0.022  # width of the rank of a moment, of the time axis
_MAX_COLUMNS = 1200  # of a heat map; more could not be seen


@dataclasses.dataclass(frozen=True)
class _Panel:
    """A part of the figure: axes of a height in inches under a title."""

    title: str
    height: float
    draw: Callable[["Axes"], None]


def plot_inspection(inspection: "Inspection", path: str | os.PathLike | None = None) -> "Figure":
    """Draw how a model came to its answer for a query, over one time axis.

    From top to bottom: the attention of each clip to each word, and to all dummy tokens together;
    the logits of each point of the pyramid, a row for each level, as each score head has them and
    mixed, with the ranks of the best moments at the points that they come from (or the windows of
    moment queries); the saliency; the best moments that non-maximum suppression leaves. What people
    said is orange: a shade behind all of it, and lines over the colours, which stay as they are.
    Each heat map has a scale of its own, at its right. In a long video a column stands for several
    clips: it is the greatest value of theirs, of dummy tokens the least.

    Args:
      inspection: what `inspect_query` returns.
      path: a .png or .svg file to write.

    Returns the figure, which belongs to no window and no pyplot state.
    Raises DataError for another kind of file, or if it cannot be written.
    """
    if path is not None:
        drawing.check_format(path)
    texts = [inspection.query, inspection.qid, inspection.vid, *(inspection.words or ())]
    with drawing.drawing(drawing.clean_text(" ".join(map(str, texts)))):
        figure = _draw(inspection)
        drawing.save_figure(figure, path)
    return figure


def _draw(inspection: "Inspection") -> "Figure":
    panels = [_attention_panel(inspection)]
    if inspection.dummy_attention is not None:
        panels.append(_dummy_panel(inspection))
    panels += [*_score_panels(inspection), _saliency_panel(inspection)]
    if inspection.kept_moments is not None:
        panels.append(_moment_panel(inspection))
    heights = [panel.height + (_TITLE if panel.title else 0.0) for panel in panels]
    figure, body = drawing.new_figure(
        _WIDTH, sum(heights) + TIME_AXIS, inspection.query, [_about(inspection)]
    )
    grid = body.add_gridspec(len(panels), 1, height_ratios=heights)
    end = _end(inspection)
    for panel, place in zip(panels, grid, strict=True):
        axes = body.add_subplot(place)
        axes.set_title(panel.title, size=9, color=GREY)
        drawing.set_time_axis(axes, end, label=panel is panels[-1])
        axes.patch.set_visible(False)
        panel.draw(axes)
        axes.set_xlim(0, end)
    # One shade behind all panels, whose places the layout has found by now.
    drawing.lay_out(figure)
    first, last = (figure.axes[index].get_position(original=True) for index in (0, len(panels) - 1))
    behind = body.add_axes((last.x0, last.y0, last.width, first.y1 - last.y0), zorder=-1)
    behind.set_xlim(0, end)
    behind.set_axis_off()
    for start, stop in inspection.windows:
        behind.axvspan(start, stop, facecolor=drawing.shade(ORANGE, 0.22), gid="truth-behind")
    return figure


def _about(inspection: "Inspection") -> str:
    duration = inspection.duration
    parts = [drawing.format_time(duration, hours=duration >= 3600, decimals=int(duration < 10))]
    parts.append(f"qid {inspection.qid}")
    if inspection.vid != inspection.qid:
        parts.append(f"video {inspection.vid}")
    parts += [f"split {inspection.split}", f"{inspection.run}, step {inspection.step:,}"]
    return " · ".join(parts)


def _end(inspection: "Inspection") -> float:
    """Of the time axis: that of the video, whose last clip may reach beyond it."""
    clips = len(inspection.saliency) * inspection.clip_length
    ends = [inspection.duration, *inspection.windows[:, 1]]
    return max([*ends, clips] if clips - inspection.duration >= inspection.clip_length else ends)


# --- heat maps


@functools.cache
def _color_map(name: str) -> "Colormap":
    """White to dark, ever darker: blue, of what the model says, or grey."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = {
        "blue": (drawing.shade(BLUE, 0.04), drawing.shade(BLUE, 0.35), BLUE, "#00253D"),
        "grey": ("white", GREY),
    }
    return LinearSegmentedColormap.from_list(name, shades[name])


def _draw_heat_map(
    axes: "Axes",
    height: float,
    values: np.ndarray,
    seconds: float,
    limits: tuple[float, float],
    colors: str = "blue",
    joined: np.ufunc = np.fmax,
) -> None:
    """Rows of values [R, N], each `seconds` long; not a number: nothing. A scale at the right.

    Of more values than can be seen, several are `joined` to one. `height` is that of the axes.
    """
    from matplotlib.ticker import FuncFormatter

    rows, count = values.shape
    size = math.ceil(count / _MAX_COLUMNS)
    values = joined.reduceat(values, range(0, count, size), axis=1)
    axes.grid(visible=False)
    image = axes.imshow(
        np.ma.masked_invalid(values),
        extent=(0, values.shape[1] * size * seconds, rows, 0),
        aspect="auto",
        interpolation="none",
        cmap=_color_map(colors),
        vmin=limits[0],
        vmax=limits[1],
    )
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color=drawing.FAINT)
    scale = axes.inset_axes((1.045, 1 - _SCALE / height, 0.12, _SCALE / height))
    look = {"orientation": "horizontal", "drawedges": False}
    bar = axes.figure.colorbar(image, scale, ticks=sorted(set(limits)), **look)
    bar.ax.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: drawing.format_power(float(f"{value:.2g}")))
    )
    bar.ax.tick_params(length=0, labelsize=8)
    bar.outline.set_visible(False)


def _draw_truth_edges(axes: "Axes", inspection: "Inspection") -> None:
    """People's windows over colours that a shade would falsify: their edges only."""
    edges = np.unique(inspection.windows)
    if not len(edges):
        return
    low, high = axes.get_ylim()
    for color, width in (("white", 2.2), (ORANGE, 1.1)):
        axes.vlines(edges, low, high, color=color, linewidth=width, gid="truth-edges")


def _attention_panel(inspection: "Inspection") -> _Panel:
    values = inspection.attention.T
    names = inspection.words or [str(number) for number in range(1, len(values) + 1)]
    row = min(_WORD, _WORDS / len(values))
    every = math.ceil(_NARROWEST_NAME / row)

    def draw(axes: "Axes") -> None:
        limits = (0.0, float(values.max()) or 1.0)
        _draw_heat_map(axes, row * len(values), values, inspection.clip_length, limits)
        if every == 1:
            axes.hlines(range(1, len(values)), *axes.get_xlim(), color=drawing.FAINT, linewidth=0.4)
        shown = [drawing.wrap_text(drawing.clean_text(x), _LONGEST_NAME)[0] for x in names[::every]]
        places = np.arange(0, len(values), every) + 0.5
        axes.set_yticks(places, shown, color=INK, size=min(9.0, 57 * row * every))
        _draw_truth_edges(axes, inspection)

    title = "attention of clips to words, mean over layers and heads"
    if inspection.dummy_attention is not None:
        title += "; in grey the rest, which dummy tokens catch"
    if inspection.words is None:
        title += " · rows by number: not as many as words"
    return _Panel(title, row * len(values), draw)


def _dummy_panel(inspection: "Inspection") -> _Panel:
    def draw(axes: "Axes") -> None:
        values, seconds = inspection.dummy_attention[None], inspection.clip_length
        _draw_heat_map(axes, _WORD, values, seconds, (0.0, 1.0), "grey", np.fmin)
        axes.set_yticks([0.5], ["dummies"])
        _draw_truth_edges(axes, inspection)

    return _Panel("", _WORD + 0.1, draw)


def _score_panels(inspection: "Inspection") -> list[_Panel]:
    """What each point was scored: a panel for each score head, and for what comes of them."""
    if inspection.query_moments is not None:
        return [_query_panel(inspection)]
    levels = inspection.levels
    names = ("intra_scale_logits", "inter_scale_logits", "logits")
    heads = [name for name in names if getattr(levels[0], name) is not None]
    about = ": a row for each level, named by its stride in clips" if len(levels) > 1 else ""
    if inspection.mix is None:  # one head, which is the score
        name = heads[0].replace("_scale_logits", "-scale logits")
        panels = [(f"{name}, the score of points{about}", "logits")]
    else:
        share = inspection.mix
        panels = [
            (f"intra-scale logits of points{about}", "intra_scale_logits"),
            ("inter-scale logits", "inter_scale_logits"),
            (f"logits of the score, {share:.2f} intra + {1 - share:.2f} inter", "logits"),
        ]
    if inspection.kept_moments is not None:
        title, name = panels[-1]
        panels[-1] = (f"{title}; numbers: where the moments below come from", name)
    return [
        _Panel(title, len(levels) * _LEVEL, functools.partial(_draw_levels, inspection, name))
        for title, name in panels
    ]


def _draw_levels(inspection: "Inspection", name: str, axes: "Axes") -> None:
    """The logits of one head, a row for each level; colours show how its points rank."""
    levels = inspection.levels
    finest = min(level.stride for level in levels)
    count = max(math.ceil(len(inspection.saliency) / finest), 1)
    rows = np.full((len(levels), count), np.nan)
    for row, level in zip(rows, levels, strict=True):
        values = np.repeat(getattr(level, name), round(level.stride / finest))
        row[: len(values)] = values
    known = rows[np.isfinite(rows)]
    limits = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    _draw_heat_map(axes, len(levels) * _LEVEL, rows, finest * inspection.clip_length, limits)
    axes.hlines(range(1, len(levels)), *axes.get_xlim(), color="white", linewidth=1.5)
    names = [f"{level.stride:g}" for level in levels]
    if len(levels) == 1:
        names = [f"stride {names[0]}"]
    axes.set_yticks(np.arange(len(levels)) + 0.5, names, color=INK)
    _draw_truth_edges(axes, inspection)
    if name == "logits" and inspection.kept_moments is not None:
        _draw_ranks(axes, inspection)


def _draw_ranks(axes: "Axes", inspection: "Inspection") -> None:
    """The rank of each moment that is shown at its point, where it does not hide a better one."""
    taken: list[tuple[int, float]] = []
    for rank, (level, point) in enumerate(inspection.origins[:MAX_MOMENTS], start=1):
        x = (point + 0.5) * inspection.levels[level].stride * inspection.clip_length
        apart = _BADGE * _end(inspection)
        if any(level == other and abs(x - near) < apart for other, near in taken):
            continue
        taken.append((level, x))
        badge = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": INK}
        badge["linewidth"] = 0.6
        look = {"ha": "center", "va": "center_baseline", "size": 7, "bbox": badge}
        axes.text(x, level + 0.5, str(rank), **look)


def _query_panel(inspection: "Inspection") -> _Panel:
    """The window of each moment query, by number, with its score."""
    moments = inspection.query_moments
    best = np.sort(np.argsort(-moments[:, 2], kind="stable")[:MAX_QUERIES])

    def draw(axes: "Axes") -> None:
        set_rows(axes, [str(query + 1) for query in best])
        draw_bars(axes, _end(inspection), moments[best], "query")
        scores = [(format_score(score),) for score in moments[best, 2]]
        draw_table(axes, scores, [INK] * len(best))

    title = "windows of the moment queries, by number, with their scores"
    if len(best) < len(moments):
        title = f"windows of the {len(best)} best of {len(moments)} moment queries, by number"
    return _Panel(title, len(best) * ROW, draw)


# --- curves and bars


def _saliency_panel(inspection: "Inspection") -> _Panel:
    def draw(axes: "Axes") -> None:
        saliency, seconds = inspection.saliency, inspection.clip_length
        draw_saliency(axes, saliency, inspection.ratings, seconds).patch.set_visible(False)
        axes.set_ylabel("")

    title = "saliency of clips, from 0 to 1 within the video"
    if inspection.ratings is not None:
        title += "; in orange the rating by people"
    return _Panel(title, _CURVE_ALONE if inspection.kept_moments is None else _CURVE, draw)


def _moment_panel(inspection: "Inspection") -> _Panel:
    count = len(inspection.kept_moments)
    moments, origins = inspection.kept_moments[:MAX_MOMENTS], inspection.origins[:MAX_MOMENTS]
    if inspection.query_moments is not None:
        about = "query", [str(point + 1) for _, point in origins]
    else:
        about = "stride", [f"{inspection.levels[level].stride:g}" for level, _ in origins]
    title = "moments, best first, after non-maximum suppression"
    if count > len(moments):
        title = f"the {len(moments)} best of {count} moments after non-maximum suppression"

    def draw(axes: "Axes") -> None:
        draw_moments(axes, _end(inspection), inspection.windows, moments, title, about)

    rows = int(len(inspection.windows) > 0) + max(1, len(moments)) + 1  # the title stands in one
    return _Panel("", rows * ROW, draw)

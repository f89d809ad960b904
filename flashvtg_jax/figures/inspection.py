"""One figure of how a model came to its answer: attention, logits, saliency, moments over time.

Blue is what the model says, the darker the more; orange what people said.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import BLUE, BROWN, EN_DASH, GREY, INK, ORANGE
from flashvtg_jax.figures.prediction import bar_strengths, draw_saliency, format_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from flashvtg_jax.figures.inspected import Inspection

MAX_MOMENTS = 8
MAX_QUERIES = 20  # moment queries

# Inches.
_WIDTH = 10.5
_MARGIN = 0.25
_LEFT = 0.85  # of the axes, at least: names of rows stand there
_LONGEST_NAME = 1.5
_RIGHT = 2.1  # scales, times and scores stand there, or more where they need it
_RIGHT_ALONE = 1.25  # scales, where there are no moments
_TITLE_LINE = 0.27
_SUBTITLE_LINE = 0.22
_HEADER = 0.36
_WORD = 0.2
_WORDS = 5.0  # all words together, at most
_NARROWEST_NAME = 0.115  # rows that are narrower share a name
_LEVEL = 0.2
_STRIP = 0.2
_STRIP_GAP = 0.06
_BADGE = 0.15
_CURVE = 1.2
_CURVE_ALONE = 1.9
_ROW = 0.25
_TIME_AXIS = 0.55
_SCALE = (0.85, 0.09)
_NARROWEST_BAR = 0.03

_MAX_TITLE_LINES = 4
_MAX_COLUMNS = 1200  # of a heat map; more could not be seen

Ruler = Callable[[str], float]


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where panels stand in a figure: inches from its upper left corner."""

    figure: "Figure"
    left: float
    width: float
    right: float  # of the axes to the figure's edge
    end: float  # of the time axis, seconds

    def axes(self, top: float, height: float, **times: Any) -> "Axes":
        """Axes that share the time axis, see-through where nothing is drawn."""
        axes = drawing.add_axes(self.figure, self.left, top, self.width, height)
        drawing.set_time_axis(axes, self.end, self.width, **times)
        axes.patch.set_visible(False)
        return axes


@dataclasses.dataclass(frozen=True)
class _Panel:
    """A part of the figure: a line that says what it is, and below it the axes."""

    title: str
    height: float
    draw: Callable[[_Place, float], None]  # given where its axes begin


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
    with drawing.drawing():
        figure = _draw(inspection)
        if path is not None:
            drawing.save_figure(figure, path)
    return figure


def _draw(inspection: "Inspection") -> "Figure":
    query = drawing.clean_text(inspection.query)
    about = drawing.clean_text(_about(inspection))
    families = drawing.font_families(query + about)
    scratch = drawing.new_figure(1, 1)
    rulers = {size: drawing.text_ruler(scratch, size, families) for size in (9, 13)}
    text_width = _WIDTH - 2 * _MARGIN
    title = drawing.wrap_text(query, text_width, rulers[13], _MAX_TITLE_LINES)
    subtitle = drawing.wrap_text(about, text_width, rulers[9])[0]

    names = _word_names(inspection, rulers[9])
    left = max(_LEFT, _MARGIN + 0.15 + max(map(rulers[9], names)))
    table = _table(inspection)
    columns = [max(map(rulers[9], column)) for column in zip(*table, strict=True)]
    least = _RIGHT_ALONE if inspection.kept_moments is None else _RIGHT
    right = max(least, 0.15 + sum(columns) + 0.2 * (len(columns) - 1) + _MARGIN)
    panels = [
        _attention_panel(inspection, names, families),
        *_score_panels(inspection),
        _saliency_panel(inspection),
    ]
    if inspection.kept_moments is not None:
        panels.append(_moment_panel(inspection, table, columns))

    head = _MARGIN + len(title) * _TITLE_LINE + _SUBTITLE_LINE
    height = head + sum(_HEADER + panel.height for panel in panels) + _TIME_AXIS
    figure = drawing.new_figure(_WIDTH, height)
    for index, line in enumerate(title):
        y = 1 - (_MARGIN + (index + 0.6) * _TITLE_LINE) / height
        figure.text(_MARGIN / _WIDTH, y, line, size=13, family=families)
    y = 1 - (head - 0.1) / height
    figure.text(_MARGIN / _WIDTH, y, subtitle, size=9, family=families, color=GREY)

    place = _Place(figure, left, _WIDTH - left - right, right, _end(inspection))
    behind = place.axes(head, height - head - _TIME_AXIS, label=False)
    behind.set_axis_off()
    behind.set_zorder(-1)
    for start, end in inspection.windows:
        behind.axvspan(start, end, facecolor=drawing.shade(ORANGE, 0.22), gid="truth-behind")
    top = head
    for panel in panels:
        y = 1 - (top + _HEADER - 0.09) / height
        figure.text(left / _WIDTH, y, panel.title, color=GREY)
        panel.draw(place, top + _HEADER)
        top += _HEADER + panel.height
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


def _word_names(inspection: "Inspection", ruler: Ruler) -> list[str]:
    words = inspection.words
    if words is None:
        return [str(number) for number in range(1, inspection.attention.shape[1] + 1)]
    cleaned = (drawing.clean_text(word) for word in words)
    return [drawing.wrap_text(word, _LONGEST_NAME, ruler)[0] for word in cleaned]


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
    place: _Place,
    top: float,
    row_height: float,
    values: np.ndarray,
    seconds: float,
    limits: tuple[float, float],
    colors: str = "blue",
    joined: np.ufunc = np.fmax,
) -> "Axes":
    """Rows of values [R, N], each `seconds` long; not a number: nothing. A scale at the right.

    Of more values than can be seen, several are `joined` to one.
    """
    rows, count = values.shape
    size = math.ceil(count / _MAX_COLUMNS)
    values = joined.reduceat(values, range(0, count, size), axis=1)
    length = values.shape[1] * size * seconds
    axes = place.axes(top, rows * row_height, label=False)
    axes.grid(visible=False)
    axes.imshow(
        np.ma.masked_invalid(values),
        extent=(0, length, rows, 0),
        aspect="auto",
        interpolation="none",
        cmap=_color_map(colors),
        vmin=limits[0],
        vmax=limits[1],
    )
    axes.set_xlim(0, place.end)
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color=drawing.FAINT)
    _draw_scale(place, top, limits, colors)
    return axes


def _draw_scale(place: _Place, top: float, limits: tuple[float, float], colors: str) -> None:
    """A small bar of the colours with the values of its ends, right of a heat map."""
    width, height = _SCALE
    left = place.left + place.width + 0.15
    axes = drawing.add_axes(place.figure, left, top, width, height)
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=_color_map(colors))
    axes.set_axis_off()
    look = {"transform": axes.transAxes, "va": "top", "size": 8, "color": GREY}
    for x, value, side in zip((0, 1), limits, ("left", "right"), strict=True):
        axes.text(x, -0.3, drawing.format_power(float(f"{value:.2g}")), ha=side, **look)


def _draw_truth_edges(axes: "Axes", inspection: "Inspection") -> None:
    """People's windows over colours that a shade would falsify: their edges only."""
    edges = np.unique(inspection.windows)
    if not len(edges):
        return
    low, high = axes.get_ylim()
    for color, width in (("white", 2.2), (ORANGE, 1.1)):
        axes.vlines(edges, low, high, color=color, linewidth=width, gid="truth-edges")


def _attention_panel(
    inspection: "Inspection", names: Sequence[str], families: Sequence[str]
) -> _Panel:
    count = len(names)
    row = min(_WORD, _WORDS / count)
    height = count * row
    has_dummies = inspection.dummy_attention is not None

    def draw(place: _Place, top: float) -> None:
        values = inspection.attention.T
        limits = (0.0, float(values.max()) or 1.0)
        axes = _draw_heat_map(place, top, row, values, inspection.clip_length, limits)
        if row > _NARROWEST_NAME:
            axes.hlines(range(1, count), 0, place.end, color=drawing.FAINT, linewidth=0.4)
        every = math.ceil(_NARROWEST_NAME / row)
        shown = range(0, count, every)
        axes.set_yticks([index + 0.5 for index in shown], [names[index] for index in shown])
        for label in axes.get_yticklabels():
            label.set(family=families, color=INK, size=min(9.0, 57 * row * every))
        _draw_truth_edges(axes, inspection)
        if has_dummies:
            strip, seconds = inspection.dummy_attention[None], inspection.clip_length
            below, limits = top + height + _STRIP_GAP, (0.0, 1.0)
            axes = _draw_heat_map(place, below, _STRIP, strip, seconds, limits, "grey", np.fmin)
            axes.set_yticks([0.5], ["dummies"])
            _draw_truth_edges(axes, inspection)

    title = "attention of clips to words, mean over layers and heads"
    if has_dummies:
        title += "; in grey the rest, which dummy tokens catch"
    if inspection.words is None:
        title += " · rows by number: not as many as words"
    return _Panel(title, height + (_STRIP_GAP + _STRIP if has_dummies else 0.0), draw)


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


def _draw_levels(inspection: "Inspection", name: str, place: _Place, top: float) -> None:
    """The logits of one head, a row for each level; colours show how its points rank."""
    levels = inspection.levels
    finest = min(level.stride for level in levels)
    count = max(math.ceil(len(inspection.saliency) / finest), 1)
    rows = np.full((len(levels), count), np.nan)
    for row, level in zip(rows, levels, strict=True):
        values = np.repeat(getattr(level, name), round(level.stride / finest))
        row[: len(values)] = values
    seconds = finest * inspection.clip_length
    known = rows[np.isfinite(rows)]
    limits = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    axes = _draw_heat_map(place, top, _LEVEL, rows, seconds, limits)
    axes.hlines(range(1, len(levels)), 0, place.end, color="white", linewidth=1.5)
    names = [f"{level.stride:g}" for level in levels]
    if len(levels) == 1:
        names = [f"stride {names[0]}"]
    axes.set_yticks([index + 0.5 for index in range(len(levels))], names)
    for label in axes.get_yticklabels():
        label.set_color(INK)
    _draw_truth_edges(axes, inspection)
    if name == "logits" and inspection.kept_moments is not None:
        _draw_ranks(axes, inspection, place)


def _draw_ranks(axes: "Axes", inspection: "Inspection", place: _Place) -> None:
    """The rank of each moment that is shown at its point, where it does not hide a better one."""
    taken: list[tuple[int, float]] = []
    apart = _BADGE / place.width * place.end
    for rank, (level, point) in enumerate(inspection.origins[:MAX_MOMENTS], start=1):
        stride = inspection.levels[level].stride
        x = (point + 0.5) * stride * inspection.clip_length
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

    def draw(place: _Place, top: float) -> None:
        axes = _bar_axes(place, top, [str(query + 1) for query in best], label=False)
        _draw_bars(axes, place, moments[best], "query", 0)
        x = 1 + 0.15 / place.width
        for row, score in enumerate(moments[best, 2]):
            look = {"va": "center_baseline", "transform": axes.get_yaxis_transform()}
            axes.text(x, row + 0.5, format_score(score), **look)

    title = "windows of the moment queries, by number, with their scores"
    if len(best) < len(moments):
        title = f"windows of the {len(best)} best of {len(moments)} moment queries, by number"
    return _Panel(title, len(best) * _ROW, draw)


# --- curves and bars


def _saliency_panel(inspection: "Inspection") -> _Panel:
    alone = inspection.kept_moments is None
    height = _CURVE_ALONE if alone else _CURVE

    def draw(place: _Place, top: float) -> None:
        axes = place.axes(top, height, label=alone)
        behind = draw_saliency(
            axes, inspection.saliency, inspection.ratings, inspection.clip_length
        )
        behind.patch.set_visible(False)
        axes.set_xlim(0, place.end)
        axes.set_ylabel("")

    title = "saliency of clips, from 0 to 1 within the video"
    if inspection.ratings is not None:
        title += "; in orange the rating by people"
    return _Panel(title, height, draw)


def _table(inspection: "Inspection") -> list[tuple[str, str, str]]:
    """Times, score and origin of each row of the moments; a first row of headings."""
    moments = inspection.kept_moments
    if moments is None:
        return [("", "", "")]
    end = _end(inspection)
    shown = [*inspection.windows, *moments[:MAX_MOMENTS, :2]]
    decimals = int(end <= 60 and any((np.asarray(window) % 1).any() for window in shown))

    def span(start: float, stop: float) -> str:
        ends = (
            drawing.format_time(time, hours=end >= 3600, decimals=decimals)
            for time in (start, stop)
        )
        return f" {EN_DASH} ".join(ends)

    by_query = inspection.query_moments is not None
    table = [(f"start {EN_DASH} end", "score", "query" if by_query else "stride")]
    windows = inspection.windows
    if len(windows):
        one = len(windows) == 1
        table.append((span(*windows[0]) if one else f"{len(windows)} windows", "", ""))
    for (start, stop, score), (level, point) in zip(
        moments[:MAX_MOMENTS], inspection.origins[:MAX_MOMENTS], strict=True
    ):
        origin = str(point + 1) if by_query else f"{inspection.levels[level].stride:g}"
        table.append((span(start, stop), format_score(score), origin))
    return table


def _moment_panel(
    inspection: "Inspection", table: Sequence[tuple[str, str, str]], columns: Sequence[float]
) -> _Panel:
    moments = inspection.kept_moments[:MAX_MOMENTS]
    first = int(len(inspection.windows) > 0)
    names = ["truth"] * first + [str(rank + 1) for rank in range(max(1, len(moments)))]

    def draw(place: _Place, top: float) -> None:
        axes = _bar_axes(place, top, names, label=True)
        _draw_bars(axes, place, inspection.windows, "truth", 0)
        _draw_bars(axes, place, moments, "moment", first)
        across = axes.get_yaxis_transform()
        ends = place.right - _MARGIN - np.cumsum([0, *(0.2 + np.array(columns[:0:-1]))])[::-1]
        places = [(0.15, "left"), *((end, "right") for end in ends[1:])]
        for row, texts in enumerate(table, start=-1):
            color = GREY if row < 0 else BROWN if row < first else INK
            for text, (x, side) in zip(texts, places, strict=True):
                look = {"ha": side, "va": "center_baseline", "color": color, "transform": across}
                if text:
                    axes.text(1 + x / place.width, row + 0.5, text, **look)
        if not len(moments):
            look = {"va": "center_baseline", "color": GREY, "transform": across}
            axes.text(0.01, first + 0.5, "no moments predicted", **look)

    count = len(inspection.kept_moments)
    title = "moments, best first, after non-maximum suppression"
    if count > len(moments):
        title = f"the {len(moments)} best of {count} moments after non-maximum suppression"
    return _Panel(title, len(names) * _ROW, draw)


def _bar_axes(place: _Place, top: float, names: Sequence[str], *, label: bool) -> "Axes":
    """Axes of a row for each name, from top to bottom."""
    axes = place.axes(top, len(names) * _ROW, label=label)
    axes.set_ylim(len(names), 0)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks([row + 0.5 for row in range(len(names))], names)
    for text in axes.get_yticklabels():
        text.set_color(BROWN if text.get_text() == "truth" else INK)
    return axes


def _draw_bars(axes: "Axes", place: _Place, windows: np.ndarray, name: str, first_row: int) -> None:
    """Windows [N, 2], all in one row, or moments [N, 3], each in its own, darker by score."""
    scored = windows.shape[1] == 3
    strengths = bar_strengths(windows[:, 2]) if scored and len(windows) else [1.0] * len(windows)
    for index, ((start, end), strength) in enumerate(zip(windows[:, :2], strengths, strict=True)):
        length = max(end - start, _NARROWEST_BAR / place.width * place.end)
        start = max(0.0, min(start, place.end - length))
        look = {"color": ORANGE}
        if scored:
            face = drawing.shade(BLUE, strength)
            look = {"facecolor": face, "edgecolor": BLUE, "linewidth": 0.7}
        row = first_row + (index if scored else 0)
        axes.barh(row + 0.5, length, left=start, height=0.68, gid=f"{name}-{index + 1}", **look)

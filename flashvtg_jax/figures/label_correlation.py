"""The figure of the study `label_correlation`: labels in moments, ratings, agreement."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import BLUE, EN_DASH, GREY, INK, LOOKS, VERMILLION
from flashvtg_jax.metrics import label_measures as measures
from flashvtg_jax.metrics import label_sums
from flashvtg_jax.metrics.label_measures import Measurement, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Inches.
_WIDTH = 11.0
_MOMENTS = 4.2  # the panels about moments, and the legend
_AROUND = 1.5  # ratings: their title, ticks and legend
_LINE = 0.19  # of a data set or category
_NAME = 1.85  # of these, and of a file in the legend

# Rows of the panel of variances: a heading, or a measure and its name.
_VARIANCES = (
    "label: its parts add up to 100 %",
    (measures.MEMBERSHIP, "inside or outside"),
    (measures.AMONG_QUERIES, "query"),
    (measures.AMONG_MOMENTS, "moment of a query"),
    (measures.AMONG_CLIPS, "clip of a moment"),
    (measures.AMONG_OUTSIDE, "clip outside"),
    "yes or no: inside or outside explains",
    (measures.LEVELS["Fair"], "rated 2 or more"),
    (measures.LEVELS["Good"], "rated 3 or more"),
    (measures.LEVELS["VeryGood"], "rated 4 or more"),
)


def draw_label_correlation(entries: Sequence[Measurement], path: str | Path) -> None:
    """Draws the measures of the study: labels inside moments on top, ratings and agreement below.

    Categories of one video are left out. The same measures give the same bytes.

    Raises:
      DataError: the figure cannot be written.
    """
    table = measures.by_category(entries)
    names = drawing.clean_text("".join(map("".join, table)))
    with drawing.drawing(names):
        drawing.save_figure(_draw(table), path)


def _draw(table: Table) -> "Figure":
    moments = {
        dataset: row
        for (dataset, category), row in table.items()
        if measures.MOMENTS in row and category == measures.ALL
    }
    lines = {
        key: row
        for key, row in table.items()
        if key[1] == measures.ALL or row[measures.VIDEOS].value > 1
    }
    heights = [_MOMENTS] * bool(moments) + [_LINE * _places(lines)[1] + _AROUND]
    title = "How saliency labels relate to moments" if moments else "Saliency labels"
    about = "label: mean rating of a clip's annotators · 95 % bootstrap intervals over videos"
    figure, body = drawing.new_figure(_WIDTH, sum(heights), title, [about])
    parts = body.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if moments:
        _draw_moments(parts[0], moments)
    _draw_lines(parts[-1], lines)
    return figure


# --- labels inside moments


def _draw_moments(part: "SubFigure", files: Mapping[str, Row]) -> None:
    from matplotlib.lines import Line2D

    draws = (_draw_sums, _draw_course, _draw_variance)
    for draw, axes in zip(draws, part.subplots(1, len(draws)), strict=True):
        draw(axes, files)
    handles = [
        Line2D([], [], color=color, linestyle=line, marker=marker, markersize=4, label=_short(name))
        for name, (color, line, marker) in zip(files, _looks(files), strict=True)
    ]
    look = {"ncols": 4, "handlelength": 2.6, "borderaxespad": 1.2}
    part.legend(handles=handles, loc="outside upper left", **look)


def _looks(files: Mapping[str, Row]) -> list[tuple]:
    return [LOOKS[index % len(LOOKS)] for index in range(len(files))]


def _draw_sums(axes: "Axes", files: Mapping[str, Row]) -> None:
    """Shares of clips by their label."""
    axes.set_title("labels inside moments, % of clips")
    axes.set_xlabel("label of a clip")
    axes.grid(axis="y")
    counted = False
    for row, (color, line, marker) in zip(files.values(), _looks(files), strict=True):
        sums = measures.sum_measures(row)
        labels = np.array([float(value) for value in sums]) / row[measures.ANNOTATORS].value
        shares = _column(row, sums.values())
        if not len(labels) or np.isnan(shares[0]).all():
            continue
        counted = True
        look = {"color": color, "linestyle": line, "marker": marker, "markersize": 3.5}
        axes.plot(labels, 100 * shares[0], linewidth=1.5, gid="sums", **look)
        axes.fill_between(labels, *(100 * shares[1:]), color=color, alpha=0.15, linewidth=0)
    if not counted:
        _write_instead(axes, "too many different labels to count")
        return
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    drawing.set_value_ticks(axes, 5)


def _draw_course(axes: "Axes", files: Mapping[str, Row]) -> None:
    """The mean label in each tenth of the moments."""
    axes.set_title("mean label within a moment")
    axes.set_xlabel("% of a moment of 3 clips and more")
    axes.grid(axis="y")
    tenths = np.arange(label_sums.TENTHS)
    places = 100 * (tenths + 0.5) / label_sums.TENTHS
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100])
    for row, (color, line, marker) in zip(files.values(), _looks(files), strict=True):
        means = _column(row, map(measures.course_name, tenths))
        if np.isnan(means[0]).all():
            continue
        look = {"color": color, "linestyle": line, "marker": marker, "markersize": 3.5}
        axes.plot(places, means[0], linewidth=1.5, gid="course", **look)
        axes.fill_between(places, *means[1:], color=color, alpha=0.15, linewidth=0)
    if not axes.lines:
        _write_instead(axes, "no moment of 3 rated clips")
        return
    # To half points, so that a small difference looks small.
    low, high = axes.dataLim.intervaly
    axes.set_ylim(np.floor(2 * low - 0.1) / 2, np.ceil(2 * high + 0.1) / 2)
    drawing.set_value_ticks(axes, 6)


def _draw_variance(axes: "Axes", files: Mapping[str, Row]) -> None:
    """What explains how much of the variance: one bar a file and part."""
    axes.set_title("what explains the variance of labels")
    axes.set_xlabel("% of the variance over all clips")
    axes.set_xlim(0, 125)  # with room for numbers
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.grid(axis="x")
    thickness = 0.8 / len(files)
    names = {}
    rows = list(_VARIANCES)
    if not any(file[measures.AMONG_OUTSIDE].value for file in files.values()):
        rows.remove((measures.AMONG_OUTSIDE, "clip outside"))  # nothing is rated there
    for place, row in enumerate(rows):
        if isinstance(row, str):
            look = {"color": GREY, "size": 8, "va": "center"}
            axes.text(1, place, row, bbox={"pad": 1, "facecolor": "white", "linewidth": 0}, **look)
            continue
        measure, names[place] = row
        values = np.stack([100 * _column(file, [measure])[:, 0] for file in files.values()])
        for index, (color, _, _) in enumerate(_looks(files)):
            y = place - 0.4 + (index + 0.5) * thickness
            axes.barh(y, values[index, 0], 0.85 * thickness, color=color, gid="variance")
            axes.plot(values[index, 1:], [y, y], color=INK, linewidth=0.8)
        known = values[~np.isnan(values[:, 0])]
        if len(known):
            ends = known[:, 0].min(), known[:, 0].max()
            text = EN_DASH.join(dict.fromkeys(f"{value:.1f}" for value in ends))
            axes.text(np.nanmax(known) + 2, place, text, size=8, va="center")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(list(names), names.values())
    axes.tick_params(axis="y", length=0, labelcolor=INK)


# --- ratings and agreement, a line for each data set and category


def _places(table: Table) -> tuple[dict[tuple[str, str], float], float]:
    """Where each data set and category stands, and how many lines there are in all."""
    places, place = {}, 0.0
    for key in table:
        if places and key[1] == measures.ALL:
            place += 0.5
        places[key] = place + 0.5
        place += 1
    return places, place


def _draw_lines(part: "SubFigure", table: Table) -> None:
    places, count = _places(table)
    ratings, agreement = part.subplots(1, 2, width_ratios=[0.58, 0.42])
    for axes in (ratings, agreement):
        axes.set_ylim(count, 0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    ratings.set_yticks(
        list(places.values()), [_short(a if b == measures.ALL else b) for a, b in places]
    )
    ratings.tick_params(axis="y", length=0)
    for label, (_, category) in zip(ratings.get_yticklabels(), places, strict=True):
        whole = category == measures.ALL
        label.set(color=INK if whole else GREY, size=9 if whole else 8.5)
    _draw_ratings(ratings, table, places)
    _draw_agreement(agreement, table, places)


def _draw_ratings(axes: "Axes", table: Table, places: Mapping[tuple[str, str], float]) -> None:
    """Bars in parts: the share of each rating."""
    from matplotlib.ticker import FixedLocator

    axes.set_title("single ratings, % of each value, from low to high")
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    axes.set_xlabel("% of ratings, inside moments where there are any")
    for key, row in table.items():
        names = measures.rating_measures(row)
        shares = 100 * _column(row, names.values())[0]
        if not len(shares) or np.isnan(shares).any():
            axes.text(1, places[key], f"more than {measures.MAX_VALUES} values", **_NOTE)
            continue
        start = 0.0
        for index, (value, share) in enumerate(zip(names, shares, strict=True)):
            strength = 0.1 + 0.9 * index / max(len(shares) - 1, 1)
            color = drawing.shade(BLUE, strength)
            look = {"left": start, "color": color, "edgecolor": "white", "linewidth": 0.6}
            axes.barh(places[key], share, 0.82, gid="ratings", **look)
            if share >= 3:
                look = {"ha": "center", "va": "center", "size": 7.5}
                look["color"] = "white" if strength > 0.5 else INK
                axes.text(start + share / 2, places[key] + 0.03, value, **look)
            start += share


_NOTE = {"color": GREY, "size": 8, "va": "center"}


def _draw_agreement(axes: "Axes", table: Table, places: Mapping[tuple[str, str], float]) -> None:
    """Dots with intervals: alpha, and the mean correlation of two annotators."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title("agreement between annotators")
    axes.grid(axis="x")
    looks = {
        measures.ALPHA: (BLUE, "o", -0.17, "Krippendorff's alpha"),
        measures.PAIRS_PEARSON: (VERMILLION, "D", 0.17, "correlation of two annotators"),
    }
    handles = {}
    for key, row in table.items():
        if measures.ALPHA not in row:
            continue
        for name, (color, marker, offset, label) in looks.items():
            value, low, high = _column(row, [name])[:, 0]
            y = places[key] + offset
            size = 4.5 if key[1] == measures.ALL else 3.2
            (handles[label],) = axes.plot(
                value, y, marker, color=color, markersize=size, linestyle="", gid="agreement"
            )
            axes.plot([low, high], [y, y], color=color, linewidth=1.1)
    if not handles:
        axes.grid(False)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
    else:
        low, high = axes.dataLim.intervalx
        axes.set_xlim(min(0.0, low - 0.03), max(0.4, min(high + 0.03, 1.02)))
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_xlabel("0: by chance, 1: the same ratings, the same order")
    for key, row in table.items():
        if measures.ALPHA not in row and key[1] == measures.ALL:
            look = {"transform": axes.get_yaxis_transform(), "backgroundcolor": "white"}
            axes.text(0.03, places[key], "one annotator a clip", **_NOTE, **look)
    if handles:
        look = {"ncols": 2, "handletextpad": 0.2, "columnspacing": 1.2, "fontsize": 8.5}
        axes.figure.legend(handles.values(), handles.keys(), loc="outside lower right", **look)


def _column(row: Row, names: Sequence[str]) -> np.ndarray:
    """[3, N] value, low and high of measures; NaN where there is none."""
    entries = [row[name] for name in names]
    parts = [[entry.value, entry.low, entry.high] for entry in entries]
    return np.array(parts, np.float64).reshape(-1, 3).T


def _write_instead(axes: "Axes", text: str) -> None:
    """A sentence in place of a panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)


def _short(name: str) -> str:
    """A name in one line."""
    return drawing.wrap_text(drawing.clean_text(name), _NAME)[0]

"""The figures of studies: variants beside the full model, scores by number of scales, curves."""

import dataclasses
import os
from collections.abc import Sequence

from flashvtg_jax.errors import DataError
from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.curves import (
    Curve,
    add_legend,
    curve_of,
    draw_bars,
    draw_line,
    looks_of,
    plot_panels,
    set_value_limits,
)
from flashvtg_jax.figures.drawing import GREY
from flashvtg_jax.figures.entries import (
    MAX_METRICS,
    WIDTH,
    Entry,
    drawable,
    metrics_of,
    note_of,
    reference_of,
    unique,
)
from flashvtg_jax.figures.forest import plot_forest
from flashvtg_jax.metrics.names import is_metric_name

_HEIGHT = 4.4  # inches, of the figure of scales
_NAME = 1.5  # inches, of strides that are no number of scales

# Metrics that a figure shows: these first, as far as they are there.
_ABLATION = ("MR-full-mAP", "MR-full-R1@0.5", "MR-full-R1@0.7", "HL-min-VeryGood-mAP", "HD-mAP")
_REFINEMENT = ("MR-full-mAP", "MR-full-R1@0.5", "MR-full-R1@0.7", "rank correlation")
_SCALE_CURVES = {
    "MR-full-mAP": "all moments",
    "MR-short-mAP": "short, \N{LESS-THAN OR EQUAL TO} 10 s",
    "MR-middle-mAP": "middle, 10 to 30 s",
    "MR-long-mAP": "long, > 30 s",
}


def plot_ablation(entries: Sequence[Entry], path: str | os.PathLike, *, title: str) -> None:
    """Draw what each variant gains or loses beside the full model, at most four metrics.

    A row is a variant, the full model on top; a column is a metric of which more is better. Dots
    are differences to the full model, lines their intervals, coloured where these leave out 0. The
    full model is the first variant without differences.

    Args:
      entries: of the study; means that are not finite are drawn as missing.
      path: a .png or .svg file to write.
      title: over the figure.

    Raises DataError if there is nothing to draw, or the file cannot be written.
    """
    plot_forest(entries, path, title, _ABLATION, of_differences=True)


def plot_refinement(entries: Sequence[Entry], path: str | os.PathLike, *, title: str) -> None:
    """Draw the scores of ways to mix intra-scale and inter-scale scores, at most four metrics.

    As `plot_ablation`, on the scale of the metric itself: dots are means, lines the intervals of
    the difference to the full model, laid at its mean, which is the dotted line.

    Raises DataError if there is nothing to draw, or the file cannot be written.
    """
    plot_forest(entries, path, title, _REFINEMENT, of_differences=False)


def plot_scales(entries: Sequence[Entry], path: str | os.PathLike, *, title: str) -> None:
    """Draw mAP of short, middle, long and all moments against the number of scales.

    Places are the levels of the entries; variants without a level, such as upsampled strides,
    stand right of them under their own name. Bars are standard deviations over seeds.

    Raises DataError if there is nothing to draw, or the file cannot be written.
    """
    drawing.check_format(path)
    entries = drawable(entries, path)
    there = metrics_of(entries)
    metrics = [metric for metric in _SCALE_CURVES if metric in there] or there[:MAX_METRICS]
    entries = [entry for entry in entries if entry.metric in metrics]
    levels = sorted({entry.level for entry in entries if entry.level is not None})
    named = unique(_place(entry) for entry in entries if entry.level is None)
    places = [*levels, *named]
    found = {(_place(entry), entry.metric): entry for entry in entries}
    if len(found) < len(entries):
        raise DataError(f"{path}: two variants have the same number of scales; name one instead")
    reference = reference_of(entries) if len(places) > 1 else None

    with drawing.drawing(title + "".join(map(str, named))):
        names = [_SCALE_CURVES.get(metric, metric) for metric in metrics]
        room = min(0.7 * WIDTH / len(places), _NAME)
        texts = [f"{level:g}" for level in levels]
        texts += ["\n".join(drawing.wrap_text(name, room, 3)) for name in named]
        notes = [note_of(entries) + (" · shaded: the full model" if reference else "")]
        figure, body = drawing.new_figure(WIDTH, _HEIGHT, title, notes)
        axes = body.subplots()
        axes.set_title("mAP of moments, %" if metrics[0] in _SCALE_CURVES else "score")
        axes.grid(axis="y")
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_xticks(range(len(places)), texts)
        axes.tick_params(axis="x", length=0)
        if levels:
            axes.set_xlabel("number of scales K", x=len(levels) / len(places) / 2)
        if named and levels:
            axes.axvline(len(levels) - 0.5, color=GREY, linewidth=0.8)
        for entry in entries:
            if entry.variant == reference and entry.metric == metrics[0]:
                x = places.index(_place(entry))
                axes.axvspan(x - 0.5, x + 0.5, color="0.95", linewidth=0, zorder=0)
        curves = []
        for index, metric in enumerate(metrics):
            aside = 0.05 * (index - (len(metrics) - 1) / 2)  # bars do not hide one another
            values = [found.get((place, metric)) for place in places]
            curves.append(curve_of([x + aside for x in range(len(places))], values))
        set_value_limits(axes, curves)
        handles = []
        for name, curve, (color, line, marker) in zip(
            names, curves, looks_of(len(curves)), strict=True
        ):
            draw_bars(axes, curve, (color, line, marker))
            # No line leads to what is no number of scales.
            for part, style in ((slice(len(levels)), line), (slice(len(levels), None), "none")):
                piece = Curve(curve.x[part], curve.mean[part], curve.std[part])
                draw_line(axes, piece, (color, style, marker), name)
            handles.append(axes.lines[-2 if levels else -1])
        add_legend(body, handles)
        drawing.save_figure(figure, path)


def plot_robustness(
    entries: Sequence[Entry],
    path: str | os.PathLike,
    *,
    title: str,
    x_label: str = "strength of the perturbation",
) -> None:
    """Draw the first metric against the strength of perturbations, a panel for each kind.

    The kind is the entry's condition, the strength its level, a curve is a variant. Conditions
    without a level above 0, and "", are of unperturbed videos: every panel shows them at strength
    0. Bands are standard deviations over seeds.

    Raises DataError if there is nothing to draw, or the file cannot be written.
    """
    drawing.check_format(path)
    entries = drawable(entries, path)
    metric = entries[0].metric
    entries = [entry for entry in entries if entry.metric == metric]
    kinds = unique(entry.condition for entry in entries if entry.condition and entry.level)
    clean = [entry for entry in entries if entry.condition not in kinds]
    clean = [dataclasses.replace(entry, level=0.0) for entry in clean]
    panels = {}
    for kind in kinds:
        of_kind = [
            entry for entry in entries if entry.condition == kind and entry.level is not None
        ]
        measured = {entry.variant for entry in of_kind if entry.level == 0}
        at_zero = [entry for entry in clean if entry.variant not in measured]
        panels[kind] = [*at_zero, *of_kind]
    if not kinds:
        raise DataError(f"{path}: no entry has a condition and a level; there is no curve to draw")
    percent = ", %" if is_metric_name(metric) else ""
    notes = [f"{metric}{percent}: {note_of(entries)}"]
    plot_panels(panels, path, title, notes, x_label=x_label, log_x=False, same_y=True)


def plot_long_videos(
    entries: Sequence[Entry],
    path: str | os.PathLike,
    *,
    title: str,
    x_label: str = "length of the video, minutes",
) -> None:
    """Draw each metric against the length of videos, a panel for each; a curve is a variant.

    Lengths are the levels of the entries, on a logarithmic scale; so are seconds and memory where
    they vary much. Bands are standard deviations over seeds.

    Raises DataError if there is nothing to draw, or the file cannot be written.
    """
    drawing.check_format(path)
    entries = [entry for entry in drawable(entries, path) if entry.level is not None]
    if not entries:
        raise DataError(f"{path}: no entry has a level; there is no curve to draw")
    panels = {
        metric: [entry for entry in entries if entry.metric == metric]
        for metric in metrics_of(entries)
    }
    notes = [note_of(entries)]
    plot_panels(panels, path, title, notes, x_label=x_label, log_x=True, same_y=False)


def _place(entry: Entry) -> float | str:
    """Along x: the number of scales, or the name of what is none."""
    return (entry.condition or entry.variant) if entry.level is None else entry.level

"""The curves of a training run: losses by step, gradient norm, scores on the validation split."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvtg_jax.errors import DataError, FlashVTGError
from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import BLUE, GREY, LOOKS
from flashvtg_jax.json_lines import numbered, read_json_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
_WIDTH = 11.0
_LARGE = 3.3  # rows of panels
_SMALL = 1.95

_MAX_SCORES = 5
_MAX_POINTS = 1000  # of a curve
# Where a scale becomes logarithmic: how many times the size of others the greatest value has.
_LOG_FROM = 6.0  # positive values: of half of them
_SYMLOG_FROM = 100.0  # values of both signs: of the least fifth of them
_TERMS = (
    "classification",
    "regression",
    "generalized_iou",
    "alignment",
    "saliency",
    "clip_aware",
)
# Of the selected metrics, then these, as many as are there.
_SCORES = (
    "MR-full-mAP",
    "MR-full-R1@0.5",
    "MR-full-R1@0.7",
    "MR-full-mIoU",
    "HL-min-VeryGood-mAP",
    "HL-min-VeryGood-Hit1",
    "HD-mAP",
)

Transform = Callable[[np.ndarray], np.ndarray]
Series = tuple[np.ndarray, np.ndarray]  # steps and values, [N] each


def plot_training(workdir: str | Path) -> Path | None:
    """Draw the curves of a run into its work directory: curves.png and curves.svg.

    Reads train.jsonl, evaluations.jsonl and config.json, of which only the first is needed.

    Returns the path of curves.png; None if no step was logged, as in the folder of several runs.
    Raises DataError if a log cannot be read, or a figure cannot be written.
    """
    workdir = Path(workdir).expanduser()
    steps = _read_rows(workdir / "train.jsonl")
    if not steps:
        return None
    evaluations = _read_rows(workdir / "evaluations.jsonl")
    name, selected = _read_config(workdir / "config.json")
    path = workdir / "curves.png"
    with drawing.drawing(name):
        figure = _draw(name, steps, evaluations, selected)
        for kind in drawing.FORMATS:
            drawing.save_figure(figure, path.with_suffix(f".{kind}"))
    return path


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, each with an integer "step"; [] if it is missing or empty."""
    try:
        if not path.stat().st_size:
            return []
    except OSError:
        return []
    rows = read_json_lines(path)
    for line, row in numbered(rows):
        if not isinstance(row.get("step"), int):
            raise DataError(f"{path}:{line}: no 'step'; is this the log of a run?")
    return rows


def _read_config(path: Path) -> tuple[str, Sequence[str]]:
    """Name and selection metrics of the run; what cannot be read is left out."""
    from flashvtg_jax.config import read_config

    try:
        config = read_config(path)
    except FlashVTGError:
        return "", ()
    domain = f" {config.data.domains[0]}" if len(config.data.domains) == 1 else ""
    return f"{config.name}{domain}, seed {config.seed}", tuple(config.train.selection_metrics)


def best_step(evaluations: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> int | None:
    """The step that training selects: the first with the highest mean of some metrics.

    An evaluation of the untrained model does not count. None if there is no other.
    """
    scores = {
        row["step"]: float(np.mean([row[name] for name in metrics]))
        for row in evaluations
        if row["step"] > 0 and metrics and all(row.get(name) is not None for name in metrics)
    }
    return max(scores, key=scores.get) if scores else None


def _draw(
    name: str,
    steps: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    selected: Sequence[str],
) -> "Figure":
    terms = {term: _series(steps, term) for term in _TERMS}
    # A term that the configuration switches off is 0 throughout.
    panels = {
        term.replace("_", "-"): series
        for term, series in terms.items()
        if len(series[1]) and series[1].any()
    }
    panels["gradient norm"] = _series(steps, "gradient_norm")
    last = int(steps[-1]["step"])
    best = best_step(evaluations, selected)
    about = [_count(last, "step")]
    if epochs := steps[-1].get("epoch"):
        about.append(_count(epochs, "epoch"))
    if best is not None:
        metrics = next(row for row in evaluations if row["step"] == best)
        score = np.mean([metrics[metric] for metric in selected])
        about.append(f"best {' + '.join(selected)} {score:.2f} at step {best:,} (dotted)")

    rows = -(-len(panels) // 3)
    heights = [_LARGE] + [_SMALL] * rows
    title = name or "training"
    figure, body = drawing.new_figure(_WIDTH, sum(heights), title, [" · ".join(about)])
    upper, lower = body.subfigures(2, 1, height_ratios=[_LARGE, _SMALL * rows])
    scores = {metric: _series(evaluations, metric) for metric in _chosen(evaluations, selected)}
    loss, *beside = upper.subplots(1, 2 if scores else 1, squeeze=False)[0]
    _draw_loss(loss, "total loss, weighted", _series(steps, "loss"), last, best)
    loss.set_xlabel("step")
    if scores:
        _draw_scores(*beside, scores, last, best)
        beside[0].set_xlabel("step")
    grid = lower.add_gridspec(rows, 3)
    for index, (term, series) in enumerate(panels.items()):
        axes = lower.add_subplot(grid[index])
        _draw_loss(axes, term, series, last, best)
        if index + 3 < len(panels):
            axes.tick_params(axis="x", labelbottom=False)
        else:
            axes.set_xlabel("step")
    return figure


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def _chosen(evaluations: Sequence[Mapping[str, Any]], selected: Sequence[str]) -> list[str]:
    """The metrics to show: those that select the best, then those that are usually quoted."""
    names = dict.fromkeys((*selected, *_SCORES))
    return [name for name in names if any(name in row for row in evaluations)][:_MAX_SCORES]


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> Series:
    """The steps at which a number was taken and is finite, and its values there."""
    taken = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    steps, values = np.array(taken, np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _draw_loss(axes: "Axes", title: str, series: Series, last: int, best: int | None) -> None:
    """Raw values, faint; over them their moving average, as it looks on the panel's scale."""
    steps, values = series
    _prepare(axes, title, last, best)
    if not len(values):
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_yticks([])
        return
    forward, backward = _set_scale(axes, values)
    if len(values) == 1:
        axes.plot(steps, values, "o", color=BLUE, markersize=5)
        return
    raw_steps, raw = _thinned(steps, values)
    axes.plot(raw_steps, raw, color=drawing.shade(BLUE, 0.3), linewidth=0.7, gid="raw")
    smooth_steps, smooth = _smoothed(steps, forward(values))
    axes.plot(smooth_steps, backward(smooth), color=BLUE, linewidth=1.7, gid="smooth")


def _prepare(axes: "Axes", title: str, last: int, best: int | None) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(title)
    axes.grid(axis="y")
    room = max(0.02 * last, 0.5)
    axes.set_xlim(-room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if best is not None:
        axes.axvline(best, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), gid="best")


def _set_scale(axes: "Axes", values: np.ndarray) -> tuple[Transform, Transform]:
    """Choose the y scale for some values; returns its coordinate and the way back."""
    sizes = np.abs(values[values != 0])
    small, usual, great = np.percentile(sizes, [20, 50, 100]) if len(sizes) else (1.0, 1.0, 1.0)
    smallest = 0.0
    if values.min() > 0 and great / usual > _LOG_FROM:
        axes.set_yscale("log")
    elif values.min() <= 0 and great / small > _SYMLOG_FROM:
        smallest = float(max(np.percentile(sizes, 5), great * 1e-9))
        axes.set_yscale("symlog", linthresh=smallest)
    transform = axes.yaxis.get_transform()
    forward, backward = transform.transform, transform.inverted().transform
    low, high = forward(np.array([values.min(), values.max()]))
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(*backward(np.array([low - room, high + room])))
    if axes.get_yscale() == "linear":
        drawing.set_value_ticks(axes, 4)
    else:
        drawing.set_log_ticks(axes, smallest)
        axes.set_title(f"{axes.get_title(loc='left')}, log scale")
    return forward, backward


def _thinned(steps: np.ndarray, values: np.ndarray) -> Series:
    """Least and greatest value of stretches of steps, where there are more than can be seen."""
    size = -(-2 * len(values) // _MAX_POINTS)
    if size <= 2:
        return steps, values
    starts = np.arange(0, len(values), size)
    extremes = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return np.repeat(steps[starts], 2), np.stack(extremes, axis=1).ravel()


def _smoothed(steps: np.ndarray, values: np.ndarray) -> Series:
    """The moving average over a thirtieth of the run, over less at its ends."""
    half = len(values) // 60
    sums = np.concatenate([[0.0], np.cumsum(values)])
    positions = np.unique(np.linspace(0, len(values) - 1, _MAX_POINTS).astype(int))
    low, high = np.maximum(positions - half, 0), np.minimum(positions + half + 1, len(values))
    return steps[positions], (sums[high] - sums[low]) / (high - low)


def _draw_scores(axes: "Axes", scores: Mapping[str, Series], last: int, best: int | None) -> None:
    """Curves of scores, named with their last values; a ring around what the best step has."""
    _prepare(axes, "scores on the validation split, %", last, best)
    for (metric, (steps, values)), (color, line, marker) in zip(
        scores.items(), LOOKS, strict=False
    ):
        axes.plot(
            steps,
            values,
            color=color,
            linestyle=line,
            linewidth=1.5,
            marker=marker if len(steps) <= 40 else None,
            markersize=4,
            gid=f"score-{metric}",
            label=f"{metric} {values[-1]:.2f}",
        )
        at_best = values[steps == best] if best is not None else []
        if len(at_best):
            look = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": color}
            axes.plot(best, at_best[0], marker="o", markeredgewidth=1.4, gid="best score", **look)
    axes.margins(y=0.06)
    drawing.set_value_ticks(axes, 7)
    curves = [line for line in axes.lines if (line.get_gid() or "").startswith("score-")]
    curves.sort(key=lambda line: -line.get_ydata()[-1])  # as they end, from top to bottom
    drawing.name_curves(axes, curves)

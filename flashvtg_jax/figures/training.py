"""The curves of a training run: losses by step, gradient norm, scores on the validation split."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvtg_jax.errors import DataError, FlashVTGError
from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import BLUE, GREY, INK, LOOKS
from flashvtg_jax.json_lines import numbered, read_json_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
_WIDTH = 11.0
_MARGIN = 0.3
_HEAD = 0.85
_LEFT = 0.75  # of each panel, for its values
_TOP = 0.4  # of each panel, for its title
_BOTTOM = 0.55  # of the last panel of a column, for steps
_LARGE = 2.5
_SMALL = 1.55
_NAMES = 1.95  # right of the scores

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
    with drawing.drawing():
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
    """The step that training selects: of the first highest mean of some numbers.

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
    columns = 3
    rows = -(-len(panels) // columns)
    height = _HEAD + _TOP + _LARGE + _BOTTOM + rows * (_TOP + _SMALL) + _BOTTOM
    figure = drawing.new_figure(_WIDTH, height)
    last = int(steps[-1]["step"])
    best = best_step(evaluations, selected)

    title = name or "training"
    about = [_count(last, "step")]
    if epochs := steps[-1].get("epoch"):
        about.append(_count(epochs, "epoch"))
    if best is not None:
        numbers = next(row for row in evaluations if row["step"] == best)
        score = np.mean([numbers[metric] for metric in selected])
        about.append(f"best {' + '.join(selected)} {score:.2f} at step {best:,} (dotted)")
    for text, y, size, color in ((title, 0.42, 13, INK), (" · ".join(about), 0.68, 9, GREY)):
        figure.text(_MARGIN / _WIDTH, 1 - y / height, text, size=size, color=color)

    scores = {metric: _series(evaluations, metric) for metric in _chosen(evaluations, selected)}
    large = _WIDTH - _MARGIN - (_NAMES if scores else _MARGIN)
    width = large / 2 - _LEFT if scores else large - _LEFT
    axes = drawing.add_axes(figure, _LEFT, _HEAD + _TOP, width, _LARGE)
    _draw_loss(axes, "total loss, weighted", _series(steps, "loss"), last, best)
    axes.set_xlabel("step")
    if scores:
        axes = drawing.add_axes(figure, _LEFT + large / 2, _HEAD + _TOP, width, _LARGE)
        _draw_scores(axes, scores, last, best)
        axes.set_xlabel("step")

    top = _HEAD + _TOP + _LARGE + _BOTTOM
    width = (_WIDTH - _MARGIN) / columns - _LEFT
    for index, (term, series) in enumerate(panels.items()):
        row, column = divmod(index, columns)
        left = _LEFT + column * (width + _LEFT)
        axes = drawing.add_axes(figure, left, top + _TOP + row * (_TOP + _SMALL), width, _SMALL)
        _draw_loss(axes, term, series, last, best)
        if index + columns < len(panels):
            axes.tick_params(axis="x", labelbottom=False)
        else:
            axes.set_xlabel("step")
    return figure


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def _chosen(evaluations: Sequence[Mapping[str, Any]], selected: Sequence[str]) -> list[str]:
    """The numbers to show, of those that were taken: what selects the best, then what is quoted."""
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

    axes.set_title(title, loc="left")
    axes.grid(axis="y")
    room = max(0.02 * last, 0.5)
    axes.set_xlim(-room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if best is not None:
        axes.axvline(best, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), gid="best")


def _set_scale(axes: "Axes", values: np.ndarray) -> tuple[Transform, Transform]:
    """Choose the y scale for some values; returns its coordinate and the way back."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    sizes = np.abs(values[values != 0])
    small, usual, great = np.percentile(sizes, [20, 50, 100]) if len(sizes) else (1.0, 1.0, 1.0)
    if values.min() > 0 and great / usual > _LOG_FROM:
        axes.set_yscale("log")
        forward, backward, smallest = np.log, np.exp, 0.0
    elif values.min() <= 0 and great / small > _SYMLOG_FROM:
        smallest = float(max(np.percentile(sizes, 5), great * 1e-9))
        axes.set_yscale("symlog", linthresh=smallest)
        transform = axes.yaxis.get_transform()
        forward, backward = transform.transform, transform.inverted().transform
    else:
        forward, backward, smallest = np.positive, np.positive, None
    low, high = forward(np.array([values.min(), values.max()]))
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(*backward(np.array([low - room, high + room])))
    if smallest is None:
        drawing.set_value_ticks(axes, 4)
        return forward, backward
    axes.yaxis.set_major_locator(FixedLocator(_powers(values, smallest, forward)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(drawing.format_power))
    axes.set_title(f"{axes.get_title(loc='left')}, log scale", loc="left")
    return forward, backward


def _powers(values: np.ndarray, smallest: float, forward: Transform) -> list[float]:
    """Ticks for a logarithmic scale: as many round numbers as have room, 0 and powers of ten first.

    None is nearer to 0 than `smallest`.
    """
    low, high = values.min(), values.max()
    exponents = range(-9, 16)
    candidates = [0.0] + [
        sign * digit * 10.0**exponent
        for digit in (1, 2, 5)
        for exponent in reversed(exponents)
        for sign in (1, -1)
    ]
    height = forward(np.array([low, high]))
    apart = (height[1] - height[0]) / 5
    ticks: list[tuple[float, float]] = []
    for value in candidates:
        if not low <= value <= high or 0 < abs(value) < smallest:
            continue
        place = float(forward(np.array([value]))[0])
        if all(abs(place - other) >= apart for _, other in ticks):
            ticks.append((value, place))
    return [value for value, _ in ticks]


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
    """Curves of scores with their names at the right end; a ring around what the best step gave."""
    _prepare(axes, "scores on the validation split, %", last, best)
    values = np.concatenate([series[1] for series in scores.values()])
    room = 0.06 * (values.max() - values.min()) or 1.0
    axes.set_ylim(values.min() - room, values.max() + room)
    drawing.set_value_ticks(axes, 7)
    for (metric, (steps, numbers)), (color, line, marker) in zip(
        scores.items(), LOOKS, strict=False
    ):
        few = len(steps) <= 40
        axes.plot(
            steps,
            numbers,
            color=color,
            linestyle=line,
            linewidth=1.5,
            marker=marker if few else None,
            markersize=4,
            gid=f"score-{metric}",
        )
        at_best = numbers[steps == best] if best is not None else []
        if len(at_best):
            look = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": color}
            axes.plot(best, at_best[0], marker="o", markeredgewidth=1.4, gid="best score", **look)
    _name_curves(axes, scores)


def _name_curves(axes: "Axes", scores: Mapping[str, Series]) -> None:
    """Names and last values right of the axes, as near to their curves as they fit."""
    low, high = axes.get_ylim()
    height = 0.2 / _LARGE  # of a line of text
    wanted = {name: (series[1][-1] - low) / (high - low) for name, series in scores.items()}
    order = sorted(wanted, key=lambda name: wanted[name])
    places = drawing.spread_places([wanted[name] for name in order], height)
    colors = dict(zip(scores, LOOKS, strict=False))
    for name, place in zip(order, places, strict=True):
        text = f"{name} {scores[name][1][-1]:.2f}"
        color = drawing.darker(colors[name][0])
        look = {"va": "center", "size": 8.5, "color": color, "transform": axes.transAxes}
        axes.text(1.02, place, text, **look)

"""The figures of `report.py`: throughput against batch size, scaling, ratios against PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import BLUE, GREY, INK, LOOKS, VERMILLION
from flashvtg_jax.figures.files import safe_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Result = Mapping[str, Any]

_COLORS = [color for color, _, _ in LOOKS]
_MARKERS = [marker for _, _, marker in LOOKS]
_ATTENTION = {"full": BLUE, "windowed": VERMILLION}
_PROGRAM = {"training": "-", "inference": "--"}

# Rows of compare_pytorch, as people call them.
COMPARED = {
    "forward": "forward",
    "forward_1": "forward, one query",
    "train_step": "training step",
    "evaluate": "evaluation with NMS",
    "scoring": "scoring",
    "epoch": "training epoch",
}

_LOG_FROM = 10.0  # times the least value that the greatest has where an axis is logarithmic


def write_figures(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draws what there are results of; returns the files."""
    figures: dict[str, Figure] = {}
    with drawing.drawing():
        rows = _rows(results, "train_step")
        if rows:
            curves = _curves(rows, "samples_per_second")
            figures["training"] = _throughput("training throughput", "samples a second", curves)
        rows = _rows(results, "evaluate")
        if rows:
            curves = _curves(rows, "queries_per_second")
            figures["evaluation"] = _throughput(
                "evaluation throughput, end to end", "queries a second", curves
            )
        for result in results:
            if result["benchmark"] == "scaling" and _measured(result.get("clips", ())):
                name = f"scaling_{safe_name(result['file']).removeprefix('scaling_')}"
                figures[name.removesuffix("_scaling")] = _scaling(result)
        compared = [
            r for r in results if r["benchmark"] == "compare_pytorch" and _measured(r["rows"])
        ]
        if compared:
            figures["pytorch"] = _ratios(compared)
        paths = [folder / f"{name}.png" for name in figures]
        for path, figure in zip(paths, figures.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing.save_figure(figure, path)
    return paths


def _measured(rows: Sequence[Result]) -> list[Result]:
    return [row for row in rows if "skipped" not in row]


def _rows(results: Sequence[Result], benchmark: str) -> list[Result]:
    """The rows of all results of a benchmark, with their device and precision."""
    found = []
    for result in results:
        if result["benchmark"] == benchmark:
            about = {"device": result["device"], "dtype": result.get("dtype")}
            found += [{**about, **row} for row in _measured(result.get("rows", ()))]
    return found


def _curves(rows: Sequence[Result], key: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each device and precision, batch sizes and the median of what was measured."""
    curves: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.get(key) is not None:
            curves.setdefault(f"{row['device']}, {row['dtype']}", {})[row["batch_size"]] = row[key]
    return {
        name: (np.array(sorted(points)), np.array([points[size] for size in sorted(points)]))
        for name, points in curves.items()
    }


def _throughput(
    title: str, unit: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> "Figure":
    """Curves against batch size, both axes logarithmic."""
    figure, (axes,) = _panels(title, "", 6.4, 3.8)
    for index, (name, (sizes, values)) in enumerate(curves.items()):
        look = {"color": _COLORS[index % len(LOOKS)], "marker": _MARKERS[index % len(LOOKS)]}
        axes.plot(sizes, values, label=name, linewidth=1.5, markersize=4.5, **look)
    _log_axes(axes, "batch size", unit)
    values = np.concatenate([values for _, values in curves.values()])
    if values.max() < _LOG_FROM * values.min():
        axes.set_yscale("linear")
        axes.set_ylim(0, 1.1 * values.max())
        drawing.set_value_ticks(axes, 6)
    _set_sizes(axes, {size for sizes, _ in curves.values() for size in sizes})
    _legend(axes)
    return figure


def _scaling(result: Result) -> "Figure":
    """Time and memory against clips, with the line of the fitted exponent."""
    title = "time and memory against the length of the video"
    about = f"{result['device']} · {result['config']}, {result['dtype']}, one video"
    if result.get("attention_window"):
        about += f" · windows of {result['attention_window']} clips to each side"
    figure, panels = _panels(title, about, 11.0, 3.8, 2)
    rows = _measured(result["clips"])
    units = ("time, seconds", "temporary memory, GiB")
    for axes, what, unit in zip(panels, ("time", "memory"), units, strict=True):
        for kind in dict.fromkeys((row.get("attention"), row["program"]) for row in rows):
            attention, program = kind
            own = [r for r in rows if (r.get("attention"), r["program"]) == kind]
            sizes = np.array([row["clips"] for row in own])
            values = np.array([_value(row, what) for row in own])
            color = _ATTENTION.get(attention, GREY)
            look = {"color": color, "linestyle": _PROGRAM.get(program, "-")}
            label = program + (f", {attention}" if attention else "")
            exponent = _exponent(result, attention, program, what)
            if exponent is not None:
                label += f": clips^{exponent:.2f}"
            axes.plot(sizes, values, label=label, marker="o", markersize=4, linewidth=1.5, **look)
            if exponent is not None:
                _draw_fit(axes, sizes, values, exponent, color)
        _log_axes(axes, "clips", unit)
        _set_sizes(axes, {row["clips"] for row in rows})
        _legend(axes)
    return figure


def _value(row: Result, what: str) -> float:
    return row["seconds"]["median"] if what == "time" else row["temporary_mib"] / 2**10


def _exponent(result: Result, attention: str | None, program: str, what: str) -> float | None:
    for fit in result.get("fits", ()):
        about = (fit["against"], fit.get("attention"), fit["program"])
        if about == ("clips", attention, program):
            return fit[f"{what}_exponent"]
    return None


def _draw_fit(
    axes: "Axes", sizes: np.ndarray, values: np.ndarray, exponent: float, color: str
) -> None:
    """The line of an exponent through the larger half of the sizes, which it was fitted to."""
    half = slice(len(sizes) // 2, None)
    factor = np.exp(np.mean(np.log(values[half]) - exponent * np.log(sizes[half])))
    look = {"color": drawing.shade(color, 0.35), "linewidth": 5, "zorder": 1}
    axes.plot(sizes[half], factor * sizes[half] ** exponent, solid_capstyle="butt", **look)


def _ratios(results: Sequence[Result]) -> "Figure":
    """Bars of how many times ours is as fast, with the spread over pairs of turns."""
    there = {row["row"] for result in results for row in _measured(result["rows"])}
    names = [name for name in COMPARED if name in there]
    labels = [f"{result['device']}, {result['dtype']}" for result in results]
    about = f"{labels[0]}, same run" if len(results) == 1 else "on each device, same run"
    thick = 0.8 / len(results)
    height = max(1.6, 0.32 * len(names) * max(1.0, 0.6 * len(results)))
    title = "speed beside the authors' PyTorch code"
    figure, (axes,) = _panels(title, about, 7.05, height + 0.8)
    for index, result in enumerate(results):
        rows = {row["row"]: row for row in _measured(result["rows"])}
        for place, name in enumerate(names):
            if name not in rows:
                continue
            ratio, pairs = rows[name]["ratio"], rows[name]["paired_ratios"]
            y = place + (index - (len(results) - 1) / 2) * thick
            low, high = min(pairs["min"], ratio), max(pairs["max"], ratio)
            axes.barh(
                y,
                ratio - 1,
                left=1,
                height=0.85 * thick,
                color=drawing.shade(_COLORS[index % len(LOOKS)], 0.55),
                label=labels[index] if name == next(n for n in names if n in rows) else None,
            )
            axes.plot([low, high], [y, y], color=INK, linewidth=1)
            text = f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}"
            axes.annotate(
                f"{text}\N{MULTIPLICATION SIGN}",
                (max(high, 1), y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                size=8.5,
            )
    axes.set_xscale("log")
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(range(len(names)), [COMPARED[name] for name in names], color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    low, high = axes.get_xlim()
    low, high = min(low, 0.9), high * 1.4
    ticks = [d * 10.0**e for e in range(-3, 6) for d in (1, 2, 5) if low <= d * 10.0**e <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)
    axes.set_xlabel("times as fast (log scale); lines: from the worst pair of turns to the best")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    if len(results) > 1:
        _legend(axes, "lower right")
    return figure


def _panels(
    title: str, about: str, width: float, height: float, count: int = 1
) -> tuple["Figure", Sequence["Axes"]]:
    """A figure with a title, a line about it, and panels side by side; inches."""
    figure, body = drawing.new_figure(width, height, title, [about] if about else [])
    return figure, body.subplots(1, count, squeeze=False)[0]


def _log_axes(axes: "Axes", x: str, y: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.yaxis.set_major_formatter(FuncFormatter(drawing.format_power))
    axes.grid(axis="both")


def _set_sizes(axes: "Axes", sizes: set[int]) -> None:
    """Ticks at the sizes that were measured; at some of them, where they are many."""
    shown, last = [], 0.0
    for size in sorted(sizes):
        if size > 1.4 * last:
            shown, last = [*shown, size], size
    axes.set_xticks(shown, [str(size) for size in shown])
    axes.minorticks_off()


def _legend(axes: "Axes", place: str = "best") -> None:
    axes.legend(loc=place, frameon=True, framealpha=0.9, edgecolor="none", fontsize=8)

"""One figure for a query: saliency over time, and below it the moments that were found."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvtg_jax.clips import mean_ratings
from flashvtg_jax.errors import DataError
from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.drawing import BLUE, BROWN, EN_DASH, GREY, INK, ORANGE
from flashvtg_jax.metrics.relative_saliency import relative_saliency
from flashvtg_jax.metrics.scoring import Scoring, count_problem

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_MOMENTS = 10

# Inches.
_WIDTH = 10.0
_CURVE = 1.9
_CURVE_ALONE = 2.6
ROW = 0.25
TIME_AXIS = 0.55

_MAX_STEPS = 720  # of a curve; more would be finer than the lines they are drawn with
_SHORTEST = 0.0045  # of the time axis: bars of shorter moments would not be visible


@dataclasses.dataclass(frozen=True)
class _Content:
    """What a figure shows; times in seconds."""

    query: str
    about: str
    clip_length: float
    end: float  # of the time axis
    saliency: np.ndarray | None  # [L]
    ratings: np.ndarray | None  # [L'], of people; the mean over annotators
    moments: np.ndarray | None  # [K, 3] start, end, score; best first; None: none were asked for
    num_moments: int  # before all but the first were left out
    truth: np.ndarray  # [M, 2] start, end


def plot_prediction(
    prediction: Mapping[str, Any],
    annotation: Mapping[str, Any] | None = None,
    *,
    clip_length: float,
    label_clip_length: float | None = None,
    max_clips: int | None = None,
    path: str | os.PathLike | None = None,
) -> "Figure":
    """Draw what was predicted for a query: saliency over time, the ten best moments as bars.

    Blue is what the model says, orange what people said. Saliency is drawn from 0 to 1 within the
    video. Suppressed moments (of score 0) are left out.

    Args:
      prediction: a row of predictions.jsonl: `qid`, `query`, `vid`, and `pred_relevant_windows`
        ([[start, end, score], ...]), `pred_saliency_scores` (one a clip), or one of the two.
      annotation: of the same query; its `relevant_windows` and ratings are drawn, if it has any.
        Where it has a `label` for each clip, as in TVSum and YouTube Highlights, these share
        its `duration` evenly and `clip_length`, which is nominal there, is not used.
      clip_length: seconds.
      label_clip_length: seconds of the clips that its ratings are of; None: clip_length.
      max_clips: of a video that saliency was predicted for, at most; None: all.
      path: a .png or .svg file to write.

    Returns the figure, which belongs to no window and no pyplot state.
    Raises DataError if a field cannot be drawn, or the file cannot be written.
    """
    if path is not None:
        drawing.check_format(path)
    scoring = Scoring(clip_length, label_clip_length, max_clips)
    content = _read(prediction, annotation or {}, scoring)
    with drawing.drawing(content.query + content.about):
        figure = _draw(content)
        drawing.save_figure(figure, path)
    return figure


def _read(
    prediction: Mapping[str, Any],
    annotation: Mapping[str, Any],
    scoring: Scoring,
) -> _Content:
    """What there is to draw. Raises DataError if that is nothing, or not what it should be."""
    name = f"prediction of qid {prediction.get('qid')!r}"
    clip_length = scoring.clip_length
    saliency = _field(prediction, "pred_saliency_scores", (), name)
    moments = _field(prediction, "pred_relevant_windows", (3,), name)
    if saliency is None and moments is None:
        raise DataError(f"{name}: neither 'pred_saliency_scores' nor 'pred_relevant_windows'")
    if saliency is not None and not len(saliency):
        saliency = None

    noted = f"annotation of qid {annotation.get('qid')!r}"
    duration = annotation.get("duration")
    if duration is not None:
        duration = float(_array([duration], (), "duration", noted)[0])
    truth = _field(annotation, "relevant_windows", (2,), noted)
    label = _field(annotation, "label", (None,), noted)
    ratings = None if label is None else label.mean(axis=1)
    if label is not None and duration:
        clip_length = duration / len(label)
    elif duration:
        problem = saliency is not None and count_problem(len(saliency), duration, scoring)
        if problem:
            raise DataError(
                f"{name}: {problem}; were they predicted for clips of another length? "
                "--clip_length=SECONDS gives it"
            )
        ratings = _ratings(annotation, duration, clip_length, scoring.rated_clip_length, noted)

    count, shown = 0, moments
    if moments is not None:
        kept = moments[moments[:, 2] != 0]
        count = len(kept)
        shown = kept[np.argsort(-kept[:, 2], kind="stable")][:MAX_MOMENTS]
    truth = np.zeros((0, 2)) if truth is None else truth[np.argsort(truth[:, 0], kind="stable")]
    ends = [
        duration or 0.0,
        0.0 if saliency is None else len(saliency) * clip_length,
        *(() if shown is None else shown[:, 1]),
        *truth[:, 1],
    ]
    if duration and max(ends) - duration < clip_length:
        ends = [duration]  # the last clip may reach beyond the end of the video
    end = max(ends) if max(ends) > 0 else clip_length
    duration_text = drawing.format_time(end, hours=end >= 3600, decimals=int(end < 10))
    about = [duration_text]
    about += [f"qid {prediction['qid']}"] if prediction.get("qid") is not None else []
    if prediction.get("vid") is not None and prediction["vid"] != prediction.get("qid"):
        about.append(f"video {prediction['vid']}")
    query = prediction.get("query") or annotation.get("query") or "(no query)"
    return _Content(
        query=drawing.clean_text(str(query)),
        about=drawing.clean_text(" · ".join(about)),
        clip_length=clip_length,
        end=end,
        saliency=saliency,
        ratings=ratings,
        moments=shown,
        num_moments=count,
        truth=truth,
    )


def _field(
    row: Mapping[str, Any], field: str, shape: tuple[int | None, ...], name: str
) -> np.ndarray | None:
    value = row.get(field)
    return None if value is None else _array(value, shape, field, name)


def _array(value: Any, shape: tuple[int | None, ...], field: str, name: str) -> np.ndarray:
    """A list as an array [N, *shape]; DataError if it is none, or holds what is not finite."""
    wanted = {(): "numbers", (2,): "[start, end]", (3,): "[start, end, score]"}
    problem = f"{name}: {field!r} holds something else than {wanted.get(shape, 'lists of numbers')}"
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(problem) from error
    if not array.size and array.ndim:
        return np.zeros((0, *(size or 1 for size in shape)))
    fits = array.ndim == 1 + len(shape) and all(
        size in (None, found) for size, found in zip(shape, array.shape[1:], strict=True)
    )
    if not fits or not np.isfinite(array).all():
        raise DataError(problem)
    if shape in ((2,), (3,)) and (array[:, 1] < array[:, 0]).any():
        raise DataError(f"{name}: {field!r} holds a window that ends before it starts")
    return array


def _ratings(
    annotation: Mapping[str, Any],
    duration: float,
    clip_length: float,
    label_clip_length: float,
    name: str,
) -> np.ndarray | None:
    """The mean rating of each clip, 0 where nobody rated; None without ratings."""
    scores = _field(annotation, "saliency_scores", (None,), name)
    clips = _field(annotation, "relevant_clip_ids", (), name)
    if scores is None or clips is None or not len(scores):
        return None
    if len(scores) != len(clips) or (clips < 0).any():
        raise DataError(f"{name}: 'relevant_clip_ids' and 'saliency_scores' do not fit together")
    return mean_ratings(clips, scores, duration, clip_length, label_clip_length)


def _draw(content: _Content) -> "Figure":
    num_rows = int(len(content.truth) > 0)
    if content.moments is not None:
        num_rows += max(1, len(content.moments))
    heights = []
    if content.saliency is not None:
        heights.append(_CURVE if num_rows else _CURVE_ALONE)
    if num_rows:
        heights.append((num_rows + 1) * ROW)
    figure, body = drawing.new_figure(
        _WIDTH, sum(heights) + TIME_AXIS, content.query, [content.about]
    )
    grid = body.add_gridspec(len(heights), 1, height_ratios=heights)
    if content.saliency is not None:
        axes = body.add_subplot(grid[0])
        drawing.set_time_axis(axes, content.end, label=not num_rows)
        behind = draw_saliency(axes, content.saliency, content.ratings, content.clip_length)
        for start, end in content.truth:
            behind.axvspan(start, end, facecolor=drawing.shade(ORANGE, 0.22), zorder=0.5)
    if num_rows:
        axes = body.add_subplot(grid[-1])
        drawing.set_time_axis(axes, content.end)
        title = "moments, best first"
        if content.moments is not None and content.num_moments > len(content.moments):
            title = f"the {len(content.moments)} best of {content.num_moments} moments"
        draw_moments(axes, content.end, content.truth, content.moments, title)
    return figure


def draw_saliency(
    axes: "Axes", saliency: np.ndarray, ratings: np.ndarray | None, clip_length: float
) -> "Axes":
    """Draw the saliency of each clip [L]; behind it people's ratings [L'] on a scale of their own.

    Only the order of a video's clips has a meaning: the least salient is drawn at 0, the most
    salient at 1. Returns the axes that are behind, for what belongs there.
    """
    saliency = relative_saliency(saliency)
    axes.set_ylim(-0.06, 1.06)
    edges, mean, lowest, highest = _steps(saliency, clip_length)
    if len(mean) < len(saliency):
        axes.stairs(highest, edges, baseline=lowest, fill=True, color=drawing.shade(BLUE, 0.3))
    axes.stairs(mean, edges, baseline=None, color=BLUE, linewidth=1.6, gid="saliency")
    axes.set_ylabel("saliency, 0 to 1", color=BLUE)
    drawing.set_value_ticks(axes, 6)
    if ratings is None:
        return axes
    behind = axes.twinx()
    _draw_ratings(behind, ratings, clip_length)
    # The model's curve goes over the ratings, and these over the windows.
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    return behind


def _draw_ratings(axes: "Axes", ratings: np.ndarray, clip_length: float) -> None:
    from matplotlib.ticker import MaxNLocator

    edges, mean, *_ = _steps(ratings, clip_length)
    color = drawing.shade(ORANGE, 0.8)
    axes.stairs(mean, edges, baseline=None, color=color, linewidth=1.0, gid="ratings")
    high = ratings.max() or 1.0
    axes.set_ylim(-0.06 * high, 1.06 * high)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.set_ylabel("rating by people", color=BROWN)
    axes.tick_params(axis="y", colors=BROWN)
    axes.spines["right"].set(visible=True, color=ORANGE)


def _steps(values: np.ndarray, clip_length: float) -> tuple[np.ndarray, ...]:
    """Edges in seconds, then mean, least and greatest value between them.

    A step is a clip, or several clips of a long video.
    """
    size = math.ceil(len(values) / _MAX_STEPS)
    starts = np.arange(0, len(values), size)
    edges = np.append(starts, len(values)) * clip_length
    mean = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))
    return edges, mean, np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def draw_moments(
    axes: "Axes",
    end: float,
    truth: np.ndarray,
    moments: np.ndarray | None,
    title: str,
    origins: tuple[str, Sequence[str]] | None = None,
) -> None:
    """Draw people's windows in one row, then a row for each moment, best on top.

    Args:
      axes: with a time axis.
      end: of the time axis, seconds.
      truth: [M, 2] start, end.
      moments: [K, 3] start, end, score; best first. None: none were asked for.
      title: of the moments.
      origins: heading and texts [K] of one more column, right of times and scores.
    """
    times = truth.ravel() if moments is None else np.append(truth, moments[:, :2])
    decimals = int(end <= 60 and bool((times % 1).any()))

    def span(window: np.ndarray) -> str:
        texts = (drawing.format_time(t, hours=end >= 3600, decimals=decimals) for t in window)
        return f" {EN_DASH} ".join(texts)

    names, table = [], []
    if len(truth):
        names.append("truth")
        about = span(truth[0]) if len(truth) == 1 else f"{len(truth)} windows"
        table.append((about, "", *([""] if origins else [])))
        draw_bars(axes, end, truth, "truth")
    first = len(names)
    if moments is not None and len(moments):
        names += [str(rank + 1) for rank in range(len(moments))]
        more = [[text] for text in origins[1]] if origins else [[]] * len(moments)
        table += [
            (span(row[:2]), format_score(row[2]), *texts)
            for row, texts in zip(moments, more, strict=True)
        ]
        draw_bars(axes, end, moments, "moment", first)
    elif moments is not None:
        names.append("")
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        look = {"va": "center_baseline", "color": GREY, "bbox": paper}
        across = axes.get_yaxis_transform()
        axes.text(0.01, first + 0.5, "no moments predicted", transform=across, **look)
    set_rows(axes, names)
    colors = [BROWN] * first + [INK] * (len(table) - first)
    if len(table) > first:
        axes.text(0, -0.5, title, transform=axes.get_yaxis_transform(), va="center", color=GREY)
        table.append((f"start {EN_DASH} end", "score", *(origins[:1] if origins else [])))
        colors.append(GREY)
    draw_table(axes, table, colors)


def set_rows(axes: "Axes", names: Sequence[str]) -> None:
    """Make y rows with names, from top to bottom."""
    axes.set_ylim(len(names), 0)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks([row + 0.5 for row in range(len(names))], names)
    for label in axes.get_yticklabels():
        label.set_color(BROWN if label.get_text() == "truth" else INK)


def draw_bars(axes: "Axes", end: float, windows: np.ndarray, name: str, first_row: int = 0) -> None:
    """Draw windows [N, 2], all in one row, or moments [N, 3], each in its own, darker by score."""
    scored = windows.shape[1] == 3
    strengths = _bar_strengths(windows[:, 2]) if scored and len(windows) else [1.0] * len(windows)
    for index, (window, strength) in enumerate(zip(windows, strengths, strict=True)):
        length = max(window[1] - window[0], _SHORTEST * end)
        start = max(0.0, min(window[0], end - length))
        look = {"color": ORANGE}
        if scored:
            face = drawing.shade(BLUE, strength)
            look = {"facecolor": face, "edgecolor": BLUE, "linewidth": 0.7}
        row = first_row + (index if scored else 0) + 0.5
        axes.barh(row, length, left=start, height=0.68, gid=f"{name}-{index + 1}", **look)


def draw_table(axes: "Axes", table: Sequence[Sequence[str]], colors: Sequence[str]) -> None:
    """Write texts right of rows: the first column stands left, others right.

    A line more than the axes have rows is the headings.
    """
    points = [72 * max(map(drawing.text_width, column)) for column in zip(*table, strict=True)]
    num_rows = len(axes.get_yticks())
    for row, (texts, color) in enumerate(zip(table, colors, strict=True)):
        place = 1, (row if row < num_rows else -1) + 0.5
        for column, text in enumerate(texts):
            right = 10 + sum(points[: column + 1]) + 14 * column
            if text:
                axes.annotate(
                    text,
                    place,
                    xycoords=axes.get_yaxis_transform(),
                    xytext=(right if column else 10, 0),
                    textcoords="offset points",
                    annotation_clip=False,
                    ha="right" if column else "left",
                    va="center_baseline",
                    color=color,
                )


def _bar_strengths(scores: Sequence[float]) -> np.ndarray:
    """How dark each bar is, 0.15 to 1, in proportion to the score.

    Scores from 0 to 1, which ours are, can be compared from figure to figure.
    """
    low, high = min(0.0, np.min(scores)), max(1.0, np.max(scores))
    return 0.15 + 0.85 * (scores - low) / (high - low)


def format_score(score: float) -> str:
    """A score in few characters."""
    return f"{score:.3f}" if abs(score) < 1000 else f"{score:.3g}"

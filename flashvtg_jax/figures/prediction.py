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
_LEFT = 0.85  # of the axes: names of rows and saliency values stand left of them
_RIGHT = 2.0  # times and scores stand there, or more where they need it
_RIGHT_ALONE = 0.75  # ratings, where there are no rows
_MARGIN = 0.25
_TITLE_LINE = 0.27
_SUBTITLE_LINE = 0.26
_CURVE = 1.9
_CURVE_ALONE = 2.6
_HEADER = 0.34
_GAP = 0.1  # instead of a header
_ROW = 0.25
_TIME_AXIS = 0.55

_MAX_TITLE_LINES = 4
_MAX_STEPS = 720  # of a curve; more would be finer than the lines they are drawn with
_NARROWEST = 0.03  # inches: bars of the shortest moments stay visible


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
    with drawing.drawing():
        figure = _draw(content)
        if path is not None:
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
    saliency = _numbers(prediction, "pred_saliency_scores", (), name)
    moments = _numbers(prediction, "pred_relevant_windows", (3,), name)
    if saliency is None and moments is None:
        raise DataError(f"{name}: neither 'pred_saliency_scores' nor 'pred_relevant_windows'")
    if saliency is not None and not len(saliency):
        saliency = None

    noted = f"annotation of qid {annotation.get('qid')!r}"
    duration = annotation.get("duration")
    if duration is not None:
        duration = float(_array([duration], (), "duration", noted)[0])
    truth = _numbers(annotation, "relevant_windows", (2,), noted)
    label = _numbers(annotation, "label", (None,), noted)
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


def _numbers(
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
    scores = _numbers(annotation, "saliency_scores", (None,), name)
    clips = _numbers(annotation, "relevant_clip_ids", (), name)
    if scores is None or clips is None or not len(scores):
        return None
    if len(scores) != len(clips) or (clips < 0).any():
        raise DataError(f"{name}: 'relevant_clip_ids' and 'saliency_scores' do not fit together")
    return mean_ratings(clips, scores, duration, clip_length, label_clip_length)


def _draw(content: _Content) -> "Figure":
    families = drawing.font_families(content.query + content.about)
    text_width = _WIDTH - 2 * _MARGIN
    scratch = drawing.new_figure(1, 1)
    rulers = {size: drawing.text_ruler(scratch, size, families) for size in (9, 13)}
    title = drawing.wrap_text(content.query, text_width, rulers[13], _MAX_TITLE_LINES)
    subtitle = drawing.wrap_text(content.about, text_width, rulers[9])[0]

    num_truth = int(len(content.truth) > 0)
    rows = num_truth
    if content.moments is not None:
        rows += max(1, len(content.moments))
    curve = 0.0
    if content.saliency is not None:
        curve = _CURVE if rows else _CURVE_ALONE
    top = _MARGIN + len(title) * _TITLE_LINE + _SUBTITLE_LINE
    has_moments = content.moments is not None and len(content.moments)
    below = top + curve + (_HEADER if has_moments else _GAP if rows else 0.0)
    height = below + rows * _ROW + _TIME_AXIS
    figure = drawing.new_figure(_WIDTH, height)
    for index, line in enumerate(title):
        y = 1 - (_MARGIN + (index + 0.6) * _TITLE_LINE) / height
        figure.text(_MARGIN / _WIDTH, y, line, size=13, family=families)
    y = 1 - (top - 0.13) / height
    figure.text(_MARGIN / _WIDTH, y, subtitle, size=9, family=families, color=GREY)

    table = _table(content)
    right = _RIGHT_ALONE
    if any(times for _, times, _ in table[1:]):
        columns = [max(map(rulers[9], column)) for column in list(zip(*table, strict=True))[1:]]
        right = max(_RIGHT, 0.15 + columns[0] + 0.2 + columns[1] + _MARGIN)
    width = _WIDTH - _LEFT - right
    if curve:
        axes = drawing.add_axes(figure, _LEFT, top, width, curve)
        drawing.set_time_axis(axes, content.end, width, label=not rows)
        behind = draw_saliency(axes, content.saliency, content.ratings, content.clip_length)
        for start, end in content.truth:
            behind.axvspan(start, end, facecolor=drawing.shade(ORANGE, 0.22), zorder=0.5)
    if rows:
        axes = drawing.add_axes(figure, _LEFT, below, width, rows * _ROW)
        drawing.set_time_axis(axes, content.end, width)
        _draw_rows(axes, content, table, width, right)
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


def _table(content: _Content) -> list[tuple[str, str, str]]:
    """Name, times and score of each row; a first row of headings."""
    decimals = _decimals(content)

    def span(start: float, end: float) -> str:
        hours = content.end >= 3600
        ends = (drawing.format_time(t, hours=hours, decimals=decimals) for t in (start, end))
        return f" {EN_DASH} ".join(ends)

    table = [("", f"start {EN_DASH} end", "score")]
    truth, moments = content.truth, content.moments
    if len(truth):
        table.append(("truth", span(*truth[0]) if len(truth) == 1 else f"{len(truth)} windows", ""))
    if moments is not None and not len(moments):
        table.append(("", "", ""))
    elif moments is not None:
        for rank, (start, end, score) in enumerate(moments, start=1):
            table.append((str(rank), span(start, end), format_score(score)))
    return table


def _draw_rows(
    axes: "Axes",
    content: _Content,
    table: Sequence[tuple[str, str, str]],
    width: float,
    right: float,
) -> None:
    """People's windows, then the moments, best on top; times and scores right of them."""
    (_, *headings), *rows = table
    axes.set_ylim(len(rows), 0)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    across = axes.get_yaxis_transform()  # x: 0 left, 1 right; y: rows
    places = (1 + 0.15 / width, 1 + (right - _MARGIN) / width)

    def bar(row: int, start: float, end: float, gid: str, **look: Any) -> None:
        length = max(end - start, _NARROWEST / width * content.end)
        start = max(0.0, min(start, content.end - length))
        axes.barh(row + 0.5, length, left=start, height=0.68, gid=gid, **look)

    def write(row: float, texts: Sequence[str], color: str) -> None:
        for place, text, side in zip(places, texts, ("left", "right"), strict=True):
            look = {"ha": side, "va": "center_baseline", "color": color}
            if text:
                axes.text(place, row + 0.5, text, transform=across, **look)

    axes.set_yticks([index + 0.5 for index in range(len(rows))], [name for name, *_ in rows])
    first = int(len(content.truth) > 0)
    if first:
        for start, end in content.truth:
            bar(0, start, end, "truth", color=ORANGE)
        write(0, rows[0][1:], BROWN)
    for label in axes.get_yticklabels():
        label.set_color(BROWN if label.get_text() == "truth" else INK)
    moments = content.moments
    if moments is None:
        return
    if not len(moments):
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        look = {"va": "center_baseline", "color": GREY, "bbox": paper}
        axes.text(0.01, first + 0.5, "no moments predicted", transform=across, **look)
        return
    strengths = bar_strengths(moments[:, 2])
    for index, ((start, end, _), strength) in enumerate(zip(moments, strengths, strict=True)):
        face, row = drawing.shade(BLUE, strength), first + index
        bar(row, start, end, f"moment-{index + 1}", facecolor=face, edgecolor=BLUE, linewidth=0.7)
        write(row, rows[row][1:], INK)
    title = "moments, best first"
    if content.num_moments > len(moments):
        title = f"the {len(moments)} best of {content.num_moments} moments"
    axes.text(0, -0.5, title, transform=across, va="center_baseline", color=GREY)
    write(-1, headings, GREY)


def _decimals(content: _Content) -> int:
    """Decimals of seconds that times need: one in a video of at most a minute."""
    times = content.truth.ravel()
    if content.moments is not None:
        times = np.append(times, content.moments[:, :2])
    return int(content.end <= 60 and bool((times % 1).any()))


def bar_strengths(scores: Sequence[float]) -> np.ndarray:
    """How dark each bar is, 0.15 to 1, in proportion to the score.

    Scores from 0 to 1, which ours are, can be compared from figure to figure.
    """
    low, high = min(0.0, np.min(scores)), max(1.0, np.max(scores))
    return 0.15 + 0.85 * (scores - low) / (high - low)


def format_score(score: float) -> str:
    """A score in few characters."""
    return f"{score:.3f}" if abs(score) < 1000 else f"{score:.3g}"

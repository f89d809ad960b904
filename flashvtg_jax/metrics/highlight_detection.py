"""Highlight detection: mAP and HIT@1 of QVHighlights, and the average precisions of TVSum and
YouTube Highlights."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Num

from flashvtg_jax.metrics.arithmetic import percent, sum_selected

# The lowest rating (0 very bad ... 4 very good) that makes a clip a highlight.
RATING_LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}
TVSUM_RANKED_CLIPS = 5
DOMAINS_MEAN = "HD-mAP"  # the metric of TVSum and of YouTube Highlights


def highlight_detection_metrics(
    saliency: Sequence[Num[np.ndarray, " _"]], ratings: Sequence[Num[np.ndarray, "_ A"]]
) -> dict[str, float]:
    """Every highlight-detection metric of QVHighlights, in percent with two decimals.

    mAP cuts a score list longer than the video and fills a shorter one with zeros; HIT@1 takes
    the best of the scores as they are, and a clip past the end of the video is no hit.

    Args:
      saliency: for each query the score of every clip, [L'].
      ratings: for each query the ratings of every clip of the video by A annotators, [L, A] with
        L >= 1 and the same A for all.

    Returns:
      For each level (Fair, Good, VeryGood): `HL-min-LEVEL-mAP` and `HL-min-LEVEL-Hit1`.
    """
    values = highlight_detection_values(saliency, ratings)
    return {name: percent(np.mean(fractions)) for name, fractions in values.items()}


def highlight_detection_values(
    saliency: Sequence[Num[np.ndarray, " _"]], ratings: Sequence[Num[np.ndarray, "_ A"]]
) -> dict[str, np.ndarray]:
    """Each query's values of `highlight_detection_metrics`, for the same arguments.

    Returns:
      Fractions: [N, A] for mAP, one of each annotator, and [N] for HIT@1.
    """
    queries = np.arange(len(ratings))
    clips = np.array([len(row) for row in ratings])
    annotators = ratings[0].shape[1]
    rating = np.zeros((len(ratings), clips.max(), annotators))
    scores = np.full((len(ratings), clips.max()), -np.inf)
    for row, (row_ratings, row_scores) in enumerate(zip(ratings, saliency, strict=True)):
        rating[row, : clips[row]] = row_ratings
        scores[row, : clips[row]] = 0.0
        kept = min(clips[row], len(row_scores))
        scores[row, :kept] = row_scores[:kept]

    top = np.array([row.argmax() for row in saliency])
    top_in_video = top < clips
    best_rating = rating[queries, np.where(top_in_video, top, 0)].max(axis=1)

    order = np.argsort(-scores, axis=1, kind="stable")
    ranked_scores = np.take_along_axis(scores, order, axis=1)
    ranked_rating = np.take_along_axis(rating, order[..., None], axis=1)
    result = {}
    for level, lowest in RATING_LEVELS.items():
        values = np.zeros((len(ratings), annotators))
        for annotator in range(annotators):
            values[:, annotator] = interpolated_average_precision(
                ranked_scores, ranked_rating[..., annotator] >= lowest
            )
        result[f"HL-min-{level}-mAP"] = values
        result[f"HL-min-{level}-Hit1"] = top_in_video & (best_rating >= lowest)
    return result


def interpolated_average_precision(
    ranked_scores: Float[np.ndarray, "N L"], ranked_labels: Bool[np.ndarray, "N L"]
) -> Float[np.ndarray, " N"]:
    """Mean, over the distinct recalls above 0, of the best precision at that recall or above.

    Clips of equal score enter the curve together. A row without positives gives 0.

    Args:
      ranked_scores: [N, L] in descending order; padding is -inf.
      ranked_labels: [N, L] bool, False at padding.

    Returns:
      [N].
    """
    # A threshold keeps the clips up to the last of a group of equal scores.
    threshold = np.isfinite(ranked_scores)
    threshold[:, :-1] &= ranked_scores[:, :-1] != ranked_scores[:, 1:]
    found = np.cumsum(ranked_labels, axis=1)
    precision = np.where(threshold, found / np.arange(1, found.shape[1] + 1), 0.0)
    # From here on the lowest threshold comes first, where recall is 1.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)
    recall = (found / np.maximum(found[:, -1:], 1)).astype(np.float32)
    reached = np.maximum.accumulate(np.where(threshold, recall, 0), axis=1)
    gains = threshold.copy()
    gains[:, 0] &= reached[:, 0] > 0
    gains[:, 1:] &= reached[:, 1:] != reached[:, :-1]
    return sum_selected(precision, gains[:, ::-1]) / np.maximum(gains.sum(axis=1), 1)


def domain_metrics(
    saliency: Sequence[Num[np.ndarray, " _"]],
    labels: Sequence[Num[np.ndarray, "_ A"]],
    domains: Sequence[str] | None = None,
) -> dict[str, float]:
    """The metrics of TVSum (several annotators) or YouTube Highlights (one), in percent.

    Args:
      saliency: for each video the score of every clip, [L'].
      labels: for each video the ratings of every clip, [L, A] with the same A for all. A = 1:
        `youtube_average_precision`, else `tvsum_top5_average_precision`.
      domains: of each video; None: no domains.

    Returns:
      `HD-mAP`, the mean over domains of the domain's mean over its videos, so that a domain of
      few videos weighs as much as one of many; and `HD-mAP-DOMAIN` of each, in alphabetical order.
    """
    values = domain_values(saliency, labels, domains)
    precision = values.pop(DOMAINS_MEAN)
    if not values:
        return {DOMAINS_MEAN: percent(precision.mean())}
    means = {name: of_video[~np.isnan(of_video)].mean() for name, of_video in values.items()}
    return {DOMAINS_MEAN: percent(np.mean(list(means.values())))} | {
        name: percent(mean) for name, mean in means.items()
    }


def domain_values(
    saliency: Sequence[Num[np.ndarray, " _"]],
    labels: Sequence[Num[np.ndarray, "_ A"]],
    domains: Sequence[str] | None = None,
) -> dict[str, Float[np.ndarray, " N"]]:
    """Each video's values of `domain_metrics`, for the same arguments.

    Returns:
      Fractions [N], the average precision of each video; for a domain NaN where the video is of
      another one.
    """
    of_video = (
        youtube_average_precision if labels[0].shape[1] == 1 else tvsum_top5_average_precision
    )
    precision = np.array([of_video(*video) for video in zip(saliency, labels, strict=True)])
    names = np.array([] if domains is None else domains, object)
    return {DOMAINS_MEAN: precision} | {
        f"{DOMAINS_MEAN}-{name}": np.where(names == name, precision, np.nan)
        for name in sorted(set(names))
    }


def tvsum_top5_average_precision(saliency: np.ndarray, ratings: np.ndarray) -> float:
    """Average precision of the five top-scored clips of a TVSum video, mean over annotators.

    An annotator's highlights are the clips rated above that annotator's median (the lower one
    of two middle ratings); recall is relative to the highlights among the five clips, and an
    annotator without any there counts 0.

    Args:
      saliency: [L'] score of every clip. Scores beyond the rated clips do not count; clips
        without a score come last.
      ratings: [L, A] ratings by A annotators (20 in TVSum).

    Returns:
      A fraction in [0, 1].
    """
    ratings = np.asarray(ratings)
    lower_median = np.sort(ratings, axis=0)[(len(ratings) - 1) // 2]
    order = _ranking(saliency, len(ratings))[:TVSUM_RANKED_CLIPS]
    return float(np.mean(_trapezoid_average_precision((ratings > lower_median)[order].T)))


def youtube_average_precision(saliency: np.ndarray, labels: np.ndarray) -> float:
    """Average precision of the whole ranking of a YouTube Highlights video.

    Args:
      saliency: [L'] score of every clip. Scores beyond the labelled clips do not count; clips
        without a score come last, so that their highlights count as found late, not as none.
      labels: [L] or [L, 1], 1 for a highlight and 0 otherwise.

    Returns:
      A fraction in [0, 1], 0 without highlights.
    """
    labels = np.asarray(labels).reshape(-1)
    order = _ranking(saliency, len(labels))
    return float(_trapezoid_average_precision(labels[order] > 0))


def _ranking(saliency: np.ndarray, clips: int) -> np.ndarray:
    """Clips [L] by descending score, of equal ones the earlier first; clips not scored last.

    (The authors' evaluation leaves clips that were not scored out of the ranking and of the
    recall. There are none where features and labels are equally long; with fewer scores a single
    sure highlight would make a perfect video.)
    """
    scores = np.full(clips, -np.inf)
    kept = np.asarray(saliency)[:clips]
    scores[: len(kept)] = kept
    return np.argsort(-scores, kind="stable")


def _trapezoid_average_precision(ranked: Bool[np.ndarray, "... L"]) -> np.ndarray | np.floating:
    """Sum of recall step x mean of the previous and the current precision (1 at first).

    Args:
      ranked: [..., L] bool, whether each clip is a highlight, best clip first.

    Returns:
      [...], 0 where no clip is a highlight.
    """
    found = np.cumsum(ranked, axis=-1)
    precision = found / np.arange(1, ranked.shape[-1] + 1)
    previous = np.concatenate([np.ones_like(precision[..., :1]), precision[..., :-1]], axis=-1)
    step = ranked / np.maximum(found[..., -1:], 1)
    return np.sum(step * (previous + precision) / 2, axis=-1)

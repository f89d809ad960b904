"""How a trained model came to its answer for one query: attention, scores, moments.

`flashvtg_jax.figures.inspection.plot_inspection` draws it.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from flashvtg_jax.checkpoints.restore import restore
from flashvtg_jax.clips import mean_ratings
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.pipeline import example_batch
from flashvtg_jax.data.source import SplitSource, built_folder, open_split
from flashvtg_jax.decoding import (
    best_points,
    decode_as_evaluated,
    non_max_suppression,
    point_windows,
)
from flashvtg_jax.errors import DataError
from flashvtg_jax.figures.inspected import Inspection, Level
from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.models.pyramid import level_length

START_MARK, END_MARK = "[start]", "[end]"

_NEAREST = 5  # ids to name where one is not found
# What CLIP's tokenizer cuts a text into before it cuts rare words into parts.
_CLIP_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|(?:[^\w\s]|_)+", re.IGNORECASE)


def inspect_query(
    workdir: str | Path,
    qid: int | str,
    *,
    split: str | None = None,
    step: int | None = None,
    data_dir: str | Path | None = None,
) -> Inspection:
    """Runs a trained model on one query of a split and keeps its intermediate results.

    Args:
      workdir: of one run of `flashvtg train`.
      qid: of the query; 7 and "7" are the same.
      split: of the data set; None: the validation split.
      step: of the checkpoint; None: the best one, or the latest if none was scored.
      data_dir: where the data set is; None: where training found it.

    Values equal those of `flashvtg evaluate`, up to rounding.
    Raises CheckpointError if there is no such checkpoint, or if the folder holds several runs;
    DataError if the split is not built or has no such query, which names the nearest ones.
    """
    workdir = Path(workdir).expanduser().absolute()
    restored = restore(workdir, step=step)
    config, data = restored.config, restored.config.data
    split = split or data.val_split
    data_dir = data_dir or data.data_dir or _own_data_dir(workdir, data.dataset)
    source = open_split(data_dir, data.dataset, split, domains=data.domains)
    annotations = source.annotations()
    example = _find(qid, [row["qid"] for row in annotations], source, split)
    annotation = annotations[example]
    batch = example_batch(source, config, example)
    compute = jax.jit(partial(_compute, restored.model, config))
    found = jax.device_get(compute(restored.params, batch.replace(targets=None)))

    num_words = batch.query.shape[1]
    words = name_words(annotation["query"], int(source.num_words[example]))
    attention, has_dummies = found["attention"], restored.model.num_dummies > 0
    label = annotation.get("label")
    return Inspection(
        qid=annotation["qid"],
        query=annotation["query"],
        vid=annotation["vid"],
        split=split,
        run=config.name,
        step=restored.step,
        duration=float(annotation["duration"]),
        clip_length=annotation["duration"] / len(label) if label else config.clip_length,
        words=None if words is None else words[:num_words],
        attention=attention[:, -num_words:],
        dummy_attention=attention[:, :-num_words].sum(-1) if has_dummies else None,
        saliency=found["saliency"],
        windows=np.asarray(annotation.get("relevant_windows") or (), np.float64).reshape(-1, 2),
        ratings=_ratings(annotation, config.clip_length, data.label_clip_length),
        **_scores(restored.model, restored.params, found),
        **_moments(restored.model, found),
    )


def name_words(query: str, num_rows: int) -> tuple[str, ...] | None:
    """The words that the rows of a query's features stand for, inferred from their number.

    If there are as many as words of the text, they are its words; if there
    are two more, marks of start and end are around them. Full stops and the like may be words of
    their own, as for CLIP. Returns None for any other number: words were cut into parts.
    """
    words, pieces = query.split(), _CLIP_PIECES.findall(query)
    if num_rows == len(words):
        return tuple(words)
    for parts in (words, pieces):
        if num_rows == len(parts) + 2:
            return (START_MARK, *parts, END_MARK)
    return None


def _own_data_dir(workdir: Path, dataset: str) -> Path:
    """The data set that training made in the work directory, which may be that of several runs."""
    folders = [folder / "data" for folder in (workdir, *workdir.parents[:2])]
    return next((folder for folder in folders if built_folder(folder, dataset)), folders[0])


def _find(qid: int | str, known: Sequence[int | str], source: SplitSource, split: str) -> int:
    """The row of a query. Raises DataError that names the nearest ids if there is none."""
    texts = [str(name) for name in known]
    if str(qid) in texts:
        return texts.index(str(qid))
    try:
        number = int(qid)
        nearest = sorted(known, key=lambda name: (abs(int(name) - number), int(name)))[:_NEAREST]
        nearest.sort(key=int)
    except ValueError:  # ids that are no numbers
        nearest = difflib.get_close_matches(str(qid), texts, _NEAREST, cutoff=0)
    raise DataError(
        f"{source.name}: no qid {qid} among the {len(texts)} queries of split {split!r}; the "
        f"nearest are {', '.join(map(str, nearest))}. Another split is chosen by --split=NAME"
    )


def _compute(
    model: FlashVTG, config: ml_collections.ConfigDict, params: Any, batch: Batch
) -> dict[str, Any]:
    """All that is shown, of a batch of one: its arrays without their first axis."""
    output, state = model.apply(
        {"params": params},
        batch.video,
        batch.video_mask,
        batch.query,
        batch.query_mask,
        mutable=["intermediates"],
    )
    layers = state["intermediates"]["cross_attention"].values()
    found = {
        "attention": sum(layer["attention"][0] for layer in layers) / len(layers),
        "saliency": output.saliency,
        "intra_scale_logits": output.intra_scale_logits,
        "inter_scale_logits": output.inter_scale_logits,
        "logits": output.logits,
        "scores": jax.nn.sigmoid(output.logits),
        "point_windows": point_windows(output, config.clip_length).clip(0, batch.duration),
    }
    if config.loss.regression:  # else boundaries were not learned
        settings = config.evaluation
        moments = decode_as_evaluated(output, batch.duration, config.clip_length, settings)
        found["moments"] = moments
        found["suppressed"] = non_max_suppression(
            moments, settings.nms_threshold, settings.nms_type
        )
        _, found["best_points"] = best_points(output, settings.max_moments)
    return jax.tree.map(lambda array: array[0], found)


def _scores(model: FlashVTG, params: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an inspection that say what each point was scored."""
    if model.moment_head == "queries":
        moments = np.column_stack([found["point_windows"], found["scores"]])
        return {"levels": (), "mix": None, "query_moments": moments.astype(np.float64)}
    edges = _level_edges(model, found)
    names = ("logits", "intra_scale_logits", "inter_scale_logits")
    heads = [None if found[name] is None else np.split(found[name], edges[1:-1]) for name in names]
    levels = [
        Level(float(stride), *(head and head[k] for head in heads))
        for k, stride in enumerate(model.strides)
    ]
    mix = 0.5 if model.score_refinement == "fixed" else None
    if model.score_refinement == "learned":
        mix = float(params["score_refinement"]["mix"])
    return {"levels": tuple(levels), "mix": mix, "query_moments": None}


def _moments(model: FlashVTG, found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an inspection that say which moments were found, and from which points."""
    if "moments" not in found:
        return {"moments": None, "kept_moments": None, "origins": None}
    count = min(len(found["logits"]), len(found["moments"]))  # not padded: all points are valid
    moments, suppressed = (
        # As in predictions.jsonl; suppressed ones score 0, and padding is behind them.
        np.round(found[name][:count].astype(np.float64), 4)
        for name in ("moments", "suppressed")
    )
    kept = suppressed[suppressed[:, 2] > 0]
    # Of moments with equal windows the best one is kept.
    waiting = list(range(count))
    points = []
    for window in kept[:, :2]:
        rank = next(rank for rank in waiting if (moments[rank, :2] == window).all())
        waiting.remove(rank)
        points.append(int(found["best_points"][rank]))
    edges = _level_edges(model, found)
    level = np.searchsorted(edges, points, side="right") - 1
    origins = np.stack([level, np.asarray(points, np.int64) - edges[level]], axis=-1)
    return {"moments": moments, "kept_moments": kept, "origins": origins}


def _level_edges(model: FlashVTG, found: Mapping[str, Any]) -> np.ndarray:
    """The first point of each level, and the number of all points; moment queries are one level."""
    if model.moment_head == "queries":
        return np.array([0, len(found["logits"])])
    lengths = [level_length(len(found["saliency"]), stride) for stride in model.strides]
    return np.cumsum([0, *lengths])


def _ratings(
    annotation: Mapping[str, Any], clip_length: float, label_clip_length: float | None
) -> np.ndarray | None:
    """The mean rating of each clip, 0 where nobody rated; None without ratings."""
    if annotation.get("label"):
        return np.mean(annotation["label"], axis=1)
    if not annotation.get("saliency_scores") or not annotation.get("relevant_clip_ids"):
        return None
    return mean_ratings(
        annotation["relevant_clip_ids"],
        annotation["saliency_scores"],
        annotation["duration"],
        clip_length,
        label_clip_length,
    )

"""Figures for the rows of a prediction file: what `flashvtg plot` does."""

import hashlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashvtg_jax.data.annotations import load_annotations
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.figures.drawing import FORMATS, clean_text, undrawable
from flashvtg_jax.figures.prediction import plot_prediction
from flashvtg_jax.json_lines import numbered, read_json_lines
from flashvtg_jax.metrics.rows import Rows, durations, predicted_saliency
from flashvtg_jax.metrics.scoring import CLIP_LENGTH, Scoring, assumed_clip_length
from flashvtg_jax.metrics.scoring_settings import scoring_arguments
from flashvtg_jax.system.progress import progress_bar

_MAX_NAME = 80  # bytes of a query id in a file name


def plot_files(
    predictions: str | os.PathLike,
    output: str | os.PathLike,
    *,
    annotations: str | os.PathLike | None = None,
    qids: Sequence[str] = (),
    limit: int | None = 20,
    file_format: str = "png",
    clip_length: float | None = None,
    label_clip_length: float | None = None,
    show_progress: bool = True,
) -> list[Path]:
    """Draw a figure for each query of a prediction file; returns the files, in its order.

    Args:
      predictions: JSON lines, as predictions.jsonl.
      output: folder for the figures, each named for its query.
      annotations: JSON lines; those of other queries are passed over.
      qids: of the queries to draw; () draws the first `limit`.
      limit: of figures; None: all. Queries that are named are all drawn.
      file_format: "png" or "svg".
      clip_length: seconds; None: as the config.json of their run, or the settings of `flashvtg
        predict`, beside the predictions say, or as follows from the numbers of scores and the
        durations, or 2 seconds.
      label_clip_length: seconds of the clips that ratings are of; None: as these say, or
        clip_length.
      show_progress: show a bar.

    Raises DataError for files that cannot be used, naming the line; ConfigError for other settings.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"format {file_format!r}: figures are {' or '.join(FORMATS)}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; expected at least 1")
    clips = scoring_arguments(
        predictions, clip_length=clip_length, label_clip_length=label_clip_length
    )
    clips.pop("length_ranges", None)
    every = read_json_lines(predictions)
    rows = _choose(predictions, every, qids, limit)
    if "clip_length" not in clips:
        clips["clip_length"] = _clip_length_of(predictions, every, annotations)
    scoring = Scoring(**clips)  # checked before anything is read by it
    noted = {}
    if annotations is not None:
        lines = load_annotations(
            annotations,
            clip_length=scoring.clip_length,
            label_clip_length=scoring.label_clip_length,
        )
        noted = {str(row["qid"]): row for row in lines}
        if not any(str(row["qid"]) in noted for _, row in rows):
            raise DataError(f"{annotations}: has none of the queries of {predictions}")
    paths = {}
    for line, row in rows:
        path = Path(output) / f"{safe_name(str(row['qid']))}.{file_format}"
        if path in paths:
            raise DataError(f"{predictions}:{line}: qid {row['qid']!r} again, as in {paths[path]}")
        paths[path] = f"line {line}"
    chosen = list(zip(paths, rows, strict=True))
    for path, (line, row) in progress_bar(chosen, len(chosen), "drawing", show_progress):
        try:
            plot_prediction(row, noted.get(str(row["qid"])), **clips, path=path)
        except DataError as error:
            raise DataError(f"{predictions}:{line}: {error}") from error
    if file_format == "png" and show_progress:
        report_undrawable("".join(str(row.get("query", "")) for _, row in rows), "--format=svg")
    return list(paths)


def report_undrawable(text: str, instead: str) -> None:
    """Report on stderr which characters of a text are drawn as boxes, and what to do `instead`."""
    missing = undrawable(clean_text(text))
    if missing:
        print(
            f"no font on this machine has {missing[:20]}: drawn as boxes; install one, or use "
            f"{instead}, whose text the viewer's own fonts show",
            file=sys.stderr,
        )


def safe_name(qid: str) -> str:
    """A file name for a query id: different ids give different names, none leads elsewhere."""
    name = re.sub(r"[^\w.-]", "_", qid).lstrip(".")
    name = name.encode()[:_MAX_NAME].decode(errors="ignore")
    if name != qid or not name:
        digest = hashlib.sha256(qid.encode("utf-8", "surrogatepass")).hexdigest()
        name = f"{name}-{digest[:8]}"
    return name


def _clip_length_of(
    path: str | os.PathLike,
    predictions: Sequence[dict[str, Any]],
    annotations: str | os.PathLike | None,
) -> float:
    """The clip length that follows from the numbers of scores, as for `flashvtg score`."""
    if annotations is None:
        print(
            f"flashvtg plot: nothing beside {path} says the length of clips, {CLIP_LENGTH:g} s are "
            "taken; --clip_length=SECONDS gives another",
            file=sys.stderr,
        )
        return CLIP_LENGTH
    rated = {
        str(row.get("qid")): row
        for row in read_json_lines(annotations)
        if row.get("saliency_scores") is not None
    }
    scored = [
        row
        for row in predictions
        if row.get("pred_saliency_scores") and str(row.get("qid")) in rated
    ]
    counts = [len(scores) for scores in predicted_saliency(Rows(scored, "prediction", str(path)))]
    of_scored = Rows([rated[str(row["qid"])] for row in scored], "annotation", str(annotations))
    return assumed_clip_length(path, counts, durations(of_scored, range(len(scored))))


def _choose(
    path: str | os.PathLike, rows: list[dict[str, Any]], qids: Sequence[str], limit: int | None
) -> list[tuple[int, dict[str, Any]]]:
    """Line and row of what is to be drawn."""
    lines = numbered(rows)
    for line, row in lines:
        if row.get("qid") is None:
            raise DataError(f"{path}:{line}: no 'qid'; is this a file of predictions?")
    if not qids:
        return lines[:limit]
    wanted = set(map(str, qids))
    missing = wanted - {str(row["qid"]) for row in rows}
    if missing:
        raise DataError(f"{path}: no prediction of qid {', '.join(sorted(missing))}")
    return [(line, row) for line, row in lines if str(row["qid"]) in wanted]

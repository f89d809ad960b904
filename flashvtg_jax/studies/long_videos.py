"""`flashvtg study long_videos`: accuracy, time and memory in videos of minutes to hours.

Models learn from synthesised videos of 2.5 minutes and are asked about others of up to 120, in
which moments are as dense: with and without the refinement of scores across scales, each with
attention among all clips of a video and among near ones alone. The queries and their windows are
the same at each length.
"""

import contextlib
import gc
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from flashvtg_jax.checkpoints.restore import Restored, restore
from flashvtg_jax.config import apply_overrides
from flashvtg_jax.data.pipeline import evaluation_batches
from flashvtg_jax.data.source import open_split
from flashvtg_jax.data.synthetic.annotations import MAX_CLIPS
from flashvtg_jax.distributed.sharding import mesh_of, put_batch, replicated
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.evaluation.evaluator import Evaluator, apply_and_decode
from flashvtg_jax.figures.entries import Entry
from flashvtg_jax.files import write_atomically
from flashvtg_jax.metrics.per_query import per_query_metrics
from flashvtg_jax.metrics.scoring_settings import configured_clips
from flashvtg_jax.studies.comparisons import entry
from flashvtg_jax.studies.long_video_data import (
    SETTINGS,
    SPLIT,
    TRAINING,
    check_dataset,
    prepare_lengths,
    prepare_training,
    read_json,
)
from flashvtg_jax.studies.running import Found, Subject, check_variant, train_variants
from flashvtg_jax.studies.tables import summarise
from flashvtg_jax.studies.variants import FULL, Variant, choose
from flashvtg_jax.system.memory import DoesNotFitError, check_fits

MINUTES = (2.5, 10.0, 30.0, 60.0, 120.0)
NUM_QUERIES = 96
ATTENTION_WINDOW = 32  # clips to each side, where the configuration has no window of its own

_SCORES = ("MR-full-mAP", "MR-full-R1@0.5")  # in percent, kept for each query
_MILLISECONDS, _MEMORY = "milliseconds a query", "memory, MiB"
_REPEATS = 5  # of what is timed
_CLIPS_OF_A_BATCH = 1200  # in evaluation, of all its rows; but one row at least

METRICS = (*_SCORES, _MILLISECONDS, _MEMORY)  # of the entries

Results = list[dict[str, Any]]


def variants(config: ml_collections.ConfigDict) -> list[Variant]:
    """What is compared; the first one is the reference.

    Moment queries have neither a refinement nor a window of attention: there is nothing beside the
    full model then. Raises ConfigError for a model that has no refinement to leave out.
    """
    if config.model.moment_head == "queries":
        return [FULL]
    if config.model.score_refinement == "intra":
        raise ConfigError(
            "config.model.score_refinement='intra' leaves out the refinement that the study "
            "compares with; use 'learned', 'fixed' or 'inter'"
        )
    intra = Variant("intra", "without refinement", {"model.score_refinement": "intra"})
    near = {"model.attention_window": _window(config), "model.attention_kernel": "xla"}
    windowed = [
        Variant(
            f"{variant.name}_windowed",
            f"{variant.label}, windowed attention",
            {**variant.overrides, **near},
        )
        for variant in (FULL, intra)
    ]
    return [FULL, intra, *windowed]


def chosen_variants(
    config: ml_collections.ConfigDict, names: Sequence[str] | None
) -> list[Variant]:
    """Those of `variants` that have one of some names (None: all), and the full model.

    Raises ConfigError as `variants`, and for a name that none of them has.
    """
    # Runs have a window of attention as a variant alone, whatever the configuration has.
    return choose(variants(config), names, training_config(config, Path()))


def study(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    num_seeds: int,
    split: str | None,
    names: Sequence[str] | None,
    intervals: bool,
    show_progress: bool,
) -> Found:
    """Run the study as `flashvtg study` does; arguments as of `compare_trained`, errors of `run`.

    Raises ConfigError for a split as well: the study synthesises its videos.
    """
    if split is not None:
        raise ConfigError("study long_videos makes videos of its own: it has no --split")
    return run(
        config,
        range(config.seed, config.seed + num_seeds),
        workdir,
        compared=chosen_variants(config, names),
        intervals=intervals,
        show_progress=show_progress,
    )


def run(
    config: ml_collections.ConfigDict,
    seeds: Sequence[int],
    workdir: Path,
    *,
    compared: Sequence[Variant] | None = None,
    minutes: Sequence[float] = MINUTES,
    num_queries: int = NUM_QUERIES,
    intervals: bool = True,
    show_progress: bool = True,
) -> Found:
    """Trains each variant on short videos and evaluates it on videos of each length.

    All is kept in the folder "long_videos" of `workdir`: data, runs, and in the folder of each run
    a result for each length. What is there already is not done again; results are, where they are
    of another checkpoint, device or data. What does not fit into the memory that is free is
    skipped, and listed in the notes.

    Args:
      config: a QVHighlights one; its `synthetic` section, if any, says how much is learned from.
      seeds: of the runs.
      workdir: of the study.
      compared: some of `variants`, the reference first; None: all.
      minutes: lengths of videos, multiples of 2.5.
      num_queries: of each length; each length is to have whole videos of them.
      intervals: of the differences, over videos and seeds, of which there are two or more then.
      show_progress: show bars and reports on stderr; what is skipped is reported in any case.

    Returns:
      entries for each variant and length, those of `METRICS`, time and memory of one query at a
      time. Means are NaN where a variant did not fit into memory.

    Raises:
      ConfigError: before training, if one of these cannot be used, or `workdir` holds runs of
        another configuration.
      DataError: `workdir` cannot be written.
    """
    compared = variants(config) if compared is None else compared
    check_dataset(config)
    folder = Path(workdir) / "long_videos"
    trained = training_config(config, folder / "data" / TRAINING)
    for variant in compared:
        check_variant(variant, trained, seeds, folder)
    if intervals and len(compared) > 1 and len(seeds) < 2:
        raise ConfigError(
            f"{len(seeds)} seed: an interval needs the spread between seeds; use --seeds=2 or more"
        )
    if show_progress and config.model.moment_head == "queries":
        _report("moment queries have neither refinement nor windowed attention: one variant")
    options = {"seed": config.seed, "show_progress": show_progress}
    lengths = prepare_lengths(config, minutes, num_queries, folder / "data", **options)
    prepare_training(config, folder / "data", **options)
    runs = train_variants(trained, compared, seeds, folder, show_progress=show_progress)
    found: dict[tuple[str, float], Results] = {}
    skipped = []
    for variant, length in itertools.product(compared, minutes):
        about = f"{variant.label}, {length:g} min"
        if show_progress:
            _report(about)
        try:
            found[variant.name, length] = _results(
                runs[variant.name], lengths[length], show_progress
            )
        except DoesNotFitError as error:
            skipped.append(f"{about} ({error})")
            _report(f"skipped {about}: {error}")
        # The next one finds the memory free.
        jax.clear_caches()
        gc.collect()
    subjects = {}
    for length, data_dir in lengths.items():
        source = open_split(data_dir, config.data.dataset, SPLIT)
        rows = source.annotations()
        videos = [row["vid"] for row in rows]
        subjects[length] = Subject(trained, source, SPLIT, rows, videos, folder, tuple(seeds))
    entries = _entries(subjects, compared, found, intervals)
    return Found(compared, entries, _notes(config, compared, found, skipped))


def _notes(
    config: ml_collections.ConfigDict,
    compared: Sequence[Variant],
    found: Mapping[tuple[str, float], Results],
    skipped: Sequence[str],
) -> list[str]:
    """Paragraphs below the table of the study."""
    lines = [
        "Videos, queries and moments are made up. Models learned from videos of 2.5 minutes, with "
        "a query each; longer ones have the same queries, one for each 2.5 minutes."
    ]
    if config.model.attention_window is not None:
        lines.append("Models without it lack the configuration's window of attention.")
    if any("model.attention_window" in variant.overrides for variant in compared):
        lines.append(
            f"Windowed attention: a clip attends to {_window(config)} clips on either side."
        )
    devices = {result["about"]["device"] for results in found.values() for result in results}
    for kind in devices:  # one, or none where all was skipped
        device = "a CPU" if kind == "cpu" else kind
        lines.append(
            "Time and memory: of the compiled program that answers one query about one video, "
            f"parameters and features included, reading files not, on {device}."
        )
    notes = [" ".join(lines)]
    if skipped:
        notes.append(f"Skipped, for it does not fit into memory: {'; '.join(skipped)}.")
    return notes


def _window(config: ml_collections.ConfigDict) -> int:
    """Clips to either side that a clip attends to in windowed attention."""
    return config.model.attention_window or ATTENTION_WINDOW


def training_config(config: ml_collections.ConfigDict, data_dir: Path) -> ml_collections.ConfigDict:
    """The configuration of all runs: on what `prepare_training` made, which is no longer made."""
    config = apply_overrides(
        config,
        {
            "data.data_dir": str(data_dir),
            "data.manual_dir": None,
            "data.train_split": "train",
            "data.val_split": SPLIT,
            "data.max_clips": MAX_CLIPS,
            "data.buckets": (MAX_CLIPS,),
            "evaluation.window_range": None,
            "model.attention_window": None,
        },
    )
    if "synthetic" in config:
        with config.unlocked():
            del config.synthetic
    return config


def _results(runs: Sequence[Path], data_dir: Path, show_progress: bool) -> Results:
    """What each run of a variant finds in videos of one length, kept in the folder of the run.

    Raises DoesNotFitError before anything is computed.
    """
    trial = None
    results = []
    for folder in runs:
        about = {
            "step": json.loads((folder / "metrics.json").read_text())["step"],
            "device": jax.devices()[0].device_kind,
            "data": read_json(data_dir / SETTINGS),
        }
        path = folder / "lengths" / f"{data_dir.name}.json"
        result = _kept(path, about)
        if result is None:
            restored = restore(folder, step=about["step"], sharding=replicated(_one_device()))
            trial = trial or _Trial(restored, data_dir)
            result = {"about": about, **trial.result(restored.params, show_progress)}
            write_atomically(path, json.dumps(result) + "\n")
        results.append(result)
    return results


def _kept(path: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """The result in a file, if it is of this step, device and data."""
    try:
        result = read_json(path)
    except DataError:
        return None
    return result if result.get("about") == about else None


class _Trial:
    """Videos of one length, and the programs of one variant for them.

    Raises DoesNotFitError if those do not fit into the memory of the first device.
    """

    def __init__(self, restored: Restored, data_dir: Path):
        mesh = _one_device()
        data = restored.config.data
        self._source = open_split(data_dir, data.dataset, SPLIT)
        clips = int(self._source.num_clips.max())
        rows = max(1, min(restored.config.evaluation.batch_size, _CLIPS_OF_A_BATCH // clips))
        shared = {"data.max_clips": None, "data.buckets": None, "evaluation.batch_size": rows}
        config = apply_overrides(restored.config, shared)
        self._evaluator = Evaluator(restored.model, config, mesh)
        self._clips = configured_clips(config)

        one = apply_overrides(config, {"evaluation.batch_size": 1})
        with contextlib.closing(evaluation_batches(self._source, one)) as batches:
            self._batch = put_batch(next(batches).replace(targets=None), mesh)
        find = jax.jit(partial(apply_and_decode, restored.model, one))
        self._compiled = find.lower(restored.params, self._batch).compile()
        self._memory = check_fits(self._compiled)

    def result(self, params: Any, show_progress: bool) -> dict[str, Any]:
        """Metrics of all queries, seconds and memory of one, with the parameters of a run."""
        seconds = _median_seconds(
            lambda: jax.block_until_ready(self._compiled(params, self._batch))
        )
        found = self._evaluator.evaluate(params, self._source, show_progress=show_progress)
        metrics = per_query_metrics(
            found.predictions, self._source.annotations(), metrics=_SCORES, **self._clips
        )
        # JSON has no NaN.
        of_query = {
            name: [None if math.isnan(value) else value for value in values.tolist()]
            for name, values in metrics.items()
        }
        return {"queries": of_query, "seconds": seconds, **self._memory}


def _one_device() -> Mesh:
    """The first device: time and memory are those of one."""
    return mesh_of(jax.devices()[:1])


def _median_seconds(function: Callable[[], Any]) -> float:
    """Seconds of a call, the median of several; one before them is not counted."""
    function()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _entries(
    subjects: Mapping[float, Subject],
    compared: Sequence[Variant],
    found: Mapping[tuple[str, float], Results],
    intervals: bool,
) -> list[Entry]:
    """The entries of what was found, each compared with the first variant at the same length."""
    entries = []
    full = compared[0].name
    for variant, (length, subject), metric in itertools.product(
        compared, subjects.items(), METRICS
    ):
        key = (variant.label, f"{length:g} min", float(length), metric)
        scored = metric in _SCORES
        if (variant.name, length) not in found:
            queries = len(subject.videos) if scored else 0
            nothing = (math.nan, None, None, None, None, len(subject.seeds), queries)
            entries.append(Entry(*key, *nothing))
            continue
        values, reference = _values(found[variant.name, length], metric), None
        if variant.name != full and (full, length) in found:
            reference = _values(found[full, length], metric)
        if scored:
            entries.append(entry(subject, key, values, reference, intervals=intervals))
        else:
            entries.append(summarise(*key, values, reference))
    return entries


def _values(results: Results, metric: str) -> np.ndarray:
    """A metric of each seed and query [S, N], or a measurement of each seed [S]."""
    if metric == _MILLISECONDS:
        return np.array([1000.0 * result["seconds"] for result in results])
    if metric == _MEMORY:
        return np.array([result["program_mib"] for result in results])
    return np.array([result["queries"][metric] for result in results], np.float64)


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

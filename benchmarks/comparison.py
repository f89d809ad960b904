"""What `compare_pytorch.py` does: data for both sides, and the rows one after the other."""

import argparse
import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from authors import HERE, start_theirs, their_commit, their_options, write_features
from measuring import portable_command, progress, summary
from sides import Side, SideError

from flashvtg_jax.config import apply_overrides, save_config
from flashvtg_jax.data.synthetic.annotations import generate_annotations
from flashvtg_jax.json_lines import read_json_lines, write_json_lines

ROWS = ("forward", "forward_1", "train_step", "evaluate", "scoring", "epoch")
UNITS = {"train_step": "samples/s", "epoch": "samples/s"}  # others: queries/s
REPEATS = {"evaluate": 3, "epoch": 3}  # at most, of the rows that take long
SHORT = ("forward", "forward_1", "train_step")  # rows of which a turn has many calls
TURN_SECONDS = 0.3  # that a turn of a short row lasts at least
PAUSE = 0.2  # seconds before each turn, for the other side's threads to fall asleep
TOLERANCE = 1e-4  # of logits, scores and saliency
LOSS_TOLERANCE = 1e-4  # relative


class DisagreementError(Exception):
    """The two sides compute different things."""


class Comparison:
    """The data, both sides, and the rows one after the other."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options = options
        self.folder = folder
        self.config: ml_collections.ConfigDict = options.config
        self.sides: dict[str, Side] = {}
        self.about: dict[str, dict[str, Any]] = {}

    def run(self, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Returns the result, which is also saved after each row, in case the rest is stopped.

        Raises SystemExit if a side cannot start at all.
        """
        progress("synthesising and building the data set")
        self.make_data()
        rows: list[dict[str, Any]] = []
        try:
            for row in self.options.rows:
                progress(row)
                rows.append(self.row_or_reason(row))
                result = {
                    **self.about["ours"],
                    "command": portable_command(sys.argv),
                    "config": self.config.name + (" (smoke)" if self.options.smoke else ""),
                    "dtype": self.options.dtype,
                    "matmul_precision": self.options.matmul_precision,
                    "batch_size": self.options.batch_size,
                    "theirs": self.about["theirs"],
                    "rows": rows,
                }
                save(result)
        finally:
            self.close()
        return result

    def row_or_reason(self, row: str) -> dict[str, Any]:
        """A row of the result; one that fails says why, and lets the others have new processes."""
        try:
            self.start()
        except SideError as error:
            raise SystemExit(f"error: {error}") from error
        try:
            return {"row": row, **self.measure(row)}
        except (SideError, DisagreementError) as error:
            print(f"skipped {row}: {error}", file=sys.stderr, flush=True)
            self.close()
            return {"row": row, "skipped": without_folders(str(error))}

    def make_data(self) -> None:
        """Writes annotations and features, and builds our data set from them."""
        options = self.options
        few, num_eval = 8, options.eval_queries
        if options.annotations:
            train, val = (read_json_lines(path) for path in options.annotations)
            train, self.scored = train[: options.train_samples], val
            val, evaluated = val[:few], val[few : few + num_eval]
        else:
            total = options.train_samples + few + num_eval
            rows = generate_annotations(total, seed=self.config.seed)
            train, rest = rows[: options.train_samples], rows[options.train_samples :]
            val, evaluated = rest[:few], rest[few:]
            self.scored = generate_annotations(options.scored_queries, seed=self.config.seed + 1)
        # Without ground truth there is nothing to score.
        known = ("qid", "query", "duration", "vid")
        splits = {
            "train": train,
            "val": val,
            "test": [{key: row[key] for key in known} for row in evaluated],
        }
        self.files = {}
        for split, rows in splits.items():
            self.files[split] = self.folder / f"highlight_{split}_release.jsonl"
            write_json_lines(self.files[split], rows)
        self.video_folders, self.query_folder = write_features(self.config, self.files, self.folder)
        self.config = apply_overrides(self.config, {"data.data_dir": str(self.folder / "data")})
        save_config(self.config, self.folder / "config.json")

    def start(self) -> None:
        """Starts the sides that do not run."""
        if self.sides:
            return
        options, weights = self.options, self.folder / "weights.npz"
        # Each side may have half of a GPU: jax would take most of it.
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}
        self.sides["ours"] = Side(
            "ours",
            [sys.executable, str(HERE / "jax_side.py")],
            log=self.folder / "ours.log",
            variables={**memory, **os.environ},
        )
        ours = self.sides["ours"].ask(
            "start",
            config=str(self.folder / "config.json"),
            device=options.device,
            matmul_precision=options.matmul_precision,
        )
        if ours["platform"] not in ("cpu", "gpu"):
            raise SideError(f"their code does not run on {ours['platform']}; give --device=cpu")
        ours |= self.sides["ours"].ask("save_weights", path=str(weights))
        self.sides["theirs"] = start_theirs(options, self.folder / "theirs.log")
        theirs = self.sides["theirs"].ask(
            "start",
            options=their_options(
                self.config,
                files={**self.files, "eval": self.files["test"], "eval_split": "test"},
                video_folders=self.video_folders,
                query_folder=self.query_folder,
            ),
            device=ours["platform"],
            threads=len(os.sched_getaffinity(0)),
            folder=str(self.folder),
            weights=str(weights),
        )
        theirs["device"] = theirs["device"] or ours["device"]
        theirs |= their_commit(options.reference)
        self.about = {"ours": ours, "theirs": theirs}

    def close(self) -> None:
        """Ends both sides."""
        for side in self.sides.values():
            side.close()
        self.sides = {}

    def measure(self, row: str) -> dict[str, Any]:
        """Prepares a row, compares its outputs and times it."""
        name = row.removesuffix("_1")
        about, samples = getattr(self, f"prepare_{name}")(1 if row.endswith("_1") else None)
        repeats = min(self.options.repeats, REPEATS.get(row, self.options.repeats))
        first, seconds = self.take_turns(name, repeats, several_calls=row in SHORT)
        ratios = [theirs / ours for theirs, ours in zip(*seconds.values(), strict=True)]
        times = {side: summary(values) for side, values in seconds.items()}
        return {
            **about,
            "unit": UNITS.get(row, "queries/s"),
            **{
                side: {
                    "seconds": times[side],
                    "per_second": samples / times[side]["median"],
                    "first_seconds": first[side],
                }
                for side in seconds
            },
            "ratio": times["theirs"]["median"] / times["ours"]["median"],
            "paired_ratios": summary(ratios),
        }

    def take_turns(
        self, name: str, repeats: int, *, several_calls: bool
    ) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Seconds of the first turn of each side, and of those that count."""
        sides = ("theirs", "ours")
        calls = dict.fromkeys(sides, 1)
        first = {}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for side in sides:
            first[side] = self.sides[side].ask(name, calls=1)["seconds"]
            if several_calls:  # the first call may have been slow
                once = self.sides[side].ask(name, calls=1)["seconds"]
                calls[side] = max(2, math.ceil(TURN_SECONDS / once))
        for _ in range(repeats):
            for side in sides:
                time.sleep(PAUSE)
                if several_calls:  # memory and caches that the other side had meanwhile
                    self.sides[side].ask(name, calls=1)
                answer = self.sides[side].ask(name, calls=calls[side])
                seconds[side].append(answer["seconds"])
        return first, seconds

    def prepare_forward(self, batch_size: int | None) -> tuple[dict[str, Any], int]:
        """Both models on the same queries, and how their outputs differ."""
        batch_size = batch_size or self.options.batch_size
        outputs = {side: str(self.folder / f"forward_{side}.npz") for side in ("ours", "theirs")}
        ours = self.sides["ours"].ask(
            "prepare_forward", split="test", batch_size=batch_size, outputs=outputs["ours"]
        )
        path = str(self.files["test"])
        self.sides["theirs"].ask(
            "prepare_forward", path=path, qids=ours["qids"], outputs=outputs["theirs"]
        )
        with contextlib.ExitStack() as files:
            loaded = {side: files.enter_context(np.load(path)) for side, path in outputs.items()}
            difference = {
                name: largest_difference(loaded["ours"][name], loaded["theirs"][name])
                for name in ("logits", "saliency", "offsets")
            }
        check("forward", {name: difference[name] for name in ("logits", "saliency")}, TOLERANCE)
        sizes = {"batch_size": batch_size, "clips": ours["clips"]}
        return {**sizes, "largest_difference": difference}, batch_size

    def prepare_train_step(self, _: None) -> tuple[dict[str, Any], int]:
        """Both training steps on the same batch, and how their losses without dropout differ."""
        batch_size = self.options.batch_size
        ours = self.sides["ours"].ask("prepare_train_step", split="train", batch_size=batch_size)
        theirs = self.sides["theirs"].ask(
            "prepare_train_step",
            path=str(self.files["train"]),
            **{name: ours[name] for name in ("qids", "positive_clips", "negative_clips")},
        )
        difference = {"loss": abs(ours["loss"] / theirs["loss"] - 1)}
        check("train_step", difference, LOSS_TOLERANCE)
        return {
            "batch_size": batch_size,
            "clips": ours["clips"],
            "loss": {"ours": ours["loss"], "theirs": theirs["loss"]},
            "largest_difference": difference,
            "compile_seconds": ours["compile_seconds"],
            "program_memory_mib": ours["program_mib"],
        }, batch_size

    def prepare_evaluate(self, _: None) -> tuple[dict[str, Any], int]:
        """Both evaluations of the same split, and how their predictions differ."""
        outputs = {side: self.folder / f"predictions_{side}.jsonl" for side in ("ours", "theirs")}
        path, ours_path, theirs_path = map(str, (self.files["test"], *outputs.values()))
        theirs = self.sides["theirs"].ask("prepare_evaluate", path=path, outputs=theirs_path)
        ours = self.sides["ours"].ask("prepare_evaluate", split="test", outputs=ours_path)
        rows = {side: read_json_lines(file) for side, file in outputs.items()}
        difference, equal = predictions_differ(rows["ours"], rows["theirs"])
        # Both are rounded to four decimals, perhaps to different sides.
        check("evaluate", difference, 2 * TOLERANCE)
        return {
            "queries": len(rows["ours"]),
            "batch_size": {"ours": ours["batch_size"], "theirs": 1},
            "largest_difference": difference,
            "equal_windows": equal,
            "load_seconds": {"theirs": theirs["load_seconds"]},
        }, len(rows["ours"])

    def prepare_scoring(self, _: None) -> tuple[dict[str, Any], int]:
        """Both evaluators on the same predictions, and how their metrics differ."""
        files = {
            name: self.folder / f"scored_{name}.jsonl" for name in ("predictions", "annotations")
        }
        write_json_lines(files["predictions"], random_predictions(self.scored, self.config))
        write_json_lines(files["annotations"], self.scored)
        paths = {name: str(path) for name, path in files.items()}
        metrics = {
            side: self.sides[side].ask("prepare_scoring", **paths)["metrics"]
            for side in ("ours", "theirs")
        }
        missing = sorted(set(metrics["theirs"]) - set(metrics["ours"]))
        if missing:
            raise DisagreementError(f"ours does not compute {', '.join(missing)}")
        difference = {
            "metrics": max(
                abs(metrics["ours"][key] - value) for key, value in metrics["theirs"].items()
            )
        }
        check("scoring", difference, 1e-9)
        sizes = {"queries": len(self.scored), "metrics": len(metrics["theirs"])}
        return {**sizes, "largest_difference": difference}, len(self.scored)

    def prepare_epoch(self, _: None) -> tuple[dict[str, Any], int]:
        """Both training loops on the same split."""
        batch_size, samples = self.options.batch_size, self.options.train_samples
        self.sides["ours"].ask("prepare_epoch", batch_size=batch_size)
        theirs = self.sides["theirs"].ask("prepare_epoch", path=str(self.files["train"]))
        return {
            "batch_size": batch_size,
            "samples": samples,
            "load_seconds": {"theirs": theirs["load_seconds"]},
        }, samples


def check(row: str, differences: dict[str, float], tolerance: float) -> None:
    """Raises DisagreementError if the two sides computed different things."""
    for name, difference in differences.items():
        if not difference <= tolerance:  # NaN is a disagreement, too
            raise DisagreementError(
                f"the two programs disagree: {row}, {name} by {difference:.2g} "
                f"(at most {tolerance:g})"
            )


def largest_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Of two arrays; not a number if their shapes differ."""
    if first.shape != second.shape:
        return math.nan
    return float(np.abs(first - second).max())


def predictions_differ(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> tuple[dict[str, float], float]:
    """Largest differences of scores and saliency, and the share of windows that are equal.

    Scores are compared rank by rank: windows of all but equal scores may have changed places.
    """
    known = {row["qid"]: row for row in theirs}
    if {row["qid"] for row in ours} != set(known):
        raise DisagreementError("the two programs predict for different queries")
    scores, saliency, equal = [], [], []
    for row in ours:
        other = known[row["qid"]]
        windows = [np.asarray(r["pred_relevant_windows"]) for r in (row, other)]
        scores.append(largest_difference(windows[0][:, 2], windows[1][:, 2]))
        equal.append((windows[0][:, :2] == windows[1][:, :2]).all(axis=1))
        curves = [np.asarray(r["pred_saliency_scores"]) for r in (row, other)]
        saliency.append(largest_difference(*curves))
    return {"scores": max(scores), "saliency": max(saliency)}, float(np.mean(equal))


def random_predictions(
    annotations: Sequence[dict[str, Any]], config: ml_collections.ConfigDict
) -> list[dict[str, Any]]:
    """Predictions for the queries of an annotation file, as evaluations write them."""
    rng = np.random.default_rng(config.seed)
    count, clip = config.evaluation.max_moments, config.clip_length
    rows = []
    for row in annotations:
        clips = round(row["duration"] / clip)
        start = rng.integers(0, clips, count)
        end = np.minimum(start + rng.integers(1, clips, count), clips)
        scores = np.sort(rng.random(count))[::-1].round(4)
        windows = np.stack([start * clip, end * clip, scores], axis=1)
        saliency = rng.standard_normal(clips).round(4)
        rows.append(
            {key: row[key] for key in ("qid", "query", "vid")}
            | {"pred_relevant_windows": windows.tolist()}
            | {"pred_saliency_scores": saliency.tolist()}
        )
    return rows


def without_folders(text: str) -> str:
    """A message with the last part of each path, without folders of the machine."""
    return re.sub(r"/[^\s'\":]*/(?=[^\s'\":])", "", text)

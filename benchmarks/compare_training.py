"""Our training beside the authors': every loss term's mean in each epoch, and the last metrics.

python benchmarks/compare_training.py --reference=FlashVTG --reference_python=venv/bin/python \
    --config=qvhighlights_slowfast_clip,tvsum_slowfast_clip:BK --epochs=8,60 --annotations=DIR

FlashVTG is a checkout of https://github.com/Zhuo-Cao/FlashVTG; its code runs in a process of its
own. Both sides read the same feature files, synthesised with narrow features for lines of the
annotation files, and train small models with the losses, rates, dropout and batch sizes of the
configuration. Each run starts from parameters of its own: what is compared is the average over
seeds, which shows what single batches cannot (what is dropped, drawn or initialised otherwise).

Ratios of means lie near 1; the column beside them says by how many standard errors the two differ,
as far as so few seeds tell. Their terms are listed under our names.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from authors import (
    add_reference_options,
    check_reference_options,
    start_theirs,
    their_commit,
    their_options,
    write_features,
)
from measuring import environment, int_list, make_parser, positive, progress
from sides import Side, SideError

import flashvtg_jax as fv
from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.data.build.building import find_builder
from flashvtg_jax.data.synthetic.annotations import generate_annotations
from flashvtg_jax.errors import FlashVTGError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.json_lines import read_json_lines, write_json_lines
from flashvtg_jax.metrics import mean_and_std

# Of both sides. What is built in at theirs stays: width 256, four levels.
MODEL = {
    "model.ffn_dim": 128,
    "model.t2v_layers": 2,
    "model.enc_layers": 1,
    "model.dummy_layers": 1,
    "model.num_mlp_layers": 2,
}
SMOKE = {"model.t2v_layers": 1, "train.batch_size": 4}
FEATURE_WIDTH = 32
TERMS = {
    "loss_cls": "classification",
    "loss_reg": "regression",
    "loss_sal": "alignment",
    "loss_saliency": "saliency",
    "loss_label": "clip_aware",
    "weighted_loss_overall": "loss",
}
METRICS = ("MR-full-mAP", "MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mIoU")
METRICS += ("HL-min-VeryGood-mAP", "HD-mAP")


def main() -> None:
    parser = make_parser(__doc__)
    add_reference_options(parser)
    add = parser.add_argument
    add(
        "--config",
        type=lambda text: text.split(","),
        default=["qvhighlights_slowfast_clip"],
        help="one or several; one domain of a data set that has domains (default %(default)s)",
    )
    add("--seeds", type=positive, default=3, help="runs of each side (default %(default)s)")
    several = "one number, or one for each configuration (default %(default)s)"
    add("--epochs", type=int_list, default=[8], help=several)
    add("--train_samples", type=int_list, default=[512], help=several)
    add("--eval_queries", type=int_list, default=[100], help=several)
    add(
        "--annotations",
        type=Path,
        metavar="DIR",
        help="holds a folder of released annotation files for each data set, such as DIR/tacos; "
        "lines are drawn from them; default: synthesised ones, for QVHighlights alone",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no files behind
    if options.smoke:
        options.seeds, options.epochs = 2, [2]
        options.train_samples, options.eval_queries = [8], [4]
    sizes = {
        name: one_each(name, getattr(options, name), options.config)
        for name in ("epochs", "train_samples", "eval_queries")
    }
    check_reference_options(options)
    result: dict[str, Any] = {}
    try:
        configs = [small_config(name, options) for name in options.config]
        for config, *values in zip(configs, *sizes.values(), strict=True):
            with tempfile.TemporaryDirectory(prefix="flashvtg_compare_") as folder:
                size = dict(zip(sizes, values, strict=True))
                found = compare(config, options, Path(folder), **size)
            print_table(found)
            result.setdefault("reference", found.pop("reference"))
            result.setdefault("configs", []).append(found)
            if options.output:  # after each, in case the rest is stopped
                content = {"benchmark": "compare_training", **environment(), **result}
                write_atomically(options.output, json.dumps(content, indent=1) + "\n")
    except (FlashVTGError, SideError) as error:
        raise SystemExit(f"error: {error}") from error


def one_each(name: str, values: Sequence[int], configs: Sequence[str]) -> list[int]:
    """A number for each configuration. Raises SystemExit for others than one, or so many."""
    if len(values) not in (1, len(configs)):
        raise SystemExit(
            f"error: --{name} has {len(values)} numbers for {len(configs)} configurations; "
            "give one, or one for each"
        )
    return [*values] if len(values) > 1 else [*values] * len(configs)


def small_config(name: str, options: argparse.Namespace) -> ml_collections.ConfigDict:
    """A configuration with a small model, narrow features, and the seeds to train.

    Raises SystemExit for one that cannot be compared.
    """
    config = load_config(name)
    data = config.data
    if len(data.domains) > 1:
        raise SystemExit(
            f"error: --config={name} trains {len(data.domains)} domains; choose one of them: "
            f"--config={name}:{data.domains[0]}"
        )
    if options.annotations is None and not data.dataset.startswith("qvhighlights/"):
        raise SystemExit(f"error: --config={name}: lines of this kind need --annotations=DIR")
    widths = {f"data.video_widths.{stream}": FEATURE_WIDTH for stream in data.video_widths}
    changes = {
        **MODEL,
        **(SMOKE if options.smoke else {}),
        **widths,
        "data.query_width": FEATURE_WIDTH,
        "data.cache": True,
        "seeds": tuple(range(options.seeds)),
    }
    return apply_overrides(config, changes)


def compare(
    config: ml_collections.ConfigDict,
    options: argparse.Namespace,
    folder: Path,
    *,
    epochs: int,
    train_samples: int,
    eval_queries: int,
) -> dict[str, Any]:
    """Trains both sides on one data set; what came out, epoch by epoch and on average."""
    progress(f"{config.name}: data")
    counts = {"train": train_samples, config.data.val_split: eval_queries}
    files, folders = write_data(config, options.annotations, folder, counts)
    theirs = start_theirs(options, folder / "theirs.log")
    try:
        about = theirs.ask(
            "start",
            options=their_options(
                config,
                files={"eval": files.pop(config.data.val_split), **files, "eval_split": "val"},
                video_folders=folders[0],
                query_folder=folders[1],
            ),
            device="cpu",
            threads=len(os.sched_getaffinity(0)),
            folder=str(folder),
        )
        runs = {
            "theirs": their_runs(theirs, config, epochs),
            "ours": our_runs(config, folder, epochs),
        }
    finally:
        theirs.close()
    return {
        "reference": {**about, **their_commit(options.reference)},
        "config": config.name + "".join(f":{domain}" for domain in config.data.domains),
        "train_samples": sum(1 for _ in read_json_lines(files["train"])),
        "batch_size": config.train.batch_size,
        "epochs": epochs,
        "rows": [summarised(name, *values) for name, values in curves(runs).items()],
    }


def write_data(
    config: ml_collections.ConfigDict,
    annotations: Path | None,
    folder: Path,
    counts: Mapping[str, int],
) -> tuple[dict[str, Path], tuple[list[Path], Path]]:
    """Writes annotations and features into a folder and builds our data set in `folder/data`.

    Returns the annotation file of each split, and what `write_features` returns. Lines are drawn at
    random: neighbours in a file often belong to one video.
    """
    data, layout = config.data, find_builder(config.data.dataset)[1].layout
    rng = np.random.default_rng(config.seed)
    source = {}
    if annotations is not None:
        source = layout.find_annotations(annotations / data.dataset.split("/")[0])
    files, first = {}, 0
    for split, count in counts.items():
        if annotations is None:
            rows = generate_annotations(count, seed=config.seed, first_qid=first)
            first += count
        else:
            rows = layout.load_annotations(split, source[split])
            rows = [row for row in rows if row.get("domain") in (data.domains or (None,))]
            rows = [rows[i] for i in rng.permutation(len(rows))[:count]]
        files[split] = folder / layout.annotations[split][0]
        write_json_lines(files[split], rows)
    return files, write_features(config, files, folder)


def their_runs(
    theirs: Side, config: ml_collections.ConfigDict, epochs: int
) -> list[dict[str, list[float]]]:
    """The curves of each seed: by name, a value for each epoch; of a metric, of the last one."""
    runs = []
    for seed in config.seeds:
        progress(f"{config.name}: theirs, seed {seed}")
        answer = theirs.ask("run", seed=seed, epochs=epochs)
        curves = {
            ours: [terms.get(name) for terms in answer["terms"]] for name, ours in TERMS.items()
        }
        for name, value in answer["metrics"].items():
            curves |= {"HD-mAP": [100 * value]} if name == "mAP" else {name: [value]}
        runs.append(curves)
    return runs


def our_runs(
    config: ml_collections.ConfigDict, folder: Path, epochs: int
) -> list[dict[str, list[float]]]:
    """As `their_runs`."""
    progress(f"{config.name}: ours")
    config = apply_overrides(
        config,
        {
            "train.epochs": epochs,
            "train.evaluate_every_epochs": epochs,
            "data.data_dir": str(folder / "data"),
        },
    )
    fv.train(config, folder / "ours", show_progress=False)
    runs = []
    for log in sorted((folder / "ours").glob("**/train.jsonl")):
        steps = [json.loads(line) for line in log.read_text().splitlines()]
        means = [
            {
                name: statistics.fmean(step[name] for step in steps if step["epoch"] == epoch + 1)
                for name in steps[0]
            }
            for epoch in range(epochs)
        ]
        metrics = [
            json.loads(line) for line in log.with_name("evaluations.jsonl").read_text().splitlines()
        ]
        run = {name: [mean[name] for mean in means] for name in TERMS.values() if name in means[0]}
        run |= {name: [row[name] for row in metrics] for name in METRICS if name in metrics[0]}
        runs.append(run)
    return runs


def curves(
    runs: Mapping[str, Sequence[Mapping[str, list[float]]]],
) -> dict[str, tuple[list[list[float]], list[list[float]]]]:
    """Of each name that both sides have: the curves of their seeds and of our seeds."""
    known = [set(side[0]) for side in runs.values()]
    names = [name for name in (*TERMS.values(), *METRICS) if all(name in has for has in known)]
    found = {
        name: tuple([run[name] for run in runs[side]] for side in ("theirs", "ours"))
        for name in names
    }
    return {name: pair for name, pair in found.items() if None not in pair[0][0]}


def summarised(
    name: str, theirs: Sequence[Sequence[float]], ours: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """A row of the result, from the curves of the seeds of both sides."""
    sides = {
        side: {**over_seeds([statistics.fmean(curve) for curve in runs]), "curves": runs}
        for side, runs in (("theirs", theirs), ("ours", ours))
    }
    difference = sides["ours"]["mean"] - sides["theirs"]["mean"]
    error = sum(sides[side]["deviation"] ** 2 / len(sides[side]["curves"]) for side in sides) ** 0.5
    return {
        "name": name,
        **sides,
        "ratio": sides["ours"]["mean"] / sides["theirs"]["mean"]
        if sides["theirs"]["mean"]
        else None,
        "standard_errors": difference / error if error else None,
    }


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """The mean, and the sample deviation, 0 of a single seed."""
    mean, deviation = mean_and_std(values)
    return {"mean": mean, "deviation": deviation or 0.0}


def print_table(result: Mapping[str, Any]) -> None:
    """Prints a data set's rows for people: means over the epochs, and the last epoch."""
    seeds = len(result["rows"][0]["ours"]["curves"])
    print(
        f"\n{result['config']}: {result['train_samples']} queries, batch {result['batch_size']}, "
        f"{result['epochs']} epochs, {seeds} seeds; means over epochs +- deviation of seeds\n"
        f"{'':22}{'theirs':>17}{'ours':>17}{'ratio':>8}{'errors':>8}   last epoch: theirs, ours\n"
        + "-"
        * 99
    )
    for row in result["rows"]:
        values = "".join(
            f"{row[side]['mean']:>9.3f} +-{row[side]['deviation']:<5.3f}"
            for side in ("theirs", "ours")
        )
        last = [
            statistics.fmean(curve[-1] for curve in row[side]["curves"])
            for side in ("theirs", "ours")
        ]
        ratio, errors = (
            f"{row[key]:{form}}" if row[key] is not None else "-"
            for key, form in (("ratio", ".3f"), ("standard_errors", "+.1f"))
        )
        print(f"{row['name']:22}{values}{ratio:>8}{errors:>8}{last[0]:>15.3f}{last[1]:>9.3f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

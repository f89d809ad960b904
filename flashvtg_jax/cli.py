"""The command line: `flashvtg COMMAND ...`, the roof of the house."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashvtg_jax.errors import FlashVTGError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.version import __version__

# Each command imports what it needs when it runs: `--help` is instant and needs no device.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done. 1: something the user can mend, told in one message. 2: wrong usage. 130 and 143:
    training was interrupted by SIGINT or SIGTERM and is saved.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    overrides = [text for text in rest if text.startswith("--config.")]
    unknown = [text for text in rest if text not in overrides]
    if unknown or (overrides and options.command != "train"):
        hint = " (fields of the configuration are written --config.KEY=VALUE)" if overrides else ""
        parser.error(f"unknown arguments: {' '.join(unknown or overrides)}{hint}")
    # Orbax and TFDS log what they do at length; what goes wrong comes as an exception.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        return options.run(options, overrides)
    except FlashVTGError as error:
        print(f"flashvtg {options.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # no space left, no permission: the system's message names the file
        print(f"flashvtg {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"flashvtg {options.command}: interrupted", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """All commands, each with an example that runs."""
    parser = argparse.ArgumentParser(
        prog="flashvtg",
        description="FlashVTG: the moments and highlights of a video that answer a sentence.",
        epilog="First try: flashvtg train --config=demo --workdir=runs/demo",
    )
    parser.add_argument("--version", action="version", version=f"flashvtg-jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, about: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=about[0].lower() + about[1:].rstrip("."),
            description=about,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(run=run)
        return added

    add = command(
        "synthesize",
        run_synthesize,
        "Write features in a released layout, moments planted in them, for any annotation file.",
        "flashvtg synthesize --output=features --num_train=512 --num_val=128",
    ).add_argument
    add(
        "--output",
        required=True,
        metavar="DIR",
        type=user_path,
        help="folder to write; goes on where it stopped",
    )
    add(
        "--annotations",
        action="append",
        metavar="FILE",
        type=user_path,
        help="annotation file, several times for several splits; without, generates annotations",
    )
    add("--limit", type=int, metavar="N", help="use the first N lines of each annotation file")
    add(
        "--dataset",
        default="qvhighlights/slowfast_clip",
        metavar="NAME",
        help="whose layout; custom/NAME: of one's own data, whose streams --widths names",
    )
    add("--strength", type=float, default=1.0, help="of the planted moments (default %(default)s)")
    add("--seed", type=int, default=0, help="(default %(default)s)")
    add("--widths", metavar="slowfast=64,query=32", help="other feature widths than the released")
    add("--clip_length", type=float, metavar="SECONDS", help="for custom/NAME only, which needs it")
    add("--num_train", type=int, default=512, help="queries to generate (default %(default)s)")
    add("--num_val", type=int, default=128, help="queries to generate (default %(default)s)")

    add = command(
        "build",
        run_build,
        "Build a data set from annotation and feature files, once, before training.",
        "flashvtg build --dataset=qvhighlights/slowfast_clip --manual_dir=features --data_dir=data",
    ).add_argument
    add(
        "--dataset",
        required=True,
        metavar="NAME",
        help="e.g. qvhighlights/slowfast_clip; custom/NAME for one's own data",
    )
    add(
        "--manual_dir",
        required=True,
        metavar="DIR",
        type=user_path,
        help="folder with the released files, or one's own",
    )
    add(
        "--data_dir",
        default="data",
        metavar="DIR",
        type=user_path,
        help="built data sets (default %(default)s)",
    )
    add("--skip_missing", action="store_true", help="leave out queries without feature files")
    add("--overwrite", action="store_true", help="build again what is already built")
    add("--widths", metavar="slowfast=64,query=32", help="other feature widths than the released")
    add("--clip_length", type=float, metavar="SECONDS", help="for custom/NAME only, which needs it")

    add = command(
        "train",
        run_train,
        "Train a model and evaluate it; the same command continues a run that was stopped. Any "
        "field of the configuration can be given as --config.section.field=value. With "
        "--config.seeds=1,2,3 there is a run of each seed, and mean and standard deviation. TVSum "
        "and YouTube Highlights have a run for each domain, or for the one that NAME:DOMAIN names.",
        "flashvtg train --config=demo --workdir=runs/slow --config.optimizer.learning_rate=1e-3",
    ).add_argument
    add("--config", required=True, metavar="NAME", help="a name or a .py file, each with :argument")
    add(
        "--workdir",
        required=True,
        metavar="DIR",
        type=user_path,
        help="checkpoints, logs and results",
    )

    add = command(
        "evaluate",
        run_evaluate,
        "Score the best checkpoint of a run; writes predictions.jsonl and metrics.json.",
        "flashvtg evaluate --workdir=runs/demo --split=val",
    ).add_argument
    add("--workdir", required=True, metavar="DIR", type=user_path, help="of flashvtg train")
    add("--split", metavar="NAME", help="train, val, test (default: the validation split)")
    add("--step", type=int, metavar="N", help="of the checkpoint (default: the best one)")
    add(
        "--data_dir",
        metavar="DIR",
        type=user_path,
        help="built data sets (default: as in training)",
    )
    add(
        "--output",
        metavar="DIR",
        type=user_path,
        help="folder for the results (default: the work directory)",
    )

    add = command(
        "score",
        run_score,
        "Score a prediction file in the QVHighlights format as the official evaluator does.",
        "flashvtg score --predictions=runs/demo/predictions.jsonl "
        "--annotations=runs/demo/data/synthetic/highlight_val_release.jsonl",
    ).add_argument
    add("--predictions", required=True, metavar="FILE", type=user_path, help="JSON lines")
    add("--annotations", required=True, metavar="FILE", type=user_path, help="JSON lines")
    add(
        "--output",
        metavar="FILE",
        type=user_path,
        help="write all numbers as JSON, laid out as the official ones",
    )
    return parser


def user_path(text: str) -> str:
    """A path as the user meant it: shells leave the ~ of --output=~/runs alone."""
    return os.path.expanduser(text)


def run_synthesize(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.data.synthetic import synthesize

    synthesize(
        options.output,
        annotations=options.annotations,
        limit=options.limit,
        dataset=options.dataset,
        strength=options.strength,
        seed=options.seed,
        widths=options.widths,
        clip_length=options.clip_length,
        num_train=options.num_train,
        num_val=options.num_val,
    )
    return 0


def run_build(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.data.building import build

    build(
        options.dataset,
        options.manual_dir,
        options.data_dir,
        skip_missing=options.skip_missing,
        overwrite=options.overwrite,
        widths=options.widths,
        clip_length=options.clip_length,
    )
    return 0


def run_train(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from flashvtg_jax.config import load_config
    from flashvtg_jax.training.loop import Interrupted, train

    config = load_config(options.config, overrides)
    try:
        numbers, numbers_nms = train(config, options.workdir)
    except Interrupted as interruption:
        print(
            f"flashvtg train: stopped by {interruption}; everything is saved, the same command "
            "continues",
            file=sys.stderr,
        )
        return 128 + interruption.signal_number
    print_results(Path(options.workdir), numbers, numbers_nms)
    print(f"\nresults in {options.workdir}: metrics.json, predictions.jsonl, tensorboard/")
    return 0


def print_results(workdir: Path, numbers: dict[str, float], numbers_nms: dict[str, float]) -> None:
    """The numbers as a table, beside those of the untrained model where they were taken."""
    from flashvtg_jax.training.runs import untrained_numbers

    columns = {}
    if untrained := untrained_numbers(workdir):
        columns["untrained"] = untrained
    deviations = json.loads((workdir / "metrics.json").read_text()).get("std", {})
    columns["without NMS" if numbers_nms else "trained"] = {
        key: (value, deviations[key]) if deviations else value for key, value in numbers.items()
    }
    if numbers_nms:
        columns["with NMS"] = numbers_nms
    print_numbers(columns)


def run_evaluate(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.evaluation import evaluate

    numbers, numbers_nms = evaluate(
        options.workdir,
        split=options.split,
        step=options.step,
        data_dir=options.data_dir,
        output=options.output,
    )
    output = Path(options.output or options.workdir)
    if numbers:
        print_results(output, numbers, numbers_nms)
    print(f"\nwrote predictions to {options.output or options.workdir}")
    return 0


def run_score(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.metrics import nested, score_files

    numbers = score_files(options.predictions, options.annotations)
    print_numbers({"score": numbers})
    if options.output:
        write_atomically(options.output, json.dumps(nested(numbers), indent=2) + "\n")
    return 0


def print_numbers(columns: dict[str, dict[str, float]]) -> None:
    """A table on standard output."""
    from flashvtg_jax.metrics import format_table

    print(format_table(columns))


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `flashvtg COMMAND ...`, the roof of the house."""

import argparse
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flashvtg_jax.errors import FlashVTGError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.version import __version__

# Each command imports what it needs when it runs: `--help` is instant and needs no device.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done. 1: something the user can mend, told in one message. 2: wrong usage. 3: `predict` is
    done, but for lines of its list that could not be used. 130 and 143: training was interrupted by
    SIGINT or SIGTERM and is saved.
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
        return fail(options, str(error))
    except OSError as error:  # no space left, no permission: the system's message names the file
        return fail(options, str(error))
    except KeyboardInterrupt:
        return fail(options, "interrupted", status=130)
    except Exception:
        if not is_one_of_several(options):
            raise
        traceback.print_exc()
        return fail(
            options,
            "if another process was lost, its own output says why; start all of them again: what "
            "is saved goes on",
        )


def fail(options: argparse.Namespace, message: str, status: int = 1) -> int:
    """Tell what went wrong; returns the exit status, or ends the process, if it is one of several.

    The ordinary way out would wait there for the others, who wait for this one.
    """
    print(f"flashvtg {options.command}: {message}", file=sys.stderr)
    if is_one_of_several(options):
        from flashvtg_jax.training.processes import is_first

        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            time.sleep(2)  # without the first process the others end at once, mid-sentence
        os._exit(status)
    return status


def is_one_of_several(options: argparse.Namespace) -> bool:
    """Whether the command was told that there are other processes."""
    named = ("coordinator", "num_processes", "process_id")
    by_hand = any(getattr(options, name, None) is not None for name in named)
    return by_hand or getattr(options, "distributed", False)


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
    add_processes(add)

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
    add_processes(add)

    add = command(
        "predict",
        run_predict,
        "Find the moments and highlights for a list of queries, or for one. Feature files are raw, "
        "as extracted. The list may be of any length; the same command goes on where it stopped. "
        "Exit status 3: done, but some lines of the list could not be used.",
        "flashvtg predict --checkpoint=runs/demo --features=runs/demo/data/synthetic "
        "--queries=runs/demo/data/synthetic/highlight_val_release.jsonl --output=answers.jsonl",
    ).add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        type=user_path,
        help="work directory of flashvtg train, or what flashvtg convert wrote",
    )
    add("--step", type=int, metavar="N", help="of the checkpoint (default: the best one)")
    add(
        "--queries",
        metavar="FILE",
        type=user_path,
        help="JSON lines with qid and vid, and query and duration (seconds) where known",
    )
    add(
        "--features",
        metavar="DIR",
        type=user_path,
        help="feature files, laid out as those of the data set the model was trained on",
    )
    add(
        "--video_features",
        action="append",
        default=[],
        metavar="STREAM=DIR",
        help="files of a stream, named as there or VID.npz; once for each stream",
    )
    add(
        "--query_features",
        metavar="DIR",
        type=user_path,
        help="files of the queries, named as there or QID.npz",
    )
    add("--output", metavar="FILE", type=user_path, help="predictions, a JSON line for each query")
    add("--overwrite", action="store_true", help="begin the output anew")
    add(
        "--video",
        action="append",
        default=[],
        metavar="STREAM=FILE",
        help="instead of a list: the video's features; once for each stream",
    )
    add("--query_file", metavar="FILE", type=user_path, help="with --video: the query's features")
    add("--duration", type=float, metavar="SECONDS", help="with --video: of the video")
    add("--nms_threshold", type=float, metavar="IOU", help="(default: of the configuration)")
    add("--no_nms", action="store_true", help="keep moments that overlap better ones")
    add("--top_k", type=int, metavar="K", help="moments for each query (default: as in training)")
    add("--score_threshold", type=float, metavar="S", help="leave out moments below this score")
    add("--batch_size", type=int, metavar="N", help="queries at once (default: as in evaluation)")
    add(
        "--whole_videos",
        action="store_true",
        help="do not cut videos that are longer than those of training",
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
    add(
        "--clip_length",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="of the clips that saliency_scores rate (default %(default)s)",
    )

    add = command(
        "plot",
        run_plot,
        "Draw a figure for each query of a prediction file: saliency over time, the ten best "
        "moments as bars, and what people said, if there are annotations.",
        "flashvtg plot --predictions=runs/demo/predictions_nms.jsonl --output=runs/demo/figures "
        "--annotations=runs/demo/data/synthetic/highlight_val_release.jsonl",
    ).add_argument
    add("--predictions", required=True, metavar="FILE", type=user_path, help="JSON lines")
    add("--output", required=True, metavar="DIR", type=user_path, help="folder for the figures")
    add("--annotations", metavar="FILE", type=user_path, help="JSON lines, of these queries")
    add("--qid", action="append", metavar="Q", help="draw this query; several times for several")
    add(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="without --qid: draw the first N queries (default %(default)s)",
    )
    add("--format", choices=("png", "svg"), default="png", help="(default %(default)s)")
    add(
        "--clip_length",
        type=float,
        metavar="SECONDS",
        help="(default: of the config.json beside the predictions, or 2)",
    )

    add = command(
        "convert",
        run_convert,
        "Read a checkpoint of the authors' PyTorch program into a work directory, or write the "
        "model of a work directory as such a checkpoint. Nothing in a file is run. Needs PyTorch: "
        "pip install 'flashvtg-jax[torch]'.",
        "flashvtg convert --torch_checkpoint=model_best.ckpt --output=runs/released\n"
        "  flashvtg convert --workdir=runs/released --to_torch=model.ckpt",
    ).add_argument
    add("--torch_checkpoint", metavar="FILE", type=user_path, help="to read; needs --output")
    add("--output", metavar="DIR", type=user_path, help="work directory to write; new or empty")
    add(
        "--config",
        metavar="NAME",
        help="configuration to start from (default: the one that FILE names), a name or a .py file",
    )
    add("--widths", metavar="slowfast=64,query=32", help="other feature widths than the released")
    add("--workdir", metavar="DIR", type=user_path, help="to read; needs --to_torch")
    add("--to_torch", metavar="FILE", type=user_path, help="checkpoint to write; new")
    add("--step", type=int, metavar="N", help="of the work directory's checkpoint (default: best)")

    add = command(
        "export",
        run_export,
        "Write a trained model, from raw features to decoded moments, as serialized StableHLO with "
        "a manifest: one file for several platforms, which needs jax alone. Needs flatbuffers: pip "
        "install 'flashvtg-jax[export]'.",
        "flashvtg export --checkpoint=runs/demo --output=exported/demo",
    ).add_argument
    add("--checkpoint", required=True, metavar="DIR", type=user_path, help="work directory")
    add(
        "--output",
        required=True,
        metavar="DIR",
        type=user_path,
        help="folder to write; new, empty, or an earlier export",
    )
    add("--step", type=int, metavar="N", help="of the checkpoint (default: the best one)")
    add(
        "--platforms",
        default="cpu,cuda,tpu",
        metavar="NAMES",
        help="that the file is for; also rocm (default %(default)s)",
    )
    add(
        "--buckets",
        default=(),
        metavar="75,300",
        type=whole_numbers,
        help="a program for each of these numbers of clips (default: one, for any length)",
    )
    add(
        "--batch_sizes",
        default=(),
        metavar="1,16",
        type=whole_numbers,
        help="a program for each of these numbers of queries (default: for any number)",
    )
    return parser


def whole_numbers(text: str) -> tuple[int, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        message = f"{text!r}: whole numbers, separated by commas"
        raise argparse.ArgumentTypeError(message) from error


def named_path(text: str) -> tuple[str | None, str]:
    """STREAM=PATH, or a path alone, as the user meant it."""
    name, _, path = text.partition("=")
    if not path or "/" in name or os.path.exists(text):  # a path may hold the sign itself
        return None, user_path(text)
    return name, user_path(path)


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


def add_processes(add: Callable[..., Any]) -> None:
    """The arguments of commands that several processes can share, one on each host of a pod."""
    add(
        "--distributed",
        action="store_true",
        help="this process is one of several, as a TPU slice, Slurm or Open MPI started them",
    )
    add("--coordinator", metavar="HOST:PORT", help="elsewhere: where the first process listens,")
    add("--num_processes", type=int, metavar="N", help="how many there are,")
    add("--process_id", type=int, metavar="I", help="and which one this is, from 0")


def connect_processes(options: argparse.Namespace) -> bool:
    """Make this process one of several if asked to; returns whether it speaks for all."""
    if not is_one_of_several(options):
        return True
    from flashvtg_jax.training.processes import connect, is_first

    connect(options.coordinator, options.num_processes, options.process_id)
    return is_first()


def run_train(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from flashvtg_jax.config import load_config
    from flashvtg_jax.training.loop import Interrupted, train

    config = load_config(options.config, overrides)
    first = connect_processes(options)
    try:
        numbers, numbers_nms = train(config, options.workdir)
    except Interrupted as interruption:
        print(
            f"flashvtg train: stopped by {interruption}; everything is saved, the same command "
            "continues",
            file=sys.stderr,
        )
        return 128 + interruption.signal_number
    if not first:
        return 0
    workdir = Path(options.workdir)
    from flashvtg_jax.training.runs import untrained_numbers

    print_results(workdir, numbers, numbers_nms, untrained_numbers(workdir))
    if config.seeds or config.data.domains:
        print(f"\nmeans in {workdir}/metrics.json; each run's results in a folder of its own there")
    else:
        print(f"\nresults in {workdir}: metrics.json, predictions.jsonl, tensorboard/")
    return 0


def print_results(
    folder: Path,
    numbers: dict[str, float],
    numbers_nms: dict[str, float],
    untrained: dict[str, float] | None = None,
) -> None:
    """The numbers of a folder's metrics.json as a table, beside those of the untrained model."""
    deviations = json.loads((folder / "metrics.json").read_text()).get("std", {})
    columns = {"untrained": untrained} if untrained else {}
    columns["without NMS" if numbers_nms else "trained"] = {
        key: (value, deviations[key]) if deviations else value for key, value in numbers.items()
    }
    if numbers_nms:
        columns["with NMS"] = numbers_nms
    print_numbers(columns)


def run_evaluate(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.evaluation import evaluate
    from flashvtg_jax.training.stopping import StoppedError

    first = connect_processes(options)
    try:
        numbers, numbers_nms = evaluate(
            options.workdir,
            split=options.split,
            step=options.step,
            data_dir=options.data_dir,
            output=options.output,
        )
    except StoppedError:
        print("flashvtg evaluate: stopped by SIGTERM; nothing was written", file=sys.stderr)
        return 128 + signal.SIGTERM
    if not first:
        return 0
    output = Path(options.output or options.workdir)
    if numbers:
        print_results(output, numbers, numbers_nms)
    print(f"\nwrote predictions to {options.output or options.workdir}")
    return 0


def run_predict(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.prediction_files import predict_file, predict_pair
    from flashvtg_jax.predictor import Predictor

    listed, paired = (options.queries, options.output), (options.video, options.query_file)
    one, many = (all(paired) and not options.queries), (all(listed) and not any(paired))
    if not (one or many):
        print(
            "flashvtg predict: give --queries=FILE --output=FILE and where the features are, or "
            "--video=STREAM=FILE --query_file=FILE",
            file=sys.stderr,
        )
        return 2
    predictor = Predictor.from_checkpoint(
        options.checkpoint,
        step=options.step,
        batch_size=options.batch_size,
        whole_videos=options.whole_videos,
    )
    choice = {
        "nms_threshold": None if options.no_nms else options.nms_threshold,
        "max_moments": options.top_k,
        "score_threshold": options.score_threshold,
    }
    if options.nms_threshold is None and not options.no_nms:
        choice["nms_threshold"] = "config"
    if options.video:
        video = [named_path(text) for text in options.video]
        seconds = options.duration
        found = predict_pair(predictor, video, options.query_file, duration=seconds, **choice)
        text = json.dumps(found) + "\n"
        if options.output:
            write_atomically(options.output, text)
        else:
            print(text, end="")
        return 0
    summary = predict_file(
        predictor,
        options.queries,
        options.output,
        features=options.features,
        video_features=dict(map(named_path, options.video_features)),
        query_features=options.query_features,
        overwrite=options.overwrite,
        **choice,
    )
    print(summary.told(options.output), file=sys.stderr)
    return 3 if summary.bad else 0


def run_score(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.metrics import nested, score_files

    numbers = score_files(options.predictions, options.annotations, options.clip_length)
    print_numbers({"score": numbers})
    if options.output:
        write_atomically(options.output, json.dumps(nested(numbers), indent=2) + "\n")
    return 0


def run_convert(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.interop.conversion import from_torch_file, to_torch_file

    reading = {"--torch_checkpoint": options.torch_checkpoint, "--output": options.output}
    writing = {"--workdir": options.workdir, "--to_torch": options.to_torch}
    extra = (options.config or options.widths) if options.to_torch else options.step
    given = [name for name, value in {**reading, **writing}.items() if value]
    if given not in (list(reading), list(writing)) or extra is not None:
        print(
            "flashvtg convert: give --torch_checkpoint=FILE --output=DIR [--config=NAME] "
            "[--widths=...], or --workdir=DIR --to_torch=FILE [--step=N]",
            file=sys.stderr,
        )
        return 2
    if options.to_torch:
        written = to_torch_file(options.workdir, options.to_torch, options.step)
        print(f"wrote the parameters of step {written.step} to {options.to_torch}")
        model = written.model
        if (model.hidden_dim, model.num_heads) != (256, 8):
            print(
                "note: the authors' program has 256 channels and 8 heads built in, this model has "
                f"{model.hidden_dim} and {model.num_heads}: only a changed one runs it",
                file=sys.stderr,
            )
        return 0
    found = from_torch_file(
        options.torch_checkpoint, options.output, options.config, options.widths
    )
    data = found.config.data
    streams = " + ".join(f"{name} {data.video_widths[name]}" for name in data.video_streams)
    epoch = "" if found.epoch is None else f" of epoch {found.epoch + 1}"
    print(
        f"{found.num_params / 1e6:.2f} M parameters{epoch}: {data.dataset}"
        f"{''.join(f', domain {name}' for name in data.domains)}, features {streams}, words "
        f"{data.query_width}, clips of {found.config.clip_length:g} s\n"
        f"wrote {options.output}: flashvtg evaluate --workdir={options.output} --data_dir=DIR"
    )
    return 0


def run_plot(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.figures.files import plot_files

    paths = plot_files(
        options.predictions,
        options.output,
        annotations=options.annotations,
        qids=options.qid or (),
        limit=options.limit,
        file_format=options.format,
        clip_length=options.clip_length,
    )
    count = "a figure" if len(paths) == 1 else f"{len(paths)} figures"
    print(f"wrote {count} to {options.output}: {paths[0].name}" + ", ..." * (len(paths) > 1))
    return 0


def run_export(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.interop.exporting import export_checkpoint

    manifest = export_checkpoint(
        options.checkpoint,
        options.output,
        step=options.step,
        platforms=[name.strip() for name in options.platforms.split(",")],
        buckets=options.buckets,
        batch_sizes=options.batch_sizes,
    )
    files = [*manifest["programs"], manifest["params"]]
    for about in files:
        print(f"{about['file']}: {about['bytes'] / 1e6:.1f} MB")
    print(f"wrote {options.output} for {', '.join(manifest['platforms'])}: manifest.json says more")
    return 0


def print_numbers(columns: dict[str, dict[str, float]]) -> None:
    """A table on standard output."""
    from flashvtg_jax.metrics import format_table

    print(format_table(columns))


if __name__ == "__main__":
    sys.exit(main())

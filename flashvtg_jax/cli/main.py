"""The command line: `flashvtg COMMAND ...`, the roof of the house."""

import argparse
import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flashvtg_jax.cli.arguments import make_parser, named_path
from flashvtg_jax.errors import FlashVTGError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.system.huge_pages import restart_with_huge_pages

# Each command imports what it needs when it runs: `--help` is instant and needs no device.


def start() -> int:
    """The program `flashvtg`: `main`, in a process that is set up for it."""
    if sys.argv[1:2] and sys.argv[1] in COMPUTING:
        restart_with_huge_pages()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done. 1: something the user can fix, said in one message. 2: wrong usage, or no command:
    what there is was printed. 3: `predict` is
    done, but for lines of its list that could not be used. 130 and 143: training was interrupted by
    SIGINT or SIGTERM and is saved; 143 of several processes that evaluate: SIGTERM stopped them.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command is None and not rest:
        parser.print_help()
        return 2
    overrides = [text for text in rest if text.startswith("--config.")]
    unknown = [text for text in rest if text not in overrides]
    if unknown or (overrides and options.command not in CONFIGURED):
        hint = " (fields of the configuration are written --config.KEY=VALUE)" if overrides else ""
        parser.error(f"unknown arguments: {' '.join(unknown or overrides)}{hint}")
    # Orbax and TFDS log what they do at length; what goes wrong comes as an exception.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        with plain_warnings(options.command):
            return RUN[options.command](options, overrides)
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


@contextlib.contextmanager
def plain_warnings(command: str) -> Iterator[None]:
    """Shows warnings as errors are shown, without the line of the program that they come from."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_plainly(message: Warning, category: type, *rest: Any) -> None:
            if category is not UserWarning:
                show(message, category, *rest)
                return
            print(f"flashvtg {command}: {message}", file=sys.stderr)

        warnings.showwarning = show_plainly
        yield


def fail(options: argparse.Namespace, message: str, status: int = 1) -> int:
    """Tell what went wrong; returns the exit status, or ends the process, if it is one of several.

    The ordinary way out would wait there for the others, who wait for this one.
    """
    print(f"flashvtg {options.command}: {message}", file=sys.stderr)
    if is_one_of_several(options):
        from flashvtg_jax.distributed.processes import is_first

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


def run_synthesize(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.data.synthetic.features import synthesize

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
        spatial_tokens=options.spatial_tokens,
    )
    return 0


def run_annotations(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.data.build.released_annotations import convert_annotations

    conversion = convert_annotations(
        options.source,
        options.files,
        options.output,
        durations=options.durations,
        clip_windows=options.clip_windows,
    )
    for note in conversion.notes():
        print(note, file=sys.stderr)
    print(f"wrote {options.output}: {conversion.summary()}")
    return 0


def run_build(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.data.build.building import build

    build(
        options.dataset,
        options.manual_dir,
        options.data_dir,
        skip_missing=options.skip_missing,
        clip_windows=options.clip_windows,
        overwrite=options.overwrite,
        widths=options.widths,
        clip_length=options.clip_length,
        label_clip_length=options.label_clip_length,
        streams=tuple(filter(None, (options.streams or "").split(","))),
        resample=options.resample,
    )
    return 0


def start_devices(options: argparse.Namespace) -> bool:
    """Make this process one of several if asked to; returns whether it speaks for all.

    What is compiled from then on is kept on disk for the next time.
    """
    from flashvtg_jax.distributed.processes import connect, is_first
    from flashvtg_jax.system.compilation_cache import use_compilation_cache

    if is_one_of_several(options):
        connect(options.coordinator, options.num_processes, options.process_id)
    use_compilation_cache()
    return is_first()


def run_train(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from flashvtg_jax.config import load_config
    from flashvtg_jax.training.loop import Interrupted, train

    config = load_config(options.config, overrides)
    first = start_devices(options)
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
    from flashvtg_jax.experiments.runs import untrained_numbers

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
    from flashvtg_jax.distributed.preemption import StoppedError
    from flashvtg_jax.evaluation.evaluator import evaluate

    first = start_devices(options)
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
    from flashvtg_jax.prediction.files import predict_file, predict_pair
    from flashvtg_jax.prediction.predictor import Predictor
    from flashvtg_jax.system.compilation_cache import use_compilation_cache

    listed, paired = (options.queries, options.output), (options.video, options.query_file)
    one, many = (all(paired) and not options.queries), (all(listed) and not any(paired))
    if not (one or many):
        print(
            "flashvtg predict: give --queries=FILE --output=FILE and where the features are, or "
            "--video=STREAM=FILE --query_file=FILE",
            file=sys.stderr,
        )
        return 2
    use_compilation_cache()
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
    from flashvtg_jax.metrics import nested, parse_length_ranges, score_files
    from flashvtg_jax.metrics.scoring_settings import scoring_arguments

    ranges = options.length_ranges
    arguments = scoring_arguments(
        options.predictions,
        clip_length=options.clip_length,
        label_clip_length=options.label_clip_length,
        length_ranges=None if ranges is None else parse_length_ranges(ranges),
    )
    numbers = score_files(options.predictions, options.annotations, **arguments)
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
        f"wrote {options.output}: flashvtg evaluate --workdir={shlex.quote(options.output)} "
        "--data_dir=DIR"
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
        label_clip_length=options.label_clip_length,
    )
    count = "a figure" if len(paths) == 1 else f"{len(paths)} figures"
    print(f"wrote {count} to {options.output}: {paths[0].name}" + ", ..." * (len(paths) > 1))
    return 0


def run_study(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    command = shlex.join(["flashvtg", *sys.argv[1:]])
    if options.name == "label_correlation":
        return run_label_correlation(options, overrides, command)
    if not options.config or not options.workdir or options.annotations or options.clip_length:
        print(
            f"flashvtg study {options.name}: give --config=NAME and --workdir=DIR; --annotations "
            "and --clip_length are for label_correlation",
            file=sys.stderr,
        )
        return 2
    from flashvtg_jax.config import load_config
    from flashvtg_jax.studies.command import run_study as run
    from flashvtg_jax.system.compilation_cache import use_compilation_cache
    from flashvtg_jax.training.loop import Interrupted

    config = load_config(options.config, overrides)
    use_compilation_cache()
    try:
        path = run(
            options.name,
            config,
            Path(options.workdir),
            Path(options.output or options.workdir),
            num_seeds=options.seeds,
            command=command,
            split=options.split,
            names=options.variants,
            intervals=not options.no_intervals,
        )
    except Interrupted as interruption:
        print(
            f"flashvtg study: stopped by {interruption}; everything is saved, the same command "
            "continues",
            file=sys.stderr,
        )
        return 128 + interruption.signal_number
    print(path.read_text(encoding="utf-8"))
    print(f"wrote {path}, and .csv and .png beside it")
    return 0


def run_label_correlation(
    options: argparse.Namespace, overrides: Sequence[str], command: str
) -> int:
    """The study that trains nothing: of annotation files, given or of a configuration."""
    from flashvtg_jax.studies.label_correlation import annotation_files, label_correlation

    output = options.output or options.workdir
    if not output or bool(options.annotations) == bool(options.config):
        print(
            "flashvtg study label_correlation: give --output=DIR, and either --annotations=FILE, "
            "once or more, or --config=NAME with --config.data.manual_dir=DIR",
            file=sys.stderr,
        )
        return 2
    unused = [f"--{n}" for n in ("split", "variants", "no_intervals") if getattr(options, n)]
    if not options.config:
        unused += overrides
    elif options.clip_length:
        unused.append("--clip_length")
    if unused:
        print(
            f"flashvtg study label_correlation: it has no use for {' '.join(unused)} here; clips "
            "last --clip_length=SECONDS with --annotations, --config.clip_length=SECONDS with "
            "--config",
            file=sys.stderr,
        )
        return 2
    paths, clip_length = options.annotations, options.clip_length
    if options.config:
        from flashvtg_jax.config import load_config

        config = load_config(options.config, overrides)
        paths = annotation_files(config)
        clip_length = config.data.label_clip_length or config.clip_length
    path = label_correlation(
        [Path(path) for path in paths], Path(output), clip_length=clip_length, command=command
    )
    print(f"wrote {path}, and .csv and .png beside it")
    return 0


def run_inspect(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.figures.drawing import check_format
    from flashvtg_jax.figures.files import report_undrawable, safe_name
    from flashvtg_jax.figures.inspection import plot_inspection
    from flashvtg_jax.prediction.inspection import inspect_query
    from flashvtg_jax.system.compilation_cache import use_compilation_cache

    name = f"inspect_{safe_name(options.qid)}.png"
    path = Path(options.output or Path(options.workdir) / name)
    check_format(path)  # now, not after the work
    use_compilation_cache()
    inspection = inspect_query(
        options.workdir,
        options.qid,
        split=options.split,
        step=options.step,
        data_dir=options.data_dir,
    )
    plot_inspection(inspection, path)
    if path.suffix == ".png":
        report_undrawable(inspection.query, "--output=NAME.svg")
    print(f"wrote {path}")
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


RUN = {
    "synthesize": run_synthesize,
    "annotations": run_annotations,
    "build": run_build,
    "train": run_train,
    "evaluate": run_evaluate,
    "predict": run_predict,
    "score": run_score,
    "convert": run_convert,
    "plot": run_plot,
    "inspect": run_inspect,
    "study": run_study,
    "export": run_export,
}

COMPUTING = ("train", "evaluate", "predict", "study")  # for longer than a moment
CONFIGURED = ("train", "study")  # take fields of a configuration


if __name__ == "__main__":
    sys.exit(start())

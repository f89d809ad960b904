"""`flashvtg study`: comparisons of variants of the model, as in the paper."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from flashvtg_jax.cli.arguments import names, user_path
from flashvtg_jax.cli.command import Command
from flashvtg_jax.cli.processes import report_interruption

STUDIES = {
    "ablation": "each part of the model removed or replaced",
    "scales": "one to six scales, by length of the moments",
    "refinement": "ranking with and without the score across scales",
    "long_videos": "synthetic videos of 2.5 to 120 minutes",
    "robustness": "noise, lost, repeated or shuffled clips, a missing stream",
    "label_correlation": "saliency labels against moments, from annotation files alone",
}

COMMAND = Command(
    summary="compare variants of the model over several seeds",
    description=(
        "Compare variants of the model: train or evaluate each variant with several seeds, and "
        "write a table, a CSV file and a figure. Finished runs are not repeated, and studies with "
        "the same work directory share their runs. Fields of the configuration are given as for "
        "train."
    ),
    example=(
        "flashvtg study ablation --config=demo --workdir=runs/study --seeds=2\n"
        "  flashvtg study label_correlation --annotations=FILE --output=runs/labels"
    ),
    details="studies:\n" + "\n".join(f"  {name:<18} {about}" for name, about in STUDIES.items()),
    takes_fields=True,
    uses_huge_pages=True,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", choices=STUDIES, help="one of the above")
    add(
        "--config",
        metavar="NAME",
        help="configuration of the full model: a name or the path of a .py file, each with an "
        "optional :ARGUMENT",
    )
    add(
        "--workdir",
        metavar="DIR",
        type=user_path,
        help="folder for the runs; required by all studies but label_correlation",
    )
    add(
        "--output",
        metavar="DIR",
        type=user_path,
        help="folder for NAME.md, NAME.csv and NAME.png (default: the work directory)",
    )
    add(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="number of seeds for each variant (default: %(default)s)",
    )
    add("--split", metavar="NAME", help="split to compare on (default: the validation split)")
    add(
        "--variants",
        metavar="A,B",
        type=names,
        help="variants to compare with the full model, by their names in NAME.md (default: all)",
    )
    add(
        "--no_intervals",
        action="store_true",
        help="compute no confidence intervals, so that one seed is enough",
    )
    add = parser.add_argument_group("label_correlation").add_argument
    add(
        "--annotations",
        action="append",
        metavar="FILE",
        type=user_path,
        help="annotation file; repeat for several (default: those in config.data.manual_dir)",
    )
    add("--clip_length", type=float, metavar="SECONDS", help="length of their clips (default: 2)")


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    command = shlex.join(["flashvtg", *sys.argv[1:]])
    if options.name == "label_correlation":
        return _label_correlation(options, overrides, command)
    if not options.config or not options.workdir or options.annotations or options.clip_length:
        print(
            f"flashvtg study {options.name}: give --config=NAME and --workdir=DIR; --annotations "
            "and --clip_length are for label_correlation",
            file=sys.stderr,
        )
        return 2
    from flashvtg_jax.config import load_config
    from flashvtg_jax.distributed.stop_signal import Interrupted
    from flashvtg_jax.studies.command import run_study
    from flashvtg_jax.system.compilation_cache import use_compilation_cache

    config = load_config(options.config, overrides)
    use_compilation_cache()
    try:
        path = run_study(
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
        return report_interruption(options.command, interruption)
    print(path.read_text(encoding="utf-8"))
    print(f"wrote {path}, and .csv and .png beside it")
    return 0


def _label_correlation(options: argparse.Namespace, overrides: Sequence[str], command: str) -> int:
    """The study that trains nothing: of annotation files, given or those of a configuration."""
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
            f"flashvtg study label_correlation: {' '.join(unused)} cannot be used here; the length "
            "of a clip is --clip_length=SECONDS with --annotations, --config.clip_length=SECONDS "
            "with --config",
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

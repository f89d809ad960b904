"""`flashvtg inspect`: what a trained model computes for one query."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from flashvtg_jax.cli.arguments import add_split, user_path
from flashvtg_jax.cli.command import Command

COMMAND = Command(
    summary="draw what a trained model computes for one query",
    description=(
        "Draw what a trained model computes for one query: attention of clips to words, logits of "
        "the pyramid's levels, saliency and moments, beside the annotations."
    ),
    example="flashvtg inspect --workdir=runs/demo --qid=403",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", type=user_path, help="of flashvtg train")
    add("--qid", required=True, metavar="Q", help="id of the query")
    add_split(parser)
    add(
        "--output",
        metavar="FILE",
        type=user_path,
        help=".png or .svg file (default: inspect_Q.png in the work directory)",
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.figures.drawing import check_format
    from flashvtg_jax.figures.files import report_undrawable, safe_name
    from flashvtg_jax.figures.inspection import plot_inspection
    from flashvtg_jax.prediction.inspection import inspect_query
    from flashvtg_jax.system.compilation_cache import use_compilation_cache

    name = f"inspect_{safe_name(options.qid)}.png"
    path = Path(options.output or Path(options.workdir) / name)
    check_format(path)  # before the work, not after it
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

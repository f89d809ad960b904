"""`flashvtg plot`: figures of predictions."""

import argparse
from collections.abc import Sequence

from flashvtg_jax.cli.arguments import user_path
from flashvtg_jax.cli.command import Command

COMMAND = Command(
    summary="draw a figure for each query of a prediction file",
    description=(
        "Draw a figure for each query of a prediction file: saliency over time, the ten best "
        "moments as bars, and the annotated moments and saliency, if annotations are given."
    ),
    example=(
        "flashvtg plot --predictions=runs/demo/predictions_nms.jsonl --output=runs/demo/figures "
        "--annotations=runs/demo/data/synthetic/highlight_val_release.jsonl"
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--predictions", required=True, metavar="FILE", type=user_path, help="JSON lines")
    add("--output", required=True, metavar="DIR", type=user_path, help="folder for the figures")
    add("--annotations", metavar="FILE", type=user_path, help="JSON lines, of the same queries")
    add("--qid", action="append", metavar="Q", help="query to draw; repeat for several")
    add(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="without --qid: draw the first N queries (default: %(default)s)",
    )
    add(
        "--format", choices=("png", "svg"), default="png", help="file format (default: %(default)s)"
    )
    add(
        "--clip_length",
        type=float,
        metavar="SECONDS",
        help="length of the clips of pred_saliency_scores (default: as for flashvtg score; 2 "
        "without annotations)",
    )
    add(
        "--label_clip_length",
        type=float,
        metavar="SECONDS",
        help="length of the clips of relevant_clip_ids (default: as for flashvtg score)",
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
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

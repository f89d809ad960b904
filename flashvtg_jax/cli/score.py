"""`flashvtg score`: metrics of a prediction file."""

import argparse
import json
from collections.abc import Sequence

from flashvtg_jax.cli.arguments import user_path
from flashvtg_jax.cli.command import Command
from flashvtg_jax.cli.tables import print_metrics
from flashvtg_jax.files import write_atomically

COMMAND = Command(
    summary="score a prediction file in the QVHighlights format as the official evaluator does",
    description=(
        "Score a prediction file in the QVHighlights format as the official evaluator does. Clip "
        "lengths and ranges of lengths that are not given are read from config.json or the "
        "settings file beside the predictions, if there is one."
    ),
    example=(
        "flashvtg score --predictions=runs/demo/predictions.jsonl "
        "--annotations=runs/demo/data/synthetic/highlight_val_release.jsonl"
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--predictions", required=True, metavar="FILE", type=user_path, help="JSON lines")
    add("--annotations", required=True, metavar="FILE", type=user_path, help="JSON lines")
    add(
        "--output",
        metavar="FILE",
        type=user_path,
        help="write all metrics as JSON, in the official layout",
    )
    add(
        "--clip_length",
        type=float,
        metavar="SECONDS",
        help="length of the clips of pred_saliency_scores (default: from the numbers of scores "
        "and the durations)",
    )
    add(
        "--label_clip_length",
        type=float,
        metavar="SECONDS",
        help="length of the clips of relevant_clip_ids (default: --clip_length)",
    )
    add(
        "--length_ranges",
        metavar="short:0:10,long:10:inf",
        help="lengths of moments with metrics of their own, as NAME:ABOVE:UP_TO in seconds "
        "(default: the official short:0:10,middle:10:30,long:30:150)",
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.metrics import nested, parse_length_ranges, score_files
    from flashvtg_jax.metrics.scoring_settings import scoring_arguments

    ranges = options.length_ranges
    arguments = scoring_arguments(
        options.predictions,
        clip_length=options.clip_length,
        label_clip_length=options.label_clip_length,
        length_ranges=None if ranges is None else parse_length_ranges(ranges),
    )
    metrics = score_files(options.predictions, options.annotations, **arguments)
    print_metrics({"score": metrics})
    if options.output:
        write_atomically(options.output, json.dumps(nested(metrics), indent=2) + "\n")
    return 0

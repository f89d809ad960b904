"""`flashvtg evaluate`: metrics and predictions of a trained model."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from flashvtg_jax.cli.arguments import add_split, user_path
from flashvtg_jax.cli.command import Command
from flashvtg_jax.cli.processes import add_process_arguments, start_devices
from flashvtg_jax.cli.tables import print_results

COMMAND = Command(
    summary="evaluate the best checkpoint of a run",
    description=(
        "Evaluate the best checkpoint of a run, or another one; writes predictions.jsonl and "
        "metrics.json."
    ),
    example="flashvtg evaluate --workdir=runs/demo --split=val",
    uses_huge_pages=True,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--workdir",
        required=True,
        metavar="DIR",
        type=user_path,
        help="work directory of flashvtg train, or what flashvtg convert wrote",
    )
    add_split(parser)
    add(
        "--output",
        metavar="DIR",
        type=user_path,
        help="folder for the results (default: the work directory)",
    )
    add_process_arguments(parser)


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.distributed.stop_signal import StoppedError
    from flashvtg_jax.experiments.evaluate import evaluate

    is_lead_host = start_devices(options)
    try:
        result = evaluate(
            options.workdir,
            split=options.split,
            step=options.step,
            data_dir=options.data_dir,
            output=options.output,
        )
    except StoppedError:
        print("flashvtg evaluate: stopped by SIGTERM; nothing was written", file=sys.stderr)
        return 128 + signal.SIGTERM
    if not is_lead_host:
        return 0
    output = Path(options.output or options.workdir)
    if result.metrics:
        print_results(output, result.metrics, result.metrics_nms)
    print(f"\nwrote predictions to {output}")
    return 0

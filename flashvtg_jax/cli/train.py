"""`flashvtg train`: train a model and evaluate it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from flashvtg_jax.cli.arguments import user_path
from flashvtg_jax.cli.command import Command
from flashvtg_jax.cli.processes import (
    add_process_arguments,
    report_interruption,
    start_devices,
)
from flashvtg_jax.cli.tables import print_results

COMMAND = Command(
    summary="train a model and evaluate it",
    description=(
        "Train a model and evaluate it; the same command continues a run that was stopped. Any "
        "field of the configuration can be given as --config.section.field=value. "
        "--config.seeds=1,2,3 trains one model for each seed and reports mean and standard "
        "deviation. TVSum and YouTube Highlights have a model for each domain; "
        "--config=NAME:DOMAIN trains one of them."
    ),
    example=(
        "flashvtg train --config=demo --workdir=runs/slow --config.optimizer.learning_rate=1e-3"
    ),
    takes_fields=True,
    uses_huge_pages=True,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="NAME",
        help="name of a configuration or path of a .py file, each with an optional :ARGUMENT",
    )
    add(
        "--workdir",
        required=True,
        metavar="DIR",
        type=user_path,
        help="folder for checkpoints, logs and results",
    )
    add(
        "--profile",
        action="store_true",
        help="write a trace of some steps to WORKDIR/profile, for TensorBoard or XProf",
    )
    add_process_arguments(parser)


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    from flashvtg_jax.config import load_config
    from flashvtg_jax.distributed.stop_signal import Interrupted
    from flashvtg_jax.experiments.train import train

    config = load_config(options.config, overrides)
    is_first = start_devices(options)
    try:
        result = train(config, options.workdir, profile=options.profile)
    except Interrupted as interruption:
        return report_interruption(options.command, interruption)
    if not is_first:
        return 0
    workdir = Path(options.workdir)
    from flashvtg_jax.experiments.runs import untrained_metrics

    print_results(workdir, *result, untrained_metrics(workdir))
    if config.seeds or config.data.domains:
        print(f"\nmeans in {workdir}/metrics.json; the results of each run in its folder there")
    else:
        print(f"\nresults in {workdir}: metrics.json, predictions.jsonl, tensorboard/")
    return 0

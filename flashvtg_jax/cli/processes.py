"""Commands that train or evaluate: in one process or several, which a signal may interrupt."""

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashvtg_jax.distributed.stop_signal import Interrupted


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `start_devices` reads."""
    add = parser.add_argument_group("several processes").add_argument
    add(
        "--distributed",
        action="store_true",
        help="this process is one of several, started by a TPU slice, Slurm or Open MPI",
    )
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0, where nothing has started them together; with the next two",
    )
    add("--num_processes", type=int, metavar="N", help="number of processes")
    add("--process_id", type=int, metavar="I", help="number of this process, from 0")


def is_one_of_several(options: argparse.Namespace) -> bool:
    """Whether the arguments say that there are other processes."""
    by_hand = ("coordinator", "num_processes", "process_id")
    return getattr(options, "distributed", False) or any(
        getattr(options, name, None) is not None for name in by_hand
    )


def start_devices(options: argparse.Namespace) -> bool:
    """Connect the processes, if there are several, and use the compilation cache.

    Returns whether this is the lead host, which prints.
    """
    from flashvtg_jax.distributed.processes import connect, is_lead_host
    from flashvtg_jax.system.compilation_cache import use_compilation_cache

    if is_one_of_several(options):
        connect(options.coordinator, options.num_processes, options.process_id)
    use_compilation_cache()
    return is_lead_host()


def report_interruption(command: str, interruption: "Interrupted") -> int:
    """Print that a signal stopped a training; returns the exit status."""
    print(
        f"flashvtg {command}: stopped by {interruption}; everything is saved, the same command "
        "continues",
        file=sys.stderr,
    )
    return 128 + interruption.signal_number

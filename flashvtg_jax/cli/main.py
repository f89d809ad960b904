"""The program `flashvtg`: the list of commands, exit statuses and error messages."""

import argparse
import contextlib
import importlib
import logging
import os
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from flashvtg_jax.cli.processes import is_one_of_several
from flashvtg_jax.errors import FlashVTGError
from flashvtg_jax.system.huge_pages import restart_with_huge_pages
from flashvtg_jax.version import __version__

# Each is a file of this package; see command.py. This is their order in --help.
COMMANDS = (
    "synthesize",
    "annotations",
    "build",
    "train",
    "evaluate",
    "predict",
    "score",
    "plot",
    "inspect",
    "study",
    "convert",
    "export",
)

_WIDTH = 80  # columns of the texts of --help


def start() -> int:
    """Entry point: `main`, in a process that uses huge pages where the command profits."""
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name in COMMANDS and _load(name).COMMAND.uses_huge_pages:
        restart_with_huge_pages()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    0: done. 1: an error that the user can fix, reported in one message. 2: wrong usage. 3:
    `predict` is done, but some lines of its list could not be used. 130 and 143: SIGINT or SIGTERM
    interrupted the command; what `train` had done is saved.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command is None and not rest:
        parser.print_help()
        return 2
    overrides = [text for text in rest if text.startswith("--config.")]
    unknown = [text for text in rest if text not in overrides]
    command = options.command and _load(options.command)
    if unknown or command is None or (overrides and not command.COMMAND.takes_fields):
        hint = " (fields of the configuration are given as --config.KEY=VALUE)" if overrides else ""
        parser.error(f"unknown arguments: {' '.join(unknown or overrides)}{hint}")
    # Orbax and TFDS log a lot; what goes wrong comes as an exception.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        with _plain_warnings(options.command):
            return command.run(options, overrides)
    except FlashVTGError as error:
        return _fail(options, str(error))
    except OSError as error:  # no space left, no permission: the system's message names the file
        return _fail(options, str(error))
    except KeyboardInterrupt:
        return _fail(options, "interrupted", status=130)
    except Exception:
        if not is_one_of_several(options):
            raise
        traceback.print_exc()
        return _fail(
            options,
            "if another process was lost, its own output says why; start all of them again to "
            "continue from what is saved",
        )


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="flashvtg",
        description="FlashVTG: find the moments and highlights of a video that match a sentence.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flashvtg-jax {__version__}")
    parsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", help="a command; flashvtg COMMAND --help describes it"
    )
    lines = []
    for name in COMMANDS:
        module = _load(name)
        command = module.COMMAND
        lines.append(f"  {name:<13}{command.summary}\n")
        details = f"\n\n{command.details}" if command.details else ""
        own = parsers.add_parser(
            name,
            description=textwrap.fill(command.description, _WIDTH) + details,
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(own)
    parser.epilog = (
        f"commands:\n{''.join(lines)}\nTo start: flashvtg train --config=demo --workdir=runs/demo"
    )
    return parser


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{name}")


@contextlib.contextmanager
def _plain_warnings(command: str) -> Iterator[None]:
    """Prints warnings as errors are printed, without the source line that they come from."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_plainly(message: Warning, category: type, *rest: Any) -> None:
            if category is not UserWarning:
                show(message, category, *rest)
                return
            print(f"flashvtg {command}: {message}", file=sys.stderr)

        warnings.showwarning = show_plainly
        yield


def _fail(options: argparse.Namespace, message: str, status: int = 1) -> int:
    """Print an error; returns the exit status, or ends the process if it is one of several.

    A normal exit would wait for the other processes, which wait for this one.
    """
    print(f"flashvtg {options.command}: {message}", file=sys.stderr)
    if is_one_of_several(options):
        from flashvtg_jax.distributed.processes import is_first

        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            time.sleep(2)  # the others end as soon as it does: let them print their messages
        os._exit(status)
    return status

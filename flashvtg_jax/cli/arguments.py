"""Arguments that several commands take, and types of arguments."""

import argparse
import os


def user_path(text: str) -> str:
    """A path with ~ expanded, which shells do not do in --output=~/runs."""
    return os.path.expanduser(text)


def named_path(text: str) -> tuple[str | None, str]:
    """STREAM=PATH -> stream and path; a path alone -> None and the path."""
    name, _, path = text.partition("=")
    if not path or "/" in name or os.path.exists(text):  # a path may contain "="
        return None, user_path(text)
    return name, user_path(path)


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def integers(text: str) -> tuple[int, ...]:
    """Integers separated by commas."""
    try:
        return tuple(int(part) for part in names(text))
    except ValueError as error:
        message = f"{text!r}: expected integers separated by commas"
        raise argparse.ArgumentTypeError(message) from error


def add_layout(parser: argparse.ArgumentParser) -> None:
    """What describes the features of a data set."""
    add = parser.add_argument
    add(
        "--widths",
        metavar="slowfast=64,query=32",
        help="widths of the features (default: as released)",
    )
    add(
        "--clip_length",
        type=float,
        metavar="SECONDS",
        help="length of a clip; for custom/NAME, where it is required",
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    """The split, and the checkpoint that is applied to it."""
    add = parser.add_argument
    add("--split", metavar="NAME", help="train, val or test (default: the validation split)")
    add("--step", type=int, metavar="N", help="step of the checkpoint (default: the best one)")
    add(
        "--data_dir",
        metavar="DIR",
        type=user_path,
        help="folder of built data sets (default: as in training)",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """A trained model."""
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        type=user_path,
        help="work directory of flashvtg train, or what flashvtg convert wrote",
    )
    add("--step", type=int, metavar="N", help="step of the checkpoint (default: the best one)")

"""Types of arguments that several commands take."""

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

"""Errors meant for people: what is wrong, in which file and line, and what to do.

Everything a user can cause (a bad file, an unknown key, a work directory of another run) is raised
as a `FlashVTGError`; the command line prints its message without a traceback. Anything else is a
bug.
"""

from collections.abc import Sequence

MAX_ERRORS = 10  # that are reported at once


class FlashVTGError(ValueError):
    """Base of every error that the user can correct."""


class ConfigError(FlashVTGError):
    """A configuration that does not exist, an unknown key, a value of the wrong type."""


class DataError(FlashVTGError):
    """An annotation, feature file or built data set that cannot be used."""


class CheckpointError(FlashVTGError):
    """A checkpoint or work directory that cannot be read, or that belongs to another run."""


def first_lines(lines: Sequence[str]) -> list[str]:
    """Returns the first `MAX_ERRORS` lines, and one that counts the others, if there are any."""
    more = len(lines) - MAX_ERRORS
    return [*lines[:MAX_ERRORS], *([f"... and {more} more"] if more > 0 else [])]

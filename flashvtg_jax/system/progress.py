"""Progress on standard error: a bar in a terminal, nothing elsewhere."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    items: Iterable[Any], total: int | None, label: str, show: bool = True
) -> Iterable[Any]:
    """The items, with a bar while they pass, if `show` and standard error is a terminal."""
    return tqdm(items, total=total, desc=label, leave=False, disable=not show or not is_terminal())


def is_terminal() -> bool:
    """Whether a person can watch standard error."""
    return sys.stderr.isatty()

"""Names of data sets: "name/config", and "custom/NAME" for custom data sets."""

import os
import re
from pathlib import Path

from flashvtg_jax.errors import ConfigError

CUSTOM_BUILDER = "custom"  # in "custom/NAME"
CUSTOM = f"{CUSTOM_BUILDER}/NAME"  # in lists of names

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def is_custom(dataset: str) -> bool:
    """Returns whether a name is that of a custom data set."""
    return dataset.partition("/")[0] == CUSTOM_BUILDER


def dataset_for(folder: str | os.PathLike) -> str:
    """Returns "custom/NAME" for a folder; other characters than NAME may have become "_"."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(folder).name).lstrip(".-")
    return f"{CUSTOM_BUILDER}/{name or 'data'}"


def check_custom_name(dataset: str) -> None:
    """Raises ConfigError if NAME, in "custom/NAME", cannot be the name of a folder."""
    name = dataset.partition("/")[2]
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"no data set {dataset!r}; custom data sets are called {CUSTOM}, where NAME is a word "
            "of letters, digits, _ - and ."
        )

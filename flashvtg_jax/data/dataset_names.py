"""Names of data sets: "name/config", and "custom/NAME" for one's own data."""

import os
import re
from pathlib import Path

from flashvtg_jax.errors import ConfigError

CUSTOM_BUILDER = "custom"  # in "custom/NAME"
CUSTOM = f"{CUSTOM_BUILDER}/NAME"  # stands for one's own data where names are listed

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def is_custom(dataset: str) -> bool:
    """Returns whether a data set's name is one of one's own data."""
    return dataset.partition("/")[0] == CUSTOM_BUILDER


def dataset_for(folder: str | os.PathLike) -> str:
    """Returns "custom/NAME" for a folder: its name, "_" in place of characters that NAME lacks."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(folder).name).lstrip(".-")
    return f"{CUSTOM_BUILDER}/{name or 'data'}"


def check_custom_name(dataset: str) -> None:
    """Raises ConfigError if NAME, in "custom/NAME", is not the name of a folder."""
    name = dataset.partition("/")[2]
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"no data set {dataset!r}; one's own data are called {CUSTOM}, NAME any word of "
            "letters, digits, _ - and ."
        )

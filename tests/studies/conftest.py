"""The tiny data set of the training tests, for studies that train; their CSV files, read."""

import csv
from pathlib import Path

import pytest

from flashvtg_jax.figures.entries import Entry
from flashvtg_jax.training.hooks.figures import Curves
from tests.training.conftest import tiny_config as tiny_config
from tests.training.conftest import tiny_data as tiny_data


@pytest.fixture(scope="module", autouse=True)
def _no_curves():
    """Runs of a study draw no figure, which takes longer than they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Curves, "on_end", lambda self, training: None)
        yield


_TEXTS = ("variant", "condition", "metric")


def read_entries(path: Path) -> list[Entry]:
    """The entries of a CSV file of a study."""

    def value(column: str, cell: str) -> str | float | None:
        return cell if column in _TEXTS else float(cell) if cell else None

    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [Entry(**{column: value(column, line[column]) for column in line}) for line in lines]

"""The examples run as they stand, and what they train improves."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_example_is_left_out():
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert names == ["linen_model", "nnx_model", "plain_jax"]


@pytest.mark.parametrize(
    ("name", "shown", "at_least"),
    [
        ("plain_jax", "named or not, right: ", 80),
        ("linen_model", "both right: ", 90),
        ("nnx_model", "right: ", 93),
    ],
)
def test_example_runs_and_its_loss_goes_down(name, shown, at_least, capsys):
    losses = load(EXAMPLES / f"{name}.py").main()
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    printed = capsys.readouterr().out
    assert float(printed.split(shown)[1].split("%")[0]) >= at_least

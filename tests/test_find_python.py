"""The script that chooses the interpreter for the setup scripts."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "find_python"


def fake_python(path, version=(3, 11), has_ensurepip=True):
    """An interpreter that fails as one of this version, or one without ensurepip, would."""
    lines = ["#!/bin/sh", 'case "$2" in']
    lines.append(f"  *version_info*) exit {int(version < (3, 11))};;")
    lines.append(f"  *ensurepip*) exit {int(not has_ensurepip)};;")
    lines += ["  *) exit 9;;", "esac", ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def find(folder, python=None):
    environment = {"PATH": f"{folder}{os.pathsep}{os.defpath}"}  # and no HOME
    if python:
        environment["PYTHON"] = str(python)
    command = ["/bin/bash", str(SCRIPT)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def hide_the_others(folder):
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        fake_python(folder / name, version=(3, 9))


def test_a_path_with_spaces_is_one_path(tmp_path):
    python = fake_python(tmp_path / "my tools" / "python")
    assert find(tmp_path, python).stdout.strip() == str(python)
    assert find(tmp_path, sys.executable).stdout.strip() == sys.executable


def test_the_first_that_can_make_environments_is_taken(tmp_path):
    hide_the_others(tmp_path)
    fake_python(tmp_path / "python3.12", (3, 12), has_ensurepip=False)
    fake_python(tmp_path / "python3.11")
    assert find(tmp_path).stdout.strip() == str(tmp_path / "python3.11")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ((3, 12), "python3.12 cannot make virtual environments: install python3-venv"),
        ((3, 9), "Python 3.11 or newer is needed"),
    ],
)
def test_what_is_missing_is_said(tmp_path, version, message):
    hide_the_others(tmp_path)
    fake_python(tmp_path / "python3.12", version, has_ensurepip=False)
    done = find(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)

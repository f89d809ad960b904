"""What gets installed, and where it works."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flashvtg_jax.config import config_names
from flashvtg_jax.version import __version__

ROOT = Path(__file__).resolve().parents[1]
# Declared, though nothing here imports it: tensorflow-datasets imports it and does not declare it.
NOT_IMPORTED = {"importlib_resources"}

LOAD_ALL = """
import sys
import flashvtg_jax.config as config
assert config.__file__.startswith(sys.argv[1]), config.__file__
print(*(config.load_config(name).name for name in config.config_names()))
"""

IMPORT_ALL = """
import importlib, pkgutil, sys
import flashvtg_jax, tfds_builders
for package in (flashvtg_jax, tfds_builders):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(*(name for name in ("tensorflow", "torch") if name in sys.modules))
"""


def run_python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path or cwd), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", *arguments]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """The one file that setuptools makes of a source tree, without network."""
    target.mkdir()
    script = f"from setuptools import build_meta as b; b.build_{kind}({str(target)!r})"
    command = [sys.executable, "-c", script]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = target.iterdir()
    return built


def tracked_files(folder: Path) -> set[str]:
    """Files below a folder, relative to it, but what Python leaves there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in files if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source distribution, unpacked."""
    pytest.importorskip("setuptools", minversion="77", reason="an older one lacks bdist_wheel")
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")
    source.mkdir()
    for name in ("flashvtg_jax", "tfds_builders", "configs", "tests", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, source)
    shutil.copy(ROOT / "LICENSE", source)
    with tarfile.open(build("sdist", source, folder / "dist")) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"flashvtg_jax-{__version__}"


@pytest.fixture(scope="module")
def wheel(sdist) -> zipfile.ZipFile:
    """The wheel, made of the source distribution as pip does."""
    with zipfile.ZipFile(build("wheel", sdist, sdist.parent / "wheel")) as archive:
        yield archive


def test_wheel_holds_package_builders_and_configurations_and_no_more(wheel):
    expected = {f"tfds_builders/{name}" for name in tracked_files(ROOT / "tfds_builders")}
    expected |= {f"flashvtg_jax/{name}" for name in tracked_files(ROOT / "flashvtg_jax")}
    expected |= {f"flashvtg_jax/configs/{name}" for name in tracked_files(ROOT / "configs")}
    assert "flashvtg_jax/py.typed" in expected
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


def test_wheel_has_name_version_licence_and_command(wheel):
    folder = f"flashvtg_jax-{__version__}.dist-info"
    metadata = message_from_string(wheel.read(f"{folder}/METADATA").decode())
    assert (metadata["Name"], metadata["Version"]) == ("flashvtg-jax", __version__)
    assert metadata["Requires-Python"] == ">=3.11"
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    commands = configparser.ConfigParser()
    commands.read_string(wheel.read(f"{folder}/entry_points.txt").decode())
    assert commands["console_scripts"]["flashvtg"] == "flashvtg_jax.cli.main:start"


def test_requirements_pair_jax_and_flax_and_leave_out_tensorflow_and_torch(wheel):
    text = wheel.read(f"flashvtg_jax-{__version__}.dist-info/METADATA").decode()
    lines = message_from_string(text).get_all("Requires-Dist")
    requirements = [Requirement(line) for line in lines]

    def allows(python: str, **versions: str) -> bool:
        environment = {"python_version": python, "extra": ""}
        here = [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]
        assert not {"tensorflow", "torch"} & {r.name for r in here}
        return all(r.specifier.contains(versions[r.name]) for r in here if r.name in versions)

    assert allows("3.11", jax="0.10.2", flax="0.12.8")
    assert allows("3.12", jax="0.11.2", flax="0.12.9")
    assert allows("3.12", jax="0.12.0.1", flax="0.12.12")
    assert not allows("3.12", jax="0.12.0", flax="0.12.8")  # flax.nnx fails
    assert not allows("3.12", jax="0.10.2", flax="0.12.12")
    extras = {extra for line in lines for extra in re.findall(r'extra == "(\w+)"', line)}
    assert extras == {"cuda12", "cuda13", "tpu", "torch", "hdf5", "export", "test"}


def imported_packages(*folders: str) -> set[str]:
    """The top-level packages that are imported anywhere in the folders, but for Python's own."""
    packages = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                packages |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                packages.add(node.module.split(".")[0])
    return packages - set(sys.stdlib_module_names) - {"flashvtg_jax", "tfds_builders"}


def test_dependencies_are_the_packages_that_are_imported(wheel):
    text = wheel.read(f"flashvtg_jax-{__version__}.dist-info/METADATA").decode()
    requirements = map(Requirement, message_from_string(text).get_all("Requires-Dist"))
    declared = {
        canonicalize_name(r.name)
        for r in requirements
        if not r.marker or "extra" not in str(r.marker)
    }
    distributions = packages_distributions()
    imported = {
        canonicalize_name(distributions[package][0])
        for package in imported_packages("flashvtg_jax", "tfds_builders", "configs")
    }
    imported -= {"jaxlib", "flatbuffers"}  # jax pins the one, the extra "export" has the other
    assert declared - {canonicalize_name(name) for name in NOT_IMPORTED} == imported


def test_names_resolve_from_an_installed_wheel_in_an_empty_directory(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    wheel.extractall(site)
    empty.mkdir()
    loaded = run_python("-c", LOAD_ALL, str(site), cwd=empty, path=site)
    assert loaded.split() == config_names()


def test_names_resolve_from_a_checkout_in_an_empty_directory(tmp_path):
    loaded = run_python("-c", LOAD_ALL, str(ROOT), cwd=tmp_path, path=ROOT)
    assert loaded.split() == config_names()


def test_importing_everything_warns_of_nothing_and_loads_neither_tensorflow_nor_torch():
    assert run_python("-c", IMPORT_ALL, cwd=ROOT).strip() == ""

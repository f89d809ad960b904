"""Packaging of flashvtg-jax: `pip install .` in a checkout, or `pip install -e .` to work on it."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """The version, without importing the package (its dependencies are not there yet)."""
    namespace: dict[str, str] = {}
    exec((ROOT / "flashvtg_jax" / "version.py").read_text(encoding="utf-8"), namespace)
    return namespace["__version__"]


# jax 0.11 dropped Python 3.11, and the flax of one side breaks beside the jax of the other
# (flax 0.12.8 and jax >= 0.11: flax.nnx fails), so each Python has a pair of ranges of its own.
JAX = [
    "jax>=0.10.2,<0.11; python_version < '3.12'",
    "flax>=0.12.8,<0.13; python_version < '3.12'",
    "jax>=0.11.1,<0.13; python_version >= '3.12'",
    "flax>=0.12.9,<0.13; python_version >= '3.12'",
]

# Lower bounds were tried on Python 3.11 and 3.12, the newest releases of November 2026 on 3.11 and
# 3.13.
# Neither TensorFlow nor PyTorch is needed to build data sets, train, evaluate or predict.
INSTALL_REQUIRES = [
    *JAX,
    "array_record>=0.8.1",
    "chex>=0.1.91",
    "etils[epath]>=1.13",
    "grain>=0.2.15",
    "importlib_resources>=6.4",  # tensorflow-datasets imports it and does not say so
    "jaxtyping>=0.3.11",
    "matplotlib>=3.11",  # writes Arabic and Indian scripts as they are written
    "ml_collections>=1.1",
    "numpy>=2.1",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.12,<0.13",
    "tensorboardX>=2.6.2.2",
    "tensorflow-datasets>=4.9.10",  # ShardBasedBuilder
    "tqdm>=4.67",
]

EXPORT = ["flatbuffers>=24.3.25"]  # jax.export serialises with it

HDF5 = ["h5py>=3.12"]  # to read feature files of HDF5

EXTRAS = {
    "cuda12": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    # To read checkpoints of the PyTorch code; before 2.6 reading could run what is in a file.
    "torch": ["torch>=2.6"],
    "hdf5": HDF5,
    "export": EXPORT,
    "test": [
        *EXPORT,
        *HDF5,
        "beartype>=0.23.1",
        "pytest>=8.3",
        "pytest-xdist>=3.7",
        "ruff>=0.17,<0.18",  # formatting differs from one minor release to the next
        "scipy>=1.15",
        "setuptools>=77.0.1",  # a test builds the wheel, without network
    ],
}

setup(
    name="flashvtg-jax",
    version=read_version(),
    description="FlashVTG in JAX: video moment retrieval and highlight detection",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["flashvtg_jax", "flashvtg_jax.*"]),
        *find_packages(include=["tfds_builders", "tfds_builders.*"]),
        "flashvtg_jax.configs",
    ],
    # The configurations live at the top of the checkout, where people look for them, and inside the
    # package once installed, where `load_config` finds them from anywhere.
    package_dir={"flashvtg_jax.configs": "configs"},
    # TFDS reads a builder's description and citation from files beside it.
    package_data={
        "flashvtg_jax": ["py.typed"],
        "": ["README.md", "other_datasets.md", "CITATIONS.bib"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["flashvtg = flashvtg_jax.cli.main:start"]},
    zip_safe=False,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)

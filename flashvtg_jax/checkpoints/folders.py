"""Which folders hold checkpoints: of a run, and of several runs below one work directory."""

import re
from pathlib import Path

_SEED_FOLDER = re.compile(r"seed(\d+)")


def finished_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `checkpoints/` or `best/`, ascending."""
    folders = folder.glob("*") if folder.is_dir() else ()
    return sorted(int(path.name) for path in folders if path.name.isdigit())


def find_runs(workdir: Path) -> list[str]:
    """Names of the runs in a work directory, such as "BK/seed2024", sorted; [""] if it is a run."""
    if _has_checkpoints(workdir):
        return [""]
    folders = [*workdir.glob("seed*"), *workdir.glob("*/seed*")]
    return sorted(
        folder.relative_to(workdir).as_posix()
        for folder in folders
        if _SEED_FOLDER.fullmatch(folder.name) and _has_checkpoints(folder)
    )


def run_name(domain: str | None, seed: int) -> str:
    """The folder of a run below the work directory: "BK/seed2024", or "seed2024"."""
    return f"seed{seed}" if domain is None else f"{domain}/seed{seed}"


def domain_and_seed(name: str) -> tuple[str, int]:
    """What `run_name` was made of; the domain is "" where the data set is not divided."""
    domain, _, folder = name.rpartition("/")
    return domain, int(_SEED_FOLDER.fullmatch(folder)[1])


def _has_checkpoints(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("checkpoints", "best"))

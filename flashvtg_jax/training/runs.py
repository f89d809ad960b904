"""Several runs of one command: a model for each domain of a data set and each seed, and their mean.

Each run has a folder of its own below the work directory, `DOMAIN/seedSEED`, which is the work
directory of an ordinary run: it can be looked at, evaluated and continued alone.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections

from flashvtg_jax.config import apply_overrides
from flashvtg_jax.files import write_atomically
from flashvtg_jax.metrics import mean_and_std

Numbers = dict[str, float]

_SEED_FOLDER = re.compile(r"seed(\d+)")


@dataclasses.dataclass(frozen=True)
class Run:
    """One model to train.

    Attributes:
      name: folder below the work directory, "BK/seed2024"; "" where there is one run only.
      config: of this run: one seed, and one domain or an undivided data set.
      workdir: its own.
    """

    name: str
    config: ml_collections.ConfigDict
    workdir: Path


def plan_runs(config: ml_collections.ConfigDict, workdir: Path) -> list[Run]:
    """The runs of a configuration: each of `data.domains` with each of `seeds`."""
    if not config.data.domains and not config.seeds:
        return [Run("", config, workdir)]
    runs = []
    for domain in config.data.domains or (None,):
        for seed in config.seeds or (config.seed,):
            overrides = {"seeds": (), "seed": seed}
            if domain is not None:
                overrides["data.domains"] = (domain,)
            name = f"seed{seed}" if domain is None else f"{domain}/seed{seed}"
            runs.append(Run(name, apply_overrides(config, overrides), workdir / name))
    return runs


def find_runs(workdir: Path) -> list[str]:
    """Names of the runs that a work directory holds, sorted; [""] if it is one itself."""
    if _has_checkpoints(workdir):
        return [""]
    folders = [*workdir.glob("seed*"), *workdir.glob("*/seed*")]
    return sorted(
        folder.relative_to(workdir).as_posix()
        for folder in folders
        if _SEED_FOLDER.fullmatch(folder.name) and _has_checkpoints(folder)
    )


def write_summary(
    folder: Path, split: str, results: Mapping[str, tuple[Numbers, Numbers]]
) -> tuple[Numbers, Numbers]:
    """Write metrics.json of several runs; returns their mean numbers without and with NMS.

    The file holds the means under the keys of a single run's file, and besides: `seeds`; `std`, the
    sample standard deviation over them, if there are several; and `runs`, the numbers of each run.

    Args:
      folder: to write into.
      split: that was scored.
      results: numbers without and with NMS by the name of the run.
    """
    plain, nms = (
        mean_and_std(over_domains({name: pair[i] for name, pair in results.items()}))
        for i in range(2)
    )
    means, means_nms = ({key: round(m, 2) for key, (m, _) in x.items()} for x in (plain, nms))
    seeds = seeds_of(results)
    deviations = {key: round(deviation, 2) for key, (_, deviation) in plain.items()}
    content = {
        "split": split,
        "seeds": seeds,
        **means,
        **({"std": deviations} if len(seeds) > 1 else {}),
        **({"with_nms": means_nms} if means_nms else {}),
        "runs": {name: numbers for name, (numbers, _) in results.items()},
    }
    write_atomically(folder / "metrics.json", json.dumps(content, indent=2) + "\n")
    return means, means_nms


def untrained_numbers(workdir: Path) -> Numbers:
    """The numbers before the first step, in the mean over runs; empty where they were not taken."""
    results = {}
    for name in find_runs(workdir):
        try:
            with (workdir / name / "evaluations.jsonl").open(encoding="utf-8") as lines:
                first = json.loads(next(lines, "{}"))
        except OSError:
            return {}
        if first.pop("step", None) != 0:
            return {}
        first.pop("with_nms", None)
        results[name] = first
    if list(results) in ([], [""]):
        return results.get("", {})
    return {key: mean for key, (mean, _) in mean_and_std(over_domains(results)).items()}


def over_domains(results: Mapping[str, Numbers]) -> list[Numbers]:
    """The numbers of each seed: means over the domains, beside the numbers of single domains.

    Args:
      results: by name of the run, "BK/seed2024" or "seed2024".
    """
    by_seed: dict[int, list[Numbers]] = {}
    for name, numbers in results.items():
        by_seed.setdefault(_seed(name), []).append(numbers)
    combined = []
    for _, domains in sorted(by_seed.items()):
        keys = dict.fromkeys(key for numbers in domains for key in numbers)
        combined.append(
            {
                key: sum(values) / len(values)
                for key in keys
                if (values := [numbers[key] for numbers in domains if key in numbers])
            }
        )
    return combined


def seeds_of(names: Sequence[str] | Mapping[str, object]) -> list[int]:
    """The seeds that occur in names of runs, ascending."""
    return sorted({_seed(name) for name in names})


def _seed(name: str) -> int:
    return int(_SEED_FOLDER.fullmatch(name.rpartition("/")[2])[1])


def _has_checkpoints(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("checkpoints", "best"))

"""Several runs of one command: a model for each domain of a data set and each seed, and their mean.

Each run has a folder of its own below the work directory, `DOMAIN/seedSEED`, which is the work
directory of an ordinary run: it can be inspected, evaluated and resumed alone.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections

from flashvtg_jax.checkpoints.folders import domain_and_seed, find_runs, run_name
from flashvtg_jax.config import apply_overrides
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.evaluation.results import Metrics
from flashvtg_jax.files import write_atomically
from flashvtg_jax.metrics import mean_and_std
from flashvtg_jax.training.run import Run


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
            name = run_name(domain, seed)
            runs.append(Run(name, apply_overrides(config, overrides), workdir / name))
    return runs


def check_kind(workdir: Path, several: bool) -> None:
    """Raises ConfigError if a folder holds a single run and is to hold several, or the reverse."""
    names = find_runs(workdir)
    if several and names == [""]:
        raise ConfigError(
            f"{workdir} holds a single run; use another --workdir for runs of several seeds or "
            "domains"
        )
    if not several and names not in ([], [""]):
        raise ConfigError(
            f"{workdir} holds the runs of several seeds or domains ({names[0]}, ...); use another "
            "--workdir for a single run"
        )


def write_summary(folder: Path, split: str, names: Sequence[str]) -> tuple[Metrics, Metrics]:
    """Write metrics.json for the runs, of these, that were scored on a split.

    The file holds the means under the keys of a single run's file, `seeds`, with several of them
    their sample standard deviation `std`, and under `runs` the metrics of each run.

    Returns the means without and with NMS.
    """
    results, results_nms = {}, {}
    for name in names:
        try:
            content = json.loads((folder / name / "metrics.json").read_text())
        except (OSError, ValueError):
            continue  # not finished
        if content.pop("split", None) == split:
            del content["step"]
            results_nms[name] = content.pop("with_nms", {})
            results[name] = content
    summary, summary_nms = summarize(results), summarize(results_nms)
    means, means_nms = ({k: round(m, 2) for k, (m, _) in x.items()} for x in (summary, summary_nms))
    seeds = sorted({domain_and_seed(name)[1] for name in results})
    deviations = {key: round(deviation, 2) for key, (_, deviation) in summary.items()}
    content = {
        "split": split,
        "seeds": seeds,
        **means,
        **({"std": deviations} if len(seeds) > 1 else {}),
        **({"with_nms": means_nms} if means_nms else {}),
        "runs": results,
    }
    write_atomically(folder / "metrics.json", json.dumps(content, indent=2) + "\n")
    return means, means_nms


def untrained_metrics(workdir: Path) -> Metrics:
    """The metrics before the first step, in the mean over runs; empty where they were not taken."""
    results = {}
    for name in find_runs(workdir):
        try:
            with (workdir / name / "evaluations.jsonl").open(encoding="utf-8") as lines:
                first = json.loads(next(lines, "{}"))
        except OSError:
            continue
        if first.pop("step", None) == 0:
            first.pop("with_nms", None)
            results[name] = first
    if list(results) == [""]:
        return results[""]
    return {key: mean for key, (mean, _) in summarize(results).items()}


def summarize(results: Mapping[str, Metrics]) -> dict[str, tuple[float, float]]:
    """Mean and sample standard deviation over the seeds, of the means over the domains.

    A seed without one of the domains counts only for the metrics that belong to one domain.

    Args:
      results: by name of the run, "BK/seed2024" or "seed2024".
    """
    by_seed: dict[int, dict[str, Metrics]] = {}
    for name, metrics in sorted(results.items()):
        domain, seed = domain_and_seed(name)
        by_seed.setdefault(seed, {})[domain] = metrics
    domains = {domain for found in by_seed.values() for domain in found}
    values: dict[str, list[float]] = {}
    for found in by_seed.values():
        for key in dict.fromkeys(key for metrics in found.values() for key in metrics):
            of_domains = [metrics[key] for metrics in found.values() if key in metrics]
            of_one = any(key.endswith(f"-{domain}") for domain in domains if domain)
            if of_one or len(of_domains) == len(domains):
                values.setdefault(key, []).append(sum(of_domains) / len(of_domains))
    found = {key: mean_and_std(seeds) for key, seeds in values.items()}
    return {key: (mean, std or 0.0) for key, (mean, std) in found.items()}

"""`flashvtg study NAME`: from a configuration to a table, a CSV file and a figure."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.figures import studies as figures
from flashvtg_jax.files import write_atomically
from flashvtg_jax.studies import comparisons, long_videos
from flashvtg_jax.studies.comparisons import compare
from flashvtg_jax.studies.robustness import METRICS as ROBUSTNESS_METRICS
from flashvtg_jax.studies.robustness import robustness
from flashvtg_jax.studies.running import check_variants, open_subject, train_variants
from flashvtg_jax.studies.tables import Entry, markdown_table, write_csv
from flashvtg_jax.studies.variants import (
    Variant,
    ablation_variants,
    choose,
    refinement_variants,
    robustness_variants,
    scale_variants,
)


@dataclasses.dataclass(frozen=True)
class Study:
    """A study that trains variants of one configuration.

    Attributes:
      title: of its table and figure.
      variants: what is trained, the full model among them.
      metrics: columns of the table; those that a data set does not have are left out.
      plot: draws its figure.
      needs_moments: whether highlight detection has nothing for it.
    """

    title: str
    variants: Callable[[ml_collections.ConfigDict], list[Variant]]
    metrics: Sequence[str]
    plot: Callable[..., None]
    needs_moments: bool = True


STUDIES = {
    "ablation": Study(
        "What each part of the model brings",
        ablation_variants,
        comparisons.ABLATION_METRICS,
        figures.plot_ablation,
        needs_moments=False,
    ),
    "scales": Study(
        "Number of scales and length of moments",
        scale_variants,
        comparisons.SCALE_METRICS,
        figures.plot_scales,
    ),
    "refinement": Study(
        "Ranking with and without adaptive score refinement",
        refinement_variants,
        comparisons.REFINEMENT_METRICS,
        figures.plot_refinement,
    ),
    "long_videos": Study(
        "Videos of minutes to hours",
        long_videos.variants,
        long_videos.METRICS,
        figures.plot_long_videos,
    ),
    "robustness": Study(
        "Perturbed videos, trained clean and trained with them",
        robustness_variants,
        ROBUSTNESS_METRICS,
        figures.plot_robustness,
        needs_moments=False,
    ),
}


def run_study(
    name: str,
    config: ml_collections.ConfigDict,
    workdir: Path,
    output: Path,
    *,
    num_seeds: int,
    command: str,
    split: str | None = None,
    names: Sequence[str] | None = None,
    intervals: bool = True,
    show_progress: bool = True,
) -> Path:
    """Train and compare the variants of a study; write NAME.md, NAME.csv and NAME.png.

    What is finished in `workdir` is not done again, and studies share it: the full model is trained
    once for all of them.

    Args:
      name: of `STUDIES`.
      config: of the full model.
      workdir: of the runs and of what else is kept.
      output: folder of the results.
      num_seeds: of each variant; two or more for intervals.
      command: what was typed, for the table.
      split: to compare on; None: the validation split. Not of long_videos, which makes its own.
      names: of the variants to train besides the full model; None: all.
      intervals: whether differences get theirs.
      show_progress: whether to say on stderr what is done.

    Returns:
      The path of NAME.md.

    Raises:
      ConfigError: before anything is trained, for a study, a variant or a number of seeds that
        makes no sense.
      DataError: data that cannot be used, or a split without labels.
    """
    study = STUDIES[name]
    if num_seeds < 1 or (intervals and num_seeds < 2):
        raise ConfigError(
            f"--seeds={num_seeds}: an interval needs the spread between two seeds at least; use "
            "--seeds=2 or more, or --no_intervals for a look at one"
        )
    if study.needs_moments and not config.loss.regression:
        raise ConfigError(
            f"study {name} is about moments, and {config.name} learns none "
            "(config.loss.regression=False); use a moment retrieval data set"
        )
    workdir = workdir.expanduser().absolute()
    if name == "long_videos":
        if split is not None:
            raise ConfigError("study long_videos makes videos of its own: it has no --split")
        chosen = choose(study.variants(config), names)
        entries = long_videos.run(
            config,
            range(config.seed, config.seed + num_seeds),
            workdir,
            compared=chosen,
            intervals=intervals,
            show_progress=show_progress,
        )
    else:
        subject = open_subject(config, workdir, num_seeds, split=split, show_progress=show_progress)
        chosen = choose(study.variants(subject.config), names)
        check_variants(subject, chosen)
        runs = train_variants(
            subject.config, chosen, subject.seeds, workdir, show_progress=show_progress
        )
        if name == "robustness":
            entries = robustness(
                subject, chosen, runs, intervals=intervals, show_progress=show_progress
            )
        else:
            entries = compare(subject, chosen, runs, study.metrics, intervals=intervals)
    notes = long_videos.notes(config) if name == "long_videos" else ""
    return write_study(study, name, entries, output.expanduser(), command=command, notes=notes)


def write_study(
    study: Study,
    name: str,
    entries: Sequence[Entry],
    output: Path,
    *,
    command: str,
    notes: str = "",
) -> Path:
    """Write the table, the CSV file and the figure; returns the path of the table."""
    metrics = [metric for metric in study.metrics if any(e.metric == metric for e in entries)]
    write_csv(output / f"{name}.csv", entries)
    study.plot(entries, output / f"{name}.png", title=study.title)
    path = output / f"{name}.md"
    notes = f"![{study.title}]({name}.png)\n\n{notes}"
    table = markdown_table(entries, metrics, title=study.title, command=command, notes=notes)
    write_atomically(path, table)
    return path

"""`flashvtg study NAME`: from a configuration to a table, a CSV file and a figure."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.evaluation.results import check_writable
from flashvtg_jax.figures import studies as figures
from flashvtg_jax.files import write_atomically
from flashvtg_jax.studies import comparisons, long_videos
from flashvtg_jax.studies.comparisons import compare
from flashvtg_jax.studies.robustness import ABOUT_STRENGTHS, by_strength, robustness
from flashvtg_jax.studies.robustness import METRICS as ROBUSTNESS_METRICS
from flashvtg_jax.studies.running import Subject, check_variants, open_subject, train_variants
from flashvtg_jax.studies.tables import Entry, markdown_table, write_csv
from flashvtg_jax.studies.variants import (
    FULL,
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
    if config.seeds:
        raise ConfigError("config.seeds is for flashvtg train; a study has --seeds=NUMBER")
    if study.needs_moments and not config.loss.regression:
        raise ConfigError(
            f"study {name} is about moments, and {config.name} learns none "
            "(config.loss.regression=False); use a moment retrieval data set"
        )
    workdir, output = workdir.expanduser().absolute(), output.expanduser()
    check_writable(output)  # now, not after the work
    notes = []
    if name == "long_videos":
        if split is not None:
            raise ConfigError("study long_videos makes videos of its own: it has no --split")
        chosen = long_videos.chosen_variants(config, names)
        found = long_videos.run(
            config,
            range(config.seed, config.seed + num_seeds),
            workdir,
            compared=chosen,
            intervals=intervals,
            show_progress=show_progress,
        )
        entries = found.entries
        notes += found.notes
    else:
        subject = open_subject(config, workdir, num_seeds, split=split, show_progress=show_progress)
        chosen = choose(study.variants(subject.config), names, subject.config)
        check_variants(subject, chosen)
        runs = train_variants(
            subject.config, chosen, subject.seeds, workdir, show_progress=show_progress
        )
        if name == "robustness":
            entries = robustness(
                subject, chosen, runs, intervals=intervals, show_progress=show_progress
            )
        else:
            entries = compare(
                subject,
                chosen,
                runs,
                study.metrics,
                intervals=intervals,
                show_progress=show_progress,
            )
        if name == "robustness":
            notes.append(ABOUT_STRENGTHS)
        notes.append(_about_split(subject))
    notes.append(_about_variants(chosen))
    reference = next(variant.label for variant in chosen if variant.name == FULL.name)
    return write_study(
        name,
        entries,
        output,
        reference=reference,
        command=command,
        notes=notes,
        intervals=intervals,
    )


def _about_split(subject: Subject) -> str:
    about = (
        f"Compared on the {len(subject.source)} queries of split `{subject.split}`, of "
        f"{len(set(subject.videos))} source videos"
    )
    if subject.split == subject.config.data.val_split:
        about += (
            ", on which the best checkpoint of each run was chosen as well: a variant whose scores "
            "vary more gains more from that. `--split` compares on another one"
        )
    return f"{about}."


def _about_variants(variants: Sequence[Variant]) -> str:
    """What each variant is called by `--variants` and changes, as one would type it."""
    lines = []
    for variant in variants:
        fields = [
            f"`--config.{key}={','.join(f'{v:g}' for v in value)}`"
            if isinstance(value, tuple)
            else f"`--config.{key}={value}`"
            for key, value in variant.overrides.items()
        ]
        changes = " ".join(fields) or "the configuration as it is"
        lines.append(f"- {variant.label} (`{variant.name}`): {changes}")
    return "\n".join(lines)


def write_study(
    name: str,
    entries: Sequence[Entry],
    output: Path,
    *,
    reference: str,
    command: str,
    notes: Sequence[str] = (),
    intervals: bool = True,
) -> Path:
    """Write the table, the CSV file and the figure of a study; returns the path of the table."""
    study = STUDIES[name]
    metrics = [metric for metric in study.metrics if any(e.metric == metric for e in entries)]
    write_csv(output / f"{name}.csv", entries)
    study.plot(entries, output / f"{name}.png", title=study.title)
    title, decimals = study.title, None
    if name == "robustness":  # a column for each strength, of one number
        decimals = 2  # as such numbers are published
        title += f": {metrics[0]}"
        entries, metrics = by_strength(entries, metrics[0])
    path = output / f"{name}.md"
    table = markdown_table(
        entries,
        metrics,
        title=title,
        command=command,
        notes="\n\n".join([f"![{study.title}]({name}.png)", *notes]),
        reference=reference,
        drawn="source videos" if intervals else None,
        decimals=decimals,
    )
    write_atomically(path, table)
    return path

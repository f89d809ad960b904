"""`flashvtg study NAME`: from a configuration to a table, a CSV file and a figure."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ml_collections

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.evaluation.results import check_writable
from flashvtg_jax.figures import studies as figures
from flashvtg_jax.figures.entries import Entry
from flashvtg_jax.files import write_atomically
from flashvtg_jax.studies import comparisons, long_videos
from flashvtg_jax.studies.comparisons import compare, compare_trained
from flashvtg_jax.studies.robustness import ABOUT_STRENGTHS, by_strength, robustness
from flashvtg_jax.studies.running import Found
from flashvtg_jax.studies.tables import markdown_table, write_csv
from flashvtg_jax.studies.variants import (
    FULL,
    Variant,
    ablation_variants,
    refinement_variants,
    robustness_variants,
    scale_variants,
)


@dataclasses.dataclass(frozen=True)
class Study:
    """A study that trains variants of one configuration.

    Attributes:
      title: of its table and figure.
      metrics: columns of the table; those that a data set does not have are left out.
      find: trains and compares; takes what `comparisons.compare_trained` takes.
      plot: draws its figure.
      needs_moments: whether highlight detection has nothing for it.
      columns: for a table of the first metric alone: its entries by column, and the columns.
      note: a paragraph below the table.
    """

    title: str
    metrics: Sequence[str]
    find: Callable[..., Found]
    plot: Callable[..., None]
    needs_moments: bool = True
    columns: Callable[[Sequence[Entry], str], tuple[list[Entry], list[str]]] | None = None
    note: str = ""


def _comparison(
    title: str,
    variants: Callable[[ml_collections.ConfigDict], list[Variant]],
    metrics: Sequence[str],
    plot: Callable[..., None],
    **fields: bool,
) -> Study:
    find = partial(compare_trained, variants, partial(compare, metrics=metrics))
    return Study(title, metrics, find, plot, **fields)


STUDIES = {
    "ablation": _comparison(
        "What each part of the model brings",
        ablation_variants,
        comparisons.ABLATION_METRICS,
        figures.plot_ablation,
        needs_moments=False,
    ),
    "scales": _comparison(
        "Number of scales and length of moments",
        scale_variants,
        comparisons.SCALE_METRICS,
        figures.plot_scales,
    ),
    "refinement": _comparison(
        "Ranking with and without adaptive score refinement",
        refinement_variants,
        comparisons.REFINEMENT_METRICS,
        figures.plot_refinement,
    ),
    "long_videos": Study(
        "Videos of minutes to hours",
        long_videos.METRICS,
        long_videos.study,
        figures.plot_long_videos,
    ),
    "robustness": Study(
        "Perturbed videos, trained clean and trained with them",
        comparisons.ABLATION_METRICS,
        partial(compare_trained, robustness_variants, robustness),
        figures.plot_robustness,
        needs_moments=False,
        columns=by_strength,
        note=ABOUT_STRENGTHS,
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
      show_progress: whether to report progress on stderr.

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
    found = study.find(
        config,
        workdir,
        num_seeds=num_seeds,
        split=split,
        names=names,
        intervals=intervals,
        show_progress=show_progress,
    )
    write_csv(output / f"{name}.csv", found.entries)
    study.plot(found.entries, output / f"{name}.png", title=study.title)

    metrics = [m for m in study.metrics if any(entry.metric == m for entry in found.entries)]
    title, entries, decimals = study.title, found.entries, None
    if study.columns:
        title += f": {metrics[0]}"
        entries, metrics = study.columns(entries, metrics[0])
        decimals = 2  # as metrics are published
    notes = [f"![{study.title}]({name}.png)", study.note, *found.notes]
    notes.append(_about_variants(found.variants))
    table = markdown_table(
        entries,
        metrics,
        title=title,
        command=command,
        notes="\n\n".join(filter(None, notes)),
        reference=next(variant.label for variant in found.variants if variant.name == FULL.name),
        drawn="source videos" if intervals else None,
        decimals=decimals,
    )
    path = output / f"{name}.md"
    write_atomically(path, table)
    return path


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

"""Training the variants of a study over seeds, and what each of them gives for each query."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from flashvtg_jax.config import apply_overrides
from flashvtg_jax.config_checks import check_config
from flashvtg_jax.data.pipeline import clip_counts
from flashvtg_jax.data.preparation import complete_config, prepare_data
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.errors import CheckpointError, ConfigError, DataError
from flashvtg_jax.evaluation.results import has_ground_truth
from flashvtg_jax.experiments.evaluate import evaluate
from flashvtg_jax.experiments.runs import plan_runs
from flashvtg_jax.experiments.train import train
from flashvtg_jax.experiments.workdir import check_workdir, data_folder, open_fields
from flashvtg_jax.figures.entries import Entry
from flashvtg_jax.json_lines import read_json_lines
from flashvtg_jax.models.flashvtg import build_model
from flashvtg_jax.models.pyramid import level_length
from flashvtg_jax.studies.variants import Variant
from flashvtg_jax.video_ids import source_video

# Folders of runs by name of the variant: seed by seed, and for each seed domain by domain.
Runs = dict[str, list[Path]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a study is about.

    Attributes:
      config: with the folder of its data, and complete.
      source: the split that variants are compared on.
      split: its name.
      annotations: of its queries [N], in the format that metrics read.
      videos: the source video of each query [N].
      workdir: of the study: runs/VARIANT/seedN, and what it keeps besides.
      seeds: each variant is trained with each.
    """

    config: ml_collections.ConfigDict
    source: SplitSource
    split: str
    annotations: list[dict[str, Any]]
    videos: list[str]
    workdir: Path
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a study found.

    Attributes:
      variants: that were compared, the full model among them.
      entries: of its table and figure.
      notes: paragraphs of Markdown below the table.
    """

    variants: Sequence[Variant]
    entries: list[Entry]
    notes: list[str]


def open_subject(
    config: ml_collections.ConfigDict,
    workdir: Path,
    num_seeds: int,
    *,
    split: str | None = None,
    show_progress: bool = True,
) -> Subject:
    """Make the data ready, and check that a study of them can end.

    Args:
      config: of the full model; its seed is the first of the seeds, which count on from it.
      workdir: of the study.
      num_seeds: of each variant.
      split: to compare on; None: the validation split.
      show_progress: while data are prepared.

    Raises:
      ConfigError: the configuration means nothing, or does not fit the data.
      DataError: the data cannot be used, or the split has no labels to compare with.
    """
    check_config(config)
    build_model(config.model)
    data_dir = data_folder(workdir, config).absolute()
    config = apply_overrides(config, {"data.data_dir": str(data_dir)})
    prepare_data(config, data_dir, show_progress=show_progress)
    data = config.data
    config = complete_config(config, open_split(data_dir, data.dataset, data.train_split))
    split = split or data.val_split
    if split == data.train_split:
        raise ConfigError(
            f"--split={split}: variants are compared on what they did not learn from; choose "
            f"another split, such as {data.val_split}"
        )
    source = open_split(data_dir, data.dataset, split, domains=data.domains)
    annotations = source.annotations()
    if not has_ground_truth(annotations):
        raise DataError(
            f"{source.name}: has no labels to compare variants by; choose another split, such as "
            f"--split={data.val_split}"
        )
    videos = [source_video(row["vid"], data.source_video) for row in annotations]
    seeds = tuple(range(config.seed, config.seed + num_seeds))
    return Subject(config, source, split, annotations, videos, workdir, seeds)


def check_variants(subject: Subject, variants: Sequence[Variant]) -> None:
    """Raises ConfigError for a variant that makes no sense, before any is trained.

    Also where the work directory holds runs of another configuration.
    """
    config, source = subject.config, subject.source
    data = config.data
    train_source = open_split(data.data_dir, data.dataset, data.train_split, domains=data.domains)
    shortest = min(int(clip_counts(s, config).min()) for s in (train_source, source))
    for variant in variants:
        changed = check_variant(variant, config, subject.seeds, subject.workdir)
        longest = max(changed.model.strides)
        too_long = level_length(shortest, longest) == 0
        if (
            changed.model.moment_head == "pyramid"
            and too_long
            and longest > max(config.model.strides)
        ):
            raise ConfigError(
                f"variant {variant.name!r}: its pyramid has a level of stride {longest:g}, but the "
                f"shortest video has {shortest} clips and would have no point there; choose other "
                "variants with --variants"
            )


def check_variant(
    variant: Variant, config: ml_collections.ConfigDict, seeds: Sequence[int], workdir: Path
) -> ml_collections.ConfigDict:
    """The configuration of a variant of `config`, which can be trained in the folder of a study.

    Raises ConfigError where it makes no sense, or the folder holds runs of another configuration.
    """
    try:
        changed = variant.config(config)
        check_config(changed)
        build_model(changed.model)
    except ConfigError as error:
        raise ConfigError(f"variant {variant.name!r}: {error}") from error
    of_seeds = apply_overrides(changed, {"seeds": tuple(seeds)})
    for run in plan_runs(of_seeds, workdir / "runs" / variant.name):
        check_workdir(run.workdir, run.config, ignore=open_fields(run.config))
    return changed


def train_variants(
    config: ml_collections.ConfigDict,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    workdir: Path,
    *,
    show_progress: bool = True,
) -> Runs:
    """Train each variant with each seed, in `workdir`/runs/VARIANT/seedSEED.

    What is finished is not trained again, and what was interrupted is resumed. Raises as
    `flashvtg_jax.train`.
    """
    domains = config.data.domains or ("",)
    runs: Runs = {
        variant.name: [
            workdir / "runs" / variant.name / domain / f"seed{seed}"
            for seed in seeds
            for domain in domains
        ]
        for variant in variants
    }
    for number, variant in enumerate(variants, start=1):
        if show_progress:
            print(f"variant {number} of {len(variants)}: {variant.label}", file=sys.stderr)
        train(
            apply_overrides(variant.config(config), {"seeds": tuple(seeds)}),
            workdir / "runs" / variant.name,
            show_progress=show_progress,
        )
    return runs


def predictions_of(
    subject: Subject, folder: Path, *, show_progress: bool = True
) -> list[dict[str, Any]]:
    """The predictions of a run's best checkpoint for the split, without NMS; made if need be.

    Raises CheckpointError where the run is not finished, DataError where they cannot be read.
    """
    try:
        about = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: has no results yet; run the study again") from error
    split = subject.split
    if about["split"] == split:
        return read_json_lines(folder / "predictions.jsonl")
    output = folder / f"split_{split}"
    try:
        known = json.loads((output / "metrics.json").read_text())
    except (OSError, ValueError):
        known = {}
    if (known.get("split"), known.get("step")) != (split, about["step"]):
        evaluate(
            folder,
            split=split,
            step=about["step"],
            data_dir=subject.config.data.data_dir,
            output=output,
            show_progress=show_progress,
        )
    return read_json_lines(output / "predictions.jsonl")


def by_seed(folders: Sequence[Path], num_seeds: int) -> list[Sequence[Path]]:
    """The folders of a variant's runs, a list for each seed: one for each domain."""
    size = len(folders) // num_seeds
    return [folders[start : start + size] for start in range(0, len(folders), size)]


def stacked(values: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Values [N] of each seed -> values [S, N]."""
    return {name: np.stack([one[name] for one in values]) for name in values[0]}

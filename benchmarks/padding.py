"""How much of what is computed is padding: each example in its bucket, and in the batches it gets.

python benchmarks/padding.py --config=tacos_slowfast_clip --annotations=train.jsonl

Clip length, batch sizes, longest video and buckets are the configuration's; no features are needed.
A data set with domains has a model for each of them, so each of them has batches of its own.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from measuring import errors_in_a_line, make_parser, write_result

from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.data.annotations import load_annotations
from flashvtg_jax.data.batch_plan import padding_fraction, plan_clips
from flashvtg_jax.data.pipeline import clip_counts, evaluation_plan, train_plan
from flashvtg_jax.data.source import SplitSource, open_split
from flashvtg_jax.errors import DataError

EPOCHS = 10  # with drop_last they differ
PLANS = {"training": train_plan, "evaluation": evaluation_plan}


@dataclasses.dataclass(frozen=True)
class Lengths:
    """What a batch plan needs to know of a split, and nothing else of it."""

    all_num_clips: np.ndarray
    all_domains: np.ndarray | None = None
    domain: str | None = None
    stream_clips: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    all_stream_clips: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def num_clips(self) -> np.ndarray:
        """Clips of each example, of one domain where one is selected [N]."""
        if self.domain is None:
            return self.all_num_clips
        return self.all_num_clips[self.all_domains == self.domain]

    def select(self, domains: Sequence[str]) -> "Lengths":
        """Returns the lengths of one domain, or of all."""
        return dataclasses.replace(self, domain=domains[0] if domains else None)


def main() -> None:
    parser = make_parser(__doc__, device=False)
    parser.add_argument("--config", default="qvhighlights_slowfast_clip")
    parser.add_argument(
        "--annotations", action="append", default=[], help="file; may be given several times"
    )
    parser.add_argument("--data_dir", help="of built data sets: use the configuration's splits")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if not (options.smoke or options.annotations or options.data_dir):
        parser.error("give --annotations=FILE or --data_dir=DIR")

    with errors_in_a_line():
        config = load_config("demo" if options.smoke else options.config)
        if options.smoke:
            config = apply_overrides(config, {"data.buckets": None, "data.domains": ("a", "b")})
        result = {
            "config": config.name,
            "clip_length": config.clip_length,
            "splits": [
                {"name": name, **measure(split, config)} for name, split in splits(options, config)
            ],
        }
    if not options.json:
        print_table(result)
    write_result("padding", result, options.output, show=options.json)


def splits(
    options: argparse.Namespace, config: ml_collections.ConfigDict
) -> Iterator[tuple[str, Lengths | SplitSource]]:
    """Yields what was asked for, with its name."""
    if options.smoke:
        rng = np.random.default_rng(0)
        yield "made up", Lengths(rng.integers(10, 76, 50), rng.choice(["a", "b"], 50))
    for path in options.annotations:
        yield Path(path).name, annotated_lengths(path, config)
    if options.data_dir:
        data = config.data
        yield data.train_split, open_split(options.data_dir, data.dataset, data.train_split)
        with contextlib.suppress(DataError):  # not every data set is built with another split
            yield data.val_split, open_split(options.data_dir, data.dataset, data.val_split)


def annotated_lengths(path: str, config: ml_collections.ConfigDict) -> Lengths:
    """Returns the lengths that follow from an annotation file: of the labels, or of the video."""
    rows = load_annotations(path, clip_length=config.clip_length, labels=config.data.labels)
    num_clips = [
        # Less than a thousandth of a clip is rounding: 0.166666 s are a sixth.
        len(row.get("label") or ()) or int(np.ceil(row["duration"] / config.clip_length - 1e-3))
        for row in rows
    ]
    domains = np.asarray([row.get("domain") or "" for row in rows])
    return Lengths(np.maximum(num_clips, 1), domains if config.data.domains else None)


def measure(split: Lengths | SplitSource, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the padding of a split, as it is trained and as it is evaluated."""
    lengths = np.minimum(split.all_num_clips, config.data.max_clips or np.inf)
    return {
        "examples": len(lengths),
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
        "plans": {use: measure_plans(split, config, use) for use in PLANS},
    }


def measure_plans(
    split: Lengths | SplitSource, config: ml_collections.ConfigDict, use: str
) -> dict[str, Any]:
    """Returns the padding of the batches of a split, of each domain apart and of all together."""
    rows, shapes = [], set()
    totals = np.zeros(4, np.int64)
    for domain in config.data.domains or (None,):
        part = split.select((domain,) if domain else ())
        plan = PLANS[use](part, config)
        lengths = clip_counts(part, config)
        batches = [batch for epoch in range(EPOCHS) for batch in plan.epoch(epoch)]
        shapes |= {batch.length for batch in batches}
        per_example = padding_fraction(lengths, plan.buckets)
        sums = (*plan_clips(plan, EPOCHS), lengths.sum() / (1 - per_example), lengths.sum())
        totals += np.round(sums).astype(np.int64)
        rows.append(row(domain, len(lengths), plan.steps_per_epoch, *sums))
    if len(rows) > 1:
        examples, num_batches = (sum(row[key] for row in rows) for key in ("examples", "batches"))
        rows.insert(0, row(None, examples, num_batches, *totals.tolist()))
    return {
        "batch_size": plan.batch_size,
        "buckets": plan.buckets,
        "shapes": sorted(shapes),
        "rows": rows,
    }


def row(
    domain: str | None,
    examples: int,
    batches: int,
    computed: float,
    valid: float,
    bucket_clips: float,
    clips: float,
) -> dict[str, Any]:
    """Returns a line of the table: of a domain, or (None) of all."""
    return {
        "domain": domain,
        "examples": examples,
        "batches": batches,
        "padding_per_example": 1 - clips / bucket_clips,
        "padding_in_batches": 1 - valid / computed,
    }


def print_table(result: dict[str, Any]) -> None:
    """Prints the result for people."""
    print(f"{result['config']}: clips of {result['clip_length']:g} s")
    for split in result["splits"]:
        print(
            f"\n{split['name']}: {split['examples']} examples of {split['shortest']} to "
            f"{split['longest']} clips"
        )
        for use, plan in split["plans"].items():
            print(
                f"  {use}, batches of {plan['batch_size']}, buckets "
                f"{' '.join(map(str, plan['buckets']))}, {len(plan['shapes'])} used"
            )
            print(f"    {'':12}{'examples':>10}{'batches':>10}{'padding':>10}{'in batches':>12}")
            for line in plan["rows"]:
                print(
                    f"    {line['domain'] or 'all':12}{line['examples']:>10}{line['batches']:>10}"
                    f"{line['padding_per_example']:>10.1%}{line['padding_in_batches']:>12.1%}"
                )


if __name__ == "__main__":
    main()

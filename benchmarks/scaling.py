"""Time and memory against the length of a video, and against the levels of the pyramid.

python benchmarks/scaling.py --clips=75,150,300,600,1200 --attention_window=128

Runs a training step and inference (model, decoding and NMS) of one video at a time, with the full
widths of the configuration: for each length with full attention among clips and with the window of
--attention_window, then for K pyramid levels (strides 1, 2, ..., 2^(K-1)) at one length. Features
are random.

Memory is what XLA planned for the compiled program: "program" in all, "temporary" without the
inputs and results. The exponent p of time or memory ~ clips^p is fitted over the larger half of the
lengths; that of memory is of the temporaries, for the rest is the parameters. The memory per clip
at the longest length over that at the length half of it is 1 where memory grows with the clips.
"""

import argparse
from functools import partial
from typing import Any

import jax
import ml_collections
from measuring import (
    SMOKE_CONFIG,
    batch_shapes,
    errors_in_a_line,
    fitted_exponent,
    int_list,
    larger_half,
    make_parser,
    measure_row,
    peak_of_row,
    random_batch,
    require_device,
    timed,
    write_result,
)
from programs import inference, training_step

from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.system.huge_pages import restart_with_huge_pages

CLIPS = [75, 150, 300, 600, 1200, 2400, 3600, 7200]
ROWS = 1
PROGRAMS = ("inference", "training")

Row = dict[str, Any]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--config", default="tacos_slowfast_clip")
    parser.add_argument("--clips", type=int_list, default=CLIPS, help="default: 75 to 7200")
    parser.add_argument("--attention_window", type=int, default=128, help="in clips, to each side")
    parser.add_argument(
        "--attention", default="full,windowed", help="which of the two; default: %(default)s"
    )
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="default: %(default)s")
    parser.add_argument("--max_levels", type=int, default=8, help="of the pyramid; 0: leave it out")
    parser.add_argument("--level_clips", type=int, default=600, help="of the video for the levels")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    attentions, programs = options.attention.split(","), options.programs.split(",")
    if unknown := set(attentions) - {"full", "windowed"}:
        parser.error(f"--attention: {', '.join(sorted(unknown))} is neither full nor windowed")
    if unknown := set(programs) - set(PROGRAMS):
        parser.error(f"--programs: {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    if options.smoke:
        options.config, options.clips, options.attention_window = SMOKE_CONFIG, [16, 32], 4
        options.max_levels, options.level_clips, options.repeats = 2, 16, 2
        programs = ["inference"]
    require_device(options.device)

    with errors_in_a_line():
        config = load_config(options.config, {"model.dtype": options.dtype})
        result = {
            "config": config.name,
            "dtype": options.dtype,
            "batch_size": ROWS,
            "attention_window": options.attention_window if "windowed" in attentions else None,
            "level_clips": options.level_clips,
            "clips": [],
            "levels": [],
        }
        kinds = [
            {"attention": name, "program": program} for name in attentions for program in programs
        ]
        clips = [{**kind, "clips": clips} for clips in sorted(options.clips) for kind in kinds]
        levels = [
            {"levels": levels, "program": program}
            for levels in range(1, options.max_levels + 1)
            for program in programs
        ]
        for about in [*clips, *levels]:
            table = "levels" if "levels" in about else "clips"
            result[table].append(measure(config, options, about))
            result["fits"] = [
                *(fit(result["clips"], "clips", kind) for kind in kinds),
                *(fit(result["levels"], "levels", {"program": program}) for program in programs),
            ]
            result["memory_per_clip"] = [memory_per_clip(result["clips"], kind) for kind in kinds]
            write_result(
                "scaling", result, options.output, show=False
            )  # in case the rest is stopped
    write_result("scaling", result, options.output)


def measure(config: ml_collections.ConfigDict, options: argparse.Namespace, about: Row) -> Row:
    """Returns the time and memory of one program at one length, or why it was skipped."""
    changes: Row = {"data.max_clips": about.get("clips", options.level_clips)}
    if about.get("attention") == "windowed":
        changes["model.attention_window"] = options.attention_window
    elif about.get("attention") == "full":
        changes["model.attention_window"] = None
    if "levels" in about:
        changes["model.strides"] = tuple(2.0**level for level in range(about["levels"]))
    changed = apply_overrides(config, changes)
    run = {"training": measure_training, "inference": measure_inference}[about["program"]]
    return measure_row(about, partial(run, changed, options.repeats))


def measure_training(config: ml_collections.ConfigDict, repeats: int) -> Row:
    """Returns the time and memory of a training step. Raises DoesNotFitError before it is run."""
    program = training_step(config, batch_shapes(config, ROWS))
    with peak_of_row() as peak:
        state, batch = program.init(), jax.device_put(random_batch(config, ROWS))

        def run() -> None:
            nonlocal state
            state, metrics = program.run(state, batch)
            jax.block_until_ready((state, metrics))

        seconds = timed(run, repeats)
    return {"seconds": seconds, **program.memory, **peak}


def measure_inference(config: ml_collections.ConfigDict, repeats: int) -> Row:
    """Returns the time and memory of inference. Raises DoesNotFitError before it is run."""
    program = inference(config, batch_shapes(config, ROWS).replace(targets=None))
    with peak_of_row() as peak:
        batch = jax.device_put(random_batch(config, ROWS).replace(targets=None))
        params = program.init()
        seconds = timed(lambda: jax.block_until_ready(program.run(params, batch)), repeats)
    return {"seconds": seconds, **program.memory, **peak}


def of(rows: list[Row], about: Row) -> list[Row]:
    """The rows that are about something and were not skipped."""
    return [
        row
        for row in rows
        if "skipped" not in row and all(row.get(key) == value for key, value in about.items())
    ]


def fit(rows: list[Row], against: str, about: Row) -> Row:
    """The exponents of time and memory, and over which sizes; None where too few were measured."""
    rows = of(rows, about)
    sizes = [row[against] for row in rows]
    return {
        "against": against,
        **about,
        "sizes": sizes[larger_half(len(sizes)) :],
        "time_exponent": fitted_exponent(sizes, [row["seconds"]["median"] for row in rows]),
        "memory_exponent": fitted_exponent(sizes, [row["temporary_mib"] for row in rows]),
    }


def memory_per_clip(rows: list[Row], about: Row) -> Row:
    """Memory per clip at the longest video over that at one half as long; None without the two."""
    by_clips = {row["clips"]: row for row in of(rows, about)}
    pairs = [(clips, clips // 2) for clips in by_clips if clips / 2 in by_clips]
    ratios: Row = {"clips": None, "against": None, "program_ratio": None, "temporary_ratio": None}
    if pairs:
        long, short = ratios["clips"], ratios["against"] = max(pairs)
        for kind in ("program", "temporary"):
            each = [by_clips[clips][f"{kind}_mib"] / clips for clips in (long, short)]
            ratios[f"{kind}_ratio"] = each[0] / each[1]
    return {**about, **ratios}


if __name__ == "__main__":
    restart_with_huge_pages()
    main()

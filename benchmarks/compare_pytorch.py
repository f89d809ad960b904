"""Our program against the authors' PyTorch program: same machine, same inputs, turn by turn.

python benchmarks/compare_pytorch.py --reference=FlashVTG --reference_python=venv/bin/python

DIR is a checkout of https://github.com/Zhuo-Cao/FlashVTG; its code is imported in a process of
its own, by an interpreter that has PyTorch and nncore. Both sides read the same feature files,
synthesised for the occasion, and have the same parameters. They take turns (theirs, ours, theirs,
...), while the other one sleeps, with as many threads as there are processors. Before a row is
timed, its outputs are compared: the comparison of different computations would be worth nothing.

  forward     the model without dropout on a batch of full-length videos, up to ranked moments;
              theirs refuses batches of several queries in evaluation mode, and runs with the parts
              in evaluation mode and the whole in training mode, without negatives
  forward_1   the same for one query
  train_step  losses, gradients, clipping and AdamW on a batch that is on the device
  evaluate    moments and NMS of all queries of a split, data loading included, without scoring:
              theirs query by query, as they do it, ours in the batches of the configuration
  scoring     all metrics of a prediction file, of as many queries as QVHighlights' val split has
  epoch       a training epoch with data loading and logs, as each program runs it; theirs reads all
              features into memory before (reported as load_seconds)

A ratio is the median of their seconds over the median of ours: above 1, ours is faster.
"""

import argparse
import json
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from authors import add_reference_options, check_reference_options
from comparison import ROWS, Comparison
from measuring import DEVICES, errors_in_a_line, make_parser, positive

from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.files import write_atomically
from flashvtg_jax.system.huge_pages import restart_with_huge_pages

VAL_QUERIES = 1550  # of QVHighlights' val split
# A small model with their built-in width, and narrow features.
SMOKE = {
    "model.t2v_layers": 1,
    "model.enc_layers": 1,
    "model.dummy_layers": 1,
    "model.num_mlp_layers": 2,
    "evaluation.batch_size": 4,
}
SMOKE_WIDTH = 32


def main() -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_reference_options(parser)
    add("--config", default="qvhighlights_slowfast_clip", help="one of QVHighlights")
    add("--rows", default=",".join(ROWS), help="(default %(default)s)")
    add("--batch_size", type=positive, help="default: the configuration's")
    add(
        "--repeats", type=positive, default=7, help="turns of each side; at most 3 of the long rows"
    )
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="of ours")
    add(
        "--matmul_precision",
        default="default",
        choices=["default", "highest"],
        help="of ours; highest: full float32 on GPUs, as PyTorch's default is",
    )
    add("--train_samples", type=positive, default=512, help="of the epoch")
    add("--eval_queries", type=positive, default=200, help="of the split to evaluate")
    add(
        "--annotations",
        action="append",
        metavar="FILE",
        help="of QVHighlights: train and val file, one each; default: synthesised ones",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no files behind
    with errors_in_a_line():
        settings = checked(options)
        with tempfile.TemporaryDirectory(prefix="flashvtg_compare_") as folder:
            result = Comparison(settings, Path(folder)).run(partial(save, options.output))
    print_table(result)


def save(output: str | None, result: dict[str, Any]) -> None:
    """Writes the result, if asked to.

    This process leaves the devices to the two that it compares, so that they report the machine.
    """
    if output:
        text = json.dumps({"benchmark": "compare_pytorch", **result}, indent=2)
        write_atomically(output, text + "\n")


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options, completed. Raises SystemExit for a checkout or an interpreter that is none."""
    options.rows = options.rows.split(",")
    if unknown := [row for row in options.rows if row not in ROWS]:
        raise SystemExit(f"error: --rows: {', '.join(unknown)} is none of {', '.join(ROWS)}")
    if options.device == DEVICES[2]:
        raise SystemExit("error: --device=tpu: their code runs on cpu and gpu")
    if options.annotations and len(options.annotations) != 2:
        raise SystemExit("error: --annotations: give the train file and the val file")
    check_reference_options(options)
    changes = {"model.dtype": options.dtype}
    if options.smoke:
        widths = load_config(options.config).data.video_widths
        changes |= SMOKE | {f"data.video_widths.{name}": SMOKE_WIDTH for name in widths}
        changes |= {"data.query_width": SMOKE_WIDTH}
        options.batch_size, options.repeats = 4, 2
        options.train_samples, options.eval_queries = 8, 6
    options.config = load_config(options.config, changes)
    if not options.config.data.dataset.startswith("qvhighlights/"):
        raise SystemExit(f"error: --config={options.config.name}: only QVHighlights is compared")
    options.batch_size = options.batch_size or options.config.train.batch_size
    options.config = apply_overrides(options.config, {"train.batch_size": options.batch_size})
    options.train_samples = max(options.train_samples, options.batch_size)
    options.scored_queries = 40 if options.smoke else VAL_QUERIES
    return options


def print_table(result: dict[str, Any]) -> None:
    """Prints the result for people."""
    theirs = result["theirs"]
    print(
        f"{result['config']}, {result['dtype']}, {theirs['threads']} threads\n"
        f"ours:   jax {result['versions']['jax']} on {result['device']}\n"
        f"theirs: torch {theirs['versions']['torch']} on {theirs['device']}\n\n"
        f"{'':12}{'size':>6}{'theirs':>12}{'ours':>12}  {'':11}{'ratio':>8}   of pairs\n" + "-" * 72
    )
    for row in result["rows"]:
        if "skipped" in row:
            print(f"{row['row']:12}skipped: {row['skipped']}")
            continue
        size = next(row[key] for key in ("queries", "samples", "batch_size") if key in row)
        pairs = row["paired_ratios"]
        print(
            f"{row['row']:12}{size:>6}{row['theirs']['per_second']:>12.1f}"
            f"{row['ours']['per_second']:>12.1f}  {row['unit']:11}{row['ratio']:>7.2f}x"
            f"   {pairs['min']:.2f} to {pairs['max']:.2f}"
        )


if __name__ == "__main__":
    restart_with_huge_pages()
    main()

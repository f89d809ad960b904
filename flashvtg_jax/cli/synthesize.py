"""`flashvtg synthesize`: features with planted moments, in the layout of a released data set."""

import argparse
from collections.abc import Sequence

from flashvtg_jax.cli.arguments import add_layout, user_path
from flashvtg_jax.cli.command import Command

COMMAND = Command(
    summary="write synthetic features in the layout of a released data set",
    description=(
        "Write synthetic features in the layout of a released data set, with the moments of any "
        "annotation file planted in them. The same command continues where it was stopped."
    ),
    example="flashvtg synthesize --output=features --num_train=512 --num_val=128",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", type=user_path, help="folder to write")
    add(
        "--annotations",
        action="append",
        metavar="FILE",
        type=user_path,
        help="annotation file; repeat for several splits (default: generate annotations)",
    )
    add("--limit", type=int, metavar="N", help="use the first N lines of each annotation file")
    add(
        "--dataset",
        default="qvhighlights/slowfast_clip",
        metavar="NAME",
        help="data set whose layout to use, or custom/NAME for your own data, with the streams "
        "that --widths names (default: %(default)s)",
    )
    add(
        "--strength",
        type=float,
        default=1.0,
        help="strength of the planted moments (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    add_layout(parser)
    add(
        "--num_train",
        type=int,
        default=512,
        metavar="N",
        help="training queries to generate (default: %(default)s)",
    )
    add(
        "--num_val",
        type=int,
        default=128,
        metavar="N",
        help="validation queries to generate (default: %(default)s)",
    )
    add(
        "--spatial_tokens",
        type=int,
        default=1,
        metavar="S",
        help="tokens of a clip, one of which holds its moment; above 1, the files of the videos "
        "are [clips, S, width] (default: %(default)s)",
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.data.synthetic.features import synthesize

    synthesize(
        options.output,
        annotations=options.annotations,
        limit=options.limit,
        dataset=options.dataset,
        strength=options.strength,
        seed=options.seed,
        widths=options.widths,
        clip_length=options.clip_length,
        num_train=options.num_train,
        num_val=options.num_val,
        spatial_tokens=options.spatial_tokens,
    )
    return 0

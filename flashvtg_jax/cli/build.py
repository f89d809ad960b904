"""`flashvtg build`: a data set from annotation and feature files."""

import argparse
from collections.abc import Sequence

from flashvtg_jax.cli.arguments import add_layout, names, user_path
from flashvtg_jax.cli.command import Command

COMMAND = Command(
    summary="build a data set from annotation and feature files",
    description=(
        "Build a data set from annotation and feature files, once, before training. The feature "
        "file of a video is an array [clips, width], or [clips, S, width] with S spatial tokens "
        "for each clip, the same S in all files of a stream. Then --widths gives the width of one "
        "token, and train takes --config.spatial_tokens=S."
    ),
    example=(
        "flashvtg build --dataset=qvhighlights/slowfast_clip --manual_dir=features --data_dir=data"
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--dataset",
        required=True,
        metavar="NAME",
        help="for example qvhighlights/slowfast_clip; custom/NAME for your own data",
    )
    add(
        "--manual_dir",
        required=True,
        metavar="DIR",
        type=user_path,
        help="folder of the released files, or of your own",
    )
    add(
        "--data_dir",
        default="data",
        metavar="DIR",
        type=user_path,
        help="folder of built data sets (default: %(default)s)",
    )
    add("--skip_missing", action="store_true", help="leave out queries without feature files")
    add(
        "--clip_windows",
        action="store_true",
        help="cut moments at the ends of their video and drop empty ones, instead of stopping",
    )
    add(
        "--streams",
        default=(),
        metavar="NAME,...",
        type=names,
        help="features of the videos to check and build (default: all)",
    )
    add(
        "--resample",
        action="store_true",
        help="for custom/NAME: every video has the same number of features; interpolate them at "
        "its clips",
    )
    add("--overwrite", action="store_true", help="build again what is already built")
    add_layout(parser)
    add(
        "--label_clip_length",
        type=float,
        metavar="SECONDS",
        help="for custom/NAME: length of the clips of relevant_clip_ids and saliency_scores "
        "(default: --clip_length)",
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.data.build.building import build

    build(
        options.dataset,
        options.manual_dir,
        options.data_dir,
        skip_missing=options.skip_missing,
        clip_windows=options.clip_windows,
        overwrite=options.overwrite,
        widths=options.widths,
        clip_length=options.clip_length,
        label_clip_length=options.label_clip_length,
        streams=options.streams,
        resample=options.resample,
    )
    return 0

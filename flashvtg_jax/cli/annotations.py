"""`flashvtg annotations`: annotation files of other data sets, as lines of custom/NAME."""

import argparse
import sys
from collections.abc import Sequence

from flashvtg_jax.cli.arguments import user_path
from flashvtg_jax.cli.command import Command

FORMATS = {
    "charades_txt": "Charades-STA: charades_sta_train.txt, charades_sta_test.txt",
    "activitynet_captions": "ActivityNet Captions: train.json, val_1.json, val_2.json",
    "ego4d_nlq": "Ego4D: nlq_train.json, nlq_val.json, nlq_test_unannotated.json",
}

COMMAND = Command(
    summary="convert the annotation files of another data set to lines that custom/NAME reads",
    description=(
        "Convert the released annotation files of another data set to lines that custom/NAME "
        "reads. tfds_builders/custom/other_datasets.md describes the way from there to a trained "
        "model."
    ),
    example=(
        "flashvtg annotations --from=charades_txt charades_sta_train.txt "
        "--durations=Charades_v1_train.csv --output=charades/train.jsonl"
    ),
    details="formats:\n" + "\n".join(f"  {name:<21} {about}" for name, about in FORMATS.items()),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", type=user_path, help="files to convert, in this order")
    add(
        "--from",
        dest="source",
        required=True,
        metavar="FORMAT",
        choices=FORMATS,
        help="format of the files, one of the above",
    )
    add("--output", required=True, metavar="FILE", type=user_path, help="JSON lines to write")
    add(
        "--durations",
        action="append",
        default=[],
        metavar="FILE",
        type=user_path,
        help="for charades_txt: durations of the videos in seconds, as CSV with columns id and "
        "length or as JSON {vid: seconds}; repeat for several files",
    )
    add(
        "--clip_windows",
        action="store_true",
        help="cut moments at the ends of their video and drop empty ones, instead of stopping",
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.data.build.released_annotations import convert_annotations

    conversion = convert_annotations(
        options.source,
        options.files,
        options.output,
        durations=options.durations,
        clip_windows=options.clip_windows,
    )
    for note in conversion.notes():
        print(note, file=sys.stderr)
    print(f"wrote {options.output}: {conversion.summary()}")
    return 0

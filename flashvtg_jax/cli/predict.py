"""`flashvtg predict`: moments and highlights for queries, with a trained model."""

import argparse
import json
import sys
from collections.abc import Sequence

from flashvtg_jax.cli.arguments import add_checkpoint, named_path, user_path
from flashvtg_jax.cli.command import Command
from flashvtg_jax.files import write_atomically

COMMAND = Command(
    summary="find the moments and highlights for a list of queries",
    description=(
        "Find the moments and highlights for a list of queries, or for one. Feature files hold "
        "features as extracted, not normalised. The list may have any length; the same command "
        "continues where it was stopped. Moments of no length and, unless --no_nms is given, "
        "moments that overlap better ones are left out. Saliency scores have no absolute scale "
        "and are often negative: only their order within a video counts. Exit status 3: done, but "
        "some lines of the list could not be used."
    ),
    example=(
        "flashvtg predict --checkpoint=runs/demo --features=runs/demo/data/synthetic "
        "--queries=runs/demo/data/synthetic/highlight_val_release.jsonl --output=answers.jsonl"
    ),
    uses_huge_pages=True,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_checkpoint(parser)
    add("--output", metavar="FILE", type=user_path, help="predictions, a JSON line for each query")

    add = parser.add_argument_group("a list of queries").add_argument
    add(
        "--queries",
        metavar="FILE",
        type=user_path,
        help="JSON lines with qid and vid, and with query and duration (seconds) where known",
    )
    add(
        "--features",
        metavar="DIR",
        type=user_path,
        help="folder of feature files in the layout of the data set that the model was trained on",
    )
    add(
        "--video_features",
        action="append",
        default=[],
        metavar="STREAM=DIR",
        help="folder of the files of one stream, named as in that layout or VID.npz; repeat for "
        "each stream",
    )
    add(
        "--query_features",
        metavar="DIR",
        type=user_path,
        help="folder of the files of the queries, named as in that layout or QID.npz",
    )
    add("--overwrite", action="store_true", help="replace an existing output")

    add = parser.add_argument_group("one query").add_argument
    add(
        "--video",
        action="append",
        default=[],
        metavar="STREAM=FILE",
        help="features of the video; repeat for each stream",
    )
    add("--query_file", metavar="FILE", type=user_path, help="features of the query")
    add("--duration", type=float, metavar="SECONDS", help="duration of the video, where known")

    add = parser.add_argument_group("what is predicted").add_argument
    add(
        "--nms_threshold",
        type=float,
        metavar="IOU",
        help="overlap from which non-maximum suppression drops a moment (default: as configured)",
    )
    add("--no_nms", action="store_true", help="keep moments that overlap better ones")
    add("--top_k", type=int, metavar="K", help="moments for each query (default: as in training)")
    add("--score_threshold", type=float, metavar="S", help="drop moments with lower scores")
    add("--batch_size", type=int, metavar="N", help="queries per batch (default: as in evaluation)")
    add(
        "--whole_videos",
        action="store_true",
        help="do not cut videos that are longer than those of training",
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.prediction.files import predict_file, predict_pair
    from flashvtg_jax.prediction.predictor import Predictor
    from flashvtg_jax.system.compilation_cache import use_compilation_cache

    has_list = options.queries and options.output
    has_pair = options.video and options.query_file
    one = has_pair and not options.queries
    many = has_list and not (options.video or options.query_file)
    if not (one or many):
        print(
            "flashvtg predict: give --queries=FILE --output=FILE and where the features are, or "
            "--video=STREAM=FILE --query_file=FILE",
            file=sys.stderr,
        )
        return 2
    use_compilation_cache()
    predictor = Predictor.from_checkpoint(
        options.checkpoint,
        step=options.step,
        batch_size=options.batch_size,
        whole_videos=options.whole_videos,
    )
    nms_threshold = "config" if options.nms_threshold is None else options.nms_threshold
    settings = {
        "nms_threshold": None if options.no_nms else nms_threshold,
        "max_moments": options.top_k,
        "score_threshold": options.score_threshold,
    }
    if one:
        prediction = predict_pair(
            predictor,
            [named_path(text) for text in options.video],
            options.query_file,
            duration=options.duration,
            **settings,
        )
        text = json.dumps(prediction) + "\n"
        if options.output:
            write_atomically(options.output, text)
        else:
            print(text, end="")
        return 0
    summary = predict_file(
        predictor,
        options.queries,
        options.output,
        features=options.features,
        video_features=dict(map(named_path, options.video_features)),
        query_features=options.query_features,
        overwrite=options.overwrite,
        **settings,
    )
    print(summary.report(options.output), file=sys.stderr)
    return 3 if summary.bad else 0

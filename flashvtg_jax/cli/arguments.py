"""What `flashvtg COMMAND ...` takes: the arguments of each command, with an example that runs."""

import argparse
import os
import textwrap
from collections.abc import Callable
from typing import Any

from flashvtg_jax.version import __version__

STUDIES = {
    "ablation": "each part of the model taken away or replaced",
    "scales": "one to six scales, by length of the moments",
    "refinement": "ranking with and without the score across scales",
    "long_videos": "synthesised videos of 2.5 to 120 minutes",
    "robustness": "noise, lost, repeated or shuffled clips, a stream missing",
    "label_correlation": "saliency labels and moments, of annotation files alone",
}

ANNOTATION_FORMATS = {
    "charades_txt": "Charades-STA: charades_sta_train.txt, charades_sta_test.txt",
    "activitynet_captions": "ActivityNet Captions: train.json, val_1.json, val_2.json",
    "ego4d_nlq": "Ego4D: nlq_train.json, nlq_val.json, nlq_test_unannotated.json",
}

_WIDTH = 80  # of the texts of --help


def make_parser() -> argparse.ArgumentParser:
    """All commands, each with an example that runs."""
    parser = argparse.ArgumentParser(
        prog="flashvtg",
        description="FlashVTG: the moments and highlights of a video that answer a sentence.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flashvtg-jax {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", help="one of these; flashvtg COMMAND --help says more"
    )
    lines: list[str] = []

    def command(
        name: str, summary: str, about: str, example: str, details: str = ""
    ) -> argparse.ArgumentParser:
        lines.append(f"  {name:<13}{summary}\n")
        return commands.add_parser(
            name,
            description=textwrap.fill(about, _WIDTH) + details,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    add = command(
        "synthesize",
        "write features in a released layout",
        "Write features in a released layout, moments planted in them, for any annotation file.",
        "flashvtg synthesize --output=features --num_train=512 --num_val=128",
    ).add_argument
    add(
        "--output",
        required=True,
        metavar="DIR",
        type=user_path,
        help="folder to write; goes on where it stopped",
    )
    add(
        "--annotations",
        action="append",
        metavar="FILE",
        type=user_path,
        help="annotation file, several times for several splits; without, generates annotations",
    )
    add("--limit", type=int, metavar="N", help="use the first N lines of each annotation file")
    add(
        "--dataset",
        default="qvhighlights/slowfast_clip",
        metavar="NAME",
        help="whose layout; custom/NAME: of one's own data, whose streams --widths names",
    )
    add("--strength", type=float, default=1.0, help="of the planted moments (default %(default)s)")
    add("--seed", type=int, default=0, help="(default %(default)s)")
    add("--widths", metavar="slowfast=64,query=32", help="other feature widths than the released")
    add("--clip_length", type=float, metavar="SECONDS", help="for custom/NAME only, which needs it")
    add("--num_train", type=int, default=512, help="queries to generate (default %(default)s)")
    add("--num_val", type=int, default=128, help="queries to generate (default %(default)s)")
    add(
        "--spatial_tokens",
        type=int,
        default=1,
        metavar="S",
        help="tokens of each clip, in one of which its moment is planted (default %(default)s); "
        "above 1 the files of the videos are [clips, S, width]",
    )

    add = command(
        "annotations",
        "turn released annotation files of another data set into lines that custom/NAME reads",
        "Turn released annotation files of another data set into lines that custom/NAME reads. "
        "tfds_builders/custom/other_datasets.md leads from there to a trained model.",
        "flashvtg annotations --from=charades_txt charades_sta_train.txt "
        "--durations=Charades_v1_train.csv --output=charades/train.jsonl",
        "\n\nformats:\n"
        + "\n".join(f"  {name:<21} {about}" for name, about in ANNOTATION_FORMATS.items()),
    ).add_argument
    add("files", nargs="+", metavar="FILE", type=user_path, help="to read, in this order")
    add(
        "--from",
        dest="source",
        required=True,
        metavar="FORMAT",
        choices=ANNOTATION_FORMATS,
        help="of the files, one of the above",
    )
    add("--output", required=True, metavar="FILE", type=user_path, help="JSON lines to write")
    add(
        "--durations",
        action="append",
        default=[],
        metavar="FILE",
        type=user_path,
        help="of charades_txt, once or more: seconds of the videos, CSV with columns id and "
        "length, or JSON {vid: seconds}",
    )
    add(
        "--clip_windows",
        action="store_true",
        help="cut moments to their video and leave out what is empty; otherwise an error",
    )

    add = command(
        "build",
        "build a data set from annotation and feature files",
        "Build a data set from annotation and feature files, once, before training. Files of "
        "videos are arrays [clips, width], or [clips, S, width]: S spatial tokens a clip, the same "
        "in all files of a stream. Then --widths gives the width of one token, and train takes "
        "--config.spatial_tokens=S.",
        "flashvtg build --dataset=qvhighlights/slowfast_clip --manual_dir=features --data_dir=data",
    ).add_argument
    add(
        "--dataset",
        required=True,
        metavar="NAME",
        help="e.g. qvhighlights/slowfast_clip; custom/NAME for one's own data",
    )
    add(
        "--manual_dir",
        required=True,
        metavar="DIR",
        type=user_path,
        help="folder with the released files, or one's own",
    )
    add(
        "--data_dir",
        default="data",
        metavar="DIR",
        type=user_path,
        help="built data sets (default %(default)s)",
    )
    add("--skip_missing", action="store_true", help="leave out queries without feature files")
    add(
        "--clip_windows",
        action="store_true",
        help="cut moments that reach out of their video, and leave out what is empty then",
    )
    add("--streams", metavar="NAME,...", help="build, and check, these features of the videos only")
    add(
        "--resample",
        action="store_true",
        help="for custom/NAME: features are a fixed number a video; interpolate them at its clips",
    )
    add("--overwrite", action="store_true", help="build again what is already built")
    add("--widths", metavar="slowfast=64,query=32", help="other feature widths than the released")
    add("--clip_length", type=float, metavar="SECONDS", help="for custom/NAME only, which needs it")
    add(
        "--label_clip_length",
        type=float,
        metavar="SECONDS",
        help="for custom/NAME only: of the clips that relevant_clip_ids and saliency_scores count, "
        "if they are not those of the features",
    )

    add = command(
        "train",
        "train a model and evaluate it",
        "Train a model and evaluate it; the same command continues a run that was stopped. Any "
        "field of the configuration can be given as --config.section.field=value. With "
        "--config.seeds=1,2,3 there is a run of each seed, and mean and standard deviation. TVSum "
        "and YouTube Highlights have a run for each domain, or for the one that NAME:DOMAIN names.",
        "flashvtg train --config=demo --workdir=runs/slow --config.optimizer.learning_rate=1e-3",
    ).add_argument
    add("--config", required=True, metavar="NAME", help="a name or a .py file, each with :argument")
    add(
        "--workdir",
        required=True,
        metavar="DIR",
        type=user_path,
        help="checkpoints, logs and results",
    )
    add_processes(add)

    add = command(
        "evaluate",
        "score the best checkpoint of a run",
        "Score the best checkpoint of a run; writes predictions.jsonl and metrics.json.",
        "flashvtg evaluate --workdir=runs/demo --split=val",
    ).add_argument
    add("--workdir", required=True, metavar="DIR", type=user_path, help="of flashvtg train")
    add("--split", metavar="NAME", help="train, val, test (default: the validation split)")
    add("--step", type=int, metavar="N", help="of the checkpoint (default: the best one)")
    add(
        "--data_dir",
        metavar="DIR",
        type=user_path,
        help="built data sets (default: as in training)",
    )
    add(
        "--output",
        metavar="DIR",
        type=user_path,
        help="folder for the results (default: the work directory)",
    )
    add_processes(add)

    add = command(
        "predict",
        "find the moments and highlights for a list of queries",
        "Find the moments and highlights for a list of queries, or for one. Feature files are raw, "
        "as extracted. The list may be of any length; the same command goes on where it stopped. "
        "Moments that overlap better ones or have no length are left out. Saliency scores have no "
        "scale and are often negative: only their order within a video counts. "
        "Exit status 3: done, but some lines of the list could not be used.",
        "flashvtg predict --checkpoint=runs/demo --features=runs/demo/data/synthetic "
        "--queries=runs/demo/data/synthetic/highlight_val_release.jsonl --output=answers.jsonl",
    ).add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        type=user_path,
        help="work directory of flashvtg train, or what flashvtg convert wrote",
    )
    add("--step", type=int, metavar="N", help="of the checkpoint (default: the best one)")
    add(
        "--queries",
        metavar="FILE",
        type=user_path,
        help="JSON lines with qid and vid, and query and duration (seconds) where known",
    )
    add(
        "--features",
        metavar="DIR",
        type=user_path,
        help="feature files, laid out as those of the data set the model was trained on",
    )
    add(
        "--video_features",
        action="append",
        default=[],
        metavar="STREAM=DIR",
        help="files of a stream, named as there or VID.npz; once for each stream",
    )
    add(
        "--query_features",
        metavar="DIR",
        type=user_path,
        help="files of the queries, named as there or QID.npz",
    )
    add("--output", metavar="FILE", type=user_path, help="predictions, a JSON line for each query")
    add("--overwrite", action="store_true", help="begin the output anew")
    add(
        "--video",
        action="append",
        default=[],
        metavar="STREAM=FILE",
        help="instead of a list: the video's features; once for each stream",
    )
    add("--query_file", metavar="FILE", type=user_path, help="with --video: the query's features")
    add("--duration", type=float, metavar="SECONDS", help="with --video: of the video")
    add("--nms_threshold", type=float, metavar="IOU", help="(default: of the configuration)")
    add("--no_nms", action="store_true", help="keep moments that overlap better ones")
    add("--top_k", type=int, metavar="K", help="moments for each query (default: as in training)")
    add("--score_threshold", type=float, metavar="S", help="leave out moments below this score")
    add("--batch_size", type=int, metavar="N", help="queries at once (default: as in evaluation)")
    add(
        "--whole_videos",
        action="store_true",
        help="do not cut videos that are longer than those of training",
    )

    add = command(
        "score",
        "score a prediction file in the QVHighlights format as the official evaluator does",
        "Score a prediction file in the QVHighlights format as the official evaluator does.",
        "flashvtg score --predictions=runs/demo/predictions.jsonl "
        "--annotations=runs/demo/data/synthetic/highlight_val_release.jsonl",
    ).add_argument
    add("--predictions", required=True, metavar="FILE", type=user_path, help="JSON lines")
    add("--annotations", required=True, metavar="FILE", type=user_path, help="JSON lines")
    add(
        "--output",
        metavar="FILE",
        type=user_path,
        help="write all numbers as JSON, laid out as the official ones",
    )
    add(
        "--clip_length",
        type=float,
        metavar="SECONDS",
        help="of the clips of pred_saliency_scores (default: as the config.json or the settings "
        "file beside the predictions say; else as follows from scores and durations)",
    )
    add(
        "--label_clip_length",
        type=float,
        metavar="SECONDS",
        help="of the clips that relevant_clip_ids count (default: as said there, or --clip_length)",
    )
    add(
        "--length_ranges",
        metavar="short:0:10,long:10:inf",
        help="moments that are scored by themselves, NAME:ABOVE:UP_TO in seconds (default: as said "
        "there, or the official short:0:10,middle:10:30,long:30:150)",
    )

    add = command(
        "plot",
        "draw a figure for each query of a prediction file",
        "Draw a figure for each query of a prediction file: saliency over time, the ten best "
        "moments as bars, and what people said, if there are annotations.",
        "flashvtg plot --predictions=runs/demo/predictions_nms.jsonl --output=runs/demo/figures "
        "--annotations=runs/demo/data/synthetic/highlight_val_release.jsonl",
    ).add_argument
    add("--predictions", required=True, metavar="FILE", type=user_path, help="JSON lines")
    add("--output", required=True, metavar="DIR", type=user_path, help="folder for the figures")
    add("--annotations", metavar="FILE", type=user_path, help="JSON lines, of these queries")
    add("--qid", action="append", metavar="Q", help="draw this query; several times for several")
    add(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="without --qid: draw the first N queries (default %(default)s)",
    )
    add("--format", choices=("png", "svg"), default="png", help="(default %(default)s)")
    add(
        "--clip_length",
        type=float,
        metavar="SECONDS",
        help="of the clips of pred_saliency_scores (default: as for score; 2 without annotations)",
    )
    add(
        "--label_clip_length",
        type=float,
        metavar="SECONDS",
        help="of the clips that relevant_clip_ids count (default: as said there, or --clip_length)",
    )

    add = command(
        "study",
        "compare variants of the model over several seeds",
        "Compare variants of the model: train or evaluate each variant of it over several "
        "seeds, and write a table, a CSV file and a figure. What is finished is not done again, "
        "and studies of one work directory share their runs. Fields of the configuration are "
        "given as for train.",
        "flashvtg study ablation --config=demo --workdir=runs/study --seeds=2\n"
        "  flashvtg study label_correlation --annotations=FILE --output=runs/labels",
        "\n\nstudies:\n" + "\n".join(f"  {name:<18} {about}" for name, about in STUDIES.items()),
    ).add_argument
    add("name", metavar="NAME", choices=STUDIES, help="one of these")
    add(
        "--config",
        metavar="NAME",
        help="of the full model: a name or a .py file, or one with :ARGUMENT",
    )
    add(
        "--workdir",
        metavar="DIR",
        type=user_path,
        help="runs, and the results without --output; all but label_correlation need it",
    )
    add("--seeds", type=int, default=5, metavar="N", help="of each variant (default %(default)s)")
    add("--output", metavar="DIR", type=user_path, help="folder for NAME.md, NAME.csv, NAME.png")
    add("--split", metavar="NAME", help="to compare on (default: the validation split)")
    add(
        "--variants",
        metavar="A,B",
        type=names,
        help="these beside the full model, named as in NAME.md (default: all)",
    )
    add("--no_intervals", action="store_true", help="no confidence intervals: one seed will do")
    add(
        "--annotations",
        action="append",
        metavar="FILE",
        type=user_path,
        help="of label_correlation, again for each file (default: those of config.data.manual_dir)",
    )
    add("--clip_length", type=float, metavar="SECONDS", help="of their clips (default 2)")

    add = command(
        "inspect",
        "draw how a trained model came to its answer for one query",
        "Draw how a trained model came to its answer for one query: attention of clips to words, "
        "logits of the pyramid's levels, saliency, moments, and what people said.",
        "flashvtg inspect --workdir=runs/demo --qid=403",
    ).add_argument
    add("--workdir", required=True, metavar="DIR", type=user_path, help="of flashvtg train")
    add("--qid", required=True, metavar="Q", help="of the query")
    add("--split", metavar="NAME", help="train, val, test (default: the validation split)")
    add("--step", type=int, metavar="N", help="of the checkpoint (default: the best one)")
    add(
        "--data_dir",
        metavar="DIR",
        type=user_path,
        help="built data sets (default: as in training)",
    )
    add(
        "--output",
        metavar="FILE",
        type=user_path,
        help=".png or .svg (default: inspect_Q.png in the work directory)",
    )

    add = command(
        "convert",
        "read a checkpoint of the authors' PyTorch program into a work directory",
        "Read a checkpoint of the authors' PyTorch program into a work directory, or write the "
        "model of a work directory as such a checkpoint. Nothing in a file is run. Needs PyTorch: "
        "pip install 'flashvtg-jax[torch]'.",
        "flashvtg convert --torch_checkpoint=model_best.ckpt --output=runs/released\n"
        "  flashvtg convert --workdir=runs/released --to_torch=model.ckpt",
    ).add_argument
    add("--torch_checkpoint", metavar="FILE", type=user_path, help="to read; needs --output")
    add("--output", metavar="DIR", type=user_path, help="work directory to write; new or empty")
    add(
        "--config",
        metavar="NAME",
        help="configuration to start from (default: the one that FILE names), a name or a .py file",
    )
    add("--widths", metavar="slowfast=64,query=32", help="other feature widths than the released")
    add("--workdir", metavar="DIR", type=user_path, help="to read; needs --to_torch")
    add("--to_torch", metavar="FILE", type=user_path, help="checkpoint to write; new")
    add("--step", type=int, metavar="N", help="of the work directory's checkpoint (default: best)")

    add = command(
        "export",
        "write a trained model as serialized StableHLO",
        "Write a trained model as serialized StableHLO, from raw features to decoded moments, with "
        "a manifest: one file for several platforms, which needs jax alone. Needs flatbuffers: pip "
        "install 'flashvtg-jax[export]'.",
        "flashvtg export --checkpoint=runs/demo --output=exported/demo",
    ).add_argument
    add("--checkpoint", required=True, metavar="DIR", type=user_path, help="work directory")
    add(
        "--output",
        required=True,
        metavar="DIR",
        type=user_path,
        help="folder to write; new, empty, or an earlier export",
    )
    add("--step", type=int, metavar="N", help="of the checkpoint (default: the best one)")
    add(
        "--platforms",
        default="cpu,cuda,tpu",
        metavar="NAMES",
        help="that the file is for; also rocm (default %(default)s)",
    )
    add(
        "--buckets",
        default=(),
        metavar="75,300",
        type=whole_numbers,
        help="a program for each of these numbers of clips (default: one, for any length)",
    )
    add(
        "--batch_sizes",
        default=(),
        metavar="1,16",
        type=whole_numbers,
        help="a program for each of these numbers of queries (default: for any number)",
    )
    parser.epilog = (
        f"commands:\n{''.join(lines)}\nFirst try: flashvtg train --config=demo --workdir=runs/demo"
    )
    return parser


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def whole_numbers(text: str) -> tuple[int, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        message = f"{text!r}: whole numbers, separated by commas"
        raise argparse.ArgumentTypeError(message) from error


def named_path(text: str) -> tuple[str | None, str]:
    """STREAM=PATH, or a path alone, as the user meant it."""
    name, _, path = text.partition("=")
    if not path or "/" in name or os.path.exists(text):  # a path may hold the sign itself
        return None, user_path(text)
    return name, user_path(path)


def user_path(text: str) -> str:
    """A path as the user meant it: shells leave the ~ of --output=~/runs alone."""
    return os.path.expanduser(text)


def add_processes(add: Callable[..., Any]) -> None:
    """The arguments of commands that several processes can share, one on each host of a pod."""
    add(
        "--distributed",
        action="store_true",
        help="this process is one of several, as a TPU slice, Slurm or Open MPI started them",
    )
    add("--coordinator", metavar="HOST:PORT", help="elsewhere: where the first process listens,")
    add("--num_processes", type=int, metavar="N", help="how many there are,")
    add("--process_id", type=int, metavar="I", help="and which one this is, from 0")

"""The authors' program: where it is, what it needs, and our configuration as its options."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from sides import Side

from flashvtg_jax.data.build.building import build, find_builder
from flashvtg_jax.data.synthetic.features import synthesize

HERE = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/Zhuo-Cao/FlashVTG"
# Of their checkout, what is used.
FILES = (
    "FlashVTG/model.py",
    "FlashVTG/train.py",
    "FlashVTG/inference.py",
    "FlashVTG/config.py",
    "FlashVTG/start_end_dataset.py",
    "standalone_eval/eval.py",
    "utils/basic_utils.py",
    "blocks/loss.py",
)
# Modules that their code imports, and the packages they come in.
PACKAGES = {
    "torch": "torch",
    "nncore": "nncore",
    "sklearn": "scikit-learn",
    "pandas": "pandas",
    "tqdm": "tqdm",
    "tensorboard": "tensorboard",
}
# Our data sets by the names that their code knows.
DATASETS = {
    "qvhighlights": "hl",
    "charades_sta": "charadesSTA",
    "tacos": "tacos",
    "tvsum": "tvsum",
    "youtube_highlights": "youtube_uni",
}


def add_reference_options(parser: argparse.ArgumentParser) -> None:
    """Where the authors' code is, and what runs it."""
    parser.add_argument(
        "--reference", required=True, metavar="DIR", help="checkout of the authors' repository"
    )
    parser.add_argument(
        "--reference_python", default=sys.executable, metavar="PYTHON", help="that has PyTorch"
    )


def check_reference_options(options: argparse.Namespace) -> None:
    """Completes them. Raises SystemExit for a checkout or an interpreter that is none."""
    options.reference = Path(options.reference).expanduser().resolve()
    options.reference_python = find_python(options.reference_python)
    check_reference(options.reference)
    check_packages(options.reference_python)


def find_python(name: str) -> str:
    """An interpreter as it can be started from any folder, links not followed."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def check_reference(folder: Path) -> None:
    """Raises SystemExit if a folder is not the authors' repository."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        what = "there is no such folder" if not folder.is_dir() else f"no {', '.join(missing)}"
        raise SystemExit(
            f"error: --reference={folder.name}: not a checkout of {REPOSITORY}: {what}"
        )


def check_packages(python: str) -> None:
    """Raises SystemExit if an interpreter is none, or lacks what their code imports."""
    code = (
        "import importlib.util, json, sys; "
        "print(json.dumps([n for n in sys.argv[1:] if importlib.util.find_spec(n) is None]))"
    )
    try:
        done = subprocess.run(
            [python, "-c", code, *PACKAGES], capture_output=True, text=True, check=True
        )
        missing = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise SystemExit(f"error: --reference_python={python}: not a Python interpreter") from error
    if missing:
        packages = " ".join(PACKAGES[name] for name in missing)
        raise SystemExit(
            f"error: {python} has no {', '.join(missing)}, which the authors' code imports: "
            f"{python} -m pip install {packages}"
        )


def start_theirs(options: argparse.Namespace, log: Path) -> Side:
    """Starts the process of their side; `options` has the two of the reference."""
    return Side(
        "theirs",
        [options.reference_python, str(HERE / "pytorch_side.py")],
        log=log,
        folder=options.reference,
        variables={"PYTHONDONTWRITEBYTECODE": "1"},  # the checkout stays as it is
    )


def their_commit(folder: Path) -> dict[str, str]:
    """The commit of the checkout, if it is one of git."""
    if not (folder / ".git").exists():
        return {}
    git = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return {"commit": done.stdout.strip()}


def write_features(
    config: ml_collections.ConfigDict, files: Mapping[str, Path], folder: Path
) -> tuple[list[Path], Path]:
    """Synthesise features for the annotation file of each split, and build our data set from them.

    Features go into `folder`, the data set into `folder/data`. Returns the folders of the video
    streams, in their order, and that of the words.
    """
    data, layout = config.data, find_builder(config.data.dataset)[1].layout
    widths = {**data.video_widths, "query": data.query_width}
    paths = list(files.values())
    about = {"dataset": data.dataset, "widths": widths, "progress": False}
    synthesize(folder, annotations=paths, seed=config.seed, **about)
    build(about.pop("dataset"), folder, folder / "data", **about)
    streams = {files.name: folder / files.folder for files in layout.streams}
    return [streams[name] for name in data.video_streams], folder / layout.query.folder


def their_options(
    config: ml_collections.ConfigDict,
    *,
    files: Mapping[str, Any],
    video_folders: Sequence[Path],
    query_folder: Path,
) -> list[str]:
    """Our configuration as arguments of their train.py.

    Args:
      config: of one data set; where it is divided into domains, of one of them.
      files: "train" and "eval": annotation files; "eval_split": "val" where these have labels to
        score by, else "test".
      video_folders: of the video streams, in their order.
      query_folder: of the words.
    """
    model, loss, data = config.model, config.loss, config.data
    coarsest = int(model.strides[-1])
    values = {
        "dset_name": DATASETS[data.dataset.split("/")[0]],
        "ctx_mode": "video_tef",
        "train_path": files["train"],
        "eval_path": files["eval"],
        "eval_split_name": files["eval_split"],
        "v_feat_dim": sum(data.video_widths[name] for name in data.video_streams),
        "t_feat_dir": query_folder,
        "t_feat_dim": data.query_width,
        "max_v_l": data.max_clips or -1,
        "max_q_l": data.max_words,
        "clip_length": config.clip_length,
        "bsz": config.train.batch_size,
        "eval_bsz": 1,
        "exp_id": "compare",
        "seed": config.seed,
        "lr": config.optimizer.learning_rate,
        "wd": config.optimizer.weight_decay,
        "grad_clip": config.optimizer.gradient_clip_norm,
        "dim_feedforward": model.ffn_dim,
        "nheads": model.num_heads,
        "nms_thd": config.evaluation.nms_threshold,
    }
    names = ("enc_layers", "t2v_layers", "dummy_layers", "num_dummies", "kernel_size")
    names += ("num_conv_layers", "num_mlp_layers", "n_input_proj", "input_dropout", "dropout")
    values |= {name: model[name] for name in names}
    names = ("lw_cls", "lw_reg", "lw_sal", "lw_saliency", "lw_wattn", "label_loss_coef")
    values |= {name: loss[name] for name in (*names, "saliency_margin")}
    if data.domains:
        (values["dset_domain"],) = data.domains
    # Their files of settings are called by the coarsest stride; that of 8 is the plain one.
    settings = {1: "HD.py", 8: "MR.py"}.get(coarsest, f"MR_{coarsest}.py")
    return [
        f"data/{settings}",
        *(f"--{name}={value}" for name, value in values.items()),
        "--use_neg",
        "--use_SRM",
        "--v_feat_dirs",
        *map(str, video_folders),
    ]

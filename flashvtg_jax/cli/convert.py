"""`flashvtg convert`: checkpoints of the authors' PyTorch program, read and written."""

import argparse
import shlex
import sys
from collections.abc import Sequence

from flashvtg_jax.cli.arguments import user_path
from flashvtg_jax.cli.command import Command

COMMAND = Command(
    summary="convert a checkpoint of the authors' PyTorch program to a work directory, or back",
    description=(
        "Convert a checkpoint of the authors' PyTorch program to a work directory, or the model "
        "of a work directory to such a checkpoint. No code in a file is run. Needs PyTorch: pip "
        "install 'flashvtg-jax[torch]'."
    ),
    example=(
        "flashvtg convert --torch_checkpoint=model_best.ckpt --output=runs/released\n"
        "  flashvtg convert --workdir=runs/released --to_torch=model.ckpt"
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("from PyTorch").add_argument
    add("--torch_checkpoint", metavar="FILE", type=user_path, help="checkpoint to read")
    add("--output", metavar="DIR", type=user_path, help="work directory to write; new or empty")
    add(
        "--config",
        metavar="NAME",
        help="configuration to start from, a name or the path of a .py file (default: by the data "
        "set in FILE)",
    )
    add(
        "--widths",
        metavar="slowfast=64,query=32",
        help="widths of the features (default: as released)",
    )
    add = parser.add_argument_group("to PyTorch").add_argument
    add("--workdir", metavar="DIR", type=user_path, help="work directory to read")
    add("--to_torch", metavar="FILE", type=user_path, help="checkpoint to write; a new file")
    add("--step", type=int, metavar="N", help="step of the checkpoint (default: the best one)")


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    reading = {"--torch_checkpoint": options.torch_checkpoint, "--output": options.output}
    writing = {"--workdir": options.workdir, "--to_torch": options.to_torch}
    other = (options.config or options.widths) if options.to_torch else options.step
    given = [name for name, value in {**reading, **writing}.items() if value]
    if given not in (list(reading), list(writing)) or other is not None:
        print(
            "flashvtg convert: give --torch_checkpoint=FILE --output=DIR [--config=NAME] "
            "[--widths=...], or --workdir=DIR --to_torch=FILE [--step=N]",
            file=sys.stderr,
        )
        return 2
    return _to_torch(options) if options.to_torch else _from_torch(options)


def _to_torch(options: argparse.Namespace) -> int:
    from flashvtg_jax.interop.conversion import to_torch_file

    written = to_torch_file(options.workdir, options.to_torch, options.step)
    print(f"wrote the parameters of step {written.step} to {options.to_torch}")
    model = written.model
    if (model.hidden_dim, model.num_heads) != (256, 8):
        print(
            "note: the authors' program is written for 256 channels and 8 heads; to load this "
            f"model, change them there to {model.hidden_dim} and {model.num_heads}",
            file=sys.stderr,
        )
    return 0


def _from_torch(options: argparse.Namespace) -> int:
    from flashvtg_jax.interop.conversion import from_torch_file

    found = from_torch_file(
        options.torch_checkpoint, options.output, options.config, options.widths
    )
    data = found.config.data
    streams = " + ".join(f"{name} {data.video_widths[name]}" for name in data.video_streams)
    epoch = "" if found.epoch is None else f" of epoch {found.epoch + 1}"
    print(
        f"{found.num_params / 1e6:.2f} M parameters{epoch}: {data.dataset}"
        f"{''.join(f', domain {name}' for name in data.domains)}, features {streams}, words "
        f"{data.query_width}, clips of {found.config.clip_length:g} s\n"
        f"wrote {options.output}: flashvtg evaluate --workdir={shlex.quote(options.output)} "
        "--data_dir=DIR"
    )
    return 0

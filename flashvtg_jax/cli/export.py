"""`flashvtg export`: a trained model as StableHLO."""

import argparse
from collections.abc import Sequence

from flashvtg_jax.cli.arguments import add_checkpoint, integers, names, user_path
from flashvtg_jax.cli.command import Command

COMMAND = Command(
    summary="export a trained model as serialized StableHLO",
    description=(
        "Export a trained model, from raw features to decoded moments, as serialized StableHLO "
        "with a manifest. One file serves several platforms and needs only jax to run. Needs "
        "flatbuffers: pip install 'flashvtg-jax[export]'."
    ),
    example="flashvtg export --checkpoint=runs/demo --output=exported/demo",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_checkpoint(parser)
    add(
        "--output",
        required=True,
        metavar="DIR",
        type=user_path,
        help="folder to write; new, empty, or an earlier export",
    )
    add(
        "--platforms",
        default="cpu,cuda,tpu",
        metavar="NAMES",
        type=names,
        help="platforms to export for, also rocm (default: %(default)s)",
    )
    add(
        "--buckets",
        default=(),
        metavar="75,300",
        type=integers,
        help="a program for each of these numbers of clips (default: one for any number)",
    )
    add(
        "--batch_sizes",
        default=(),
        metavar="1,16",
        type=integers,
        help="a program for each of these numbers of queries (default: one for any number)",
    )


def run(options: argparse.Namespace, _: Sequence[str]) -> int:
    from flashvtg_jax.interop.exporting import export_checkpoint

    manifest = export_checkpoint(
        options.checkpoint,
        options.output,
        step=options.step,
        platforms=options.platforms,
        buckets=options.buckets,
        batch_sizes=options.batch_sizes,
    )
    for file in [*manifest["programs"], manifest["params"]]:
        print(f"{file['file']}: {file['bytes'] / 1e6:.1f} MB")
    print(f"wrote {options.output} for {', '.join(manifest['platforms'])}, and manifest.json there")
    return 0

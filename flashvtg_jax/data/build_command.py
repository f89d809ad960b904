"""The command line that builds a data set, for error messages."""

import os
import shlex
from collections.abc import Mapping, Sequence

from flashvtg_jax.data.dataset_names import is_custom


def build_command(
    dataset: str,
    data_dir: str | os.PathLike,
    *flags: str,
    manual_dir: str | os.PathLike | None = None,
    clip_length: float | None = None,
    label_clip_length: float | None = None,
    widths: Mapping[str, int | None] | None = None,
    streams: Sequence[str] = (),
    resample: bool = False,
) -> str:
    """Returns a `flashvtg build` command line; unknown values are placeholders in capitals.

    Args:
      dataset: "name/config".
      data_dir: folder of all built data sets.
      *flags: "--overwrite", "--skip_missing", "--clip_windows".
      manual_dir: folder of the released files.
      clip_length: seconds; for custom data sets only.
      label_clip_length: seconds of the clips that ids count, if it is another length.
      widths: feature widths by name.
      streams: to build; (): all.
      resample: whether features are resampled.
    """
    manual = "DIR_OF_FEATURES" if manual_dir is None else shlex.quote(os.fspath(manual_dir))
    parts = ["flashvtg build", f"--dataset={shlex.quote(dataset)}", f"--manual_dir={manual}"]
    if is_custom(dataset):
        parts.append(f"--clip_length={'SECONDS' if clip_length is None else _seconds(clip_length)}")
    if label_clip_length is not None:
        parts.append(f"--label_clip_length={_seconds(label_clip_length)}")
    given = [f"{name}={width}" for name, width in (widths or {}).items() if width is not None]
    if given:
        parts.append(f"--widths={','.join(given)}")
    if streams:
        parts.append(f"--streams={','.join(streams)}")
    if resample:
        parts.append("--resample")
    return " ".join([*parts, f"--data_dir={shlex.quote(os.fspath(data_dir))}", *flags])


def _seconds(value: float) -> str:
    """Returns seconds with all digits: rounded ones would build another data set."""
    return repr(value).removesuffix(".0")

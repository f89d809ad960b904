"""The data set a configuration trains on, made ready before training where it can be."""

from pathlib import Path

import ml_collections

from flashvtg_jax.data.building import build
from flashvtg_jax.data.synthetic import synthesize


def prepare_data(
    config: ml_collections.ConfigDict, data_dir: Path, *, show_progress: bool = True
) -> None:
    """Synthesise and build, or build, the data set of a configuration, if it is not there yet.

    With a `synthetic` section the features are made first, below `data_dir`; with
    `config.data.manual_dir` the released files are built; with neither, nothing is done.
    Raises DataError for files that cannot be used.
    """
    data = config.data
    if any((data_dir / data.dataset).glob("*/dataset_info.json")):
        return
    manual_dir, widths = data.manual_dir, {**data.video_widths, "query": data.query_width}
    if "synthetic" in config:
        manual_dir = data_dir / "synthetic"
        synthesize(
            manual_dir,
            dataset=data.dataset,
            widths=widths,
            seed=config.seed,
            progress=show_progress,
            **config.synthetic,
        )
    if manual_dir is not None:
        build(data.dataset, manual_dir, data_dir, widths=widths, progress=show_progress)

"""The data set a configuration trains on, made ready before training where it can be."""

from pathlib import Path

import ml_collections

from flashvtg_jax.data.building import build
from flashvtg_jax.data.synthetic import check_generated, synthesize


def prepare_data(
    config: ml_collections.ConfigDict, data_dir: Path, *, show_progress: bool = True
) -> None:
    """Synthesise and build, or build, the data set of a configuration, if it is not there yet.

    With a `synthetic` section the features are made first, below `data_dir`; with
    `config.data.manual_dir` the released files are built; with neither, nothing is done.

    Raises:
      ConfigError: a synthetic data set is there that was made with other settings.
      DataError: files that cannot be used.
    """
    data = config.data
    built = any((data_dir / data.dataset).glob("*/dataset_info.json"))
    manual_dir, widths = data.manual_dir, {**data.video_widths, "query": data.query_width}
    if "synthetic" in config:
        manual_dir = data_dir / "synthetic"
        settings = {
            "dataset": data.dataset,
            "widths": widths,
            "seed": config.seed,
            **config.synthetic,
        }
        if built:
            check_generated(manual_dir, **settings)
        else:
            synthesize(manual_dir, progress=show_progress, **settings)
    if manual_dir is not None and not built:
        build(data.dataset, manual_dir, data_dir, widths=widths, progress=show_progress)

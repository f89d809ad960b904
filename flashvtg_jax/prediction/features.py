"""Finds the feature files that `flashvtg predict` reads."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import ml_collections

from flashvtg_jax.data.build import custom
from flashvtg_jax.data.build.glove import GloveWords
from flashvtg_jax.data.build.layout import QUERY, FeatureFiles, Features, Found, Item, Row
from flashvtg_jax.data.build.nearest_file import NearestFiles
from flashvtg_jax.data.dataset_names import is_custom
from flashvtg_jax.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class FoundFeatures:
    """The feature files of every stream that a model reads, and of the queries."""

    kinds: Mapping[str, Found]
    nearest: NearestFiles = dataclasses.field(default_factory=NearestFiles, compare=False)

    def items(self, row: Row) -> dict[str, Item]:
        """The files of a line, for each stream and "query".

        Raises:
          DataError: missing files, a line without the field that names them.
        """
        try:
            found = {name: kind.item(row) for name, kind in self.kinds.items()}
        except KeyError as error:
            raise DataError(f"no field {error}, by which features are found") from error
        missing = [
            f"{path}: no such file{self.nearest.hint(path)}"
            for name, kind in self.kinds.items()
            if found[name] is None
            for path in kind.missing(row)
        ]
        if missing:
            raise DataError("; ".join(missing))
        return found


@dataclasses.dataclass(frozen=True)
class _Either:
    """Files under one of two names."""

    usual: Found
    plain: Found

    def item(self, row: Row) -> Item | None:
        return self.usual.item(row) or self.plain.item(row)

    def missing(self, row: Row) -> list[Path]:
        return self.usual.missing(row)


def find_features(
    config: ml_collections.ConfigDict,
    streams: Iterable[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    features: str | os.PathLike | None,
    video_features: Mapping[str, str | os.PathLike] | None,
    query_features: str | os.PathLike | None,
) -> FoundFeatures:
    """Finds the features of videos and queries.

    Args:
      config: of the model.
      streams: that it reads.
      rows: lines of the list; read once, if words are looked up in a table (GloVe).
      features: folder laid out as the data set of the training was released.
      video_features: the folder of a stream's files, for streams that are elsewhere.
      query_features: the folder of the queries' files (or of the table), if it is elsewhere.

    Raises:
      ConfigError: a stream that the model does not read, or no folder for some features.
      DataError: folders that cannot be listed, a table that cannot be read.
    """
    streams = tuple(streams)
    folders = {**(video_features or {}), QUERY: query_features}
    for name in folders.keys() - {*streams, QUERY}:
        raise ConfigError(f"the model reads no stream {name!r}, but {', '.join(streams)}")
    known = _released_features(config)
    found = {}
    for name in (*streams, QUERY):
        if folders.get(name) is not None:
            found[name] = _find_in(name, known.get(name), Path(folders[name]), rows)
        elif features is None or name not in known:
            option = "--query_features=DIR" if name == QUERY else f"--video_features {name}=DIR"
            raise ConfigError(
                f"where are the {name} features? Give {option}"
                + (f", or --features=DIR, laid out as {config.data.dataset}" if known else "")
            )
        else:
            found[name] = known[name].find(Path(features), rows)
    return FoundFeatures(found)


def _released_features(config: ml_collections.ConfigDict) -> dict[str, Features]:
    """The layout of features in the data set of the training, by name; {} for an unknown one."""
    data = config.data
    if is_custom(data.dataset):
        layout = custom.layout_to_write(
            {**data.video_widths, QUERY: data.query_width}, config.clip_length
        )
        return {x.name: dataclasses.replace(x, key=None) for x in layout.feature_files}
    from flashvtg_jax.data.build.building import find_builder  # imports TFDS, which takes seconds

    try:
        layout = find_builder(data.dataset)[1].layout
    except ConfigError:
        return {}
    widths = {**data.video_widths, QUERY: data.query_width}
    return {
        files.name: dataclasses.replace(files, width=widths.get(files.name, files.width))
        for files in layout.feature_files
    }


def _find_in(
    name: str, released: Features | None, folder: Path, rows: Iterable[Mapping[str, Any]]
) -> Found:
    """The features of one kind in a folder of their own."""
    field = "qid" if name == QUERY else "vid"
    plain = FeatureFiles(name, f"{{{field}}}", None, None)
    if isinstance(released, GloveWords) and released.present(folder):
        return released.find(folder, rows)
    if not isinstance(released, FeatureFiles):
        return plain.find(folder, ())
    plain = dataclasses.replace(plain, suffix=released.suffix)
    pattern = PurePosixPath(released.pattern).name
    usual = dataclasses.replace(released, pattern=pattern, key=None, also=())
    return _Either(usual.find(folder, ()), plain.find(folder, ()))

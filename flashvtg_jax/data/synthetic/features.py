"""`flashvtg synthesize`: writes feature files in a released layout for any annotation file.

With them, builders, annotations and other programs can be tried without the released features.
`planting` describes the features.
"""

import functools
import hashlib
import itertools
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashvtg_jax.data.annotations import check_lines_agree, placed
from flashvtg_jax.data.build import custom
from flashvtg_jax.data.build.building import find_builder
from flashvtg_jax.data.build.glove import GloveWords, split_words
from flashvtg_jax.data.build.layout import FeatureFiles, Layout, parse_widths
from flashvtg_jax.data.build.listing import MANIFEST, is_synthetic
from flashvtg_jax.data.dataset_names import is_custom
from flashvtg_jax.data.synthetic.annotations import CLIP_LENGTH, generate_annotations
from flashvtg_jax.data.synthetic.folder import (
    Content,
    Item,
    SyntheticFolder,
    paths_to_write,
    read_manifest,
)
from flashvtg_jax.data.synthetic.planting import Planting
from flashvtg_jax.errors import ConfigError
from flashvtg_jax.json_lines import read_json_lines, write_json_lines

_EXTRA_ROWS = {"slowfast": 1}  # released SlowFast files have a clip more than CLIP's
_MAX_STRENGTH = 100.0  # above it only float16 overflows

Row = Mapping[str, Any]
Paths = str | os.PathLike | Sequence[str | os.PathLike]


def synthesize(
    output: str | os.PathLike,
    *,
    annotations: Paths | None = None,
    limit: int | None = None,
    dataset: str = "qvhighlights/slowfast_clip",
    strength: float = 1.0,
    seed: int = 0,
    widths: Mapping[str, int] | str | None = None,
    clip_length: float | None = None,
    num_train: int = 512,
    num_val: int = 128,
    spatial_tokens: int = 1,
    progress: bool = True,
) -> Path:
    """Writes features with planted moments, and their annotation files, ready for `build`.

    It can be called again for another annotation file of the same data set, or to continue after
    an interruption: existing files are not written again.

    Args:
      output: folder, the manual_dir of `build`.
      annotations: annotation files in the format of the data set. The name of each must be that of
        the release, or contain "train", "val" or "test", for its split. They are copied to
        `output`. None generates a train and a val file with QVHighlights' statistics.
      limit: number of lines of each annotation file to use, from the first; None uses all.
      dataset: whose layout to write, "name/config".
      strength: size of what is planted relative to the noise: at 0.3 the clips of a moment are hard
        to distinguish from others, at 1 easy, at 0 impossible. At most 100.
      seed: of everything random, from 0.
      widths: feature widths other than the released ones, as for `build`; for "custom/NAME" those
        of all streams and of "query".
      clip_length: seconds, for "custom/NAME" only.
      num_train: queries to generate for the train split, without `annotations`.
      num_val: the same for the val split.
      spatial_tokens: S, of each clip in all streams. Files are [L, S, width] if it is above 1, and
        one token of each clip has its topic.
      progress: show progress bars and a report on stderr.

    Returns:
      `output`.

    Raises:
      ConfigError: an unknown data set or stream, or arguments that are out of range or exclude
        each other.
      DataError: annotations that cannot be used; `output` has real features, or those of other
        settings, or cannot be written.
    """
    layout = _layout(dataset, widths, clip_length)
    settings = _settings(dataset, layout, strength, seed, spatial_tokens)
    output = Path(output).expanduser()
    if annotations is None:
        if limit is not None:
            raise ConfigError("limit is for annotation files; without them set num_train, num_val.")
        splits = _generated(layout, seed, num_train, num_val)
        targets = {split: output / layout.annotations[split][0] for split in splits}
    else:
        paths = _paths_by_split(layout, annotations)
        splits = _given(layout, paths, limit)
        targets = {split: output / _name(layout, split, path) for split, path in paths.items()}
        _check_targets(layout, targets, paths, limit)

    with SyntheticFolder(output, layout, settings) as folder:
        # Videos contain the topics of all their queries, also of those from earlier calls.
        earlier = _earlier_rows(layout, output, targets)
        files = earlier | {str(targets[split]): rows for split, rows in splits.items()}
        check_lines_agree(line for path, rows in files.items() for line in placed(path, rows))
        planting = Planting(seed, strength, layout.clip_length, _topics(layout))
        rows, others = (list(itertools.chain(*x.values())) for x in (splits, earlier))
        items = [
            *_video_items(layout, planting, spatial_tokens, output, rows, others),
            *_query_items(layout.query, planting, output, rows, others),
        ]
        num_written = folder.write(items, progress)
        for split, target in targets.items():
            write_json_lines(target, splits[split])
    if progress:
        sizes = ", ".join(f"{split} {len(rows)}" for split, rows in splits.items())
        options = "".join(f",{name}={width}" for name, width in settings["widths"].items())
        print(
            f"synthesised {output}: {sizes} queries, {num_written} of {len(items)} videos and "
            f"queries written; next: flashvtg build --dataset={dataset} "
            f"--manual_dir={shlex.quote(str(output))}"
            + (f" --clip_length={clip_length:g}" if clip_length else "")
            + (f" --widths={options[1:]}" if widths and not clip_length else "")
            + " --data_dir=DIR",
            file=sys.stderr,
        )
    return output


def check_generated(
    output: str | os.PathLike,
    *,
    dataset: str,
    strength: float,
    seed: int,
    widths: Mapping[str, int],
    num_train: int,
    num_val: int,
    clip_length: float | None = None,
    spatial_tokens: int = 1,
) -> None:
    """Checks that `output`, if it still exists, was generated with these settings.

    Raises:
      ConfigError: it was made with other settings or sizes.
      DataError: its files cannot be read.
    """
    output, layout = Path(output), _layout(dataset, widths, clip_length)
    if not is_synthetic(output):
        return
    one = {"spatial_tokens": 1}  # manifests leave it out
    found = one | read_manifest(output / MANIFEST)["settings"]
    wanted = one | _settings(dataset, layout, strength, seed, spatial_tokens)
    for split, size in (("train", num_train), ("val", num_val)):
        found[f"num_{split}"] = len(read_json_lines(output / layout.annotations[split][0]))
        wanted[f"num_{split}"] = size
    differing = [name for name, value in wanted.items() if found.get(name) != value]
    if differing:
        raise ConfigError(
            f"{output}: made with "
            + ", ".join(f"{name}={found.get(name)!r}" for name in differing)
            + ", but the configuration says "
            + ", ".join(f"{name}={wanted[name]!r}" for name in differing)
            + "; use another work directory (or config.data.data_dir)."
        )


def _layout(
    dataset: str, widths: Mapping[str, int] | str | None, clip_length: float | None
) -> Layout:
    layout = find_builder(dataset)[1].layout
    custom.check_clip_length(dataset, clip_length)
    widths = parse_widths(widths) if isinstance(widths, str) else widths or {}
    if layout is None:
        layout = custom.layout_to_write(widths, clip_length)
    else:
        layout = layout.with_widths(widths)
    for files in layout.feature_files:
        if files.width is None:
            raise ConfigError(f"{dataset} has no width of its own for {files.name}: give widths.")
    return layout


def _settings(
    dataset: str, layout: Layout, strength: float, seed: int, spatial_tokens: int
) -> dict[str, Any]:
    """Returns everything that the features depend on, besides the annotations."""
    if not 0 <= strength <= _MAX_STRENGTH:
        raise ConfigError(f"strength {strength}; expected a number from 0 to {_MAX_STRENGTH:g}.")
    if seed < 0:
        raise ConfigError(f"seed {seed}; expected an integer from 0.")
    if spatial_tokens < 1:
        raise ConfigError(f"spatial_tokens {spatial_tokens}; expected 1 or more.")
    settings = {
        "dataset": dataset,
        "strength": float(strength),
        "seed": int(seed),
        "widths": {files.name: files.width for files in layout.feature_files},
    }
    if spatial_tokens > 1:
        settings["spatial_tokens"] = int(spatial_tokens)
    # Other data sets have a fixed clip length.
    return settings | ({"clip_length": layout.clip_length} if is_custom(dataset) else {})


def _generated(layout: Layout, seed: int, num_train: int, num_val: int) -> dict[str, list[Row]]:
    if layout.labels != "qvhighlights":
        raise ConfigError("annotations are generated in QVHighlights' format only: give a file.")
    if layout.clip_length != CLIP_LENGTH:
        raise ConfigError(
            f"annotations are generated for clips of {CLIP_LENGTH} s, not of "
            f"{layout.clip_length:g} s: give a file."
        )
    if num_train < 1 or num_val < 1:
        raise ConfigError(f"num_train {num_train}, num_val {num_val}; expected 1 or more of each.")
    return {
        "train": generate_annotations(num_train, seed=seed),
        "val": generate_annotations(num_val, seed=seed, first_qid=num_train),
    }


def _given(layout: Layout, paths: Mapping[str, Path], limit: int | None) -> dict[str, list[Row]]:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}; expected 1 or more.")
    return {split: layout.load_annotations(split, path)[:limit] for split, path in paths.items()}


def _paths_by_split(layout: Layout, annotations: Paths) -> dict[str, Path]:
    if isinstance(annotations, str | os.PathLike):
        annotations = [annotations]
    paths: dict[str, Path] = {}
    for path in map(Path, annotations):
        split = _split_of(layout, path)
        if split in paths:
            raise ConfigError(f"{path}: a second annotation file of the {split} split.")
        paths[split] = path
    return paths


def _name(layout: Layout, split: str, path: Path) -> str:
    """Returns the name to write: that of the file, if the builder accepts it."""
    names = layout.annotations[split]
    return path.name if path.name in names else names[0]


def _split_of(layout: Layout, path: Path) -> str:
    """Returns the split of an annotation file from its name."""
    for split, names in layout.annotations.items():
        if path.name in names:
            return split
    named = [split for split in layout.annotations if split in path.name.lower()]
    if len(named) == 1:
        return named[0]
    released = ", ".join(names[0] for names in layout.annotations.values())
    raise ConfigError(
        f"{path}: its name does not show the split; rename it to one of {released}, or to a name "
        f"with one of {', '.join(layout.annotations)} in it."
    )


def _check_targets(
    layout: Layout, targets: Mapping[str, Path], paths: Mapping[str, Path], limit: int | None
) -> None:
    """Raises ConfigError if an input would be cut, or a split have two files."""
    for path, target in itertools.product(paths.values(), targets.values()):
        if limit is not None and target.exists() and path.exists() and target.samefile(path):
            raise ConfigError(f"{path}: limit would cut this file itself; choose another output.")
    for split, target in targets.items():
        for name in layout.annotations[split]:
            if name != target.name and target.with_name(name).exists():
                raise ConfigError(
                    f"{target.with_name(name)}: already the {split} split of this output, which "
                    f"cannot have {target.name} as well; choose another output, or remove it."
                )


def _earlier_rows(
    layout: Layout, output: Path, targets: Mapping[str, Path]
) -> dict[str, list[Row]]:
    """Returns the annotations of earlier calls, of splits that this call does not write."""
    return {
        str(output / name): layout.load_annotations(split, output / name)
        for split, names in layout.annotations.items()
        for name in names
        if split not in targets and (output / name).exists()
    }


def _topics(layout: Layout) -> str:
    """Returns `Planting.topics` for a layout."""
    if isinstance(layout.query, GloveWords):
        return "words"
    return "windows" if layout.labels == "windows" else "query"


def _video_items(
    layout: Layout,
    planting: Planting,
    spatial_tokens: int,
    output: Path,
    rows: Sequence[Row],
    earlier: Sequence[Row],
) -> list[Item]:
    """Returns the videos of `rows`; `earlier` rows add their topics."""
    about: dict[str, list[Row]] = {row["vid"]: [] for row in rows}
    for row in itertools.chain(rows, earlier):
        if row["vid"] in about:
            about[row["vid"]].append(row)
    items = []
    for vid, lines in about.items():
        lines.sort(key=lambda row: str(row["qid"]))  # whatever the order of the calls
        paths = [p for files in layout.streams for p in paths_to_write(files, output, lines[0])]
        make = functools.partial(_video, layout.streams, planting, spatial_tokens, lines)
        items.append(Item(f"vid {vid}", _fingerprint(lines), tuple(paths), make))
    return items


def _video(
    streams: Sequence[FeatureFiles], planting: Planting, spatial_tokens: int, rows: Sequence[Row]
) -> list[Content]:
    widths = {files.name: files.width for files in streams}
    clips = planting.clips(rows, widths, spatial_tokens)
    contents = []
    for files in streams:
        features = clips[files.name]
        extra = np.repeat(features[-1:], _EXTRA_ROWS.get(files.name, 0), axis=0)
        parts = np.array_split(np.concatenate([features, extra]), len(files.parts), axis=-1)
        contents += [{files.key: np.ascontiguousarray(part)} for part in parts]
    return contents


def _query_items(
    query: FeatureFiles | GloveWords,
    planting: Planting,
    output: Path,
    rows: Sequence[Row],
    earlier: Sequence[Row],
) -> list[Item]:
    """Returns the queries of `rows`; or one file with the words of these and `earlier` rows."""
    if isinstance(query, GloveWords):
        lines = itertools.chain(rows, earlier)
        words = sorted({word for row in lines for word in split_words(row["query"])})
        make = functools.partial(_words, planting, words, query.width)
        return [Item("words", _fingerprint(words), (output / query.file,), make)]
    items = []
    # The same query may be in several annotation files.
    for row in {str(row["qid"]): row for row in rows}.values():
        paths = tuple(paths_to_write(query, output, row))
        fingerprint = _fingerprint([row["query"], planting.topic_name(row)])
        make = functools.partial(_query, query, planting, row)
        items.append(Item(f"qid {row['qid']}", fingerprint, paths, make))
    return items


def _query(files: FeatureFiles, planting: Planting, row: Row) -> list[Content]:
    words = planting.words(row, files.width)
    return [{files.key: words, "pooler_output": words[-1]}]


def _words(planting: Planting, words: Sequence[str], width: int) -> list[Content]:
    """Returns the text of a file of word vectors, with as many digits as GloVe's file."""
    lines = []
    for word in words:
        numbers = " ".join(f"{number:.5g}" for number in planting.word(word, width))
        lines.append(f"{word} {numbers}\n")
    return ["".join(lines).encode()]


def _fingerprint(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

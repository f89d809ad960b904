"""Custom data sets, `custom/NAME`: features and labels are found by inspecting their folder.

DIR/train.jsonl, val.jsonl, test.jsonl    one or more; or in DIR/annotations or DIR/data
DIR/video/STREAM/{vid}.npz                a folder for each kind of features, or STREAM.h5
DIR/query/{qid}.npz                       features of the words, or query.h5

Arrays of videos are [L, width], or [L, S, width] if clips have S spatial tokens.
"""

import collections
import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashvtg_jax.data import hdf5
from flashvtg_jax.data.annotations import LABEL_FIELDS
from flashvtg_jax.data.build.layout import FeatureFiles, Layout
from flashvtg_jax.data.build.listing import list_files, what_is_there
from flashvtg_jax.data.dataset_names import CUSTOM, is_custom
from flashvtg_jax.data.feature_files import SUFFIXES
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import numbered, read_json_lines

_SPLITS = ("train", "val", "test")
_VIDEO, _QUERY = "video", "query"  # folders below manual_dir

# Streams are fields of configurations, which cannot contain dots, and items of tuples, which must
# not look like numbers.
_STREAM = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_TAKEN = ("annotation", "vid", "video_row", "query")  # fields of every row of a built data set

# The fields of a line by its labels, for error messages.
_DESCRIPTIONS = {
    "qvhighlights": "relevant_windows and saliency_scores",
    "windows": "relevant_windows alone",
    "label": "label",
    None: "no labels",
}


def check_clip_length(
    dataset: str, clip_length: float | None, label_clip_length: float | None = None
) -> None:
    """Raises ConfigError for a custom data set without a clip length, or another one with one."""
    given = {"clip_length": clip_length, "label_clip_length": label_clip_length}
    if not is_custom(dataset):
        for name, value in given.items():
            if value is not None:
                raise ConfigError(
                    f"{dataset} has a clip length of its own; {name} is for {CUSTOM} only."
                )
    elif clip_length is None:
        raise ConfigError(
            f"{dataset}: how many seconds of video is one row of its features? Set clip_length "
            "(build --clip_length=2, train --config.clip_length=2)."
        )
    else:
        for name, value in given.items():
            seconds = value is None or (isinstance(value, int | float) and 0 < value < math.inf)
            if not seconds:
                raise ConfigError(f"{name} {value!r}; expected a number of seconds above 0.")


def custom_layout(
    manual_dir: str | os.PathLike,
    clip_length: float,
    streams: Sequence[str] = (),
    *,
    label_clip_length: float | None = None,
    resample: bool = False,
) -> Layout:
    """Inspects a folder of features and annotations; streams are sorted, widths are not set.

    Args:
      manual_dir: folder as described above.
      clip_length: seconds of video that a row of features stands for, after resampling if any.
      streams: to inspect and use; (): all.
      label_clip_length: seconds of the clips that `relevant_clip_ids` count; None: clip_length.
      resample: as in `Layout`.

    Raises:
      ConfigError: a clip length that is no number of seconds; a `label_clip_length` for lines
        without clip ids; a stream that is not there; `resample` for lines that rate each clip.
      DataError: the folder, or one for videos, streams or queries in it, is missing; a stream
        cannot have its name; there is no annotation file, or lines have different labels.
    """
    check_clip_length(CUSTOM, clip_length, label_clip_length)
    manual_dir = Path(manual_dir).expanduser()
    layout = _layout((), clip_length)
    paths = layout.find_annotations(manual_dir)
    names = _stream_folders(manual_dir / _VIDEO)
    if _layout((), clip_length).query.source(manual_dir) is None:
        raise DataError(
            f"{manual_dir / _QUERY}: no such folder; the features of the words belong there, a "
            f"file for each annotation line: {_QUERY}/QID.npz. {what_is_there(manual_dir / _QUERY)}"
        )
    labels, unlabelled = _find_labels(paths)
    if label_clip_length is not None and labels != "qvhighlights":
        raise ConfigError(
            f"label_clip_length={label_clip_length:g} is for relevant_clip_ids and "
            f"saliency_scores, but the lines of {manual_dir} have {', '.join(LABEL_FIELDS[labels])}"
        )
    layout = _layout(names, clip_length).with_streams(streams)
    if problem := _name_problem(files.name for files in layout.streams):
        raise DataError(f"{manual_dir / _VIDEO}: {problem}")

    def as_found(files: FeatureFiles) -> FeatureFiles:
        return dataclasses.replace(files, suffix=_usual_suffix(files.source(manual_dir)))

    layout = dataclasses.replace(
        layout,
        streams=tuple(map(as_found, layout.streams)),
        query=as_found(layout.query),
        labels=labels,
        label_clip_length=label_clip_length,
        unlabelled_splits=unlabelled,
        resample=resample,
    )
    if resample and layout.rated:
        raise ConfigError(
            f"{manual_dir}: there is a rating for each clip, so features cannot be resampled; they "
            "need a row for each rating."
        )
    return layout


def inspected(manual_dir: Path) -> list[Path]:
    """Returns the paths that `custom_layout` inspects: annotation files, folder of the streams."""
    try:
        paths = list(_layout((), 1.0).find_annotations(manual_dir).values())
    except DataError:
        paths = []
    return [path for path in (*paths, manual_dir / _VIDEO) if path.exists()]


def layout_to_write(widths: Mapping[str, int], clip_length: float) -> Layout:
    """Returns the layout of features that are to be written, for annotations of any kind.

    Args:
      widths: of the streams and of "query", by name.
      clip_length: seconds.

    Raises:
      ConfigError: `widths` has no stream, no "query", or a name that a stream cannot have.
    """
    names = [name for name in widths if name != _QUERY]
    if not names or _QUERY not in widths:
        raise ConfigError(
            f"widths name the streams of {CUSTOM}, one or more, and {_QUERY!r} "
            f"(--widths=resnet=128,clip=64,{_QUERY}=64), but these are "
            f"{', '.join(widths) or 'none'}."
        )
    if problem := _name_problem(names):
        raise ConfigError(f"widths: {problem}")
    layout = _layout(sorted(names), clip_length, keys=("features", "last_hidden_state"))
    return dataclasses.replace(layout, unlabelled_splits=_SPLITS).with_widths(widths)


def _layout(
    streams: Iterable[str],
    clip_length: float,
    keys: tuple[str | None, str | None] = (None, None),
) -> Layout:
    return Layout(
        annotations={split: (f"{split}.jsonl",) for split in _SPLITS},
        streams=tuple(FeatureFiles(x, f"{_VIDEO}/{x}/{{vid}}", keys[0], None) for x in streams),
        query=FeatureFiles(_QUERY, f"{_QUERY}/{{qid}}", keys[1], None),
        clip_length=float(clip_length),
        labels="qvhighlights",
    )


def _stream_folders(folder: Path) -> list[str]:
    """Returns the names of the streams, sorted."""
    expected = f"a folder for each kind of features: {_VIDEO}/NAME/VID.npz, or {_VIDEO}/NAME.h5"
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; the features of the videos belong there, in {expected}. "
            f"{what_is_there(folder)}"
        )
    # Desktops and notebooks create hidden ones.
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    files = [path.stem for path in paths if hdf5.is_file_for_all(path)]
    names = sorted({*files, *(path.name for path in paths if path.is_dir())})
    if not names:
        found = f"{len(paths)} files, but no folder" if paths else "nothing"
        example = f"; there is {min(paths).name!r}" if paths else ""
        raise DataError(f"{folder}: {found} in it; expected {expected}{example}")
    return names


def _name_problem(streams: Iterable[str]) -> str | None:
    for name in streams:
        if name in _TAKEN or not _STREAM.fullmatch(name):
            return (
                f"a stream cannot be called {name!r}; take a letter, then letters, digits, _ and "
                f"-, and none of {', '.join(_TAKEN)}"
            )
    return None


def _usual_suffix(folder: Path) -> str:
    """Returns the suffix of most files of a folder, for file names in errors."""
    names = () if folder.is_file() else list_files(folder)
    counts = collections.Counter(os.path.splitext(name)[1] for name in names)
    return max(SUFFIXES, key=lambda suffix: counts[suffix])  # the first of equals


def _find_labels(paths: Mapping[str, Path]) -> tuple[str, tuple[str, ...]]:
    """Returns the kind of labels of the lines, and the splits without labels."""
    rows = {split: read_json_lines(path) for split, path in paths.items()}
    known: tuple[str, str] | None = None  # labels, and the line they were seen on
    unlabelled = []
    for split, path in paths.items():
        found = [(line, _labels_of(row, f"{path}:{line}")) for line, row in numbered(rows[split])]
        if split != "train" and not any(labels for _, labels in found):
            unlabelled.append(split)
            continue
        for line, labels in found:
            known = known or (labels, f"{path}:{line}")
            if labels != known[0]:
                raise DataError(
                    f"{path}:{line}: {_DESCRIPTIONS[labels]}, but {_DESCRIPTIONS[known[0]]} in "
                    f"{known[1]}; all lines need the same labels. Only a whole file may have none, "
                    "and not the one to train on."
                )
    if known is None or known[0] is None:
        names = ", ".join(map(str, paths.values()))
        raise DataError(
            f"{names}: no labels to train on or to score with; every line needs "
            "'relevant_windows': [[start, end], ...] in seconds (or 'label', a list of ratings for "
            "each clip)."
        )
    labels = known[0]
    if labels == "label":
        labels = (
            "ratings" if _has_grades(row for lines in rows.values() for row in lines) else "binary"
        )
    return labels, tuple(unlabelled)


def _labels_of(row: Mapping[str, Any], place: str) -> str | None:
    """Returns a key of `_DESCRIPTIONS`."""
    fields = LABEL_FIELDS["qvhighlights"]
    present = tuple(field for field in fields if row.get(field) is not None)
    if row.get("label") is not None:
        if present:
            raise DataError(
                f"{place}: both label and {' and '.join(present)}; a line is either of moments or "
                "of rated clips: leave one of them out, on all lines."
            )
        return "label"
    if present in (fields, ("relevant_windows",), ()):
        return {0: None, 1: "windows"}.get(len(present), "qvhighlights")
    missing = next(field for field in fields if field not in present)
    raise DataError(
        f"{place}: {' and '.join(present)}, but no {missing}; saliency takes all of "
        f"{', '.join(fields)}, moments alone take relevant_windows."
    )


def _has_grades(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Returns whether labels have values other than 0 and 1; their range is checked later."""
    lists = (row["label"] for row in rows if isinstance(row.get("label"), list))
    clips = (clip for label in lists for clip in label if isinstance(clip, list))
    return any(rating not in (0, 1) for clip in clips for rating in clip)

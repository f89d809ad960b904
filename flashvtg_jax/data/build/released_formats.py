"""Reads released annotation files of other data sets, with a function for each format.

`released_annotations` checks the queries, for all formats in one place.
"""

import csv
import dataclasses
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flashvtg_jax.data.annotations import is_number
from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import read_utf8


@dataclasses.dataclass(frozen=True)
class ReleasedQuery:
    """A sentence about a video, with the unchecked values of the file.

    Attributes:
      place: in the files, "FILE:LINE" or "FILE: path in JSON".
      key: the qid without "_" and a number at the end.
      vid: id of the video.
      query: the sentence; None or blanks if there is none.
      window: [start, end] in seconds; None if there is none, as in test splits.
      duration: of the video in seconds; None if it is in another file.
      problem: of its form; "" if there is none.
    """

    place: str
    key: str = ""
    vid: str = ""
    query: Any = None
    window: Any = None
    duration: Any = None
    problem: str = ""


def read_charades_txt(text: str, name: str) -> Iterator[ReleasedQuery]:
    """Reads Charades-STA's text files: lines "VID START END##sentence", in seconds."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        times, separator, sentence = line.partition("##")
        fields = times.split()
        try:
            vid, window = fields[0], [float(field) for field in fields[1:]]
        except (ValueError, IndexError):
            vid, window = "", []
        if not separator or len(window) != 2:
            yield ReleasedQuery(
                place, problem=f"{line.strip()!r}; expected VID START END##sentence"
            )
        else:
            yield ReleasedQuery(place, key=vid, vid=vid, query=sentence, window=window)


def read_activitynet_captions(text: str, name: str) -> Iterator[ReleasedQuery]:
    """Reads ActivityNet Captions: {vid: {"duration", "timestamps": [[start, end]], "sentences"}}.

    val_1.json and val_2.json are about the same videos: the file's name is part of the key.
    """
    file = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(name).stem)
    for vid, video in _parse_json(text, name).items():
        place = f"{name}: {vid}"
        timestamps, sentences = (_list(video, key, place) for key in ("timestamps", "sentences"))
        if len(timestamps) != len(sentences):
            counts = f"{len(timestamps)} timestamps, but {len(sentences)} sentences"
            yield ReleasedQuery(place, problem=counts)
            continue
        for index, (window, sentence) in enumerate(zip(timestamps, sentences, strict=True)):
            yield ReleasedQuery(
                f"{place}.timestamps[{index}]",
                key=f"{vid}_{file}",
                vid=vid,
                query=sentence,
                window=window,
                duration=video.get("duration"),
            )


def read_ego4d_nlq(text: str, name: str) -> Iterator[ReleasedQuery]:
    """Reads Ego4D's natural language queries; the video is the clip, its id the clip's uid.

    The key is the annotation's uid: Ego4D's challenge identifies a query by that and its number.
    Queries of a test split have no times.
    """
    for i, video in enumerate(_list(_parse_json(text, name), "videos", name)):
        for j, clip in enumerate(_list(video, "clips", f"{name}: videos[{i}]")):
            place = f"{name}: videos[{i}].clips[{j}]"
            for k, annotation in enumerate(_list(clip, "annotations", place)):
                part = f"{place}.annotations[{k}]"
                for n, query in enumerate(_list(annotation, "language_queries", part)):
                    query = query if isinstance(query, dict) else {}
                    window = [query.get("clip_start_sec"), query.get("clip_end_sec")]
                    yield ReleasedQuery(
                        f"{part}.language_queries[{n}]",
                        key=str(annotation.get("annotation_uid") or ""),
                        vid=str(clip.get("clip_uid") or ""),
                        query=query.get("query"),
                        window=None if None in window else window,
                        duration=_clip_duration(clip),
                    )


READERS: dict[str, Callable[[str, str], Iterator[ReleasedQuery]]] = {
    "charades_txt": read_charades_txt,
    "activitynet_captions": read_activitynet_captions,
    "ego4d_nlq": read_ego4d_nlq,
}

# Formats without the durations of videos, and the option to give them with.
WITHOUT_DURATIONS = {
    "charades_txt": "--durations=Charades_v1_train.csv, for the test split Charades_v1_test.csv"
}


def read_durations(paths: Iterable[str | os.PathLike]) -> dict[str, float]:
    """Reads the seconds of each video from CSV files (columns id, length) or JSON ({vid: seconds}).

    Raises:
      DataError: a file that cannot be read or has other columns; a length that is no number, or
        contradicts another one of this video.
    """
    durations: dict[str, float] = {}
    for path in paths:
        rows = _json_durations if Path(path).suffix == ".json" else _csv_durations
        for place, vid, value in rows(read_text(path), str(path)):
            try:
                seconds = float(value)
            except (TypeError, ValueError):
                seconds = 0.0
            if not (is_number(seconds) and seconds > 0):
                raise DataError(f"{place}: length {value!r}; expected seconds, more than 0")
            if durations.setdefault(vid, seconds) != seconds:
                raise DataError(
                    f"{place}: {vid} lasts {seconds} s here, but {durations[vid]} s further up; "
                    "correct one of them"
                )
    return durations


def _csv_durations(text: str, name: str) -> Iterator[tuple[str, str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = reader.fieldnames or []
        if not {"id", "length"} <= set(columns):
            raise DataError(
                f"{name}: columns {', '.join(columns) or 'none'}; expected id and length among "
                "them, as in Charades_v1_train.csv"
            )
        for row in reader:
            yield f"{name}:{reader.line_num}", row["id"], row["length"]
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num}: {error}; is a quote not closed?") from error


def _json_durations(text: str, name: str) -> Iterator[tuple[str, str, Any]]:
    for vid, seconds in _parse_json(text, name).items():
        yield f"{name}: {vid}", vid, seconds


def read_text(path: str | os.PathLike) -> str:
    """Reads a text file in UTF-8. Raises DataError if there is none."""
    try:
        return read_utf8(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8; save it as such") from error


def _parse_json(text: str, name: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON: {error}; is it the file that --from says?") from error
    if not isinstance(data, dict):
        raise DataError(f"{name}: expected a JSON object; is it the file that --from says?")
    return data


def _list(parent: Any, key: str, place: str) -> list[Any]:
    """Returns the list `parent[key]` of a JSON file."""
    value = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(value, list):
        raise DataError(f"{place}: no list {key!r} in it; is it the file that --from says?")
    return value


def _clip_duration(clip: Mapping[str, Any]) -> float | None:
    """Returns the seconds of an Ego4D clip, without the rounding errors of the subtraction."""
    start, end = clip.get("video_start_sec"), clip.get("video_end_sec")
    return round(end - start, 6) if is_number(start) and is_number(end) else None

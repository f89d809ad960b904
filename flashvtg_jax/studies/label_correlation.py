"""How saliency labels relate to moments, measured on annotation files alone: no model, no features.

The third check that the paper of FlashVTG leaves open: whether the label of a clip follows from
being in a moment, from its place there, or from neither.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from flashvtg_jax.data.annotations import load_annotations
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.figures.drawing import EN_DASH, MINUS
from flashvtg_jax.figures.label_correlation import draw_label_correlation
from flashvtg_jax.files import write_atomically
from flashvtg_jax.json_lines import read_json_lines
from flashvtg_jax.metrics import label_measures as measures
from flashvtg_jax.metrics import label_sums
from flashvtg_jax.metrics.highlight_detection import RATING_LEVELS
from flashvtg_jax.metrics.label_measures import Measurement, Row, Table
from flashvtg_jax.studies.tables import aligned_table

NAME = "label_correlation"

_LABEL_FIELDS = ("saliency_scores", "label")
_CLIP_LENGTH = 2.0  # seconds, of QVHighlights
_COLUMNS = ("dataset", "category", "measure", "value", "low", "high", "clips", "queries")

# Released files, as people call them.
_NAMES = {
    "highlight_train_release": "QVHighlights train",
    "highlight_val_release": "QVHighlights val",
    "highlight_test_with_gt": "QVHighlights test",
    "tvsum_train": "TVSum train",
    "tvsum_val": "TVSum val",
    "youtube_train": "YouTube Highlights train",
    "youtube_valid": "YouTube Highlights val",
}


def label_correlation(
    paths: Sequence[Path], output: Path, *, clip_length: float | None = None, command: str
) -> Path:
    """Measures annotation files and writes label_correlation.md, .csv and .png.

    Args:
      paths: annotation files; each is measured by itself.
      output: folder to write into.
      clip_length: seconds of a clip where a file has moments; None: 2, as in QVHighlights.
      command: what was typed, for the Markdown file.

    Returns:
      The path of label_correlation.md.

    Raises:
      ConfigError: no file, a file given twice, a clip length that is not above 0.
      DataError: a file cannot be read, holds no saliency labels, or a result cannot be written.
    """
    paths = [Path(path).expanduser() for path in paths]
    if not paths:
        raise ConfigError(f"{NAME} needs one annotation file or more")
    if clip_length is not None and not 0 < clip_length < float("inf"):
        raise ConfigError(f"clip_length is {clip_length}; expected seconds, more than 0")
    entries: list[Measurement] = []
    for name, path in zip(_file_names(paths), paths, strict=True):
        entries += measures.measure(name, _read(path, clip_length or _CLIP_LENGTH))
    output = Path(output).expanduser()
    path = output / f"{NAME}.md"
    write_atomically(output / f"{NAME}.csv", _to_csv(entries))
    draw_label_correlation(entries, output / f"{NAME}.png")
    write_atomically(path, _to_markdown(entries, command))
    return path


def annotation_files(config: ml_collections.ConfigDict) -> list[Path]:
    """The annotation files of a configuration's data set: those of its splits that have labels.

    Raises:
      ConfigError: no `config.data.manual_dir`, or an unknown data set.
      DataError: no annotation file in that folder, or none that can be read.
    """
    # Builders import TFDS, which files given by name do not need.
    from flashvtg_jax.data.build.building import find_builder
    from flashvtg_jax.data.build.custom import custom_layout

    if config.data.manual_dir is None:
        raise ConfigError(
            f"{NAME} reads the annotation files of {config.data.dataset}: give their folder, "
            "--config.data.manual_dir=DIR"
        )
    folder = Path(config.data.manual_dir).expanduser()
    _, builder_config = find_builder(config.data.dataset)
    layout = builder_config.layout or custom_layout(folder, config.data.clip_length)
    found = layout.find_annotations(folder)
    labelled = [
        path
        for split, path in found.items()
        if split not in layout.unlabelled_splits or _label_fields(read_json_lines(path))
    ]
    return labelled or list(found.values())


def _label_fields(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """The fields with saliency labels that some line carries."""
    return {field for row in rows for field in _LABEL_FIELDS if row.get(field) is not None}


def _file_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file: that of its data set, or its own; with its folder if that is needed."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"{NAME}: an annotation file is given twice")
    names = [_NAMES.get(path.stem, path.stem) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.stem}" for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _read(path: Path, clip_length: float) -> list[label_sums.LabelledQuery]:
    rows = load_annotations(path, clip_length=clip_length)
    fields = _label_fields(rows)
    has_moments = any(row.get("relevant_windows") is not None for row in rows)
    if not fields:
        moments = "moments but no" if has_moments else "neither moments nor"
        raise DataError(
            f"{path}: has {moments} saliency labels; this study needs QVHighlights, TVSum or "
            "YouTube Highlights"
        )
    if "saliency_scores" in fields and not has_moments:
        raise DataError(f"{path}: has saliency_scores but no relevant_windows; it needs both")
    if not any(row.get("saliency_scores") or row.get("label") for row in rows):
        raise DataError(f"{path}: no clip has a saliency label; there is nothing to measure")
    return [label_sums.read_query(row, clip_length) for row in rows]


def _to_csv(entries: Sequence[Measurement]) -> str:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for entry in entries:
        fields = (getattr(entry, column) for column in _COLUMNS)
        writer.writerow(f"{x:.10g}" if isinstance(x, float) else x for x in fields)
    return content.getvalue()


# --- Markdown


def _to_markdown(entries: Sequence[Measurement], command: str) -> str:
    table = measures.by_category(entries)
    moments = {key: row for key, row in table.items() if measures.MOMENTS in row}
    parts = [
        "# How saliency labels relate to moments",
        f"```bash\n{command}\n```",
        "The label of a clip is the mean of its annotators' ratings. In brackets: the 95 % "
        f"interval of {measures.RESAMPLES} bootstrap samples of the videos (QVHighlights' excerpts "
        "of one video are drawn together). A clip is in a moment when its midpoint is. "
        "A dash stands for what is not defined, such as the interval of a single video.",
        *_files_section(table, moments),
    ]
    if moments:
        parts += _moment_sections(moments)
    parts += _rating_sections(table)
    parts += ["## Left out", "\n".join(f"- {line}" for line in _left_out(table))]
    return "\n\n".join(parts) + "\n"


def _files_section(table: Table, moments: Table) -> list[str]:
    def size(row: Row) -> str:
        return f"{row[measures.VIDEOS].queries:,}"

    columns = {"queries": size} | {
        name: _number(name, "{:,.0f}") for name in (measures.VIDEOS, measures.ANNOTATORS)
    }
    parts = [
        "## Files",
        _markdown_table(table, columns | {"clips": _number(measures.CLIPS, "{:,.0f}")}),
    ]
    if moments:
        names = (
            measures.RATED_INSIDE,
            measures.UNRATED_INSIDE,
            measures.RATED_OUTSIDE,
            measures.UNRATED_OUTSIDE,
            measures.MOMENTS,
            measures.LONG_MOMENTS,
        )
        parts += [
            "Clips outside that nobody rated count as 0, as they do in training; clips inside that "
            "nobody rated are left out.",
            _markdown_table(moments, {name: _number(name, "{:,.0f}") for name in names}),
        ]
    return parts


def _moment_sections(table: Table) -> list[str]:
    """Tables of the files that have moments."""
    inside, outside = measures.INSIDE, measures.OUTSIDE
    labels = {
        f"{name} {place}": _value(f"{name} {place}", "{:.2f}")
        for place in (inside, outside)
        for name in (measures.MEAN, measures.DEVIATION)
    }
    variance = {
        "inside or outside": measures.MEMBERSHIP,
        "left inside": measures.LEFT_INSIDE,
        "of it: among queries": measures.AMONG_QUERIES,
        "among moments of a query": measures.AMONG_MOMENTS,
        "among clips of a moment": measures.AMONG_CLIPS,
        "among clips outside": measures.AMONG_OUTSIDE,
    }
    levels = {
        f"{level}, {RATING_LEVELS[level]} or more": name for level, name in measures.LEVELS.items()
    }
    parts = [
        "## Inside and outside of moments",
        _markdown_table(table, labels),
        "### What membership explains",
        "The variance of the labels of all clips, inside and outside, in parts that add up to "
        "100 %. *Inside or outside* is eta squared: how far the labels follow from being in a "
        "moment. The rest inside is divided further: some queries are rated higher than others, "
        "some moments of a query higher than others, some clips of a moment higher than others. "
        "Where annotators rated nothing outside, the zeros there are given, not observed: the "
        "share then says how well membership can stand for the labels, not what people saw.",
        _markdown_table(table, {name: _value(key, "%") for name, key in variance.items()}),
        "The same share for yes-or-no labels, of single ratings: is the clip at least as good?",
        _markdown_table(table, {name: _value(key, "%") for name, key in levels.items()}),
        "## Place within the moment",
        "Moments of 3 clips and more. Correlations of a clip's label with its place, both centred "
        "by query and pooled: they compare the clips of a query, every clip weighs the same, and a "
        "query whose labels are all equal adds nothing instead of being undefined. Spearman's "
        "ranks are taken within the query, as shares of its clips. Negative for the centre: "
        "clips near it are rated higher. (Relative to the half length, the distance to the nearest "
        "edge is 1 less that to the centre; its correlation is the same with the other sign.)",
        *(
            _markdown_table(
                table,
                {
                    f"{kind.rstrip(', ')}: {text}": _value(kind + name, "{:+.3f}")
                    for name, text in label_sums.DISTANCES.items()
                },
            )
            for kind in (measures.PEARSON, measures.SPEARMAN)
        ),
        "How much of the variance among the clips of a moment follows from their place, by one "
        "parabola for all moments: a bow between the edges, a slope from start to end, or both.",
        _markdown_table(table, {"explained by place": _value(measures.PLACE, "%")}),
        "The mean label in each tenth of the moments, from start to end. Every moment is "
        "stretched to the same length and counts once.",
        _markdown_table(
            table,
            {
                f"{10 * tenth}{EN_DASH}{10 * tenth + 10} %": _number(
                    measures.course_name(tenth), "{:.2f}"
                )
                for tenth in range(label_sums.TENTHS)
            },
        ),
    ]
    sums = _by_columns(table, measures.sum_measures)
    if sums:
        parts += [
            "## Distribution of label sums inside",
            "Shares of the rated clips inside moments, by the sum of their ratings.",
            *(
                _markdown_table(rows, {value: _number(name, "%") for value, name in names.items()})
                for names, rows in sums
            ),
        ]
    return parts


def _rating_sections(table: Table) -> list[str]:
    parts = []
    several = {key: row for key, row in table.items() if measures.ALPHA in row}
    if several:
        parts += [
            "## Agreement between annotators",
            "Of the rated clips. Krippendorff's alpha for interval data compares the differences "
            "between ratings of one clip with those between any two ratings (1: all agree; 0: as "
            "if by chance); it is pooled over queries. The correlations are means over pairs of "
            "annotators of one query, then over queries; who rates every clip alike is left out. "
            "They say whether two people put the clips of one query in the same order, whatever "
            "height they rate at.",
            _markdown_table(
                several,
                {
                    "alpha": _value(measures.ALPHA, "{:.3f}"),
                    "Pearson": _value(measures.PAIRS_PEARSON, "{:.3f}"),
                    "Spearman": _value(measures.PAIRS_SPEARMAN, "{:.3f}"),
                    "all rate alike": _value(measures.ALIKE, "%"),
                    "queries of the correlations": lambda row: (
                        f"{row[measures.PAIRS_PEARSON].queries:,}"
                    ),
                },
            ),
        ]
    parts += [
        "## Distribution of ratings",
        "Shares of single ratings, of all annotators together; of clips inside moments where a "
        "file has moments.",
    ]
    for names, rows in _by_columns(table, measures.rating_measures):
        parts.append(
            _markdown_table(
                rows,
                {"mean": _mean} | {value: _value(name, "%") for value, name in names.items()},
            )
        )
    return parts


def _left_out(table: Table) -> list[str]:
    """What cannot be measured of a file, and why."""
    lines = []
    for dataset in dict.fromkeys(dataset for dataset, _ in table):
        row = table[dataset, measures.ALL]
        if measures.MOMENTS not in row:
            lines.append(
                f"{dataset}: everything about moments (inside and outside, place, variance); the "
                "file has labels for whole videos, and no moments."
            )
        if measures.ALPHA not in row:
            lines.append(f"{dataset}: agreement; each clip has the label of one annotator.")
        if [name for name, _ in table].count(dataset) == 1:
            lines.append(f"{dataset}: categories; no line has the field `domain`.")
        if not measures.rating_measures(row):
            lines.append(
                f"{dataset}: the distribution of ratings; they take more than "
                f"{measures.MAX_VALUES} values."
            )
    return lines or ["Nothing."]


def _by_columns(
    table: Table, find: Callable[[Row], dict[str, str]]
) -> list[tuple[dict[str, str], Table]]:
    """Rows that have the same of some columns, together; those that have none are left out."""
    groups: list[tuple[dict[str, str], dict]] = []
    for key, row in table.items():
        names = find(row)
        known = next((rows for columns, rows in groups if columns == names), None)
        if known is not None:
            known[key] = row
        elif names:
            groups.append((names, {key: row}))
    return groups


def _mean(row: Row) -> str:
    inside = f"{measures.MEAN} {measures.INSIDE}"
    return _value(inside if inside in row else measures.MEAN, "{:.2f}")(row)


def _value(measure: str, form: str) -> Callable[[Row], str]:
    """A column: the value and its interval."""

    def text(row: Row) -> str:
        entry = row.get(measure)
        if entry is None or entry.low is None or entry.high is None:
            return _number(measure, form)(row)
        low, high = (_format(bound, form).removesuffix(" %") for bound in (entry.low, entry.high))
        return f"{_format(entry.value, form)} [{low}, {high}]"

    return text


def _number(measure: str, form: str) -> Callable[[Row], str]:
    """A column: the value alone."""

    def text(row: Row) -> str:
        entry = row.get(measure)
        return EN_DASH if entry is None or entry.value is None else _format(entry.value, form)

    return text


def _format(value: float, form: str) -> str:
    text = f"{100 * value:.1f} %" if form == "%" else form.format(value)
    return text.replace("-", MINUS)


def _markdown_table(table: Table, columns: dict[str, Callable[[Row], str]]) -> str:
    lines = []
    for (dataset, category), row in table.items():
        name = dataset if category == measures.ALL else f"{dataset}, {category}"
        lines.append([name, *(column(row) for column in columns.values())])
    return aligned_table(["", *columns], lines)

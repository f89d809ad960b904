"""Numbers as a small table for the terminal."""

from collections.abc import Mapping

_SECTIONS = (
    (
        "MR-full-mAP",
        "MR-full-mAP@0.5",
        "MR-full-mAP@0.75",
        "MR-short-mAP",
        "MR-middle-mAP",
        "MR-long-mAP",
    ),
    ("MR-full-R1@0.3", "MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mIoU"),
    ("HL-min-VeryGood-mAP", "HL-min-VeryGood-Hit1"),
)


def format_table(numbers_by_name: Mapping[str, Mapping[str, float]]) -> str:
    """A table with one column for each name and the most quoted numbers as rows.

    Args:
      numbers_by_name: column title -> numbers of `evaluate_predictions`; rows that no column
        has are left out, a number that a column lacks is shown as "-".
    """
    columns = list(numbers_by_name.values())
    titles = list(numbers_by_name)
    sections = [
        [key for key in section if any(key in column for column in columns)]
        for section in _SECTIONS
    ]
    label_width = max((len(key) for section in sections for key in section), default=0)
    widths = [max(len(title), len("100.00")) for title in titles]

    def line(label: str, cells: list[str]) -> str:
        aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
        return "   ".join([f"{label:<{label_width}}", *aligned]).rstrip()

    rule = "-" * (label_width + sum(width + 3 for width in widths))
    lines = [line("", titles)]
    for section in sections:
        if section:
            lines.append(rule)
        for key in section:
            cells = [f"{column[key]:.2f}" if key in column else "-" for column in columns]
            lines.append(line(key, cells))
    return "\n".join(lines)

"""The README's tables, and figures, from the results of all benchmarks.

python benchmarks/report.py           # after a benchmark with --output=benchmarks/results/FILE.json
python benchmarks/report.py --check   # status 1 if the README says something else

Reads every results/*.json, of however many machines. A table stands in the README between the lines
`<!-- benchmarks: NAME -->` and `<!-- end -->`; without such lines all tables are printed. Figures
are written to results/figures.
"""

import argparse
import json
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from report_figures import COMPARED, write_figures

from flashvtg_jax.errors import DataError
from flashvtg_jax.files import write_atomically

HERE = Path(__file__).resolve().parent
MARKED = re.compile(r"(<!-- benchmarks: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
NONE = "\N{EN DASH}"  # where there is no number
TIMES = "\N{MULTIPLICATION SIGN}"

Result = dict[str, Any]
Row = Mapping[str, Any]
Cells = list[str]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if outdated")
    options = parser.parse_args()
    try:
        results = read_results(options.results)
        text = options.readme.read_text(encoding="utf-8")
        filled = fill(text, results)
        if options.check:
            if filled != text:
                raise SystemExit(
                    f"error: {options.readme.name} does not show these results: "
                    f"{', '.join(outdated(text, filled))}; run: python benchmarks/report.py"
                )
            return
        if not MARKED.search(text):
            print("\n\n".join(f"{name}\n\n{TABLES[name](results)}" for name in TABLES))
        elif filled != text:
            write_atomically(options.readme, filled)
        for path in write_figures(results, options.results / "figures"):
            print(f"wrote {path.name}", file=sys.stderr)
    except (DataError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def read_results(folder: Path) -> list[Result]:
    """The results of a folder, by file name. Raises DataError for a file that is none."""
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            result["benchmark"], result["device"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not the result of a benchmark ({error!r})") from error
        results.append({"file": path.stem, **result})
    return results


def fill(text: str, results: Sequence[Result]) -> str:
    """A text with its tables made new. Raises DataError for the name of no table."""

    def table(found: re.Match[str]) -> str:
        opening, name, _, closing = found.groups()
        if name not in TABLES:
            raise DataError(f"<!-- benchmarks: {name} -->: there are {', '.join(TABLES)}")
        return f"{opening}{TABLES[name](results)}\n{closing}"

    return MARKED.sub(table, text)


def outdated(text: str, filled: str) -> list[str]:
    """The names of the tables that differ."""
    pairs = zip(MARKED.findall(text), MARKED.findall(filled), strict=True)
    return [name for (_, name, old, _), (_, _, new, _) in pairs if old != new]


def of(results: Sequence[Result], benchmark: str, key: str = "rows") -> list[Result]:
    """The results of a benchmark, without smoke runs and those of an older shape (no `key`)."""
    return [r for r in results if r["benchmark"] == benchmark and key in r and not r.get("smoke")]


def markdown(header: Sequence[str], rows: Sequence[Cells], numbers_from: int = 1) -> str:
    """A table whose columns from `numbers_from` on are numbers, aligned to the right."""
    if not rows:
        return "*not measured yet*"
    aligned = ["---" if i < numbers_from else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, aligned, *rows))


def number(value: float | None) -> str:
    """Three digits that say something."""
    if value is None:
        return NONE
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}"


def duration(seconds: float | None) -> str:
    """Seconds, or milliseconds where they are few."""
    if seconds is None:
        return NONE
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(seconds * 1e3)} ms"


def memory(mib: float | None) -> str:
    """MiB as GiB."""
    return NONE if mib is None else f"{number(mib / 2**10)} GiB"


def median(row: Row, key: str) -> float | None:
    """The median of a measurement, where there is one."""
    return row.get(key, {}).get("median")


Column = tuple[str, Callable[[Result, Row], str]]  # heading, and text of a row of a result


def row_table(
    results: Sequence[Result],
    benchmark: str,
    about: Sequence[Column],
    measured: Sequence[Column],
    order: Callable[[Row], Any] | None = None,
    numbers_from: int = 2,
) -> str:
    """A line for each row of each result of a benchmark; of one that was skipped, why.

    Args:
      results: of all benchmarks.
      benchmark: name of the one.
      about: columns that a skipped row has as well.
      measured: other columns.
      order: key of the rows' order; None: as they are.
      numbers_from: which column on holds numbers.
    """
    rows = []
    for result in of(results, benchmark):
        for row in sorted(result["rows"], key=order) if order else result["rows"]:
            cells = [text(result, row) for _, text in about]
            if "skipped" in row:
                cells += [why(row), *[NONE] * (len(measured) - 1)]
            else:
                cells += [text(result, row) for _, text in measured]
            rows.append(cells)
    names = [name for name, _ in (*about, *measured)]
    return markdown(names, rows, numbers_from)


def why(row: Row) -> str:
    """Why a row was skipped."""
    return "skipped: " + row["skipped"].replace("|", "/").replace("\n", " ")


def value(key: str, form: Callable[[Any], str] | None = None) -> Callable[[Result, Row], str]:
    """The value of a row, or the median of what was measured several times."""

    def text(_: Result, row: Row) -> str:
        found = row.get(key)
        return (form or number)(found["median"] if isinstance(found, Mapping) else found)

    return text


def train_step_table(results: Sequence[Result]) -> str:
    """Training throughput by device, precision and batch size."""
    about = [
        ("device", lambda result, row: result["device"]),
        ("precision", lambda result, row: row["dtype"]),
        ("batch", lambda result, row: str(row["batch_size"])),
    ]
    measured = [
        ("samples/s", value("samples_per_second")),
        ("a step", value("step_seconds", duration)),
        ("TFLOP/s", value("gflop_per_second", lambda rate: number(rate and rate / 1e3))),
        ("of the matrix rate", value("fraction_of_matrix_rate", share)),
        ("memory", value("program_mib", memory)),
        ("compilation", value("compile_seconds", duration)),
    ]
    order = operator.itemgetter("dtype", "batch_size")
    return row_table(results, "train_step", about, measured, order)


def share(fraction: float | None) -> str:
    return NONE if fraction is None else f"{fraction:.0%}"


def evaluate_table(results: Sequence[Result]) -> str:
    """Evaluation throughput by device, precision and batch size."""
    about = [
        ("device", lambda result, row: result["device"]),
        ("precision", lambda result, row: result["dtype"]),
        ("batch", lambda result, row: str(row["batch_size"])),
    ]
    measured = [
        ("queries/s, data sent by the host", value("queries_per_second")),
        ("queries/s, data on the device", value("cached_queries_per_second")),
        ("model and NMS alone", value("device_queries_per_second")),
        ("a whole split", value("cached_seconds", duration)),
        ("queries", lambda result, row: str(result.get("queries", NONE))),
    ]
    return row_table(results, "evaluate", about, measured, operator.itemgetter("batch_size"))


def scaling_table(results: Sequence[Result]) -> str:
    """Time and memory by length of the video and by levels, each with its exponent."""
    parts = []
    for result in of(results, "scaling", "clips"):
        for against in ("clips", "levels"):
            measured = [row for row in result[against] if "skipped" not in row]
            kinds = list(dict.fromkeys(kind_of(row) for row in result[against]))
            if not measured:
                continue
            header, fitted = [against], ["exponent"]
            fits = {kind_of(fit): fit for fit in result["fits"] if fit["against"] == against}
            for kind in kinds:
                header += [kind, "memory"]
                fit = fits.get(kind, {})
                fitted += [number(fit.get("time_exponent")), number(fit.get("memory_exponent"))]
            rows = []
            for size in dict.fromkeys(row[against] for row in result[against]):
                at = {kind_of(row): row for row in result[against] if row[against] == size}
                cells = [str(size)]
                for kind in kinds:
                    row = at.get(kind, {})
                    cells += [duration(median(row, "seconds")), memory(row.get("program_mib"))]
                rows.append(cells)
            if any(cell != NONE for cell in fitted[1:]):
                rows.append(fitted)
            skipped = [
                f"Not run: {kind_of(row)}, {row[against]} {against}: {row['skipped']}."
                for row in result[against]
                if "skipped" in row
            ]
            about = f"{result['device']}, {result['config']}, {result['dtype']}"
            if against == "levels":
                about += f", {result['level_clips']} clips"
            elif result.get("attention_window"):
                about += f", windows of {result['attention_window']} clips to each side"
            parts += [f"{about}:", markdown(header, rows), *skipped]
    if not parts:
        return markdown([], [])
    note = "Exponents are of the larger half of the sizes; those of memory, of temporaries alone."
    return "\n\n".join([*parts, note])


def kind_of(row: Row) -> str:
    """What a row of the scaling benchmark measures: "training, full attention"."""
    attention = row.get("attention")
    return row["program"] + (f", {attention} attention" if attention else "")


def devices_table(results: Sequence[Result]) -> str:
    """Seconds a step by number of devices, under jit and under pmap."""
    header = ["machine", "devices", "jit, a step", f"{TIMES} one device", "pmap, a step"]
    header += [f"{TIMES} one device", "pmap / jit"]
    rows = []
    for result in of(results, "devices"):
        for count in dict.fromkeys(row["devices"] for row in result["rows"]):
            modes = {row["mode"]: row for row in result["rows"] if row["devices"] == count}
            jit, pmap = modes.get("jit", {}), modes.get("pmap", {})
            simulated = " (simulated)" if result.get("simulated") else ""
            cells = [result["device"] + simulated, str(count)]
            if "skipped" in jit:
                rows.append([*cells, why(jit), *[NONE] * (len(header) - len(cells) - 1)])
                continue
            for row in (jit, pmap):
                cells.append(duration(median(row, "step_seconds")))
                cells.append(number(row.get("seconds_over_one_device")))
            rows.append([*cells, number(pmap.get("seconds_over_jit"))])
    return markdown(header, rows)


def input_pipeline_table(results: Sequence[Result]) -> str:
    """Samples a second of the data paths, beside what the model takes, and how long steps wait."""
    columns: Mapping[str, Callable[[Result, Row], str]] = {
        "first pass, from disk": value("samples_per_second_first_pass"),
        "from host memory": value("samples_per_second_host"),
        "from device memory": value("samples_per_second_device"),
        "training takes": value("model_samples_per_second"),
        "steps wait: host": value("waiting_for_data_host", percent),
        "device": value("waiting_for_data_device", percent),
    }
    rows = [
        [result["device"], result["config"], *(text(result, result) for text in columns.values())]
        for result in of(results, "input_pipeline", "samples_per_second_device")
    ]
    return markdown(["device", "configuration", *columns], rows, 2)


def percent(share: float | None) -> str:
    """A share of time; those below nothing are noise around it."""
    return NONE if share is None else f"{100 * max(share, 0):.1f}%"


def compare_pytorch_table(results: Sequence[Result]) -> str:
    """Both programs side by side, with the ratio and its spread."""

    def device(result: Result, row: Row) -> str:
        precision = result["dtype"]
        return result["device"] + (f", ours in {precision}" if precision != "float32" else "")

    def pairs(result: Result, row: Row) -> str:
        return f"{row['paired_ratios']['min']:.2f} to {row['paired_ratios']['max']:.2f}"

    about = [
        ("device", device),
        ("what", lambda result, row: COMPARED.get(row["row"], row["row"])),
        ("unit", lambda result, row: row.get("unit", NONE)),
    ]
    measured = [
        ("batch", lambda result, row: batch_sizes(row)),
        ("authors' PyTorch", lambda result, row: number(row["theirs"]["per_second"])),
        ("here", lambda result, row: number(row["ours"]["per_second"])),
        ("ratio", lambda result, row: f"**{row['ratio']:.2f}{TIMES}**"),
        ("of pairs", pairs),
    ]
    return row_table(results, "compare_pytorch", about, measured, numbers_from=3)


def batch_sizes(row: Row) -> str:
    """The batch of a row, of both sides where they differ."""
    size = row.get("batch_size")
    if isinstance(size, Mapping):
        return f"{size['theirs']}, {size['ours']}"
    return NONE if size is None else str(size)


TABLES: dict[str, Callable[[Sequence[Result]], str]] = {
    "compare_pytorch": compare_pytorch_table,
    "train_step": train_step_table,
    "evaluate": evaluate_table,
    "scaling": scaling_table,
    "devices": devices_table,
    "input_pipeline": input_pipeline_table,
}


if __name__ == "__main__":
    main()

"""What all figures share: colours, times, text that fits, files that come out alike every time.

Matplotlib is imported when a figure is drawn, and its object interface used: no window, no pyplot.
"""

import contextlib
import functools
import io
import math
import os
import re
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flashvtg_jax.errors import DataError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

# Of the palette of Okabe and Ito, for colour-blind readers, colours that also differ in grey.
BLUE = "#0072B2"  # what the model says
ORANGE = "#E69F00"  # what people said
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
INK = "#1A1A1A"
GREY = "#595959"
FAINT = "#D9D9D9"
BROWN = "#8A5F00"  # of text that belongs to something orange, which is too light for text

FORMATS = ("png", "svg")
EN_DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
MARGIN = 0.25  # inches, left of titles

# Of curves beside each other: colour, line, marker.
LOOKS = ((BLUE, "-", "o"), (VERMILLION, "--", "s"), (GREEN, "-.", "^"), (PURPLE, ":", "D"))
LOOKS += ((ORANGE, (0, (5, 1, 1, 1, 1, 1)), "v"), (GREY, "-", "P"))

_FONT = "DejaVu Sans"  # comes with matplotlib
_PREFERRED_FONTS = ("Noto Sans", "Source Han Sans", "WenQuanYi", "Droid Sans", "Arial")
_TITLE_LINES, _NOTE_LINES = 4, 3
_TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30)  # seconds between ticks
_TIME_STEPS += tuple(60 * minutes for minutes in (1, 2, 5, 10, 15, 20, 30))
_HOUR = 3600
# Words with the space behind them; East Asian characters one by one, after which lines may break.
_PIECES = re.compile(r"[\u2e80-\ud7ff\uf900-\uffef]\s*|[^\s\u2e80-\ud7ff\uf900-\uffef]+\s*")

_lock = threading.Lock()


@contextlib.contextmanager
def drawing(text: str = "") -> Iterator[None]:
    """Inside, matplotlib's settings are ours, with fonts for the characters of `text`.

    Settings belong to the process: one thread draws at a time, and restores them afterwards.
    """
    from matplotlib import style

    settings = {
        "axes.axisbelow": True,
        "axes.edgecolor": GREY,
        "axes.labelcolor": GREY,
        "axes.labelsize": 9,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "font.family": [*_fonts_for(frozenset(text))[0], "sans-serif"],
        "font.size": 9,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "text.color": INK,
        "text.parse_math": False,  # a dollar in a query is a dollar
        "xtick.color": GREY,
        "ytick.color": GREY,
        # Text stays text: it can be searched and copied, and a browser has fonts for scripts that
        # this machine may not have. DejaVu Sans is wider than what replaces it: nothing overlaps.
        "svg.fonttype": "none",
        "svg.hashsalt": "flashvtg-jax",
    }
    with _lock, style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def new_figure(
    width: float, height: float, title: str, notes: Iterable[str] = ()
) -> tuple["Figure", "SubFigure"]:
    """A figure with a title and notes above the part that axes go into, which is returned as well.

    Args:
      width: inches.
      height: of the part below title and notes, inches.
      title: in large letters.
      notes: each begins a line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    room = width - 2 * MARGIN
    titles = wrap_text(
        clean_text(title), room, _TITLE_LINES, functools.partial(text_width, size=13)
    )
    lines = [line for note in notes for line in wrap_text(clean_text(note), room, _NOTE_LINES)]
    head = MARGIN + 0.26 * len(titles) + 0.2 * len(lines)
    figure = Figure((width, head + height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.17, h_pad=0.06)
    y = 0.13
    for index, line in enumerate((*titles, *lines)):
        y += 0.26 if index < len(titles) else 0.2
        look = {"size": 13} if index < len(titles) else {"color": GREY}
        figure.text(MARGIN / width, 1 - y / (head + height), line, **look)
    return figure, figure.subfigures(2, 1, height_ratios=[head, height])[1]


def lay_out(figure: "Figure") -> None:
    """Give axes their final places.

    The solver of the layout differs in the last digits from run to run, on which files must not
    depend: places are rounded.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        _round_places(figure.subfigs)
        for axes in figure.axes:
            place = axes.get_position(original=True)
            axes.set_position([round(value, 5) for value in place.bounds])


def _round_places(parts: "Sequence[SubFigure]") -> None:
    for part in parts:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(5))
        _round_places(part.subfigs)


def check_format(path: str | os.PathLike) -> str:
    """The format that a file name asks for; DataError if it is none of `FORMATS`."""
    name = Path(path).suffix.lower().removeprefix(".")
    if name not in FORMATS:
        raise DataError(f"{path}: figures are written as .png or .svg")
    return name


def save_figure(figure: "Figure", path: str | os.PathLike | None) -> None:
    """Write a figure; the same figure gives the same bytes. None: only lay it out.

    Raises DataError for a name that ends neither in .png nor in .svg, and if it cannot be written.
    """
    lay_out(figure)
    if path is None:
        return
    kind = check_format(path)
    about = f"flashvtg-jax {__version__}"
    metadata = {"Creator": about, "Date": None} if kind == "svg" else {"Software": about}
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi="figure", metadata=metadata)
    write_atomically(path, content.getvalue())


def format_time(seconds: float, *, hours: bool = False, decimals: int = 0) -> str:
    """mm:ss, or h:mm:ss, with decimals of seconds if asked for: 83.5 is 01:24 (01:23.5)."""
    ticks = round(seconds * 10**decimals)
    whole, fraction = divmod(ticks, 10**decimals)
    minutes, second = divmod(whole, 60)
    text = f"{minutes:02d}:{second:02d}"
    if hours:
        text = f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
    return text + (f".{fraction:0{decimals}d}" if decimals else "")


def set_time_axis(axes: "Axes", end: float, *, label: bool = True) -> None:
    """Make x a time axis from 0 to `end` seconds, with ticks at round times; `label` names them."""
    hours = end >= _HOUR
    most = 7 if hours else 9  # ticks, which have room in each of our figures
    steps = (*_TIME_STEPS, *(_HOUR * 2**power for power in range(20)))
    step = next((step for step in steps if end / step <= most), end)
    ticks = [step * index for index in range(math.floor(end / step + 1e-9) + 1)]
    axes.set_xlim(0, end)
    axes.set_xticks(ticks, [format_time(t, hours=hours, decimals=int(step < 1)) for t in ticks])
    axes.tick_params(axis="x", length=3 if label else 0, labelbottom=label)
    axes.grid(axis="x")
    if label:
        axes.set_xlabel("time (h:mm:ss)" if hours else "time (mm:ss)")


def set_value_ticks(axes: "Axes", count: int) -> None:
    """At most so many ticks on the y axis, within its limits, at round values in few characters."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

    axes.yaxis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10]))
    size = max(map(abs, axes.get_ylim()))
    plain = 1e-2 <= size < 1e5
    formatter = ScalarFormatter(useOffset=False) if plain else FuncFormatter(format_power)
    axes.yaxis.set_major_formatter(formatter)


def set_log_ticks(axes: "Axes", smallest: float = 0.0, count: int = 5) -> None:
    """Ticks on a logarithmic y axis: as many round values as have room, 0 and powers of ten first.

    None is nearer to 0 than `smallest`. (matplotlib's locators leave a scale of less than a decade
    without ticks, and let those about 0 of a symmetric one overlap.)
    """
    from matplotlib.ticker import FuncFormatter, NullLocator

    low, high = axes.get_ylim()
    scaled = axes.yaxis.get_transform().transform
    apart = (scaled(high) - scaled(low)) / count
    ticks: list[float] = []
    sizes = (digit * 10.0**exponent for digit in (1, 2, 5) for exponent in reversed(range(-9, 16)))
    for tick in (0.0, *(sign * size for size in sizes for sign in (1, -1))):
        inside = low <= tick <= high and (tick == 0 or abs(tick) >= smallest)
        if inside and all(abs(scaled(tick) - scaled(other)) >= apart for other in ticks):
            ticks.append(tick)
    axes.set_yticks(ticks)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(format_power))


def format_power(value: float, _: object = None) -> str:
    """A number of any size in few characters: 0.01, 500, 2e4, -1e6."""
    text = f"{value:.4g}"
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", MINUS)


def name_curves(axes: "Axes", curves: Sequence["Line2D"]) -> None:
    """Name curves by their labels, right of the axes."""
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}
    legend = axes.legend(handles=curves, handlelength=2.6, **place)
    for text, curve in zip(legend.get_texts(), curves, strict=True):
        text.set_color(darker(curve.get_color()))


def shade(color: str, strength: float) -> tuple[float, float, float]:
    """A colour laid over white: 1 is the colour itself, 0 is white."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(color))
    return red, green, blue


def darker(color: str) -> tuple[float, float, float]:
    """A colour for text: the light ones of the palette are hard to read on white."""
    from matplotlib.colors import to_rgb

    parts = to_rgb(color)
    factor = min(1.0, 0.45 / (0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2]))
    return tuple(factor * part for part in parts)


def clean_text(text: str) -> str:
    """One line of what can be written: no control characters, which SVG files must not hold."""
    kept = (
        character
        for character in re.sub(r"\s+", " ", text).strip()
        if unicodedata.category(character) not in ("Cc", "Cs") and ord(character) & 0xFFFE != 0xFFFE
    )
    return "".join(kept)


def text_width(text: str, size: float = 9) -> float:
    """Inches that a line of text takes in the fonts of `drawing`."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return (
        text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0] / 72
    )


def wrap_text(
    text: str, width: float, max_lines: int = 1, ruler: Callable[[str], float] = text_width
) -> list[str]:
    """Lines no wider than `width`; what does not fit into `max_lines` ends in "...".

    Breaks between words, between East Asian characters, and within a word that fills a line.
    (`textwrap` counts characters, of which a wide one takes as much room as three narrow ones.)
    """
    lines, line = [], ""
    for piece in _PIECES.findall(text):
        while ruler((line + piece).rstrip()) > width:
            count = 0 if line else _fitting(piece, width, ruler)
            lines.append(line + piece[:count])
            line, piece = "", piece[count:]
            if len(lines) == max_lines:  # the next line shows how much of this one fits
                rest = lines.pop() + piece
                cut = rest[: _fitting(rest, width - ruler("..."), ruler)]
                return [*(text.rstrip() for text in lines), cut.rstrip(" ,;:.-") + "..."]
        line += piece
    return [text.rstrip() for text in (*lines, line)]


def _fitting(word: str, width: float, ruler: Callable[[str], float]) -> int:
    """How many characters fit, at least one; marks stay with the letters they belong to."""
    count = 1
    while count < len(word) and ruler(word[: count + 1]) <= width:
        count += 1
    while 1 < count < len(word) and unicodedata.category(word[count]).startswith("M"):
        count -= 1
    return count


def undrawable(text: str) -> str:
    """The characters for which this machine has no font, each once, sorted."""
    return "".join(sorted(_fonts_for(frozenset(text))[1]))


@functools.lru_cache(maxsize=256)
def _fonts_for(characters: frozenset[str]) -> tuple[list[str], set[str]]:
    """Families that together have the characters, ours first, and characters that no font has."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    fonts = {
        font.name: font.fname
        for font in sorted(fontManager.ttflist, key=lambda font: font.fname, reverse=True)
        if font.style == "normal"
        and font.weight in (400, "normal", "regular", "book")
        # matplotlib's other fonts are of formulas, of boxes
        and (font.name == _FONT or not font.fname.startswith(get_data_path()))
    }
    families = [_FONT]
    missing = {c for c in characters if not c.isspace() and unicodedata.category(c) != "Cf"}
    for name in sorted(fonts, key=lambda x: (x != _FONT, not x.startswith(_PREFERRED_FONTS), x)):
        if not missing:
            break
        found = {c for c in missing if _has_glyph(fonts[name], c)}
        families += [name] if found and name != _FONT else []
        missing -= found
    return families, missing


def _has_glyph(path: str, character: str) -> bool:
    from matplotlib.font_manager import get_font

    try:
        return get_font(path).get_char_index(ord(character)) != 0
    except (OSError, RuntimeError):  # a font file that cannot be read
        return False

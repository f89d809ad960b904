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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flashvtg_jax.errors import DataError
from flashvtg_jax.files import write_atomically
from flashvtg_jax.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the palette of Okabe and Ito, which colour-blind people tell apart, what also differs in grey.
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

# Of curves beside each other: colour, line, marker.
LOOKS = ((BLUE, "-", "o"), (VERMILLION, "--", "s"), (GREEN, "-.", "^"), (PURPLE, ":", "D"))
LOOKS += ((ORANGE, (0, (5, 1, 1, 1, 1, 1)), "v"),)

_FONT = "DejaVu Sans"  # comes with matplotlib
_PREFERRED_FONTS = ("Noto Sans", "Noto", "Source Han Sans", "WenQuanYi", "Droid Sans", "Arial")
_TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30)  # seconds between ticks
_TIME_STEPS += tuple(60 * minutes for minutes in (1, 2, 5, 10, 15, 20, 30))
_HOUR = 3600
_WIDE = ("W", "F")  # East Asian characters: a line may break after each

_lock = threading.Lock()


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Inside, matplotlib's settings are ours, whatever style the program has chosen.

    They are the process's: one thread draws at a time, and finds them restored afterwards.
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
        "axes.titlesize": 10,
        "font.size": 9,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
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


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes in a rectangle given in inches from the figure's upper left corner."""
    full_width, full_height = figure.get_size_inches()
    bottom = (full_height - top - height) / full_height
    return figure.add_axes((left / full_width, bottom, width / full_width, height / full_height))


def check_format(path: str | os.PathLike) -> str:
    """The format that a file name asks for; DataError if it is none of `FORMATS`."""
    name = Path(path).suffix.lower().removeprefix(".")
    if name not in FORMATS:
        raise DataError(f"{path}: figures are written as .png or .svg")
    return name


def save_figure(figure: "Figure", path: str | os.PathLike) -> None:
    """Write a figure; the same figure gives the same bytes.

    Raises DataError for a name that ends neither in .png nor in .svg, and if it cannot be written.
    """
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


def set_time_axis(axes: "Axes", end: float, width: float, *, label: bool = True) -> None:
    """Make x a time axis from 0 to `end` seconds, `width` inches wide, with ticks at round times.

    Args:
      axes: to set.
      end: seconds.
      width: inches.
      label: write times below the ticks.
    """
    hours = end >= _HOUR
    most = max(1, int(width / (0.95 if hours else 0.75)))
    steps = (*_TIME_STEPS, *(_HOUR * 2**power for power in range(20)))
    step = next((step for step in steps if end / step <= most), end)
    ticks = [step * index for index in range(math.floor(end / step + 1e-9) + 1)]
    axes.set_xlim(0, end)
    decimals = 1 if step < 1 else 0
    texts = [format_time(tick, hours=hours, decimals=decimals) for tick in ticks]
    axes.set_xticks(ticks, texts if label else [""] * len(ticks))
    axes.tick_params(axis="x", length=3 if label else 0)
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


def format_power(value: float, _: object = None) -> str:
    """A number of any size in few characters: 0.01, 500, 2e4, -1e6."""
    text = f"{value:.4g}"
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", MINUS)


def spread_places(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places in 0 to 1, at least `gap` apart, each close to where it is wanted."""
    places = list(wanted)
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    limit = 1.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    return places


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


def text_ruler(figure: "Figure", size: float, families: Sequence[str]) -> Callable[[str], float]:
    """A function that measures a line of text in a font: inches."""
    from matplotlib.font_manager import FontProperties

    renderer = figure.canvas.get_renderer()
    font = FontProperties(family=list(families), size=size)

    def width(text: str) -> float:
        return renderer.get_text_width_height_descent(text, font, False)[0] / figure.dpi

    return width


def wrap_text(
    text: str, width: float, ruler: Callable[[str], float], max_lines: int = 1
) -> list[str]:
    """Lines no wider than `width` inches; what does not fit into `max_lines` ends in "...".

    Breaks between words, between East Asian characters, and within a word that fills a line.
    """
    lines: list[str] = []
    line, position = "", 0  # the text before `position` is in lines and line
    for piece in _pieces(text):
        while ruler((line + piece).rstrip()) > width:
            if len(lines) == max_lines - 1:
                rest = line + text[position:]
                cut = rest[: _fitting(rest, width - ruler("..."), ruler)]
                return [*lines, cut.rstrip(" ,;:.-") + "..."]
            # A word longer than a line is broken where the line ends.
            count = 0 if line else _fitting(piece, width, ruler)
            lines.append((line + piece[:count]).rstrip())
            line, piece, position = "", piece[count:], position + count
        line, position = line + piece, position + len(piece)
    return [*lines, line.rstrip()]


def _pieces(text: str) -> list[str]:
    """Words with the space behind them; East Asian characters one by one."""
    pieces = []
    for word in re.findall(r"\S+\s*", text):
        start = 0
        for index, character in enumerate(word, start=1):
            if unicodedata.east_asian_width(character) in _WIDE and word[index:].strip():
                pieces.append(word[start:index])
                start = index
        pieces.append(word[start:])
    return pieces


def _fitting(word: str, width: float, ruler: Callable[[str], float]) -> int:
    """How many characters fit, at least one; marks stay with the letters they belong to."""
    count = 1
    while count < len(word) and ruler(word[: count + 1]) <= width:
        count += 1
    while count > 1 and unicodedata.category(word[count]).startswith("M"):
        count -= 1
    return count


def font_families(text: str) -> list[str]:
    """Font families that together have the characters of a text, as far as this machine does."""
    missing = frozenset(c for c in text if not _has_glyph(_default_font(), c))
    return [_FONT, *(_fonts_for(missing) if missing else ()), "sans-serif"]


def undrawable(text: str) -> str:
    """The characters for which this machine has no font, each once, sorted."""
    missing = {c for c in text if not _has_glyph(_default_font(), c)}
    return "".join(sorted(missing - _drawable(frozenset(missing))))


@functools.lru_cache(maxsize=256)
def _fonts_for(characters: frozenset[str]) -> tuple[str, ...]:
    """Families of installed fonts that have the characters, as few as possible at first sight."""
    families = []
    for name, path in _installed_fonts():
        found = {c for c in characters if _has_glyph(path, c)}
        if found:
            families.append(name)
            characters = characters - found
        if not characters:
            break
    return tuple(families)


def _drawable(characters: frozenset[str]) -> set[str]:
    fonts = dict(_installed_fonts())
    paths = [fonts[name] for name in _fonts_for(characters)] if characters else []
    return {c for c in characters if any(_has_glyph(path, c) for path in paths)}


def _installed_fonts() -> list[tuple[str, str]]:
    """Family and file of every upright font of usual weight, those likely to be wanted first."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    fonts = {
        font.name: font.fname
        for font in sorted(fontManager.ttflist, key=lambda font: font.fname, reverse=True)
        if font.style == "normal"
        and font.weight in (400, "normal", "regular", "book")
        and not font.fname.startswith(get_data_path())  # fonts of formulas, of boxes
    }

    def rank(item: tuple[str, str]) -> tuple[int, str]:
        likely = (i for i, start in enumerate(_PREFERRED_FONTS) if item[0].startswith(start))
        return next(likely, len(_PREFERRED_FONTS)), item[0]

    return sorted(fonts.items(), key=rank)


def _default_font() -> str:
    from matplotlib.font_manager import findfont

    return str(findfont(_FONT))


def _has_glyph(path: str, character: str) -> bool:
    from matplotlib.font_manager import get_font

    if character.isspace() or unicodedata.category(character) == "Cf":
        return True  # nothing to draw
    try:
        return get_font(path).get_char_index(ord(character)) != 0
    except (OSError, RuntimeError):  # a font file that cannot be read
        return False

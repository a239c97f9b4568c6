"""One look for the pictures of a report: size, palette, legends, text from data."""

import io
import warnings
from typing import Any, NamedTuple

# Okabe and Ito's palette, which readers with any colour vision can tell apart, without its yellow.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*<>"
GREY = "#555555"
DPI = 150
TEXT, SMALL = 10.5, 9.0  # points; a picture is read at less than half its width on a phone


class Picture(NamedTuple):
    """One picture.

    Attributes:
        name: of its file, without ending.
        png: its bytes.
        alt: what it shows, in words.
        wide: it needs the whole width of a page to be read.
    """

    name: str
    png: bytes
    alt: str
    wide: bool = False


def figure(width: float = 5.2, height: float = 3.7) -> tuple[Any, Any]:
    """A figure with one set of axes, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    axes = made.subplots()
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    return made, axes


def label(axes: Any, x: str, y: str) -> None:
    """Name the axes."""
    axes.set_xlabel(shown(x, 60), fontsize=TEXT)
    axes.set_ylabel(shown(y, 60), fontsize=TEXT)


def shown(text: str, most: int = 34) -> str:
    """Text from data as matplotlib draws it: one line, no formula, not hidden, cut to so many characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")  # a leading _ hides a line's label


def colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def reference(axes: Any, name: str, value: float, number: int, *, vertical: bool = False) -> None:
    """Draw a baseline as a line across the axes."""
    line = axes.axvline if vertical else axes.axhline
    style: Any = (":", "--", "-.")[number % 3]
    line(value, color=GREY, linestyle=style, linewidth=1.4, label=shown(name, 44), zorder=1)


def legend(made: Any, axes: Any) -> None:
    """Put the legend below the axes, in a figure that grows by it."""
    found = list(zip(*axes.get_legend_handles_labels(), strict=True))
    found.sort(key=lambda one: getattr(one[0], "get_color", str)() == GREY)  # baselines and marks come last
    if not found:
        return
    handles, names = zip(*found, strict=True)
    columns = 2 if len(handles) > 2 and max(map(len, names)) <= 30 else 1
    rows = -(-len(handles) // columns)
    made.set_figheight(made.get_figheight() + 0.2 * rows)
    made.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL)


def png(made: Any, axes: Any, *, grid: bool = True) -> bytes:
    """The finished picture."""
    axes.set_axisbelow(True)
    if grid:
        axes.grid(alpha=0.25, linewidth=0.8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; the tables of the page name the classes as well.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        made.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()

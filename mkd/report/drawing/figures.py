"""Pictures inside the page: matplotlib figures as inline SVG, arrays as data URIs, and the page's colours."""

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mkd.labels import Colour
from mkd.report.content import Bytes

# Of Okabe and Ito, which people with any colour vision tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, MUTED, HAIRLINE = "#18212b", "#5d6b7a", "#dfe4ea"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, searchable, in the page's own typeface
    "font.size": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": HAIRLINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
}


def new_figure(heights: Sequence[float], width: float = 4.4) -> tuple[Figure, list[Axes]]:
    """Start a figure of plots above each other that share their x axis.

    Args:
        heights: height of each plot, inches.
        width: width of the figure, inches.

    Returns:
        The figure and its plots, from top to bottom.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, sum(heights)), layout="constrained")
        grid = figure.subplots(
            len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(heights)}
        )
    axes: list[Axes] = list(grid[:, 0])
    for plot in axes:
        plot.spines[["top", "right", "left"]].set_visible(False)
        plot.tick_params(which="both", length=0)
        plot.grid(axis="y", color=HAIRLINE, linewidth=0.7)
        plot.set_axisbelow(True)
    return figure, axes


def inline_svg(figure: Figure, label: str) -> Markup:
    """Return a figure as an SVG element for an HTML page.

    Args:
        figure: drawn figure; its text takes the page's typeface.
        label: text for a screen reader; another for each figure of a page.

    Returns:
        The element, without prolog.
    """
    out = io.StringIO()
    # Element names are drawn from the salt: equal figures give equal bytes, and two of a page never clash.
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": label}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # groups are never referred to
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def photo_uri(image: Bytes, max_side: int = 1024, quality: int = 86) -> str:
    """Encode an (H, W, 3) uint8 image as a JPEG data URI, shrunk to at most `max_side` pixels a side."""
    picture = Image.fromarray(image, "RGB")
    picture.thumbnail((max_side, max_side))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def ids_uri(ids: Bytes, palette: Sequence[Colour], max_side: int = 1024) -> str:
    """Encode (H, W) uint8 ids as a PNG data URI in the palette's colours; 255 becomes transparent."""
    picture = Image.fromarray(ids, "P")
    flat = [channel for colour in palette for channel in colour]
    picture.putpalette(flat + [0] * (768 - len(flat)))
    scale = min(1.0, max_side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    out = io.BytesIO()
    picture.resize(size, Image.Resampling.NEAREST).save(out, "PNG", transparency=255, optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def scale_colours(name: str, count: int, low: float = 0.0, high: float = 1.0) -> list[Colour]:
    """Return `count` colours of a matplotlib colour map, evenly from `low` to `high` of its range [0, 1]."""
    shares: NDArray[np.float64] = np.linspace(low, high, count) if count > 1 else np.array([high])
    colours = np.rint(255 * np.asarray(matplotlib.colormaps[name](shares))[:, :3]).astype(int)
    return [(int(r), int(g), int(b)) for r, g, b in colours]


def css_colour(colour: Colour) -> str:
    """Write (r, g, b) as CSS does, such as #0a1e28."""
    return "#" + "".join(f"{channel:02x}" for channel in colour)

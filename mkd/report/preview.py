"""preview.html: a map over its scene with a slider, a legend with areas, and the confidence; one file, no network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mkd.atomic import write_text
from mkd.labels import NODATA, Colour
from mkd.report.content import MapView
from mkd.report.drawing.figures import css_colour, ids_uri, photo_uri, scale_colours
from mkd.report.templates import render_template

LARGEST = 4096  # pixels: longest side of a picture in the page


@dataclass(frozen=True)
class ClassCover:
    """What one class covers: pixels, ground in hectares (NaN: no CRS), mean confidence in [0, 1] (NaN: no pixel)."""

    name: str
    colour: Colour
    pixels: int
    hectares: float
    confidence: float


def write_preview(
    path: str | Path, view: MapView, cover: Sequence[ClassCover], title: str, subtitle: str
) -> None:
    """Write the page whole or not at all.

    Args:
        path: an HTML file.
        view: scene, classes and confidence at page size, see `mkd.report.drawing.thumbnails.map_view`.
        cover: all classes, by id.
        title: such as the name of the map.
        subtitle: a sentence below it.
    """
    ground = not any(math.isnan(c.hectares) for c in cover)
    total = max(1, sum(c.pixels for c in cover))
    rows = [
        {
            "name": c.name,
            "colour": css_colour(c.colour),
            "size": f"{c.hectares:,.2f}" if ground else f"{c.pixels:,}",
            "share": f"{100 * c.pixels / total:.1f} %",
            "confidence": "" if math.isnan(c.confidence) else f"{c.confidence:.2f}",
        }
        for c in cover
    ]
    html = render_template(
        "preview.jinja",
        {
            "title": title,
            "subtitle": subtitle,
            "width": view.classes.shape[1],
            "image": None if view.image is None else photo_uri(view.image, LARGEST),
            "map": ids_uri(view.classes, [c.colour for c in cover], LARGEST),
            "confidence": ids_uri(view.confidence, scale_colours("magma", NODATA), LARGEST),
            "scale": [css_colour(colour) for colour in scale_colours("magma", 9)],
            "rows": rows,
            "ground": ground,
        },
    )
    write_text(path, html)

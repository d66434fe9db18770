"""Picture panels: test tiles with truth and predictions, and the predicted map beside its orthomosaic."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mkd.labels import IGNORE, NODATA, Colour
from mkd.report.content import Bytes, MapView, Panel
from mkd.report.drawing.figures import css_colour, ids_uri, photo_uri, scale_colours


@dataclass(frozen=True)
class Picture:
    """An image of the page: label above it, data URI, words for those who cannot see it, a note."""

    label: str
    uri: str
    alt: str
    note: str = ""


@dataclass(frozen=True)
class PanelView:
    """A test tile as shown: its name and its pictures from left to right."""

    name: str
    pictures: list[Picture]


@dataclass(frozen=True)
class MapPanel:
    """The map as shown.

    `shares` are (class, CSS colour, percent of the mapped area), `scale` CSS colours of confidence 0 to 1,
    `doubtful` is the percentage of mapped pixels with a low confidence.
    """

    pictures: list[Picture]
    shares: list[tuple[str, str, float]]
    scale: list[str]
    doubtful: float | None
    caption: str


def panel_views(
    panels: Sequence[Panel], classes: Sequence[str], palette: Sequence[Colour]
) -> list[PanelView]:
    """Encode test tiles for the page.

    Args:
        panels: tiles; pixels that are 255 in the truth are shown as "no label".
        classes: class names.
        palette: one colour a class.

    Returns:
        Image, truth and predictions of each tile, with the share of labelled pixels that are right.

    Raises:
        ValueError: a label map of another size than its image, or an id that is no class.
    """
    views = []
    for panel in panels:
        for label, ids in {"truth": panel.truth, **panel.predictions}.items():
            _check(panel, label, ids, len(classes))
        pictures = [Picture("image", photo_uri(panel.image, 512), f"{panel.name}: image")]
        if panel.truth is not None:
            pictures.append(Picture("truth", ids_uri(panel.truth, palette, 512), f"{panel.name}: truth"))
        pictures += [
            Picture(
                name,
                ids_uri(ids, palette, 512),
                f"{panel.name}: prediction of {name}",
                _right(ids, panel.truth),
            )
            for name, ids in panel.predictions.items()
        ]
        views.append(PanelView(panel.name, pictures))
    return views


def map_panel(
    view: MapView, classes: Sequence[str], palette: Sequence[Colour], doubt: float = 0.6
) -> MapPanel:
    """Encode a map for the page.

    Args:
        view: what `mkd.report.drawing.thumbnails.map_view` gives.
        classes: class names.
        palette: one colour a class.
        doubt: confidence below which a pixel counts as doubtful, in [0, 1].

    Returns:
        Orthomosaic, classes and confidence; class shares of the mapped area and the share of doubtful pixels,
        both in percent, counted on the shrunk map.
    """
    scale = scale_colours("magma", NODATA)  # doubt is dark and stands out on a pale map
    pictures = [] if view.image is None else [Picture("orthomosaic", photo_uri(view.image), "orthomosaic")]
    pictures.append(Picture("land cover", ids_uri(view.classes, palette), "predicted land-cover map"))
    pictures.append(Picture("confidence", ids_uri(view.confidence, scale), "confidence of the map"))
    mapped = view.classes != NODATA
    counts = np.bincount(view.classes[mapped], minlength=len(classes))
    total = int(counts.sum())
    shares = [
        (name, css_colour(colour), 100 * int(count) / total)
        for name, colour, count in zip(classes, palette, counts, strict=True)
        if count
    ]
    confident = view.confidence[view.confidence != NODATA]
    doubtful = 100 * float((confident < doubt * 255).mean()) if confident.size else None
    return MapPanel(
        pictures, shares, [css_colour(colour) for colour in scale_colours("magma", 9)], doubtful, view.caption
    )


def _right(ids: Bytes, truth: Bytes | None) -> str:
    """Return the share of labelled pixels that are right, as text; empty without labels."""
    if truth is None or not (labelled := truth != IGNORE).any():
        return ""
    return f"{100 * float((ids[labelled] == truth[labelled]).mean()):.1f} % right"


def _check(panel: Panel, label: str, ids: Bytes | None, classes: int) -> None:
    if ids is None:
        return
    if ids.shape != panel.image.shape[:2]:
        raise ValueError(
            f"panel {panel.name!r}: {label} has {ids.shape} pixels, its image {panel.image.shape[:2]}: "
            "give maps of the image's size"
        )
    if (wrong := ids[(ids >= classes) & (ids != IGNORE)]).size:
        raise ValueError(
            f"panel {panel.name!r}: {label} holds id {wrong[0]}, there are {classes} classes: "
            "ids are 0 to classes - 1, or 255 for no label"
        )

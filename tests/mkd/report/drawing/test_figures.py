"""Pictures survive the way into the page: labels exactly, photographs nearly, figures as clean SVG."""

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mkd.report.drawing.figures import css_colour, ids_uri, inline_svg, new_figure, photo_uri, scale_colours

PALETTE = [(10, 20, 30), (200, 0, 0), (0, 200, 0)]


def decoded(uri, kind):
    head, data = uri.split(",", 1)
    assert head == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_labels_come_back_in_their_colours():
    """Every id has its palette colour, opaque; 255 is transparent."""
    ids = np.random.default_rng(0).choice([0, 1, 2, 255], (13, 9)).astype(np.uint8)
    found = np.asarray(decoded(ids_uri(ids, PALETTE), "png").convert("RGBA"))
    for label, colour in enumerate(PALETTE):
        assert (found[ids == label] == (*colour, 255)).all()
    assert (found[ids == 255][:, 3] == 0).all()


def test_a_large_label_map_shrinks_without_new_colours():
    """Shrinking takes pixels, never mixes them."""
    ids = np.random.default_rng(0).integers(0, 3, (100, 300)).astype(np.uint8)
    found = decoded(ids_uri(ids, PALETTE, max_side=60), "png")
    assert found.size == (60, 20)
    assert {tuple(pixel) for pixel in np.asarray(found.convert("RGB")).reshape(-1, 3)} == set(PALETTE)


def test_a_photograph_comes_back_nearly():
    """JPEG stays within a few steps on a smooth image, and shrinks to the side asked for."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    image = np.stack([np.tile(ramp, (48, 1))] * 3, axis=-1)
    found = np.asarray(decoded(photo_uri(image), "jpeg")).astype(int)
    assert np.abs(found - image).max() < 12
    assert decoded(photo_uri(image, max_side=32), "jpeg").size == (32, 24)


def test_svg_stands_alone():
    """The element parses, names no groups, fetches nothing, and escapes its label."""
    figure, (plot,) = new_figure([1.5])
    plot.plot([1, 2], [3, 4])
    text = str(inline_svg(figure, 'a "b" <c>'))
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert root.attrib["aria-label"] == 'a "b" <c>'
    assert '<g id="' not in text
    links = [v for node in root.iter() for k, v in node.attrib.items() if k.endswith("href")]
    assert all(link.startswith("#") for link in links)


@pytest.mark.parametrize("count", [1, 2, 9, 255])
def test_scale_goes_from_end_to_end(count):
    """`count` colours, the last at the upper end and, from two on, the first at the lower."""
    colours = scale_colours("magma", count)
    assert len(colours) == count
    assert colours[-1] == (252, 253, 191)
    assert count == 1 or colours[0] == (0, 0, 4)


def test_css_colour():
    """Two hexadecimal digits a channel, leading zeros kept."""
    assert css_colour((0, 10, 255)) == "#000aff"

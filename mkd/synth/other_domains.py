"""Further domains of the procedural landscapes, made of the first two by other colours, light, ground and camera.

"coast" is a target of another style. The others are intermediate domains to choose from: some near the targets, some
that ought to harm.
"""

from collections.abc import Callable
from dataclasses import replace

from mkd.synth.domains import INTERMEDIATE, TARGET
from mkd.synth.layout import LayoutPlan, Use
from mkd.synth.style import RGB, Style, Texture

# Rows give red, green and blue of the new colour as shares of the old one's.
Matrix = tuple[RGB, RGB, RGB]

_GREENER: Matrix = ((0.72, 0.1, 0.06), (0.08, 0.98, 0.04), (0.02, 0.2, 0.86))
_ORANGE: Matrix = ((0.9, 0.4, 0.0), (0.25, 0.62, 0.05), (0.1, 0.1, 0.6))
_SAND: Matrix = ((0.75, 0.35, 0.15), (0.45, 0.45, 0.15), (0.35, 0.25, 0.3))
_PALE: Matrix = ((0.45, 0.12, 0.05), (0.1, 0.47, 0.07), (0.08, 0.12, 0.47))
# Near infrared, red and green shown as red, green and blue: plants are bright red there.
_INFRARED: Matrix = ((-0.6, 2.6, -0.7), (0.9, 0.1, 0.0), (0.1, 0.9, 0.0))


def _recoloured(style: Style, matrix: Matrix, offset: float = 0.0) -> Style:
    """Return a style with each of its colours passed through a matrix, then raised by an offset."""

    def colours(some: tuple[RGB, ...]) -> tuple[RGB, ...]:
        return tuple(_through(matrix, offset, colour) for colour in some)

    grounds: dict[Use, Texture] = {
        use: replace(t, first=colours(t.first), second=colours(t.second)) for use, t in style.grounds.items()
    }
    return replace(
        style,
        grounds=grounds,
        roofs=colours(style.roofs),
        sheds=colours(style.sheds),
        roads=colours(style.roads),
        tracks=colours(style.tracks),
        waters=colours(style.waters),
        crowns=colours(style.crowns),
    )


def _through(matrix: Matrix, offset: float, colour: RGB) -> RGB:
    red, green, blue = (
        min(255.0, max(0.0, offset + sum(share * value for share, value in zip(row, colour, strict=True))))
        for row in matrix
    )
    return red, green, blue


def _shared(style: Style, change: Callable[[Use], float], **plan: object) -> LayoutPlan:
    """Return a style's plan with each use's share multiplied by a factor; `build_layout` normalises them."""
    total = {use: share * change(use) for use, share in style.plan.shares.items()}
    whole = sum(total.values())
    return replace(style.plan, shares={use: share / whole for use, share in total.items()}, **plan)  # type: ignore[arg-type]


# A drone over a wet coast in spring: greener, low sun from the east, haze, small fields, more water and woods.
COAST = replace(
    _recoloured(TARGET, _GREENER),
    plan=_shared(
        TARGET, lambda use: {Use.LAKE: 1.8, Use.WOOD: 1.6, Use.HOUSES: 1.3}.get(use, 0.8), district=70.0
    ),
    sun_azimuth=98.0,
    sun_elevation=44.0,
    shade=(0.5, 0.55, 0.66),
    gain=(1.05, 1.12, 1.14),
    haze=0.08,
    haze_colour=(186, 196, 206),
    contrast=1.0,
    mosaic=0.1,
    clouds=0.45,
    noise=4.5,
    gsd=0.4,
    river_chance=0.9,
)
# The target's own drone, a season later.
AUTUMN = replace(_recoloured(TARGET, _ORANGE), sun_elevation=28.0, mosaic=0.09, gain=(1.1, 1.1, 1.12))
# A satellite over dry land: nearly all ground is sand-coloured.
ARID = replace(_recoloured(INTERMEDIATE, _SAND, 24.0), haze=0.05, noise=2.5, river_chance=0.2)
# A satellite after snowfall: pale, little contrast.
WINTER = replace(
    _recoloured(INTERMEDIATE, _PALE, 92.0), sun_elevation=22.0, contrast=0.8, gain=(1.0, 1.02, 1.08)
)
# The satellite's near infrared, red and green shown as colours.
INFRARED = _recoloured(INTERMEDIATE, _INFRARED)
# The satellite from four times as far: fields are a few pixels, houses none.
COARSE = replace(INTERMEDIATE, gsd=4.0, blur=3, haze=0.2, row_period=(2.2, 3.0))

OTHER_STYLES = {
    "coast": COAST,
    "autumn": AUTUMN,
    "arid": ARID,
    "winter": WINTER,
    "infrared": INFRARED,
    "coarse": COARSE,
}

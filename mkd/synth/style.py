"""What a domain of the procedural landscapes is made of: covers, textures, classes, light and camera."""

from dataclasses import dataclass
from enum import IntEnum

from mkd.labels import Colour
from mkd.synth.layout import LayoutPlan, Use

RGB = tuple[float, float, float]  # sRGB, 0..255


class Cover(IntEnum):
    """What covers the ground, as the intermediate domain names it."""

    BACKGROUND = 0
    ROAD = 1
    RAILWAY = 2
    PADDY = 3
    CROPLAND = 4
    ORCHARD = 5
    GREENHOUSE = 6
    RESIDENTIAL = 7
    INDUSTRIAL = 8
    LAKE = 9
    RIVER = 10
    GRASSLAND = 11
    SHRUBLAND = 12
    WOODLAND = 13
    BARE = 14
    SAND = 15
    PARKING = 16


# The cover of a parcel where nothing stands on it.
GROUND = {
    Use.CROP: Cover.CROPLAND,
    Use.PADDY: Cover.PADDY,
    Use.ORCHARD: Cover.ORCHARD,
    Use.GREENHOUSE: Cover.BACKGROUND,
    Use.HOUSES: Cover.BACKGROUND,
    Use.INDUSTRY: Cover.BACKGROUND,
    Use.LAKE: Cover.GRASSLAND,
    Use.GRASS: Cover.GRASSLAND,
    Use.SHRUB: Cover.SHRUBLAND,
    Use.WOOD: Cover.WOODLAND,
    Use.BARE: Cover.BARE,
    Use.SAND: Cover.SAND,
    Use.PARKING: Cover.PARKING,
}


@dataclass(frozen=True)
class Texture:
    """A ground: two lists of colours, mixed pixel by pixel, and what the mixture follows.

    mixture = clip(bias + rows * r + clumps * c + patches * p, 0, 1), with r a row profile along the parcel, c
    noise of a few pixels and p noise of some thirty metres; ``rows`` is a range to draw from, ``grain`` the
    standard deviation of the brightness, relative.
    """

    first: tuple[RGB, ...]
    second: tuple[RGB, ...]
    bias: float
    rows: tuple[float, float]
    clumps: float
    patches: float
    grain: float


@dataclass(frozen=True)
class Style:
    """One domain: its plan, its classes and everything between the ground and the picture.

    ``to_class`` is the class of each Cover; ``gsd`` the ground sampling in metres; ``row_period`` in pixels;
    ``sun_azimuth`` (clockwise from north) and ``sun_elevation`` in degrees; ``shade`` what is left of each
    colour in a cast shadow; ``gain`` the white balance; ``haze`` the share of ``haze_colour`` in every pixel;
    ``mosaic`` and ``clouds`` the spread of exposure between photographs and the deepest cloud shadow;
    ``noise`` the sensor's standard deviation, 0..255; ``blur`` the passes of the optics' filter.
    """

    plan: LayoutPlan
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    to_class: tuple[int, ...]
    crs: str
    gsd: float
    grounds: dict[Use, Texture]
    row_period: tuple[float, float]
    roofs: tuple[RGB, ...]
    sheds: tuple[RGB, ...]
    roads: tuple[RGB, ...]
    tracks: tuple[RGB, ...]
    waters: tuple[RGB, ...]
    crowns: tuple[RGB, ...]
    river_chance: float
    railway: bool
    sun_azimuth: float
    sun_elevation: float
    shade: RGB
    gain: RGB
    haze: float
    haze_colour: RGB
    contrast: float
    mosaic: float
    clouds: float
    noise: float
    blur: int

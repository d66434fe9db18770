"""The two domains of the procedural landscapes: a drone in the dry season and a satellite in summer."""

from mkd.synth.layout import LayoutPlan, Use
from mkd.synth.style import Style, Texture

# --- target: a drone in the dry season, low warm sun
_FIELD = ((96, 122, 58), (122, 128, 66), (78, 104, 52), (146, 142, 78), (176, 164, 70), (158, 140, 100))
_SOIL = ((146, 120, 88), (128, 104, 78), (164, 142, 108), (110, 112, 66), (136, 128, 80))
_MEADOW = ((98, 120, 62), (120, 126, 68), (84, 106, 56), (142, 138, 80), (160, 150, 92), (110, 114, 70))
_STRAW = ((150, 134, 92), (132, 122, 82), (164, 150, 106), (112, 114, 68), (136, 128, 78))

_TARGET_GROUNDS = {
    Use.CROP: Texture(_FIELD, _SOIL, 0.55, (0.12, 0.5), 0.10, 0.12, 0.045),
    Use.PADDY: Texture(_FIELD, _SOIL, 0.7, (0.05, 0.2), 0.06, 0.15, 0.035),
    Use.ORCHARD: Texture(_MEADOW, _SOIL, 0.4, (0.1, 0.3), 0.12, 0.12, 0.05),
    Use.HOUSES: Texture(
        ((176, 168, 156), (156, 142, 122), (132, 126, 110)), _STRAW, 0.5, (0, 0), 0.3, 0.45, 0.06
    ),
    Use.INDUSTRY: Texture(
        ((164, 162, 158), (142, 140, 138)), ((150, 136, 114),), 0.6, (0, 0), 0.2, 0.3, 0.05
    ),
    Use.LAKE: Texture(_MEADOW, _STRAW, 0.5, (0, 0), 0.22, 0.25, 0.07),
    Use.GRASS: Texture(_MEADOW, _STRAW, 0.55, (0, 0), 0.24, 0.22, 0.065),
    Use.WOOD: Texture(((70, 84, 48), (92, 92, 58)), ((104, 92, 66),), 0.6, (0, 0), 0.25, 0.2, 0.08),
    Use.BARE: Texture(
        ((170, 142, 108), (158, 120, 88), (184, 164, 134)), _SOIL, 0.6, (0, 0), 0.12, 0.3, 0.06
    ),
    Use.PARKING: Texture(
        ((118, 118, 120), (142, 140, 136)), ((128, 124, 118),), 0.7, (0, 0), 0.1, 0.2, 0.035
    ),
}
TARGET = Style(
    plan=LayoutPlan(
        district=92.0,
        shares={
            Use.CROP: 0.28,
            Use.GRASS: 0.2,
            Use.HOUSES: 0.2,
            Use.LAKE: 0.09,
            Use.WOOD: 0.08,
            Use.INDUSTRY: 0.05,
            Use.PADDY: 0.05,
            Use.BARE: 0.05,
        },
        road=(1.3, 2.4),
    ),
    classes=("background", "road", "farmland", "building", "water", "grassland"),
    palette=((128, 128, 128), (255, 255, 255), (240, 190, 60), (215, 50, 40), (40, 110, 220), (90, 190, 80)),
    # by Cover: paddy, crops and orchards are farmland; rail, scrub, woods, soil and sand are background
    to_class=(0, 1, 0, 2, 2, 2, 2, 3, 3, 4, 4, 5, 0, 0, 0, 0, 0),
    gsd=0.5,
    grounds=_TARGET_GROUNDS,
    roofs=(
        (164, 88, 66),
        (142, 74, 58),
        (150, 144, 138),
        (118, 116, 118),
        (190, 184, 176),
        (124, 98, 80),
        (86, 108, 136),
    ),
    sheds=((186, 190, 194), (84, 122, 164), (150, 150, 152), (168, 96, 74), (204, 200, 192)),
    roads=((124, 122, 122), (104, 104, 108), (168, 162, 152), (144, 136, 126)),
    tracks=((172, 150, 116), (150, 130, 100), (182, 166, 136)),
    waters=((62, 82, 76), (84, 98, 76), (50, 68, 84), (104, 108, 88), (74, 96, 98)),
    crowns=((66, 86, 44), (86, 98, 50), (54, 74, 42), (110, 104, 56), (98, 84, 56)),
    row_period=(3.2, 6.5),
    sun_azimuth=232.0,
    sun_elevation=36.0,
    shade=(0.42, 0.47, 0.58),
    gain=(1.17, 1.13, 1.07),
    haze=0.0,
    haze_colour=(0, 0, 0),
    contrast=1.1,
    mosaic=0.07,
    clouds=0.3,
    noise=3.5,
    blur=1,
    river_chance=0.6,
    railway=False,
    crs="EPSG:32647",
)

# --- intermediate: a satellite in summer, high sun, haze
_LUSH = ((76, 118, 62), (98, 134, 72), (60, 102, 58), (124, 142, 80), (140, 140, 88), (88, 124, 84))
_LOAM = ((122, 112, 88), (104, 102, 80), (138, 126, 100), (92, 112, 72))
_PASTURE = ((84, 122, 66), (104, 134, 76), (70, 108, 60), (126, 140, 84), (96, 124, 82))
_DRY = ((116, 120, 82), (128, 126, 92), (96, 114, 74), (138, 134, 98))
_GREY = ((150, 150, 148), (134, 132, 128), (164, 158, 150))

_INTERMEDIATE_GROUNDS = {
    Use.CROP: Texture(_LUSH, _LOAM, 0.55, (0.12, 0.45), 0.08, 0.12, 0.035),
    Use.PADDY: Texture(
        ((72, 124, 66), (88, 138, 70), (62, 98, 74), (76, 92, 88)), _LUSH, 0.8, (0, 0.1), 0.04, 0.15, 0.02
    ),
    Use.ORCHARD: Texture(_PASTURE, _LOAM, 0.45, (0.0, 0.15), 0.12, 0.12, 0.04),
    Use.GREENHOUSE: Texture(_LOAM, _DRY, 0.5, (0, 0), 0.2, 0.2, 0.04),
    Use.HOUSES: Texture(_GREY, _PASTURE, 0.5, (0, 0), 0.3, 0.45, 0.05),
    Use.INDUSTRY: Texture(_GREY, ((126, 124, 114),), 0.6, (0, 0), 0.2, 0.3, 0.04),
    Use.LAKE: Texture(_PASTURE, _DRY, 0.5, (0, 0), 0.2, 0.25, 0.05),
    Use.GRASS: Texture(_PASTURE, _DRY, 0.6, (0, 0), 0.2, 0.24, 0.045),
    Use.SHRUB: Texture(((88, 110, 66), (104, 116, 76)), _DRY, 0.5, (0, 0), 0.3, 0.25, 0.06),
    Use.WOOD: Texture(((48, 78, 46), (58, 86, 50)), ((70, 88, 56),), 0.6, (0, 0), 0.25, 0.2, 0.06),
    Use.BARE: Texture(
        ((160, 136, 112), (148, 122, 98), (170, 156, 136)), _LOAM, 0.7, (0, 0), 0.12, 0.3, 0.05
    ),
    Use.SAND: Texture(((206, 194, 164), (196, 184, 156)), ((184, 168, 138),), 0.65, (0, 0), 0.08, 0.3, 0.03),
    Use.PARKING: Texture(
        ((112, 114, 118), (134, 134, 134)), ((122, 120, 116),), 0.7, (0, 0), 0.08, 0.15, 0.03
    ),
}
INTERMEDIATE = Style(
    plan=LayoutPlan(
        district=120.0,
        shares={
            Use.CROP: 0.2,
            Use.GRASS: 0.12,
            Use.HOUSES: 0.15,
            Use.PADDY: 0.11,
            Use.WOOD: 0.09,
            Use.INDUSTRY: 0.08,
            Use.LAKE: 0.06,
            Use.ORCHARD: 0.06,
            Use.SHRUB: 0.05,
            Use.GREENHOUSE: 0.04,
            Use.BARE: 0.04,
            Use.SAND: 0.03,
            Use.PARKING: 0.02,
        },
        road=(1.8, 3.6),
    ),
    classes=(
        "background",
        "road",
        "railway",
        "paddy field",
        "dry cropland",
        "orchard",
        "greenhouse",
        "residential building",
        "industrial building",
        "lake",
        "river",
        "grassland",
        "shrubland",
        "woodland",
        "bare soil",
        "sand",
        "parking",
    ),
    palette=(
        (128, 128, 128),
        (255, 255, 255),
        (60, 60, 60),
        (150, 220, 210),
        (240, 190, 60),
        (190, 150, 30),
        (225, 170, 240),
        (215, 50, 40),
        (150, 30, 100),
        (40, 110, 220),
        (30, 60, 150),
        (90, 190, 80),
        (160, 190, 90),
        (20, 110, 50),
        (150, 100, 60),
        (250, 235, 170),
        (240, 130, 130),
    ),
    to_class=tuple(range(17)),
    gsd=1.0,
    grounds=_INTERMEDIATE_GROUNDS,
    roofs=((150, 94, 80), (132, 84, 74), (158, 156, 154), (132, 132, 136), (190, 188, 186), (104, 118, 142)),
    sheds=((196, 200, 206), (92, 128, 172), (160, 162, 166), (206, 206, 204), (150, 100, 90)),
    roads=((128, 130, 132), (114, 116, 120), (160, 158, 152)),
    tracks=((156, 146, 122), (140, 130, 108)),
    waters=((54, 78, 84), (68, 92, 84), (46, 66, 88), (86, 100, 92)),
    crowns=((46, 78, 44), (58, 90, 50), (40, 70, 42), (70, 96, 54)),
    row_period=(3.0, 5.5),
    sun_azimuth=138.0,
    sun_elevation=58.0,
    shade=(0.46, 0.52, 0.62),
    gain=(1.12, 1.17, 1.15),
    haze=0.12,
    haze_colour=(174, 190, 202),
    contrast=1.0,
    mosaic=0.02,
    clouds=0.2,
    noise=1.8,
    blur=2,
    river_chance=1.0,
    railway=True,
    crs="EPSG:32647",
)

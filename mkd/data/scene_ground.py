"""Ground of the procedural landscapes: fields, grass, water, roads and tracks painted from a layout."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mkd.data.scene_layout import Layout, Line, Use, centre, half_extents, locate
from mkd.data.scene_style import GROUND, Colour, Cover, Style
from mkd.data.scene_textures import FloatArray, fractal_noise, smooth_noise, smoothstep


@dataclass
class Canvas:
    """A landscape while it is painted; rasters of one size.

    ``colour`` float32 (H, W, 3), sRGB 0..255; ``cover`` uint8 (H, W), a Cover each; ``height`` float32 (H, W) above
    ground, pixels; ``parcel`` int32 (H, W); ``edge`` float32 (H, W), metres to the nearest line; ``warp`` float32
    (2, H, W), metres by which the layout is bent to the right and downwards.
    """

    colour: FloatArray
    cover: npt.NDArray[np.uint8]
    height: FloatArray
    parcel: npt.NDArray[np.int32]
    edge: FloatArray
    line: npt.NDArray[np.int32]
    warp: FloatArray
    x: FloatArray
    y: FloatArray
    grain: FloatArray


def jitter(rng: np.random.Generator, colours: tuple[Colour, ...], count: int, spread: float) -> FloatArray:
    """Return ``count`` colours drawn from a list, each brighter or darker and slightly off in hue, (count, 3)."""
    base = np.array(colours, np.float32)[rng.integers(len(colours), size=count)]
    bright = 1 + spread * rng.standard_normal((count, 1))
    hue = 1 + 0.35 * spread * rng.standard_normal((count, 3))
    return (base * np.clip(bright, 0.6, 1.4) * hue).astype(np.float32)


def _parcel_table(rng: np.random.Generator, layout: Layout, style: Style) -> FloatArray:
    """Return one row a parcel: colours A and B, bias, row strength, row wave vector, phase, clumps, patches, grain."""
    table = np.zeros((len(layout.parcels), 15), np.float32)
    for row, parcel in zip(table, layout.parcels, strict=True):
        ground = style.grounds[parcel.use]
        row[0:3] = jitter(rng, ground.first, 1, 0.09)[0]
        row[3:6] = jitter(rng, ground.second, 1, 0.09)[0]
        wave = 2 * math.pi / (rng.uniform(*style.row_period) * style.gsd)
        across = parcel.angle + math.pi / 2 + rng.normal(0, 0.03)
        row[6] = ground.bias + rng.normal(0, 0.12)
        row[7] = rng.uniform(*ground.rows)
        row[8:11] = wave * math.cos(across), wave * math.sin(across), rng.uniform(0, 2 * math.pi)
        row[11:14] = np.array([ground.clumps, ground.patches, ground.grain]) * rng.uniform(0.6, 1.4, 3)
    return table


def _fields(rng: np.random.Generator, layout: Layout, style: Style, x: FloatArray, y: FloatArray) -> Canvas:
    """Paint every parcel with its own ground."""
    height, width = x.shape
    metre = 1 / style.gsd
    warp = np.stack(
        [
            11 * smooth_noise(rng, height, width, 130 * metre)
            + 1.2 * smooth_noise(rng, height, width, 30 * metre)
            for _ in range(2)
        ]
    )
    x, y = x + warp[0], y + warp[1]
    parcel, edge, line = locate(layout, x, y)
    table = _parcel_table(rng, layout, style)
    clumps = fractal_noise(rng, height, width, 7.0, 3, 0.8)
    patches = fractal_noise(rng, height, width, 32 * metre, 2)
    value = table[:, 8][parcel] * x + table[:, 9][parcel] * y + table[:, 10][parcel] + 0.35 * clumps
    value = np.sin(value, out=value) * (1 + 0.3 * patches)
    mixture = table[:, 6][parcel] + table[:, 7][parcel] * value
    mixture += table[:, 11][parcel] * clumps + table[:, 12][parcel] * patches
    np.clip(mixture, 0, 1, out=mixture)
    first, second = table[:, 0:3][parcel], table[:, 3:6][parcel]
    colour = second + (first - second) * mixture[..., None]
    colour *= 1 - np.float32(0.22) * smoothstep(1.0, 0.2, np.abs(edge))[..., None]  # bunds, fences, furrows
    cover = np.array([GROUND[p.use] for p in layout.parcels], np.uint8)[parcel]
    grain = table[:, 13][parcel]
    return Canvas(colour, cover, np.zeros_like(edge), parcel, edge, line, warp, x, y, grain)


def _ponds(rng: np.random.Generator, canvas: Canvas, layout: Layout, style: Style) -> None:
    """Flood the middle of the lake parcels, with a shore."""
    height, width = canvas.edge.shape
    table = np.full((len(layout.parcels), 6), -99.0, np.float32)
    for row, parcel in zip(table, layout.parcels, strict=True):
        if parcel.use == Use.LAKE:
            angle = parcel.angle
            row[:] = (
                *centre(parcel.corners),
                *half_extents(parcel.corners, angle),
                math.cos(angle),
                math.sin(angle),
            )
    cx, cy, long, broad, c, s = (table[:, i][canvas.parcel] for i in range(6))
    right, down = canvas.x - cx, canvas.y - cy
    radius = np.hypot((right * c + down * s) / long, (down * c - right * s) / broad)
    shore = np.minimum(canvas.edge - 4.0, (1.0 - radius) * np.minimum(long, broad))
    shore += 4.0 * fractal_noise(rng, height, width, 30 / style.gsd, 3) - 1.0
    _flood(rng, canvas, style, np.where(long > 0, shore, np.float32(-99.0)), Cover.LAKE, layout)


def _river(
    rng: np.random.Generator, canvas: Canvas, style: Style, x: FloatArray, y: FloatArray, layout: Layout
) -> None:
    """Let a river wind across the scene."""
    height, width = x.shape
    depth = _course(rng, style, x, y, (5.0, 9.0), 28.0, 420.0)
    depth += 1.6 * smooth_noise(rng, height, width, 18 / style.gsd)
    _flood(rng, canvas, style, depth, Cover.RIVER, layout)


def _course(
    rng: np.random.Generator,
    style: Style,
    x: FloatArray,
    y: FloatArray,
    half: tuple[float, float],
    sway: float,
    bend: float,
) -> FloatArray:
    """Return half width minus distance to a winding line across the scene, metres: positive on the line."""
    extent = x.shape[1] * style.gsd, x.shape[0] * style.gsd
    angle = rng.uniform(0, 2 * math.pi)
    c, s = math.cos(angle), math.sin(angle)
    along = (x - extent[0] * rng.uniform(0.3, 0.7)) * c + (y - extent[1] * rng.uniform(0.3, 0.7)) * s
    across = (y - extent[1] * rng.uniform(0.3, 0.7)) * c - (x - extent[0] * rng.uniform(0.3, 0.7)) * s
    for length, share in ((bend, 1.0), (0.4 * bend, 0.3)):
        across += np.float32(sway * share) * np.sin(
            along * np.float32(2 * math.pi / length) + rng.uniform(0, 6.3)
        )
    return np.float32(rng.uniform(*half)) - np.abs(across)


def _flood(
    rng: np.random.Generator, canvas: Canvas, style: Style, depth: FloatArray, cover: Cover, layout: Layout
) -> None:
    """Paint water where ``depth`` (metres inside the shore) is positive and a bank just outside it."""
    height, width = depth.shape
    lying = (
        np.array([p.use == Use.LAKE for p in layout.parcels])[canvas.parcel] if cover == Cover.LAKE else None
    )
    deep = jitter(rng, style.waters, len(layout.parcels), 0.12)
    tint = deep[canvas.parcel] if lying is not None else deep[0]
    waves = (
        1
        + 0.02 * fractal_noise(rng, height, width, 6.3, 2, 0.5)
        + 0.06 * smooth_noise(rng, height, width, 60.0)
    )
    shallow = smoothstep(6.0, 0.0, depth)[..., None] * np.float32(0.4)
    mud = np.array(style.tracks[0], np.float32)
    water = (tint + (mud - tint) * shallow) * waves[..., None]
    wet = depth > 0
    bank = (depth > -2.5) & ~wet & (canvas.cover != Cover.LAKE)
    np.copyto(canvas.colour, canvas.colour * 0.5 + mud * 0.5, where=bank[..., None])
    np.copyto(canvas.cover, np.uint8(Cover.SAND if cover == Cover.RIVER else Cover.BACKGROUND), where=bank)
    np.copyto(canvas.colour, water, where=wet[..., None])
    np.copyto(canvas.cover, np.uint8(cover), where=wet)
    np.copyto(canvas.grain, np.float32(0.015), where=wet)


def _lines(rng: np.random.Generator, canvas: Canvas, layout: Layout, style: Style) -> None:
    """Paint roads and tracks; a road crosses water on a bridge, a track does not."""
    count = len(layout.lines)
    road, track = jitter(rng, style.roads, count, 0.08), jitter(rng, style.tracks, count, 0.08)
    kind = layout.lines[canvas.line]
    half = layout.planes[:, 3][canvas.line]
    on_line = canvas.edge < 0
    middle = canvas.edge + half  # metres to the centre line
    dry = (canvas.cover != Cover.LAKE) & (canvas.cover != Cover.RIVER)
    on_track = on_line & (kind == Line.TRACK) & dry
    ruts = 1 + 0.12 * np.cos(middle * np.float32(2 * math.pi) / half.clip(0.5))
    np.copyto(canvas.colour, track[canvas.line] * ruts[..., None], where=on_track[..., None])
    np.copyto(canvas.cover, np.uint8(Cover.BACKGROUND), where=on_track)
    on_road = on_line & (kind == Line.ROAD)
    worn = 1 + 0.05 * np.cos(middle * np.float32(2.4)) - 0.1 * (canvas.edge > -0.5)
    np.copyto(canvas.colour, road[canvas.line] * worn[..., None], where=on_road[..., None])
    np.copyto(canvas.cover, np.uint8(Cover.ROAD), where=on_road)
    np.copyto(canvas.grain, np.float32(0.03), where=on_road | on_track)


def _railway(rng: np.random.Generator, canvas: Canvas, style: Style, x: FloatArray, y: FloatArray) -> None:
    """Lay a double track on ballast across the scene, above everything but roads."""
    inside = _course(rng, style, x, y, (4.0, 5.0), 90.0, 1400.0)
    bed = (inside > 0) & (canvas.cover != Cover.ROAD)
    rails = 1 - 0.22 * (np.cos(inside * np.float32(2 * math.pi / 2.6)) > 0.3)
    ballast = jitter(rng, ((120, 110, 104), (136, 126, 118)), 1, 0.05)[0] * rails[..., None]
    np.copyto(canvas.colour, ballast, where=bed[..., None])
    np.copyto(canvas.cover, np.uint8(Cover.RAILWAY), where=bed)


def paint_ground(rng: np.random.Generator, layout: Layout, style: Style, height: int, width: int) -> Canvas:
    """Paint the ground of a layout, without anything that stands on it.

    Args:
        rng: generator of colours and textures.
        layout: the partition, covering at least height x width pixels of ``style.gsd`` metres.
        style: the domain.
        height: rows, pixels.
        width: columns, pixels.

    Returns:
        A canvas of height 0 everywhere.
    """
    y, x = np.meshgrid(
        np.arange(height, dtype=np.float32) * style.gsd,
        np.arange(width, dtype=np.float32) * style.gsd,
        indexing="ij",
    )
    canvas = _fields(rng, layout, style, x, y)
    _ponds(rng, canvas, layout, style)
    if rng.random() < style.river_chance:
        _river(rng, canvas, style, x, y, layout)
    _lines(rng, canvas, layout, style)
    if style.railway:
        _railway(rng, canvas, style, x, y)
    return canvas

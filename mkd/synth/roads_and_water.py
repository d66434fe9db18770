"""What runs through a procedural landscape: lakes, a river, roads, field tracks and a railway."""

import math

import numpy as np

from mkd.synth.canvas import Canvas, jitter
from mkd.synth.layout import FloatArray, Line, Use
from mkd.synth.style import Cover
from mkd.synth.textures import fractal_noise, smooth_noise, smoothstep


def _flood(rng: np.random.Generator, canvas: Canvas, depth: FloatArray, cover: Cover) -> None:
    """Paint water where ``depth`` (H, W), metres within the shore, is positive, and a bank beyond it."""
    style = canvas.style
    swell, ripples = smooth_noise(rng, *canvas.shape, 60.0), fractal_noise(rng, *canvas.shape, 6.3, 2)
    mud = np.array(style.tracks[0], np.float32)
    bank = (depth > -2.5) & (depth <= 0)
    shore = Cover.SAND if cover == Cover.RIVER else Cover.BACKGROUND
    canvas.paint(bank, (canvas.colour[bank] + mud) * np.float32(0.5), shore, 0.05)
    wet = depth > 0
    tints = jitter(rng, style.waters, len(canvas.layout.parcels), 0.12)
    tint = tints[canvas.parcel[wet]] if cover == Cover.LAKE else tints[0]
    shallow = smoothstep(6.0, 0.0, depth[wet])[:, None] * np.float32(0.4)
    waves = 1 + np.float32(0.06) * swell[wet] + np.float32(0.02) * ripples[wet]
    canvas.paint(wet, (tint + (mud - tint) * shallow) * waves[:, None], cover, 0.015)


def _lakes(rng: np.random.Generator, canvas: Canvas, x: FloatArray, y: FloatArray) -> None:
    """Flood the middle of each lake parcel: an ellipse with a ragged shore."""
    table = np.zeros((len(canvas.layout.parcels), 6), np.float32)
    for row, parcel in zip(table, canvas.layout.parcels, strict=True):
        row[:] = *parcel.centre, *parcel.half_extents, math.cos(parcel.angle), math.sin(parcel.angle)
    ragged = 4.0 * fractal_noise(rng, *canvas.shape, 30 / canvas.style.gsd, 3) - 1.0
    there = canvas.uses[canvas.parcel] == Use.LAKE
    own = table[canvas.parcel[there]]  # (K, 6)
    right, down = x[there] - own[:, 0], y[there] - own[:, 1]
    along, across = right * own[:, 4] + down * own[:, 5], down * own[:, 4] - right * own[:, 5]
    inside = (1 - np.hypot(along / own[:, 2], across / own[:, 3])) * np.minimum(own[:, 2], own[:, 3])
    depth = np.full(canvas.shape, -99.0, np.float32)
    depth[there] = np.minimum(canvas.edge[there] - 4.0, inside) + ragged[there]
    _flood(rng, canvas, depth, Cover.LAKE)


def _course(
    rng: np.random.Generator, canvas: Canvas, half: tuple[float, float], sway: float, period: float
) -> FloatArray:
    """Return half width minus distance to a winding line across the scene, metres: positive on the line.

    Args:
        rng: generator.
        canvas: gives size and ground sampling.
        half: range of the half width, metres.
        sway: amplitude of the bends, metres.
        period: their wavelength, metres.

    Returns:
        float32 (H, W).
    """
    rows, cols = np.indices(canvas.shape, dtype=np.float32)
    gsd = np.float32(canvas.style.gsd)
    right = (cols - canvas.shape[1] * np.float32(rng.uniform(0.3, 0.7))) * gsd
    down = (rows - canvas.shape[0] * np.float32(rng.uniform(0.3, 0.7))) * gsd
    angle = rng.uniform(0, 2 * math.pi)
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    along, across = right * c + down * s, down * c - right * s
    for length, share in ((period, 1.0), (0.4 * period, 0.3)):
        phase = np.float32(rng.uniform(0, 2 * math.pi))
        across += np.float32(sway * share) * np.sin(along * np.float32(2 * math.pi / length) + phase)
    return np.float32(rng.uniform(*half)) - np.abs(across)


def _roads(rng: np.random.Generator, canvas: Canvas) -> None:
    """Paint roads and tracks; a road crosses water on a bridge, a track does not."""
    layout, style = canvas.layout, canvas.style
    kind = np.where(canvas.edge < 0, layout.lines[canvas.line], np.uint8(Line.EDGE))
    dry = (canvas.cover != Cover.LAKE) & (canvas.cover != Cover.RIVER)
    for line, where, colours, cover in (
        (Line.TRACK, (kind == Line.TRACK) & dry, style.tracks, Cover.BACKGROUND),
        (Line.ROAD, kind == Line.ROAD, style.roads, Cover.ROAD),
    ):
        number, edge = canvas.line[where], canvas.edge[where]
        half = layout.planes[number, 3]
        if line == Line.TRACK:  # two ruts and a crown of grass
            worn = 1 + 0.12 * np.cos((edge + half) * np.float32(2 * math.pi) / half)
        else:  # wheel paths and a darker border
            worn = 1 + 0.05 * np.cos((edge + half) * np.float32(2.4)) - 0.1 * (edge > -0.5)
        tint = jitter(rng, colours, len(layout.lines), 0.08)[number]
        canvas.paint(where, tint * worn.astype(np.float32)[:, None], cover, 0.03)


def _railway(rng: np.random.Generator, canvas: Canvas) -> None:
    """Lay tracks on ballast across the scene, over everything but roads."""
    inside = _course(rng, canvas, (4.0, 5.0), 90.0, 1400.0)
    bed = (inside > 0) & (canvas.cover != Cover.ROAD)
    rails = 1 - np.float32(0.22) * (np.cos(inside[bed] * (2 * math.pi / 2.6)) > 0.3)
    ballast = jitter(rng, ((120, 110, 104), (136, 126, 118)), 1, 0.05)
    canvas.paint(bed, ballast * rails[:, None], Cover.RAILWAY, 0.05)


def paint_ways(rng: np.random.Generator, canvas: Canvas) -> None:
    """Paint water, then tracks and roads, then the railway, over the open ground.

    Args:
        rng: generator.
        canvas: changed in place.
    """
    rows, cols = np.indices(canvas.shape, dtype=np.float32)
    gsd = np.float32(canvas.style.gsd)
    _lakes(rng, canvas, cols * gsd + canvas.bend[0], rows * gsd + canvas.bend[1])
    if rng.random() < canvas.style.river_chance:
        depth = _course(rng, canvas, (5.0, 9.0), 28.0, 420.0)
        depth += 1.6 * smooth_noise(rng, *canvas.shape, 18 / canvas.style.gsd)
        depth[canvas.cover == Cover.LAKE] = -99.0  # it flows into the lake and out again
        _flood(rng, canvas, depth, Cover.RIVER)
    _roads(rng, canvas)
    if canvas.style.railway:
        _railway(rng, canvas)

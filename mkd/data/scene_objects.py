"""What stands on the ground of the procedural landscapes: buildings, greenhouses, cars and trees."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mkd.data.scene_ground import Canvas, jitter
from mkd.data.scene_layout import Layout, Line, Parcel, Use, centre, half_extents
from mkd.data.scene_style import Cover, Style
from mkd.data.scene_textures import FloatArray, crowns, smooth_noise

Roof = Literal["gable", "hip", "flat", "ribbed", "tunnel", "car"]
_BLOCKING = (Cover.ROAD, Cover.RIVER, Cover.LAKE, Cover.RAILWAY)


@dataclass(frozen=True)
class Box:
    """A rectangle on the ground, in pixels: centre, half length and half breadth, direction, height, roof."""

    row: float
    col: float
    half: tuple[float, float]
    angle: float
    tall: float
    roof: Roof
    colour: FloatArray
    cover: Cover | None


def _roof_light(box: Box, p: FloatArray, q: FloatArray, sun: tuple[float, float]) -> FloatArray:
    """Return the roof's brightness at p along and q across the box, relative to a level roof."""
    c, s = math.cos(box.angle), math.sin(box.angle)
    end = s * sun[0] + c * sun[1]  # how far each wall's outward normal turns to the sun
    side = c * sun[0] - s * sun[1]
    long, broad = box.half
    match box.roof:
        case "gable":
            return 1 + 0.26 * np.sign(q) * np.float32(side)
        case "hip":
            at_end = np.abs(p) - (long - broad) > np.abs(q)
            return np.where(at_end, 1 + 0.26 * np.sign(p) * end, 1 + 0.26 * np.sign(q) * side).astype(
                np.float32
            )
        case "flat" | "car":
            rim = (np.abs(p) > long - 1.2) | (np.abs(q) > broad - 1.2)
            return (1 - 0.16 * rim).astype(np.float32)
        case "ribbed":
            return (1 + 0.07 * np.sin(p * 1.9) + 0.1 * np.sign(q) * side).astype(np.float32)
        case "tunnel":
            return (0.92 + 0.16 * np.sin(q * np.float32(math.pi / 3.0)) * side).astype(np.float32)


def stamp(canvas: Canvas, box: Box, sun: tuple[float, float]) -> bool:
    """Put a box on the canvas unless road, rail or water is in its way.

    Args:
        canvas: changed in place.
        box: the building, greenhouse or car; without a cover, the ground's label stays.
        sun: unit vector (row, column) towards the sun.

    Returns:
        Whether it was placed.
    """
    reach = math.hypot(*box.half) + 1
    top, left = max(0, math.floor(box.row - reach)), max(0, math.floor(box.col - reach))
    part = (slice(top, math.ceil(box.row + reach)), slice(left, math.ceil(box.col + reach)))
    height, width = canvas.cover[part].shape
    if height == 0 or width == 0:
        return False
    dy = np.arange(top, top + height, dtype=np.float32)[:, None] - np.float32(box.row)
    dx = np.arange(left, left + width, dtype=np.float32)[None, :] - np.float32(box.col)
    c, s = np.float32(math.cos(box.angle)), np.float32(math.sin(box.angle))
    p, q = dx * c + dy * s, dy * c - dx * s
    inside = (np.abs(p) <= box.half[0]) & (np.abs(q) <= box.half[1])
    if box.cover is not None and np.isin(canvas.cover[part][inside], _BLOCKING).any():
        return False
    light = _roof_light(box, p, q, sun)[inside]
    canvas.colour[part][inside] = box.colour * light[:, None]
    canvas.height[part][inside] = box.tall
    canvas.grain[part][inside] = 0.03
    if box.cover is not None:
        canvas.cover[part][inside] = box.cover
    return True


def _frame(canvas: Canvas, parcel: Parcel, style: Style) -> tuple[float, float, float, float] | None:
    """Return a parcel's centre on the picture (row, column) and its half extents, pixels; None outside."""
    cx, cy = centre(parcel.corners)
    long, broad = half_extents(parcel.corners, parcel.angle)
    rows, cols = canvas.cover.shape
    row, col = cy / style.gsd, cx / style.gsd
    for _ in range(2):  # the picture bends the layout: look back from where the centre came to lie
        bend = canvas.warp[:, int(np.clip(row, 0, rows - 1)), int(np.clip(col, 0, cols - 1))]
        row, col = (cy - float(bend[1])) / style.gsd, (cx - float(bend[0])) / style.gsd
    if not (0 <= row < rows and 0 <= col < cols):
        return None
    return row, col, long / style.gsd, broad / style.gsd


def _house(
    rng: np.random.Generator, canvas: Canvas, parcel: Parcel, style: Style, sun: tuple[float, float]
) -> None:
    """Build a house on a lot, now and then with a wing or an outbuilding."""
    frame = _frame(canvas, parcel, style)
    if frame is None or rng.random() < 0.08:
        return
    row, col, long, broad = frame
    metre = 1 / style.gsd
    half = (
        min(long * rng.uniform(0.6, 0.82), 9.5 * metre),
        min(broad * rng.uniform(0.55, 0.75), 6.8 * metre),
    )
    row, col = row + rng.normal(0, 0.9 * metre), col + rng.normal(0, 0.9 * metre)
    angle = parcel.angle + rng.normal(0, 0.05)
    roof: Roof = ("gable", "gable", "hip", "flat")[int(rng.integers(4))]
    colour = jitter(rng, style.roofs, 1, 0.1)[0]
    tall = rng.uniform(3.5, 8.0) * metre
    if not stamp(canvas, Box(row, col, half, angle, tall, roof, colour, Cover.RESIDENTIAL), sun):
        return
    if rng.random() < 0.35:
        away = half[0] * rng.choice([-0.6, 0.6]), half[1] * rng.choice([-1.0, 1.0])
        c, s = math.cos(angle), math.sin(angle)
        place = row + away[0] * s + away[1] * c, col + away[0] * c - away[1] * s
        size = half[0] * 0.4, half[1] * 0.55
        stamp(canvas, Box(*place, size, angle, tall * 0.7, "flat", colour, Cover.RESIDENTIAL), sun)


def _shed(
    rng: np.random.Generator, canvas: Canvas, parcel: Parcel, style: Style, sun: tuple[float, float]
) -> None:
    """Build a hall on an industrial lot."""
    frame = _frame(canvas, parcel, style)
    if frame is None:
        return
    row, col, long, broad = frame
    half = (long * rng.uniform(0.55, 0.8), broad * rng.uniform(0.5, 0.75))
    colour = jitter(rng, style.sheds, 1, 0.08)[0]
    roof: Roof = "ribbed" if rng.random() < 0.65 else "flat"
    tall = rng.uniform(6.0, 11.0) / style.gsd
    if stamp(canvas, Box(row, col, half, parcel.angle, tall, roof, colour, Cover.INDUSTRIAL), sun):
        for _ in range(int(rng.integers(2, 9))):  # skylights and machines on the roof keep the roof's label
            c, s = math.cos(parcel.angle), math.sin(parcel.angle)
            p, q = half[0] * rng.uniform(-0.8, 0.8), half[1] * rng.uniform(-0.8, 0.8)
            size = rng.uniform(1.0, 2.5), rng.uniform(1.0, 2.0)
            box = Box(
                row + p * s + q * c,
                col + p * c - q * s,
                size,
                parcel.angle,
                tall + 1,
                "flat",
                colour * 0.8,
                None,
            )
            stamp(canvas, box, sun)


def _greenhouse(
    rng: np.random.Generator, canvas: Canvas, parcel: Parcel, style: Style, sun: tuple[float, float]
) -> None:
    """Cover a lot with plastic tunnels side by side."""
    frame = _frame(canvas, parcel, style)
    if frame is None:
        return
    row, col, long, broad = frame
    colour = jitter(rng, ((206, 212, 214), (190, 202, 208), (214, 214, 204)), 1, 0.06)[0]
    for share in (0.85, 0.7, 0.5):
        half = (long * share, broad * share)
        box = Box(row, col, half, parcel.angle, 2.5 / style.gsd, "tunnel", colour, Cover.GREENHOUSE)
        if stamp(canvas, box, sun):
            return


def _cars(
    rng: np.random.Generator, canvas: Canvas, parcel: Parcel, style: Style, sun: tuple[float, float]
) -> None:
    """Park cars in rows on a parking lot."""
    frame = _frame(canvas, parcel, style)
    if frame is None:
        return
    row, col, long, broad = frame
    metre = 1 / style.gsd
    c, s = math.cos(parcel.angle), math.sin(parcel.angle)
    for q in np.arange(-broad * 0.75, broad * 0.75, 8.0 * metre):
        for p in np.arange(-long * 0.8, long * 0.8, 3.0 * metre):
            if rng.random() < 0.55:
                place = row + p * s + q * c, col + p * c - q * s
                _car(rng, canvas, place, parcel.angle + math.pi / 2, style, sun)


def _car(
    rng: np.random.Generator,
    canvas: Canvas,
    place: tuple[float, float],
    angle: float,
    style: Style,
    sun: tuple[float, float],
) -> None:
    """Put one car on the ground; the label stays that of the ground."""
    paint = ((232, 232, 232), (60, 62, 66), (160, 164, 168), (150, 44, 40), (50, 76, 130))
    half = 2.2 / style.gsd, 0.95 / style.gsd
    colour = jitter(rng, paint, 1, 0.05)[0]
    stamp(canvas, Box(*place, half, angle, 1.4 / style.gsd, "car", colour, None), sun)


def _traffic(
    rng: np.random.Generator, canvas: Canvas, layout: Layout, style: Style, sun: tuple[float, float]
) -> None:
    """Put a few cars on the roads."""
    rows, cols = canvas.cover.shape
    count = rows * cols // 1500
    row, col = rng.integers(rows, size=count), rng.integers(cols, size=count)
    lane = (canvas.edge[row, col] < -0.9) & (canvas.cover[row, col] == Cover.ROAD)
    for r, k in zip(row[lane], col[lane], strict=True):
        nx, ny = layout.planes[canvas.line[r, k], :2]
        _car(rng, canvas, (float(r), float(k)), math.atan2(ny, nx) + math.pi / 2, style, sun)


def build(
    rng: np.random.Generator, canvas: Canvas, layout: Layout, style: Style, sun: tuple[float, float]
) -> None:
    """Put buildings, greenhouses and cars on the canvas, parcel by parcel.

    Args:
        rng: generator.
        canvas: changed in place.
        layout: the parcels.
        style: the domain.
        sun: unit vector (row, column) towards the sun.
    """
    for parcel in layout.parcels:
        match parcel.use:
            case Use.HOUSES:
                _house(rng, canvas, parcel, style, sun)
            case Use.INDUSTRY:
                _shed(rng, canvas, parcel, style, sun)
            case Use.GREENHOUSE:
                _greenhouse(rng, canvas, parcel, style, sun)
            case Use.PARKING:
                _cars(rng, canvas, parcel, style, sun)
            case _:
                pass
    _traffic(rng, canvas, layout, style, sun)


# Trees a lattice point carries, by use of the land.
_TREES = {
    Use.WOOD: 0.9,
    Use.SHRUB: 0.5,
    Use.HOUSES: 0.1,
    Use.LAKE: 0.06,
    Use.GRASS: 0.012,
    Use.INDUSTRY: 0.03,
}


def _lattice(
    rng: np.random.Generator, canvas: Canvas, layout: Layout, style: Style
) -> tuple[FloatArray, FloatArray]:
    """Return centres (n, 2) and radii (n,), pixels, of the trees that stand anywhere but in orchards."""
    rows, cols = canvas.cover.shape
    step = 4.2 / style.gsd
    y, x = np.meshgrid(np.arange(0, rows, step), np.arange(0, cols, step), indexing="ij")
    centres = np.stack([y.ravel(), x.ravel()], 1) + rng.uniform(-0.5, 0.5, (y.size, 2)) * step
    at = tuple(np.clip(centres, 0, [rows - 1, cols - 1]).astype(np.intp).T)
    uses = np.array([p.use for p in layout.parcels])
    chance = np.zeros(len(Use))
    for use, share in _TREES.items():
        chance[use] = share
    density = chance[uses[canvas.parcel[at]]]
    density = np.where((layout.lines[canvas.line[at]] == Line.HEDGE) & (canvas.edge[at] < 1.0), 0.75, density)
    roadside = (layout.lines[canvas.line[at]] == Line.ROAD) & (np.abs(canvas.edge[at] - 2.5) < 1.5)
    avenue = rng.choice([0.0, 0.04, 0.1, 0.4], size=len(layout.lines))[canvas.line[at]]
    density = np.where(roadside, np.maximum(density, avenue), density)
    grove = smooth_noise(rng, rows, cols, 45 / style.gsd)[at]
    density = density * np.clip(1 + 0.5 * grove, 0, 2)
    free = np.isin(
        canvas.cover[at], (*_BLOCKING, Cover.RESIDENTIAL, Cover.INDUSTRIAL, Cover.GREENHOUSE, Cover.PARKING)
    )
    stands = (rng.random(len(centres)) < density) & ~free
    small = uses[canvas.parcel[at]] == Use.SHRUB
    radii = (
        np.where(small, rng.uniform(0.9, 1.7, len(centres)), rng.uniform(1.7, 3.6, len(centres))) / style.gsd
    )
    return centres[stands].astype(np.float32), radii[stands].astype(np.float32)


def _orchards(
    rng: np.random.Generator, canvas: Canvas, layout: Layout, style: Style
) -> tuple[FloatArray, FloatArray]:
    """Return centres and radii of the fruit trees: a regular lattice along each orchard parcel."""
    rows, cols = canvas.cover.shape
    centres, radii = [np.zeros((0, 2))], [np.zeros(0)]
    for number, parcel in enumerate(layout.parcels):
        frame = _frame(canvas, parcel, style) if parcel.use == Use.ORCHARD else None
        if frame is None:
            continue
        row, col, long, broad = frame
        step = rng.uniform(4.6, 6.5) / style.gsd
        p, q = np.meshgrid(np.arange(-long, long, step), np.arange(-broad, broad, step))
        c, s = math.cos(parcel.angle), math.sin(parcel.angle)
        place = np.stack([row + p.ravel() * s + q.ravel() * c, col + p.ravel() * c - q.ravel() * s], 1)
        place += rng.normal(0, 0.05 * step, place.shape)
        at = tuple(np.clip(place, 0, [rows - 1, cols - 1]).astype(np.intp).T)
        own = (canvas.parcel[at] == number) & (canvas.edge[at] > 1.5) & (canvas.cover[at] == Cover.ORCHARD)
        own &= rng.random(len(place)) < 0.95
        centres.append(place[own])
        radii.append(rng.normal(0.34, 0.03, int(own.sum())).clip(0.2, 0.45) * step)
    return np.concatenate(centres).astype(np.float32), np.concatenate(radii).astype(np.float32)


def plant(
    rng: np.random.Generator, canvas: Canvas, layout: Layout, style: Style, sun: tuple[float, float]
) -> None:
    """Plant woods, hedges, roadside trees, shrubs and orchards.

    A crown outside shrubland and orchards is labelled woodland (in the target domain: background).

    Args:
        rng: generator.
        canvas: changed in place.
        layout: the parcels.
        style: the domain.
        sun: unit vector (row, column) towards the sun.
    """
    wild, fruit = _lattice(rng, canvas, layout, style), _orchards(rng, canvas, layout, style)
    centres, radii = np.concatenate([wild[0], fruit[0]]), np.concatenate([wild[1], fruit[1]])
    at, number, dome, down, right = crowns((canvas.cover.shape[0], canvas.cover.shape[1]), centres, radii)
    ragged = smooth_noise(rng, *canvas.cover.shape, 2.6).ravel()[at]
    whole = dome > radii[number] * (0.18 + 0.22 * ragged)
    at, number, dome, down, right = at[whole], number[whole], dome[whole], down[whole], right[whole]
    tint = jitter(rng, style.crown, len(radii), 0.13)
    light = (
        0.95 + 0.38 * (down * np.float32(sun[0]) + right * np.float32(sun[1])) + rng.normal(0, 0.1, len(at))
    )
    canvas.colour.reshape(-1, 3)[at] = tint[number] * light.astype(np.float32)[:, None]
    flat: npt.NDArray[np.uint8] = canvas.cover.reshape(-1)
    keep = np.isin(flat[at], (Cover.SHRUBLAND, Cover.ORCHARD))
    flat[at] = np.where(keep, flat[at], np.uint8(Cover.WOODLAND))
    trunk = np.minimum(1.5 * radii, 4.0 / style.gsd)
    canvas.height.reshape(-1)[at] = np.maximum(canvas.height.reshape(-1)[at], trunk[number] + dome)
    canvas.grain.reshape(-1)[at] = 0.07

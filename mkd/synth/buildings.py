"""Buildings, greenhouses and cars of a procedural landscape, each a box with a roof."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mkd.synth.canvas import Canvas, jitter
from mkd.synth.layout import FloatArray, Parcel, Use
from mkd.synth.style import Cover

Roof = Literal["gable", "hip", "flat", "ribbed", "tunnel"]
BLOCKING = (Cover.ROAD, Cover.RIVER, Cover.LAKE, Cover.RAILWAY)
_PLASTIC = ((206, 212, 214), (190, 202, 208), (214, 214, 204))
_PAINT = ((232, 232, 232), (60, 62, 66), (160, 164, 168), (150, 44, 40), (50, 76, 130))


@dataclass(frozen=True)
class Box:
    """A rectangle on the ground: centre, half length and breadth and height in pixels, direction in radians.

    Without a ``cover`` the label below it stays, as with cars and skylights.
    """

    row: float
    col: float
    half: tuple[float, float]
    angle: float
    tall: float
    roof: Roof
    colour: FloatArray
    cover: Cover | None

    def at(self, along: float, across: float) -> tuple[float, float]:
        """Return the row and column of a point of the box's own frame."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return self.row + along * s + across * c, self.col + along * c - across * s


def _roof_light(box: Box, p: FloatArray, q: FloatArray, sun: tuple[float, float]) -> FloatArray:
    """Return the roof's brightness at p along and q across the box, relative to a level roof."""
    c, s = math.cos(box.angle), math.sin(box.angle)
    end = s * sun[0] + c * sun[1]  # how far the slopes at p > 0 and at q > 0 turn to the sun
    side = c * sun[0] - s * sun[1]
    long, broad = box.half
    light: FloatArray = np.sign(q) * np.float32(0.26 * side)
    match box.roof:
        case "gable":
            light += 1
        case "hip":
            at_end = np.abs(p) - (long - broad) > np.abs(q)
            light = 1 + np.where(at_end, np.sign(p) * np.float32(0.26 * end), light)
        case "flat":
            light = 1 - np.float32(0.16) * ((np.abs(p) > long - 1.2) | (np.abs(q) > broad - 1.2))
        case "ribbed":
            light = 1 + np.float32(0.07) * np.sin(p * 1.9) + 0.4 * light
        case "tunnel":
            light = 0.92 + np.sin(q * (math.pi / 3)) * np.float32(0.16 * side)
    return light


def stamp(canvas: Canvas, box: Box) -> bool:
    """Put a box on the canvas, unless it would be a building on road, rail or water.

    Args:
        canvas: changed in place.
        box: what to put there; the part outside the picture is left out.

    Returns:
        Whether it was placed.
    """
    reach = math.hypot(*box.half) + 1
    top, left = max(0, math.floor(box.row - reach)), max(0, math.floor(box.col - reach))
    part = (slice(top, math.ceil(box.row + reach)), slice(left, math.ceil(box.col + reach)))
    height, width = canvas.cover[part].shape
    down = np.arange(top, top + height, dtype=np.float32)[:, None] - np.float32(box.row)
    right = np.arange(left, left + width, dtype=np.float32)[None, :] - np.float32(box.col)
    c, s = np.float32(math.cos(box.angle)), np.float32(math.sin(box.angle))
    p, q = right * c + down * s, down * c - right * s
    inside = (np.abs(p) <= box.half[0]) & (np.abs(q) <= box.half[1])
    if not inside.any():
        return False
    if box.cover is not None and np.isin(canvas.cover[part][inside], BLOCKING).any():
        return False
    light = _roof_light(box, p, q, canvas.sun)[inside]
    canvas.colour[part][inside] = box.colour * light[:, None]
    canvas.height[part][inside] = box.tall
    canvas.grain[part][inside] = 0.03
    if box.cover is not None:
        canvas.cover[part][inside] = box.cover
    return True


def _house(rng: np.random.Generator, canvas: Canvas, parcel: Parcel) -> None:
    """Build a house on most lots, now and then with a wing."""
    frame = canvas.frame(parcel)
    if frame is None or rng.random() < 0.08:
        return
    row, col, long, broad = frame
    metre = 1 / canvas.style.gsd
    length = min(long * rng.uniform(0.6, 0.82), 9.5 * metre)
    breadth = min(broad * rng.uniform(0.55, 0.75), 6.8 * metre)
    roof: Roof = ("gable", "gable", "hip", "flat")[int(rng.integers(4))]
    house = Box(
        row + rng.normal(0, 0.9 * metre),
        col + rng.normal(0, 0.9 * metre),
        (length, breadth),
        parcel.angle + rng.normal(0, 0.05),
        rng.uniform(3.5, 8.0) * metre,
        roof,
        jitter(rng, canvas.style.roofs, 1, 0.1)[0],
        Cover.RESIDENTIAL,
    )
    if stamp(canvas, house) and rng.random() < 0.35:
        row, col = house.at(length * rng.choice([-0.6, 0.6]), breadth * rng.choice([-1.0, 1.0]))
        half = (length * 0.4, breadth * 0.55)
        stamp(canvas, replace(house, row=row, col=col, half=half, tall=house.tall * 0.7, roof="flat"))


def _hall(rng: np.random.Generator, canvas: Canvas, parcel: Parcel) -> None:
    """Build a hall on an industrial lot, with skylights and machines on its roof."""
    frame = canvas.frame(parcel)
    if frame is None:
        return
    row, col, long, broad = frame
    half = (long * rng.uniform(0.55, 0.8), broad * rng.uniform(0.5, 0.75))
    roof: Roof = "ribbed" if rng.random() < 0.65 else "flat"
    tall = rng.uniform(6.0, 11.0) / canvas.style.gsd
    colour = jitter(rng, canvas.style.sheds, 1, 0.08)[0]
    hall = Box(row, col, half, parcel.angle, tall, roof, colour, Cover.INDUSTRIAL)
    if not stamp(canvas, hall):
        return
    for _ in range(int(rng.integers(2, 9))):
        row, col = hall.at(half[0] * rng.uniform(-0.8, 0.8), half[1] * rng.uniform(-0.8, 0.8))
        size = (rng.uniform(1.0, 2.5), rng.uniform(1.0, 2.0))
        stamp(canvas, Box(row, col, size, parcel.angle, tall + 1, "flat", colour * np.float32(0.8), None))


def _greenhouse(rng: np.random.Generator, canvas: Canvas, parcel: Parcel) -> None:
    """Cover a lot with plastic tunnels side by side, fewer where a road cuts it short."""
    frame = canvas.frame(parcel)
    if frame is None:
        return
    row, col, long, broad = frame
    colour = jitter(rng, _PLASTIC, 1, 0.06)[0]
    for share in (0.85, 0.7, 0.5):
        half = (long * share, broad * share)
        box = Box(row, col, half, parcel.angle, 2.5 / canvas.style.gsd, "tunnel", colour, Cover.GREENHOUSE)
        if stamp(canvas, box):
            return


def _car(rng: np.random.Generator, canvas: Canvas, row: float, col: float, angle: float) -> None:
    """Put one car on the ground."""
    metre = 1 / canvas.style.gsd
    colour = jitter(rng, _PAINT, 1, 0.05)[0]
    stamp(canvas, Box(row, col, (2.2 * metre, 0.95 * metre), angle, 1.4 * metre, "flat", colour, None))


def _parked(rng: np.random.Generator, canvas: Canvas, parcel: Parcel) -> None:
    """Park cars in rows on a parking lot."""
    frame = canvas.frame(parcel)
    if frame is None:
        return
    row, col, long, broad = frame
    metre = 1 / canvas.style.gsd
    c, s = math.cos(parcel.angle), math.sin(parcel.angle)
    for q in np.arange(-0.75 * broad, 0.75 * broad, 8.0 * metre):
        for p in np.arange(-0.8 * long, 0.8 * long, 3.0 * metre):
            place = row + p * s + q * c, col + p * c - q * s
            if rng.random() < 0.55 and canvas.cover_at(*place) == Cover.PARKING:
                _car(rng, canvas, *place, parcel.angle + math.pi / 2)


def _traffic(rng: np.random.Generator, canvas: Canvas) -> None:
    """Put a few cars on the roads, in the direction of the road."""
    rows, cols = canvas.shape
    count = rows * cols // 1500
    row, col = rng.integers(rows, size=count), rng.integers(cols, size=count)
    lane = (canvas.edge[row, col] < -0.9) & (canvas.cover[row, col] == Cover.ROAD)
    for r, k in zip(row[lane], col[lane], strict=True):
        nx, ny = canvas.layout.planes[canvas.line[r, k], :2]
        _car(rng, canvas, float(r), float(k), math.atan2(ny, nx) + math.pi / 2)


def build(rng: np.random.Generator, canvas: Canvas) -> None:
    """Put buildings, greenhouses and cars on the canvas, which is changed in place."""
    plots = {Use.HOUSES: _house, Use.INDUSTRY: _hall, Use.GREENHOUSE: _greenhouse, Use.PARKING: _parked}
    for use, fill in plots.items():
        for parcel in canvas.of_use(use):
            fill(rng, canvas, parcel)
    _traffic(rng, canvas)

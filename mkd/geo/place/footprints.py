"""Footprints of tiles in the world, and which of them touch, whatever their CRS, rotation or pixel size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray

from mkd.geo.place.crs import LON_LAT, is_geographic, reproject_points

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pairs = tuple[Ints, Ints]

CONTACT = 0.1  # pixels: tiles with a smaller gap touch; a shared edge or corner does
OVERLAP = -0.1  # pixels: tiles that share more than this have ground in common, not only an edge
_CHUNK = 20_000  # tiles asked for at a time, so that the pairs of a million tiles need no memory
_STEPS = np.arange(4) / 4  # an edge that is brought into another CRS bends: points along it


@dataclass(frozen=True, eq=False)
class Footprints:
    """Where tiles lie.

    Attributes:
        transforms: (N, 6) a, b, c, d, e, f of each tile: x = a col + b row + c, y = d col + e row + f.
        sizes: (N, 2) height and width, pixels.
        frames: (N,) number of each tile's frame in `names`.
        names: CRS of each frame, as WKT; or any other name of a plane that no other frame is compared with.
    """

    transforms: Floats
    sizes: Ints
    frames: Ints
    names: tuple[str, ...]

    def outlines(self, rows: Ints, margin: float = 0.0, steps: Floats = _STEPS[:1]) -> Floats:
        """Return points around tiles, in the frame of each.

        Args:
            rows: (K,) numbers of tiles.
            margin: pixels that each side is moved outwards.
            steps: where the points lie on each edge, 0..1.

        Returns:
            (K, 4 * steps, 2) x and y.
        """
        along = np.concatenate([steps, np.ones_like(steps), 1 - steps, np.zeros_like(steps)])
        across = np.roll(along, len(steps))
        height, width = self.sizes[rows, :1], self.sizes[rows, 1:]
        col = along * (width + 2 * margin) - margin
        row = across * (height + 2 * margin) - margin
        a, b, c, d, e, f = (self.transforms[rows, number : number + 1] for number in range(6))
        return np.stack([a * col + b * row + c, d * col + e * row + f], axis=-1)

    @cached_property
    def lon_lat_boxes(self) -> Floats:
        """(N, 4) west, south, east, north in degrees, a little too large; nan where a tile has none.

        East is above 180 where a box crosses the date line; a box around a pole has all longitudes.
        """
        boxes = np.full((len(self.frames), 4), np.nan)
        for number, name in enumerate(self.names):
            rows = np.flatnonzero(self.frames == number)
            for start in range(0, len(rows), _CHUNK):
                part = rows[start : start + _CHUNK]
                points = reproject_outlines(self.outlines(part, CONTACT, _STEPS[::2]), name, LON_LAT)
                boxes[part] = _lon_lat_boxes(points)
        return boxes


def reproject_outlines(points: Floats, source: str, target: str) -> Floats:
    """Bring (K, M, 2) outlines from one CRS into another; nan where a point has no place there."""
    x, y = reproject_points(points[..., 0].ravel(), points[..., 1].ravel(), source, target)
    return np.stack([x, y], axis=-1).reshape(points.shape)


def touching_pairs(tiles: Footprints, rows: Ints, others: Ints, margin: float = CONTACT) -> Iterator[Pairs]:
    """Find the pairs of a tile and another that touch, in the same CRS or in different ones.

    Each side is moved by half the margin, in pixels of its own tile, so that the answer does not depend on who asks.

    Args:
        tiles: all tiles.
        rows: (K,) numbers of the tiles to judge.
        others: (L,) numbers of the tiles that they are compared with; a tile in both touches itself.
        margin: `CONTACT`, or `OVERLAP` for those that share ground.

    Yields:
        Numbers of tiles, and of the others that they touch; each pair comes at least once.
    """
    own, theirs = tiles.frames[rows], tiles.frames[others]
    for frame in np.intersect1d(own, theirs):
        yield from _pairs_in_frame(tiles, rows[own == frame], others[theirs == frame], margin)
    if len(np.union1d(own, theirs)) > 1:
        yield from _pairs_across_frames(tiles, rows, others, margin)


def _pairs_in_frame(tiles: Footprints, rows: Ints, others: Ints, margin: float) -> Iterator[Pairs]:
    tree = shapely.STRtree(shapely.polygons(tiles.outlines(others, margin / 2)))
    turns = (-360.0, 0.0, 360.0) if is_geographic(tiles.names[tiles.frames[rows[0]]]) else (0.0,)
    west, _, east, _ = shapely.total_bounds(tree.geometries)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        outlines = tiles.outlines(part, margin / 2)
        for turn in turns:  # the date line: 180 and -180 degrees are one
            x = outlines[..., 0] + turn
            near = np.flatnonzero((x.max(axis=1) >= west) & (x.min(axis=1) <= east))
            if len(near):
                moved = shapely.polygons(outlines[near] + (turn, 0.0))
                asked, found = tree.query(moved, predicate="intersects")
                yield part[near[asked]], others[found]


def _pairs_across_frames(tiles: Footprints, rows: Ints, others: Ints, margin: float) -> Iterator[Pairs]:
    """Take candidates by their boxes of longitude and latitude; compare these in the CRS of one of them."""
    boxes = tiles.lon_lat_boxes
    rows, others = (group[np.isfinite(boxes[group]).all(axis=1)] for group in (rows, others))
    for frame in np.unique(tiles.frames[rows]):
        # Of most tiles of a frame, those of other frames are far away.
        foreign = others[tiles.frames[others] != frame]
        if not len(foreign):
            continue
        tree = shapely.STRtree(shapely.box(*boxes[foreign].T))
        bounds = np.concatenate([boxes[foreign, :2].min(axis=0), boxes[foreign, 2:].max(axis=0)])
        own = rows[tiles.frames[rows] == frame]
        for start in range(0, len(own), _CHUNK):
            for turn in (-360.0, 0.0, 360.0):
                part = own[start : start + _CHUNK]
                asked = boxes[part] + (turn, 0.0, turn, 0.0)
                near = (asked[:, 2:] >= bounds[:2]).all(axis=1) & (asked[:, :2] <= bounds[2:]).all(axis=1)
                one, other = tree.query(shapely.box(*asked[near].T))
                yield from _exact_pairs(tiles, part[near][one], foreign[other], margin)


def _exact_pairs(tiles: Footprints, first: Ints, second: Ints, margin: float) -> Iterator[Pairs]:
    """Keep the candidates of different frames that touch, by bringing one outline into the other's CRS."""
    kinds = np.stack([tiles.frames[first], tiles.frames[second]], axis=1)
    for kind in np.unique(kinds, axis=0):
        some = (kinds == kind).all(axis=1)
        one, other = first[some], second[some]
        # The CRS is that of the same tile whoever asks, so that contact is mutual; degrees fail around a pole.
        first_key, second_key = ((is_geographic(tiles.names[k]), tiles.names[k]) for k in kind)
        swap = first_key > second_key
        base, guest = (other, one) if swap else (one, other)
        name = tiles.names[tiles.frames[base[0]]]
        outlines = tiles.outlines(base, margin / 2)
        # Each guest once, as it may be near many.
        unique, place = np.unique(guest, return_inverse=True)
        moved = reproject_outlines(
            tiles.outlines(unique, margin / 2, _STEPS), tiles.names[tiles.frames[guest[0]]], name
        )[place]
        if is_geographic(name):
            moved[..., 0] += 360 * np.round((outlines[:, :1, 0] - moved[..., 0]) / 360)
        lost = ~np.isfinite(moved).all(axis=(1, 2))  # near by longitude and latitude: call it contact
        moved[lost] = 0.0
        touch = lost | shapely.intersects(shapely.polygons(outlines), shapely.polygons(moved))
        yield one[touch], other[touch]


def _lon_lat_boxes(points: Floats) -> Floats:
    """Enclose (K, M, 2) points of longitude and latitude in (K, 4) boxes."""
    lon, lat = points[..., 0].copy(), points[..., 1]
    crossing = np.ptp(lon, axis=1) > 180
    lon[crossing] = np.where(lon[crossing] < 0, lon[crossing] + 360, lon[crossing])
    boxes = np.stack([lon.min(axis=1), lat.min(axis=1), lon.max(axis=1), lat.max(axis=1)], axis=1)
    # Edges bend between the points: enlarge by a twentieth, and a hair for a box without width.
    pad = (boxes[:, 2:] - boxes[:, :2]) / 20 + 1e-9
    boxes += np.concatenate([-pad, pad], axis=1)
    around_pole = boxes[:, 2] - boxes[:, 0] > 180
    north = boxes[:, 1] + boxes[:, 3] > 0
    boxes[around_pole] = np.stack(
        [
            np.full(around_pole.sum(), -180.0),
            np.where(north[around_pole], boxes[around_pole, 1], -90.0),
            np.full(around_pole.sum(), 180.0),
            np.where(north[around_pole], 90.0, boxes[around_pole, 3]),
        ],
        axis=1,
    )
    return boxes

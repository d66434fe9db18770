"""The partition of a procedural landscape into parcels, and where a point lies in it; metres throughout."""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
Point = tuple[float, float]  # x to the right, y down
Polygon = list[Point]

FAR = 1e6  # a leaf's plane lies that far off and so is never the nearest line
_STRIP = 32  # rows looked up at once: the working set stays in the processor's cache


class Use(IntEnum):
    """What a parcel is used for."""

    CROP = 0
    PADDY = 1
    ORCHARD = 2
    GREENHOUSE = 3
    HOUSES = 4
    INDUSTRY = 5
    LAKE = 6
    GRASS = 7
    SHRUB = 8
    WOOD = 9
    BARE = 10
    SAND = 11
    PARKING = 12


class Line(IntEnum):
    """What runs along a cut between two parcels."""

    EDGE = 0
    ROAD = 1
    TRACK = 2
    HEDGE = 3


@dataclass(frozen=True)
class LayoutPlan:
    """What a domain asks of a layout: district size, share of each use, half widths of the roads; metres."""

    district: float
    shares: dict[Use, float]
    road: tuple[float, float]


@dataclass(frozen=True)
class Parcel:
    """A convex piece of land: its use, its corners and the direction of its longer side in radians."""

    use: Use
    corners: Polygon
    angle: float

    @property
    def centre(self) -> Point:
        """Mean of the corners."""
        count = len(self.corners)
        return sum(x for x, _ in self.corners) / count, sum(y for _, y in self.corners) / count

    @property
    def half_extents(self) -> Point:
        """Half the sides, along ``angle`` and across it, of a rectangle that has the parcel's area."""
        u0, u1, v0, v1 = span(self.corners, self.angle)
        before = [self.corners[-1], *self.corners[:-1]]
        area = sum(px * y - x * py for (px, py), (x, y) in zip(before, self.corners, strict=True)) / 2
        fill = math.sqrt(abs(area) / ((u1 - u0) * (v1 - v0)))
        return (u1 - u0) / 2 * fill, (v1 - v0) / 2 * fill


@dataclass(frozen=True)
class Layout:
    """The partition as a tree in arrays, n nodes.

    ``planes`` float32 (n, 4) holds normal x, normal y, offset and half width of each cut; ``lines`` uint8
    (n,) what runs along it; ``children`` int32 (2 n,) the nodes on its negative and its positive side;
    ``leaf`` int32 (n,) the parcel of a leaf, -1 elsewhere. A leaf is its own child: ``depth`` steps always
    end in one.
    """

    parcels: tuple[Parcel, ...]
    planes: FloatArray
    lines: npt.NDArray[np.uint8]
    children: IntArray
    leaf: IntArray
    depth: int


def span(corners: Polygon, angle: float) -> tuple[float, float, float, float]:
    """Return the least and greatest coordinate of a polygon along ``angle`` (radians) and across it."""
    c, s = math.cos(angle), math.sin(angle)
    along = [x * c + y * s for x, y in corners]
    across = [y * c - x * s for x, y in corners]
    return min(along), max(along), min(across), max(across)


def locate(layout: Layout, x: FloatArray, y: FloatArray) -> tuple[IntArray, FloatArray, IntArray]:
    """Find the parcel of each point, its distance to the nearest line and that line's node.

    edge = min over the cuts above the leaf of |n . (x, y) - offset| - half width.

    Args:
        layout: the partition.
        x: float32 (H, W), to the right.
        y: float32 (H, W), downwards.

    Returns:
        parcel int32 (H, W), edge float32 (H, W) (negative on a road or track), line int32 (H, W).
    """
    parcel, line = np.empty(x.shape, np.int32), np.empty(x.shape, np.int32)
    edge = np.empty(x.shape, np.float32)
    for top in range(0, x.shape[0], _STRIP):
        strip = slice(top, top + _STRIP)
        node = np.zeros(x[strip].shape, np.int32)
        near, nearest = np.full(node.shape, FAR, np.float32), np.zeros_like(node)
        for _ in range(layout.depth):
            plane = np.take(layout.planes, node, axis=0)
            side = plane[..., 0] * x[strip] + plane[..., 1] * y[strip] - plane[..., 2]
            gap = np.abs(side) - plane[..., 3]
            closer = gap < near
            np.copyto(near, gap, where=closer)
            np.copyto(nearest, node, where=closer)
            node = np.take(layout.children, 2 * node + (side > 0))
        parcel[strip], edge[strip], line[strip] = layout.leaf[node], near, nearest
    return parcel, edge, line

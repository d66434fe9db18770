"""Plan of a procedural landscape: a binary space partition into districts, parcels, roads and tracks, in metres."""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Point = tuple[float, float]  # x to the right, y down, metres
Polygon = list[Point]

_FAR = 1e6  # metres; a leaf's plane lies that far off and so is never the nearest line
_ROWS = 64  # rows looked up at once: the working set stays in the processor's cache


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


# Longer and shorter side of a parcel, metres; a use that is absent fills its whole district.
_PARCEL = {
    Use.CROP: (85.0, 30.0),
    Use.PADDY: (48.0, 24.0),
    Use.ORCHARD: (75.0, 50.0),
    Use.GREENHOUSE: (52.0, 38.0),
    Use.HOUSES: (25.0, 20.0),
    Use.INDUSTRY: (62.0, 48.0),
    Use.GRASS: (85.0, 55.0),
}
# Now and then a parcel is used otherwise than its district: (other use, probability).
_EXCEPTION = {
    Use.CROP: (Use.GRASS, 0.12),
    Use.GRASS: (Use.CROP, 0.12),
    Use.PADDY: (Use.CROP, 0.15),
    Use.INDUSTRY: (Use.PARKING, 0.3),
    Use.HOUSES: (Use.GRASS, 0.06),
    Use.ORCHARD: (Use.CROP, 0.15),
}


@dataclass(frozen=True)
class Parcel:
    """A convex piece of land: its use, its corners in metres and the direction of its longer side in radians."""

    use: Use
    corners: Polygon
    angle: float


@dataclass(frozen=True)
class Layout:
    """The partition as a tree in arrays.

    ``planes`` float32 (n, 4) holds normal x, normal y, offset and half width of each cut, metres; ``lines`` uint8 (n,)
    what runs along it; ``children`` int32 (n, 2) the nodes on the negative and positive side; ``leaf`` int32 (n,) the
    parcel of a leaf, -1 elsewhere. A leaf is its own child, so that a look-up of ``depth`` steps ends in one.
    """

    parcels: tuple[Parcel, ...]
    planes: FloatArray
    lines: npt.NDArray[np.uint8]
    children: npt.NDArray[np.int32]
    leaf: npt.NDArray[np.int32]
    depth: int


@dataclass(frozen=True)
class Plan:
    """What a domain asks of a layout: district size (metres), share of each use, road half widths (metres)."""

    district: float
    shares: dict[Use, float]
    road: tuple[float, float]


def span(corners: Polygon, angle: float) -> tuple[float, float, float, float]:
    """Return the least and greatest coordinate of a polygon along ``angle`` (radians) and across it, metres."""
    c, s = math.cos(angle), math.sin(angle)
    along = [x * c + y * s for x, y in corners]
    across = [y * c - x * s for x, y in corners]
    return min(along), max(along), min(across), max(across)


def centre(corners: Polygon) -> Point:
    """Return the mean of a polygon's corners, metres."""
    return sum(x for x, _ in corners) / len(corners), sum(y for _, y in corners) / len(corners)


def half_extents(corners: Polygon, angle: float) -> Point:
    """Return half the sides of a rectangle of the polygon's area along ``angle`` and across it, metres."""
    u0, u1, v0, v1 = span(corners, angle)
    area = sum(corners[i - 1][0] * y - corners[i - 1][1] * x for i, (x, y) in enumerate(corners)) / 2
    fill = math.sqrt(abs(area) / ((u1 - u0) * (v1 - v0)))
    return (u1 - u0) / 2 * fill, (v1 - v0) / 2 * fill


def _clip(corners: Polygon, nx: float, ny: float, offset: float) -> Polygon:
    """Return the part of a convex polygon where nx x + ny y >= offset."""
    kept: Polygon = []
    side = [nx * x + ny * y - offset for x, y in corners]
    for i, (x, y) in enumerate(corners):
        if side[i - 1] * side[i] < 0:
            t = side[i - 1] / (side[i - 1] - side[i])
            px, py = corners[i - 1]
            kept.append((px + t * (x - px), py + t * (y - py)))
        if side[i] >= 0:
            kept.append((x, y))
    return kept


class _Tree:
    """Grows the arrays of a Layout."""

    def __init__(self, rng: np.random.Generator, plan: Plan) -> None:
        self.rng, self.plan = rng, plan
        self.planes: list[tuple[float, float, float, float]] = []
        self.lines: list[int] = []
        self.children: list[list[int]] = []
        self.leaf: list[int] = []
        self.parcels: list[Parcel] = []
        self.depth = 0

    def node(self) -> int:
        """Add a node that is a leaf so far."""
        self.planes.append((0.0, 0.0, _FAR, 0.0))
        self.lines.append(Line.EDGE)
        self.leaf.append(-1)
        self.children.append([len(self.children)] * 2)
        return len(self.children) - 1

    def cut(self, piece: "_Piece", line: Line) -> "tuple[_Piece, _Piece]":
        """Cut a piece across its longer side, near the middle, and note what runs along the cut."""
        u0, u1, v0, v1 = span(piece.corners, piece.angle)
        lengthwise = (u1 - u0) >= (v1 - v0) * piece.aspect
        angle = piece.angle if lengthwise else piece.angle + math.pi / 2
        low, high = (u0, u1) if lengthwise else (v0, v1)
        offset = low + (high - low) * float(self.rng.uniform(0.4, 0.6))
        nx, ny = math.cos(angle), math.sin(angle)
        small, large = self.plan.road
        width = {Line.ROAD: float(self.rng.uniform(small, large)), Line.TRACK: small * 0.6, Line.HEDGE: 0.7}
        self.planes[piece.node] = (nx, ny, offset, width.get(line, 0.0))
        self.lines[piece.node] = line
        self.children[piece.node] = [self.node(), self.node()]
        first, second = self.children[piece.node]
        self.depth = max(self.depth, piece.depth + 1)
        negative = _clip(piece.corners, -nx, -ny, -offset)
        positive = _clip(piece.corners, nx, ny, offset)
        rest = (piece.angle, piece.aspect, piece.depth + 1)
        return _Piece(first, negative, *rest), _Piece(second, positive, *rest)


@dataclass
class _Piece:
    """A polygon still to be cut: its node, frame direction and wanted ratio of length to breadth."""

    node: int
    corners: Polygon
    angle: float
    aspect: float
    depth: int

    def longer(self, length: float, breadth: float) -> bool:
        """Whether the piece is clearly larger than length by breadth."""
        u0, u1, v0, v1 = span(self.corners, self.angle)
        return u1 - u0 > 1.4 * length or v1 - v0 > 1.4 * breadth


def _districts(tree: _Tree, width: float, height: float) -> list[_Piece]:
    """Cut the scene and a rim around it down to districts; the first cuts are always roads."""
    rng, size = tree.rng, tree.plan.district
    rim = 0.4 * size
    corners = [(-rim, -rim), (width + rim, -rim), (width + rim, height + rim), (-rim, height + rim)]
    queue = [_Piece(tree.node(), corners, float(rng.uniform(0, math.pi)), 1.0, 0)]
    done: list[_Piece] = []
    while queue:
        piece = queue.pop()
        if not piece.longer(size, size):
            done.append(piece)
            continue
        chance = rng.random()
        road = piece.depth < 2 or chance < 0.5
        line = (
            Line.ROAD if road else Line.TRACK if chance < 0.7 else Line.HEDGE if chance < 0.85 else Line.EDGE
        )
        for part in tree.cut(piece, line):
            part.angle += float(rng.normal(0, 0.12))
            queue.append(part)
    return done


def deal(rng: np.random.Generator, shares: dict[Use, float], count: int) -> list[Use]:
    """Return ``count`` uses in random order, as near to their shares as whole numbers allow, each one at least once.

    Args:
        rng: generator of the order.
        shares: relative frequency of each use, > 0.
        count: number of districts, >= 0; below the number of uses, the rarest ones are left out.

    Returns:
        A list of ``count`` uses.
    """
    uses = sorted(shares, key=lambda use: -shares[use])[:count]
    total = sum(shares[use] for use in uses)
    numbers = {use: max(1, int(shares[use] / total * count)) for use in uses}
    while sum(numbers.values()) != count:
        step = 1 if sum(numbers.values()) < count else -1
        lack = {use: step * (shares[use] / total * count - n) for use, n in numbers.items() if n + step >= 1}
        numbers[max(lack, key=lambda use: lack[use])] += step
    dealt = [use for use, n in numbers.items() for _ in range(n)]
    return [dealt[i] for i in rng.permutation(count)]


def _inner_line(rng: np.random.Generator, use: Use, level: int) -> Line:
    """Choose what runs between the parcels of one district."""
    chance = rng.random()
    match use:
        case Use.HOUSES | Use.INDUSTRY:
            return Line.ROAD if level < 2 and chance < 0.5 else Line.EDGE
        case Use.CROP | Use.GRASS | Use.ORCHARD:
            return Line.TRACK if chance < 0.1 else Line.HEDGE if chance < 0.18 else Line.EDGE
        case _:
            return Line.TRACK if chance < 0.08 else Line.EDGE


def _subdivide(tree: _Tree, district: _Piece, use: Use) -> None:
    """Cut a district into the parcels of its use."""
    rng = tree.rng
    length, breadth = _PARCEL.get(use, (_FAR, _FAR))
    stretch = float(rng.uniform(0.8, 1.3))
    length, breadth = length * stretch, breadth * stretch
    district.angle += float(rng.integers(2)) * math.pi / 2
    district.aspect = length / breadth
    queue, start = [district], district.depth
    while queue:
        piece = queue.pop()
        if piece.longer(length, breadth):
            queue.extend(tree.cut(piece, _inner_line(rng, use, piece.depth - start)))
            continue
        other, chance = _EXCEPTION.get(use, (use, 0.0))
        chosen = other if rng.random() < chance else use
        tree.leaf[piece.node] = len(tree.parcels)
        tree.parcels.append(Parcel(chosen, piece.corners, piece.angle))


def build_layout(rng: np.random.Generator, plan: Plan, width: float, height: float) -> Layout:
    """Plan a landscape of ``width`` by ``height`` metres.

    Args:
        rng: generator of every choice.
        plan: district size, shares of the uses and road widths.
        width: extent to the right, metres, > 0.
        height: extent downwards, metres, > 0.

    Returns:
        The layout; each use of the plan has a district of its own where there are districts enough.
    """
    tree = _Tree(rng, plan)
    districts = _districts(tree, width, height)
    for district, use in zip(districts, deal(rng, plan.shares, len(districts)), strict=True):
        _subdivide(tree, district, use)
    return Layout(
        tuple(tree.parcels),
        np.array(tree.planes, np.float32),
        np.array(tree.lines, np.uint8),
        np.array(tree.children, np.int32),
        np.array(tree.leaf, np.int32),
        tree.depth,
    )


def locate(
    layout: Layout, x: FloatArray, y: FloatArray
) -> tuple[npt.NDArray[np.int32], FloatArray, npt.NDArray[np.int32]]:
    """Find the parcel of each point, its distance to the nearest line and that line's node.

    edge = min over the cuts above the leaf of |n . (x, y) - offset| - half width.

    Args:
        layout: the partition.
        x: float32 (H, W), metres to the right.
        y: float32 (H, W), metres downwards.

    Returns:
        parcel int32 (H, W), edge float32 (H, W) in metres (negative on a road or track), line int32 (H, W).
    """
    parcel, line = np.empty(x.shape, np.int32), np.empty(x.shape, np.int32)
    edge = np.empty(x.shape, np.float32)
    for top in range(0, x.shape[0], _ROWS):
        part = slice(top, top + _ROWS)
        node = np.zeros(x[part].shape, np.int32)
        near, nearest = np.full(node.shape, _FAR, np.float32), np.zeros_like(node)
        for _ in range(layout.depth):
            plane = layout.planes[node]
            side = plane[..., 0] * x[part] + plane[..., 1] * y[part] - plane[..., 2]
            gap = np.abs(side) - plane[..., 3]
            closer = gap < near
            np.copyto(near, gap, where=closer)
            np.copyto(nearest, node, where=closer)
            node = layout.children[node, (side > 0).view(np.uint8)]
        parcel[part], edge[part], line[part] = layout.leaf[node], near, nearest
    return parcel, edge, line

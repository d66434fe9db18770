"""Grow the partition of a procedural landscape: districts between roads, then the parcels in each."""

import math
from dataclasses import dataclass

import numpy as np

from mkd.synth.layout import FAR, Layout, LayoutPlan, Line, Parcel, Polygon, Use, span

# Length and breadth of a parcel, metres; a use that is absent fills its whole district.
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


@dataclass
class _Piece:
    """A polygon still to be cut: its node, frame direction, length over breadth, depth in the tree."""

    node: int
    corners: Polygon
    angle: float
    aspect: float
    depth: int

    def exceeds(self, length: float, breadth: float) -> bool:
        """Whether the piece is clearly larger than length by breadth."""
        u0, u1, v0, v1 = span(self.corners, self.angle)
        return u1 - u0 > 1.4 * length or v1 - v0 > 1.4 * breadth


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
    """The arrays of a Layout while they grow."""

    def __init__(self, rng: np.random.Generator, plan: LayoutPlan) -> None:
        self.rng, self.plan, self.depth = rng, plan, 0
        self.planes: list[tuple[float, float, float, float]] = []
        self.lines: list[int] = []
        self.children: list[tuple[int, int]] = []
        self.leaf: list[int] = []
        self.parcels: list[Parcel] = []

    def node(self) -> int:
        """Add a node, its own child and so a leaf until it is cut, and return its number."""
        number = len(self.children)
        self.planes.append((0.0, 0.0, FAR, 0.0))
        self.lines.append(Line.EDGE)
        self.leaf.append(-1)
        self.children.append((number, number))
        return number

    def cut(self, piece: _Piece, line: Line) -> tuple[_Piece, _Piece]:
        """Cut a piece across its longer side, near the middle, and note what runs along the cut."""
        u0, u1, v0, v1 = span(piece.corners, piece.angle)
        lengthwise = (u1 - u0) >= (v1 - v0) * piece.aspect
        angle = piece.angle if lengthwise else piece.angle + math.pi / 2
        low, high = (u0, u1) if lengthwise else (v0, v1)
        offset = low + (high - low) * float(self.rng.uniform(0.4, 0.6))
        nx, ny = math.cos(angle), math.sin(angle)
        small, large = self.plan.road
        width = {Line.ROAD: float(self.rng.uniform(small, large)), Line.TRACK: small * 0.6, Line.HEDGE: 0.7}
        first, second = self.node(), self.node()
        self.planes[piece.node] = (nx, ny, offset, width.get(line, 0.0))
        self.lines[piece.node], self.children[piece.node] = line, (first, second)
        self.depth = max(self.depth, piece.depth + 1)
        rest = (piece.angle, piece.aspect, piece.depth + 1)
        negative = _clip(piece.corners, -nx, -ny, -offset)
        positive = _clip(piece.corners, nx, ny, offset)
        return _Piece(first, negative, *rest), _Piece(second, positive, *rest)


def _districts(tree: _Tree, width: float, height: float) -> list[_Piece]:
    """Cut the scene and a rim around it down to districts; the first cuts are always roads."""
    rng, size = tree.rng, tree.plan.district
    rim = 0.4 * size
    corners = [(-rim, -rim), (width + rim, -rim), (width + rim, height + rim), (-rim, height + rim)]
    queue = [_Piece(tree.node(), corners, float(rng.uniform(0, math.pi)), 1.0, 0)]
    done: list[_Piece] = []
    while queue:
        piece = queue.pop()
        if not piece.exceeds(size, size):
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
    """Return ``count`` uses in random order, each once at least, else as near to their shares as possible.

    Args:
        rng: generator of the order.
        shares: relative frequency of each use, > 0.
        count: number of districts, >= 0; below the number of uses, the rarest ones are left out.

    Returns:
        A list of ``count`` uses.
    """
    uses = sorted(shares, key=lambda use: -shares[use])[:count]
    total = sum(shares[use] for use in uses)
    wanted = {use: shares[use] / total * count for use in uses}
    numbers = {use: max(1, int(wanted[use])) for use in uses}
    while sum(numbers.values()) != count:
        step = 1 if sum(numbers.values()) < count else -1
        lack = {use: step * (wanted[use] - n) for use, n in numbers.items() if n + step >= 1}
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
    stretch = float(rng.uniform(0.8, 1.3))
    length, breadth = (stretch * side for side in _PARCEL.get(use, (FAR, FAR)))
    district.angle += float(rng.integers(2)) * math.pi / 2
    district.aspect = length / breadth
    queue = [district]
    while queue:
        piece = queue.pop()
        if piece.exceeds(length, breadth):
            queue.extend(tree.cut(piece, _inner_line(rng, use, piece.depth - district.depth)))
            continue
        other, chance = _EXCEPTION.get(use, (use, 0.0))
        tree.leaf[piece.node] = len(tree.parcels)
        tree.parcels.append(Parcel(other if rng.random() < chance else use, piece.corners, piece.angle))


def build_layout(rng: np.random.Generator, plan: LayoutPlan, width: float, height: float) -> Layout:
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
        parcels=tuple(tree.parcels),
        planes=np.array(tree.planes, np.float32),
        lines=np.array(tree.lines, np.uint8),
        children=np.array(tree.children, np.int32).ravel(),
        leaf=np.array(tree.leaf, np.int32),
        depth=tree.depth,
    )

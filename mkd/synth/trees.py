"""Trees of a procedural landscape: woods, hedges, avenues, shrubs and orchards."""

import math

import numpy as np

from mkd.synth.buildings import BLOCKING
from mkd.synth.canvas import Canvas, jitter
from mkd.synth.layout import FloatArray, Line, Use
from mkd.synth.style import Cover
from mkd.synth.textures import crowns, smooth_noise

# Chance that a lattice point carries a tree, by use of the land.
_TREES = {
    Use.WOOD: 0.9,
    Use.SHRUB: 0.5,
    Use.HOUSES: 0.1,
    Use.LAKE: 0.06,
    Use.INDUSTRY: 0.03,
    Use.GRASS: 0.012,
}
_TREELESS = (*BLOCKING, Cover.RESIDENTIAL, Cover.INDUSTRIAL, Cover.GREENHOUSE, Cover.PARKING)


def _density(rng: np.random.Generator, canvas: Canvas, at: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the chance of a tree at pixels ``at`` (n,): by land use, along hedges and roads, in groves."""
    by_use = np.zeros(len(Use))
    for use, chance in _TREES.items():
        by_use[use] = chance
    density = by_use[canvas.uses[canvas.parcel[at]]]
    kind, edge = canvas.layout.lines[canvas.line[at]], canvas.edge[at]
    density = np.where((kind == Line.HEDGE) & (edge < 1.0), 0.75, density)
    avenue = rng.choice([0.0, 0.04, 0.1, 0.4], size=len(canvas.layout.lines))[canvas.line[at]]
    roadside = (kind == Line.ROAD) & (np.abs(edge - 2.5) < 1.5)
    density = np.where(roadside, np.maximum(density, avenue), density)
    grove = smooth_noise(rng, *canvas.shape, 45 / canvas.style.gsd)[at]
    bare: np.ndarray = np.isin(canvas.cover[at], _TREELESS)
    return np.where(bare, 0.0, density * np.clip(1 + 0.5 * grove, 0.3, 2))


def _pixels(canvas: Canvas, centres: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the row and column indices of points (n, 2), those outside moved to the border."""
    limit = np.array(canvas.shape) - 1
    return tuple(np.clip(centres, 0, limit).astype(np.intp).T)


def _wild(rng: np.random.Generator, canvas: Canvas) -> tuple[FloatArray, FloatArray]:
    """Return centres (n, 2) and radii (n,), pixels, of the trees and shrubs that nobody set out in rows."""
    step = 4.2 / canvas.style.gsd
    y, x = np.meshgrid(*(np.arange(0, side, step) for side in canvas.shape), indexing="ij")
    centres = np.stack([y.ravel(), x.ravel()], 1) + rng.uniform(-0.5, 0.5, (y.size, 2)) * step
    at = _pixels(canvas, centres)
    planted = rng.random(len(centres)) < _density(rng, canvas, at)
    low = canvas.uses[canvas.parcel[at]] == Use.SHRUB
    radii = np.where(low, rng.uniform(0.9, 1.7, len(low)), rng.uniform(1.7, 3.6, len(low))) / canvas.style.gsd
    return centres[planted].astype(np.float32), radii[planted].astype(np.float32)


def _orchards(rng: np.random.Generator, canvas: Canvas) -> tuple[FloatArray, FloatArray]:
    """Return centres (n, 2) and radii (n,), pixels, of the fruit trees: a lattice in each orchard."""
    centres, radii = [np.zeros((0, 2))], [np.zeros(0)]
    for number, parcel in enumerate(canvas.layout.parcels):
        frame = canvas.frame(parcel) if parcel.use == Use.ORCHARD else None
        if frame is None:
            continue
        row, col, long, broad = frame
        step = rng.uniform(4.6, 6.5) / canvas.style.gsd
        p, q = (a.ravel() for a in np.meshgrid(np.arange(-long, long, step), np.arange(-broad, broad, step)))
        c, s = math.cos(parcel.angle), math.sin(parcel.angle)
        place = np.stack([row + p * s + q * c, col + p * c - q * s], 1) + rng.normal(
            0, 0.05 * step, (p.size, 2)
        )
        at = _pixels(canvas, place)
        own = (canvas.parcel[at] == number) & (canvas.edge[at] > 1.5) & (canvas.cover[at] == Cover.ORCHARD)
        own &= rng.random(len(own)) < 0.95
        centres.append(place[own])
        radii.append(rng.normal(0.34, 0.03, int(own.sum())).clip(0.2, 0.45) * step)
    return np.concatenate(centres).astype(np.float32), np.concatenate(radii).astype(np.float32)


def plant(rng: np.random.Generator, canvas: Canvas) -> None:
    """Plant woods, hedges, roadside trees, shrubs and orchards.

    What a crown hides is labelled woodland (in the target domain: background), but a shrub or fruit tree
    leaves the label of its parcel.

    Args:
        rng: generator.
        canvas: changed in place.
    """
    centres, radii = (
        np.concatenate(pair) for pair in zip(_wild(rng, canvas), _orchards(rng, canvas), strict=True)
    )
    at, number, dome, down, right = crowns(canvas.shape, centres, radii)
    ragged = smooth_noise(rng, *canvas.shape, 2.6).ravel()[at]
    leafy = dome > radii[number] * (0.18 + 0.22 * ragged)  # gaps at the rim: no crown is a disc
    at, number, dome, down, right = at[leafy], number[leafy], dome[leafy], down[leafy], right[leafy]
    tint = jitter(rng, canvas.style.crowns, len(radii), 0.13)
    light = 0.95 + 0.38 * (down * canvas.sun[0] + right * canvas.sun[1]) + rng.normal(0, 0.1, len(at))
    canvas.colour.reshape(-1, 3)[at] = tint[number] * light.astype(np.float32)[:, None]
    cover, height = canvas.cover.reshape(-1), canvas.height.reshape(-1)
    own = np.isin(cover[at], (Cover.SHRUBLAND, Cover.ORCHARD))
    cover[at] = np.where(own, cover[at], np.uint8(Cover.WOODLAND))
    trunk = np.minimum(1.5 * radii, 4.0 / canvas.style.gsd)
    height[at] = np.maximum(height[at], trunk[number] + dome)
    canvas.grain.reshape(-1)[at] = 0.07

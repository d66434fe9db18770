"""The open ground of a procedural landscape: every parcel with colours, rows and clumps of its own."""

import math

import numpy as np

from mkd.synth.canvas import Canvas, jitter
from mkd.synth.layout import FloatArray, Layout, locate
from mkd.synth.style import GROUND, Style
from mkd.synth.textures import fractal_noise, smooth_noise, smoothstep

_STRIP = 32  # rows mixed at once: the working set stays in the processor's cache


def _ground_table(rng: np.random.Generator, layout: Layout, style: Style) -> FloatArray:
    """Return a row for each parcel, (parcels, 14).

    Columns: colours A (3) and B (3), bias, strength of the rows, their wave vector (2) and phase, clumps,
    patches, grain. Rows follow the parcel's longer side, so that texture, and not colour alone, tells a field
    from a meadow.
    """
    uses = np.array([parcel.use for parcel in layout.parcels])
    angles = np.array([parcel.angle for parcel in layout.parcels])
    table = np.zeros((len(uses), 14), np.float32)
    for use, ground in style.grounds.items():
        own = np.flatnonzero(uses == use)
        count = len(own)
        table[own, 0:3] = jitter(rng, ground.first, count, 0.09)
        table[own, 3:6] = jitter(rng, ground.second, count, 0.09)
        table[own, 6] = ground.bias + rng.normal(0, 0.12, count)
        table[own, 7] = rng.uniform(*ground.rows, count)
        wave = 2 * math.pi / (rng.uniform(*style.row_period, count) * style.gsd)
        across = angles[own] + math.pi / 2 + rng.normal(0, 0.03, count)
        table[own, 8], table[own, 9] = wave * np.cos(across), wave * np.sin(across)
        table[own, 10] = rng.uniform(0, 2 * math.pi, count)
        strengths = np.array([ground.clumps, ground.patches, ground.grain])
        table[own, 11:14] = strengths * rng.uniform(0.6, 1.4, (count, 3))
    return table


def _bent_grid(
    rng: np.random.Generator, style: Style, height: int, width: int
) -> tuple[FloatArray, FloatArray]:
    """Return each pixel's x and y in the layout, metres (2, H, W), and the bend they contain (2, H, W)."""
    rows, cols = np.indices((height, width), dtype=np.float32)
    bend = np.empty((2, height, width), np.float32)
    for axis in range(2):
        bend[axis] = 11.0 * smooth_noise(rng, height, width, 130 / style.gsd)
        bend[axis] += 1.2 * smooth_noise(rng, height, width, 30 / style.gsd)
    return np.stack([cols, rows]) * np.float32(style.gsd) + bend, bend


def paint_ground(
    rng: np.random.Generator, layout: Layout, style: Style, sun: tuple[float, float], height: int, width: int
) -> Canvas:
    """Paint the parcels of a layout, without roads, buildings and trees.

    Args:
        rng: generator of colours and textures.
        layout: the partition, covering at least height x width pixels of ``style.gsd`` metres.
        style: the domain.
        sun: unit vector (row, column) towards the sun.
        height: rows, pixels.
        width: columns, pixels.

    Returns:
        A canvas of height 0 everywhere.
    """
    (x, y), bend = _bent_grid(rng, style, height, width)
    parcel, edge, line = locate(layout, x, y)
    table = _ground_table(rng, layout, style)
    clumps = fractal_noise(rng, height, width, 7.0, 3, 0.8)
    patches = fractal_noise(rng, height, width, 32 / style.gsd, 2)
    colour = np.empty((height, width, 3), np.float32)
    grain = np.empty((height, width), np.float32)
    for top in range(0, height, _STRIP):
        strip = slice(top, top + _STRIP)
        own = np.take(table, parcel[strip], axis=0)
        rows = np.sin(own[..., 8] * x[strip] + own[..., 9] * y[strip] + own[..., 10] + 0.35 * clumps[strip])
        mixture = own[..., 6] + own[..., 7] * rows * (1 + 0.3 * patches[strip])
        mixture += own[..., 11] * clumps[strip] + own[..., 12] * patches[strip]
        bund = 1 - 0.22 * smoothstep(1.0, 0.2, np.abs(edge[strip]))  # dark seams: bunds, fences, furrows
        share = mixture.clip(0, 1)[..., None]
        colour[strip] = (own[..., 3:6] + (own[..., 0:3] - own[..., 3:6]) * share) * bund[..., None]
        grain[strip] = own[..., 13]
    cover = np.array([GROUND[p.use] for p in layout.parcels], np.uint8)[parcel]
    flat = np.zeros_like(edge)
    return Canvas(layout, style, sun, colour, cover, flat, grain, parcel, edge, line, bend)

"""Noise, crowns, shadows and blur for the procedural landscapes: functions of plain arrays."""

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


_STRIP = 64  # rows made at once: the working set stays in the processor's cache


def _spline(length: int, cell: float) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return each coordinate's first lattice knot (length,) and four cubic B-spline weights (4, length)."""
    position = np.arange(length, dtype=np.float64) / cell
    knot = np.floor(position).astype(np.intp)
    t = position - knot
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return knot, (np.stack(weights) / 6.0).astype(np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> FloatArray:
    """Return Gaussian noise whose features are about ``cell`` pixels wide.

    n(y, x) = sum_ij w_i(y) w_j(x) g[knot(y) + i, knot(x) + j] / 0.479: cubic B-spline weights w on a lattice
    of independent standard normal g; 0.479 is the mean of sum_i w_i^2, so that the variance is about 1.

    Args:
        rng: generator of the lattice.
        height: rows, pixels.
        width: columns, pixels.
        cell: lattice spacing, pixels, > 0; need not be an integer.

    Returns:
        float32 (height, width), mean about 0, variance about 1.
    """
    rows, row_weights = _spline(height, cell)
    cols, col_weights = _spline(width, cell)
    lattice = rng.standard_normal((int(rows[-1]) + 4, int(cols[-1]) + 4), dtype=np.float32)
    across = np.zeros((lattice.shape[0], width), np.float32)
    for i in range(4):
        across += lattice[:, cols + i] * (col_weights[i] / np.float32(0.479))
    out = np.empty((height, width), np.float32)
    for top in range(0, height, _STRIP):
        strip = slice(top, top + _STRIP)
        terms = [across[rows[strip] + i] * row_weights[i, strip, None] for i in range(4)]
        out[strip] = (terms[0] + terms[1]) + (terms[2] + terms[3])
    return out


def fractal_noise(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int, gain: float = 0.5
) -> FloatArray:
    """Return a sum of smooth noises, each with half the cell and ``gain`` times the amplitude of the last.

    n = sum_k gain^k n_k / sqrt(sum_k gain^2k), n_k = smooth noise of cell / 2^k.

    Args:
        rng: generator.
        height: rows, pixels.
        width: columns, pixels.
        cell: feature size of the first octave, pixels.
        octaves: number of terms, >= 1.
        gain: amplitude ratio of neighbouring octaves, in (0, 1].

    Returns:
        float32 (height, width), mean about 0, variance about 1.
    """
    out = np.zeros((height, width), np.float32)
    for k in range(octaves):
        out += np.float32(gain**k) * smooth_noise(rng, height, width, max(1.0, cell / 2**k))
    return out / np.float32(math.sqrt(sum(gain ** (2 * k) for k in range(octaves))))


def smoothstep(low: float, high: float, value: FloatArray) -> FloatArray:
    """Return 3 t^2 - 2 t^3 with t = clip((value - low) / (high - low), 0, 1): a soft threshold."""
    t: FloatArray = ((value - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    return t * t * (3 - 2 * t)


def crowns(
    shape: tuple[int, int], centres: FloatArray, radii: FloatArray
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], FloatArray, FloatArray, FloatArray]:
    """Rasterise tree crowns as domes; where crowns overlap, the higher dome is seen.

    h(p) = r (1 - (|p - c| / r)^2) within the crown of centre c and radius r.

    Args:
        shape: (height, width) of the raster, pixels.
        centres: (n, 2) row and column of each crown, pixels.
        radii: (n,) crown radii, pixels, > 0.

    Returns:
        For the K covered pixels: flat index (K,), crown number (K,), height (K,) in pixels, and the row and
        column offset from the crown's centre in radii (K,), (K,).
    """
    height, width = shape
    best = np.full(height * width, -1, np.int64)
    numbers = np.arange(len(radii), dtype=np.int64)
    base = np.rint(centres).astype(np.int64)
    reach = math.ceil(float(radii.max(initial=0.0))) + 1
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            rows, cols = base[:, 0] + dy, base[:, 1] + dx
            near = (rows - centres[:, 0]) ** 2 + (cols - centres[:, 1]) ** 2
            dome = radii - near / radii
            seen = (dome > 0) & (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
            if seen.any():  # height above, number below: one maximum settles both, in any order of crowns
                key = (dome[seen] * 1024).astype(np.int64) * 2**32 + numbers[seen]
                np.maximum.at(best, rows[seen] * width + cols[seen], key)
    covered = np.flatnonzero(best >= 0)
    number = best[covered] % 2**32
    dome_height = ((best[covered] // 2**32) / 1024).astype(np.float32)
    down = (covered // width - centres[number, 0]) / radii[number]
    right = (covered % width - centres[number, 1]) / radii[number]
    return covered, number, dome_height, down.astype(np.float32), right.astype(np.float32)


def cast_shadow(height: FloatArray, sun: tuple[float, float], elevation: float) -> npt.NDArray[np.bool_]:
    """Return which pixels lie in the shadow of higher ones.

    A pixel p is shadowed when, for some k = 1, 2, ..., height(p + k s) - k tan(elevation) > height(p) + 0.5.

    Args:
        height: float32 (H, W), height above ground, pixels.
        sun: unit vector s (row, column) pointing from the ground towards the sun.
        elevation: sun above the horizon, radians, in (0, pi/2).

    Returns:
        bool (H, W).
    """
    rows, cols = height.shape
    drop = math.tan(elevation)
    line = np.zeros_like(height)  # height of the shadow's upper limit above each pixel
    for k in range(1, math.ceil(float(height.max(initial=0.0)) / drop) + 1):
        dy, dx = round(k * sun[0]), round(k * sun[1])
        if abs(dy) >= rows or abs(dx) >= cols:
            break
        here = (slice(max(0, -dy), rows - max(0, dy)), slice(max(0, -dx), cols - max(0, dx)))
        there = (slice(max(0, dy), rows - max(0, -dy)), slice(max(0, dx), cols - max(0, -dx)))
        np.maximum(line[here], height[there] - np.float32(k * drop), out=line[here])
    return line > height + np.float32(0.5)


def blur(image: FloatArray, passes: int) -> FloatArray:
    """Return a raster (H, W, ...) after ``passes`` of the (1, 2, 1)/4 filter on both axes, edges repeated."""
    quarter, half = np.float32(0.25), np.float32(0.5)
    for _ in range(passes):
        wide = np.concatenate([image[:1], image, image[-1:]], axis=0)
        image = (wide[:-2] + wide[2:]) * quarter + image * half
        wide = np.concatenate([image[:, :1], image, image[:, -1:]], axis=1)
        image = (wide[:, :-2] + wide[:, 2:]) * quarter + image * half
    return image

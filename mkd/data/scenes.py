"""Seeded procedural landscapes with exact labels: a satellite-like and a drone-like domain, for the demo."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mkd.data.scene_ground import Canvas, paint_ground
from mkd.data.scene_layout import build_layout
from mkd.data.scene_objects import build, plant
from mkd.data.scene_style import CLASS_OF, STYLES, Style
from mkd.data.scene_textures import FloatArray, blur, cast_shadow, smooth_noise, smoothstep
from mkd.geo.grid import Window
from mkd.geo.raster import RasterWriter


@dataclass(frozen=True)
class Scene:
    """A rendered landscape: image uint8 (H, W, 3), label uint8 (H, W), ground sampling in metres, domain."""

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]
    gsd: float
    domain: str


def _mosaic(rng: np.random.Generator, height: int, width: int, strength: float) -> FloatArray:
    """Return the gain (H, W, 3) of an orthomosaic's single photographs, with the seams between them."""
    size = 300.0
    y, x = np.meshgrid(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), indexing="ij")
    row = ((y + 12 * smooth_noise(rng, height, width, 60.0)) / size + 0.5).clip(0).astype(np.intp)
    col = ((x + 12 * smooth_noise(rng, height, width, 60.0)) / size + 0.5).clip(0).astype(np.intp)
    gains = 1 + strength * rng.standard_normal((int(row.max()) + 1, int(col.max()) + 1, 1))
    tints = 1 + 0.3 * strength * rng.standard_normal((gains.shape[0], gains.shape[1], 3))
    return (gains * tints).astype(np.float32)[row, col]


def _light(
    rng: np.random.Generator, canvas: Canvas, style: Style, sun: tuple[float, float], elevation: float
) -> None:
    """Light the canvas: cast shadows, relief, clouds and the mosaic's uneven exposure."""
    height, width = canvas.cover.shape
    shadow = blur(cast_shadow(canvas.height, sun, elevation).astype(np.float32), 1)
    canvas.colour *= 1 - shadow[..., None] * (1 - np.array(style.shade, np.float32))
    relief = smooth_noise(rng, height, width, 220.0)
    slope = sum(np.gradient(relief, axis=axis) * np.float32(sun[axis]) for axis in (0, 1))
    cloud = smoothstep(0.3, 1.4, smooth_noise(rng, height, width, 260.0)) * np.float32(
        rng.uniform(0, style.clouds)
    )
    bright = (1 - 9.0 * slope).clip(0.75, 1.25) * (1 - cloud)
    bright *= 1 + canvas.grain * rng.standard_normal((height, width), dtype=np.float32)
    canvas.colour *= bright[..., None]
    canvas.colour *= _mosaic(rng, height, width, style.mosaic)


def _expose(rng: np.random.Generator, colour: FloatArray, style: Style) -> npt.NDArray[np.uint8]:
    """Photograph the lit canvas: white balance, haze, contrast, optics, chroma subsampling, sensor noise."""
    balance = np.array(style.gain) * (1 + 0.03 * rng.standard_normal(3)) * (1 + 0.06 * rng.standard_normal())
    colour = (colour * balance.astype(np.float32) - 118) * np.float32(
        style.contrast * rng.uniform(0.92, 1.08)
    ) + 118
    haze = np.float32(style.haze * rng.uniform(0.6, 1.4))
    colour = colour * (1 - haze) + np.array(style.haze_colour, np.float32) * haze
    colour = blur(colour, style.blur)
    luma = colour.mean(axis=2, keepdims=True)
    colour = luma + blur(colour - luma, 1)  # cameras and JPEG keep colour at less resolution than brightness
    colour += np.float32(style.noise) * rng.standard_normal(luma.shape, dtype=np.float32)
    colour += np.float32(0.5 * style.noise) * rng.standard_normal(colour.shape, dtype=np.float32)
    return np.rint(colour).clip(0, 255).astype(np.uint8)


def render(domain: str, height: int, width: int, seed: int) -> Scene:
    """Render a landscape; the same arguments give the same bytes.

    Args:
        domain: "intermediate" (17 classes, satellite-like, summer) or "target" (6 classes, drone-like, dry season).
        height: rows, pixels, >= 64.
        width: columns, pixels, >= 64.
        seed: >= 0.

    Returns:
        The scene; class ids follow ``STYLES[domain].classes``.

    Raises:
        ValueError: unknown domain, or a size or seed out of range.
    """
    if domain not in STYLES:
        raise ValueError(f"domain {domain!r} is unknown; choose one of {', '.join(sorted(STYLES))}")
    if min(height, width) < 64 or seed < 0:
        raise ValueError(
            f"height {height}, width {width}, seed {seed}: sizes must be >= 64 pixels and the seed >= 0"
        )
    style = STYLES[domain]
    rng = np.random.default_rng((seed, sorted(STYLES).index(domain)))
    azimuth = math.radians(style.sun_azimuth + rng.uniform(-25, 25))
    elevation = math.radians(style.sun_elevation + rng.uniform(-6, 6))
    sun = (-math.cos(azimuth), math.sin(azimuth))  # rows run south, columns east
    layout = build_layout(rng, style.plan, width * style.gsd, height * style.gsd)
    canvas = paint_ground(rng, layout, style, height, width)
    build(rng, canvas, layout, style, sun)
    plant(rng, canvas, layout, style, sun)
    _light(rng, canvas, style, sun, elevation)
    return Scene(_expose(rng, canvas.colour, style), CLASS_OF[domain][canvas.cover], style.gsd, domain)


def write_orthomosaic(scene: Scene, folder: str | os.PathLike[str], name: str) -> tuple[str, str]:
    """Write a scene as two GeoTIFFs, ``images/NAME.tif`` and ``labels/NAME.tif`` (with a colour table).

    Args:
        scene: the scene.
        folder: created where it is missing.
        name: file stem of both.

    Returns:
        Paths of the image and of the label raster.

    Raises:
        ValueError: a place that cannot be written.
    """
    style = STYLES[scene.domain]
    height, width = scene.label.shape
    transform = (scene.gsd, 0.0, 612_000.0, 0.0, -scene.gsd, 2_842_000.0)
    paths = []
    for kind, array in (("images", scene.image), ("labels", scene.label)):
        path = Path(folder) / kind / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        count = 3 if kind == "images" else 1
        table = None if kind == "images" else dict(enumerate(style.palette))
        with RasterWriter(path, height, width, count, "uint8", style.crs, transform, table) as raster:
            raster.write(Window(0, 0, height, width), array)
        paths.append(str(path))
    return paths[0], paths[1]

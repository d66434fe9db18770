"""Seeded procedural landscapes with exact labels: satellite-like and drone-like domains, for demo and experiments."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mkd.geo.grid import Window
from mkd.geo.raster import RasterWriter
from mkd.synth.buildings import build
from mkd.synth.canvas import Canvas
from mkd.synth.domains import INTERMEDIATE, TARGET
from mkd.synth.ground import paint_ground
from mkd.synth.layout import FloatArray
from mkd.synth.other_domains import OTHER_STYLES
from mkd.synth.partition import build_layout
from mkd.synth.roads_and_water import paint_ways
from mkd.synth.style import Style
from mkd.synth.textures import blur, cast_shadow, smooth_noise, smoothstep
from mkd.synth.trees import plant

# In an order that must not change: a domain's number is part of its scenes' seed.
STYLES = {"intermediate": INTERMEDIATE, "target": TARGET, **OTHER_STYLES}

_ORIGIN = (612_000.0, 2_842_000.0)  # easting and northing of the upper left corner of seed 0, metres
_APART, _ACROSS = (
    5_000.0,
    32,
)  # metres from one seed's corner to the next, seeds in a row: no two share ground
_PHOTOGRAPH = 300.0  # side of one photograph of the mosaic, pixels


@dataclass(frozen=True)
class Landscape:
    """A rendered landscape: image uint8 (H, W, 3), label uint8 (H, W), ground sampling in metres, domain, seed."""

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]
    gsd: float
    domain: str
    seed: int = 0


def _mosaic(rng: np.random.Generator, height: int, width: int, strength: float) -> FloatArray:
    """Return the gain (H, W, 3) of an orthomosaic's single photographs, with seams between them."""
    cell = []
    for grid in np.indices((height, width), dtype=np.float32):
        seam = grid + 12 * smooth_noise(rng, height, width, 60.0)
        cell.append((seam / _PHOTOGRAPH + 0.5).clip(0).astype(np.intp))
    rows, cols = int(cell[0].max()) + 1, int(cell[1].max()) + 1
    gains = 1 + strength * rng.standard_normal((rows, cols, 1))
    tints = 1 + 0.3 * strength * rng.standard_normal((rows, cols, 3))
    return (gains * tints).astype(np.float32)[cell[0], cell[1]]


def _light(rng: np.random.Generator, canvas: Canvas, elevation: float) -> None:
    """Light the canvas: cast shadows, relief, clouds, grain and the mosaic's uneven exposure."""
    height, width = canvas.shape
    style, sun = canvas.style, canvas.sun
    shadow = blur(cast_shadow(canvas.height, sun, elevation).astype(np.float32), 1)
    canvas.colour *= 1 - shadow[..., None] * (1 - np.array(style.shade, np.float32))
    relief = smooth_noise(rng, height, width, 220.0)
    down, right = np.gradient(relief)
    cover = np.float32(rng.uniform(0, style.clouds))
    cloud = smoothstep(0.3, 1.4, smooth_noise(rng, height, width, 260.0)) * cover
    bright = (1 - 9 * (down * np.float32(sun[0]) + right * np.float32(sun[1]))).clip(0.75, 1.25) * (1 - cloud)
    bright *= 1 + canvas.grain * rng.standard_normal((height, width), dtype=np.float32)
    canvas.colour *= bright[..., None]
    canvas.colour *= _mosaic(rng, height, width, style.mosaic)


def _expose(rng: np.random.Generator, colour: FloatArray, style: Style) -> npt.NDArray[np.uint8]:
    """Photograph the lit canvas: white balance, contrast, haze, optics, chroma subsampling, sensor noise."""
    balance = np.array(style.gain) * (1 + 0.03 * rng.standard_normal(3)) * (1 + 0.06 * rng.standard_normal())
    contrast = np.float32(style.contrast * rng.uniform(0.92, 1.08))
    haze = np.float32(style.haze * rng.uniform(0.6, 1.4))
    colour = (colour * balance.astype(np.float32) - 118) * contrast + 118
    colour = blur(colour * (1 - haze) + np.array(style.haze_colour, np.float32) * haze, style.blur)
    luma = colour.mean(axis=2, keepdims=True)
    colour = luma + blur(colour - luma, 1)  # cameras and JPEG keep colour at less resolution than brightness
    colour += np.float32(style.noise) * rng.standard_normal(luma.shape, dtype=np.float32)
    colour += np.float32(0.5 * style.noise) * rng.standard_normal(colour.shape, dtype=np.float32)
    return np.rint(colour).clip(0, 255).astype(np.uint8)


def render(domain: str, height: int, width: int, seed: int) -> Landscape:
    """Render a landscape; the same arguments give the same bytes.

    Args:
        domain: one of `STYLES`: "intermediate" (17 classes, satellite, summer), "target" (6 classes, drone, dry
            season) or one made of these.
        height: rows, pixels, >= 64.
        width: columns, pixels, >= 64.
        seed: >= 0.

    Returns:
        The scene; class ids follow ``STYLES[domain].classes``.

    Raises:
        ValueError: unknown domain, or a size or seed out of range.
    """
    if domain not in STYLES:
        raise ValueError(f"domain {domain!r} is unknown: choose one of {', '.join(sorted(STYLES))}")
    if min(height, width) < 64 or seed < 0:
        raise ValueError(f"size {height} x {width}, seed {seed}: take sizes >= 64 pixels and a seed >= 0")
    style = STYLES[domain]
    rng = np.random.default_rng((seed, list(STYLES).index(domain)))
    azimuth = math.radians(style.sun_azimuth + rng.uniform(-25, 25))
    elevation = math.radians(style.sun_elevation + rng.uniform(-6, 6))
    sun = (-math.cos(azimuth), math.sin(azimuth))  # rows run south, columns east
    layout = build_layout(rng, style.plan, width * style.gsd, height * style.gsd)
    canvas = paint_ground(rng, layout, style, sun, height, width)
    paint_ways(rng, canvas)
    build(rng, canvas)
    plant(rng, canvas)
    _light(rng, canvas, elevation)
    label = np.array(style.to_class, np.uint8)[canvas.cover]
    return Landscape(_expose(rng, canvas.colour, style), label, style.gsd, domain, seed)


def write_orthomosaic(scene: Landscape, folder: str | os.PathLike[str], name: str) -> tuple[str, str]:
    """Write a scene as two GeoTIFFs: ``images/NAME.tif`` and, with a colour table, ``labels/NAME.tif``.

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
    south, east = divmod(scene.seed, _ACROSS)
    corner = (_ORIGIN[0] + east * _APART, _ORIGIN[1] - south % _ACROSS * _APART)
    transform = (scene.gsd, 0.0, corner[0], 0.0, -scene.gsd, corner[1])
    table = dict(enumerate(style.palette))
    paths = []
    for kind, array, colormap in (("images", scene.image, None), ("labels", scene.label, table)):
        path = Path(folder) / kind / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        bands = array[0, 0].size
        with RasterWriter(
            path, height, width, bands, "uint8", crs=style.crs, transform=transform, colormap=colormap
        ) as raster:
            raster.write(Window(0, 0, height, width), array)
        paths.append(str(path))
    return paths[0], paths[1]


def draw_scenes(
    folder: str | Path, domain: str, count: int, size: int, first: int = 0
) -> tuple[list[str], list[str]]:
    """Write scenes ``first`` to ``first + count - 1`` of a domain; return paths of images and label rasters.

    Raises:
        ValueError: unknown domain, or a size or number out of range.
    """
    if count < 1:
        raise ValueError(f"scenes={count}: at least 1")
    images, labels = [], []
    for n in range(first, first + count):
        image, label = write_orthomosaic(render(domain, size, size, n), folder, f"{domain}_{n}")
        images.append(image)
        labels.append(label)
    return images, labels

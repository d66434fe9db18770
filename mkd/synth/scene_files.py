"""launch/landscapes.py: procedural orthomosaics with exact label rasters."""

from pathlib import Path

from mkd.config.schema import LandscapesRun
from mkd.synth.landscape import render, write_orthomosaic


def draw(config: LandscapesRun) -> str:
    """Draw the orthomosaics of a config; return what to print.

    Raises:
        ValueError: unknown domain, or a size or number out of range.
    """
    images, _ = draw_scenes(config.out, config.domain, config.scenes, config.size, config.first)
    return f"{len(images)} orthomosaics of {config.size} x {config.size} pixels: {Path(images[0]).parent}"


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

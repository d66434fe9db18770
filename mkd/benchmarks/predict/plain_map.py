"""The peer: a map by a plain sliding window as users write it: float32, a window at a time, sums of the whole scene."""

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch import nn


def plain_map(
    network: nn.Module,
    source: str,
    output: str,
    *,
    classes: int,
    tile: int,
    overlap: int,
    device: torch.device,
) -> None:
    """Write a GeoTIFF of class ids: argmax of softmax summed over the windows, all with the same weight.

    Args:
        network: float (B,3,H,W) in [0,1] to logits (B,C,H,W), on the device and in eval mode.
        source: raster of 8-bit RGB, at least one window large.
        output: file to write.
        classes: C.
        tile: side of a window, pixels.
        overlap: of neighbouring windows, pixels; at the right and lower edge they overlap more.
        device: where the network is.
    """
    with rasterio.open(source) as scene:
        height, width, profile = scene.height, scene.width, scene.profile
        total = np.zeros((classes, height, width), np.float32)
        for row in starts(height, tile, tile - overlap):
            for col in starts(width, tile, tile - overlap):
                pixels = scene.read(window=Window(col, row, tile, tile))
                image = torch.from_numpy(pixels).to(device).float()[None] / 255
                with torch.inference_mode():
                    probabilities = network(image).softmax(1)[0].cpu().numpy()
                total[:, row : row + tile, col : col + tile] += probabilities
    profile.update(count=1, dtype="uint8", nodata=None, photometric=None)
    with rasterio.open(output, "w", **profile) as out:
        out.write(total.argmax(0).astype(np.uint8), 1)


def starts(size: int, tile: int, stride: int) -> list[int]:
    """Return where windows begin along one side; the last one ends with the scene."""
    return [*range(0, size - tile, stride), size - tile]

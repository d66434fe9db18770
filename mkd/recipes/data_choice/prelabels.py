"""What a model would draw on chosen tiles: class ids, and the same as polygons."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mkd.distributed.engine import autocast
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.geo.vector.polygons import FULL, ClassPolygon, class_polygons
from mkd.inference.windowed import probabilities
from mkd.labels import IGNORE
from mkd.loader.batch import to_unit
from mkd.loader.loader import TileSet
from mkd.metrics.temperature import at_temperature
from mkd.model_folder import ModelCard
from mkd.models.segmentation import SegmentationNetwork

SPECK = 32  # pixels: smaller areas go to their largest neighbour, since nobody draws them


@dataclass(frozen=True)
class Prelabel:
    """A model's labels of one tile: classes uint8 (H,W), 255 where a pixel is missing; confidence uint8, 255 p."""

    classes: NDArray[np.uint8]
    confidence: NDArray[np.uint8]

    def polygons(self) -> list[ClassPolygon]:
        """Return the areas of each class in pixel coordinates, as those of a predicted map are made."""
        height, width = self.classes.shape
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tile.tif"
            with RasterWriter(path, height, width, 2, "uint8", nodata=IGNORE) as raster:
                raster.write(Window(0, 0, height, width), np.stack([self.classes, self.confidence], axis=2))
            with RasterReader(path) as reader:
                return list(class_polygons(reader, smallest=SPECK))


@torch.inference_mode()
def predict_prelabels(
    network: SegmentationNetwork, card: ModelCard, tiles: TileSet, samples: list[int], device: torch.device
) -> dict[str, Prelabel]:
    """Return the model's labels of some tiles by key.

    Args:
        network: on the device.
        card: of its folder.
        tiles: the data set.
        samples: numbers of the tiles.
        device: where to compute.
    """
    found = {}
    for sample in samples:
        item = tiles.tile((0, sample)).to(device)
        with autocast(device):
            p = probabilities(network, to_unit(item.pixels(network.architecture.scale)), card.crop)
        sure = at_temperature(p, card.temperature)[0].amax(dim=0).cpu()
        ids = p[0].argmax(dim=0).to(torch.uint8).cpu()
        if item.valid is not None:
            ids = ids.masked_fill(item.valid[0].cpu() == 0, IGNORE)
        confidence = (FULL * sure).round().clamp(0, FULL - 1).to(torch.uint8)
        found[tiles.decoder.source.record(sample).key] = Prelabel(ids.numpy(), confidence.numpy())
    return found

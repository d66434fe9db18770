"""Views of tiles as a plain data set makes them: files on a disk, Pillow, one tile at a time in torch's DataLoader."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as tv

from mkd.config.schema import DataConfig
from mkd.dataset.codec import IMAGES
from mkd.labels import IGNORE
from mkd.loader.loader import TileSet

ENDLESS = 10**7  # tiles: epoch after epoch without a pause between them
Views = tuple[Tensor, ...]


def write_files(data: str, folder: Path, labelled: bool = True) -> Path:
    """Write the images, and the labels of a labelled data set, as files, the same bytes; once.

    Raises:
        ValueError: a data set of other images than 8-bit RGB, which Pillow does not open.
    """
    tiles = TileSet(data, labelled)
    if (tiles.index.bands, tiles.index.dtype) != (3, "uint8"):
        raise ValueError(
            f"data={data} has {tiles.index.bands} bands of {tiles.index.dtype}; the plain loop reads 8-bit RGB only"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(tiles)):
        members = tiles.decoder.source.record(number).members
        kinds = [kind for kind in members if kind in IMAGES or kind == "label.png"]
        for kind, content in tiles.decoder.source.read(number, kinds).items():
            (folder / f"{number:06d}.{kind}").write_bytes(content)
    return folder


class PlainTiles(Dataset[Views]):
    """Views of the tiles of a folder.

    Labelled: image float (3,S,S) and label uint8 (S,S), 255 = ignore. Unlabelled: weak view and strong ones float
    (3,S,S), and bool (S,S), pixels inside the tile.
    """

    def __init__(self, folder: Path, data: DataConfig, labelled: bool, strong_views: int = 1) -> None:
        self.data, self.labelled, self.strong_views = data, labelled, strong_views
        self.labels = sorted(folder.glob("*.label.png"))
        self.images = sorted(
            p for kind in IMAGES for p in folder.glob(f"[0-9]*.{kind}") if p not in self.labels
        )

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.images)

    def __getitem__(self, number: int) -> Views:
        """Return the views of a tile."""
        image = Image.open(self.images[number]).convert("RGB")
        label = Image.open(self.labels[number]) if self.labelled else Image.new("L", image.size)
        image, label = self._geometry(image, label)
        if self.labelled:
            return tv.to_tensor(image), torch.from_numpy(np.array(label))
        weak = ImageEnhance.Brightness(image).enhance(random.uniform(0.9, 1.1))
        strong = [tv.to_tensor(_strong(weak)) for _ in range(self.strong_views)]
        return tv.to_tensor(weak), *strong, torch.from_numpy(np.array(label) != IGNORE)

    def _geometry(self, image: Any, label: Any) -> tuple[Any, Any]:
        """Scale, pad, crop, flip and turn image and label alike."""
        low, high = self.data.scale
        factor = math.exp(random.uniform(math.log(low), math.log(high)))
        size = (round(image.width * factor), round(image.height * factor))
        image, label = (
            image.resize(size, Image.Resampling.BILINEAR),
            label.resize(size, Image.Resampling.NEAREST),
        )
        side = self.data.crop
        padding = (0, 0, max(0, side - image.width), max(0, side - image.height))
        image, label = ImageOps.expand(image, padding, fill=0), ImageOps.expand(label, padding, fill=IGNORE)
        left, top = random.randint(0, image.width - side), random.randint(0, image.height - side)
        both = [part.crop((left, top, left + side, top + side)) for part in (image, label)]
        moves = [Image.Transpose.FLIP_LEFT_RIGHT]
        if self.data.aerial:
            moves += [Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE]
        for move in moves:
            if random.random() < 0.5:
                both = [part.transpose(move) for part in both]
        return both[0], both[1]


def _strong(image: Any) -> Any:
    """Return the strong view: jitter p .8, grey p .2, Gaussian blur p .5, as UniMatch does (Yang et al. 2023)."""
    if random.random() < 0.8:
        image = ColorJitter(0.5, 0.5, 0.5, 0.25)(image)
    if random.random() < 0.2:
        image = tv.to_grayscale(image, num_output_channels=3)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
    return image


def plain_batches(
    folder: Path, data: DataConfig, labelled: bool, device: torch.device, strong_views: int = 1
) -> Iterator[Views]:
    """Yield batches of views on a device, without end; workers decode ahead, memory is pinned for a GPU."""
    tiles = PlainTiles(folder, data, labelled, strong_views)
    loader = DataLoader(
        tiles,
        batch_size=data.batch,
        sampler=RandomSampler(tiles, num_samples=ENDLESS),
        num_workers=data.workers,
        pin_memory=device.type == "cuda",
    )
    for views in loader:
        yield tuple(view.to(device, non_blocking=True) for view in views)

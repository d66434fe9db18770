"""Tar shards -> batches of uint8 tensors, read by offset: a resume opens nothing that it does not need."""

import json
import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image

from mkd.data.index import DatasetIndex, read_index
from mkd.data.plan import Plan

IGNORE = 255
MAX_OPEN = 64  # shard files a process keeps open


@dataclass
class Batch:
    """Tiles as they lie in the shards.

    Attributes:
        images: uint8 (B,3,H,W).
        labels: uint8 (B,H,W), class ids; 255 = ignore. Unlabelled tiles are 0.
        ids: B pairs (epoch, sample), which seed each sample's own generator.
    """

    images: Tensor
    labels: Tensor
    ids: list[tuple[int, int]]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; from pinned memory the copy does not block."""
        return Batch(
            self.images.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), self.ids
        )


class TileSet(Dataset[tuple[Tensor, Tensor, tuple[int, int]]]):
    """Random access to the samples of a data set by (epoch, sample).

    Args:
        folder: data set folder with ``index.json``.
        labelled: read labels; a sample without one is an error.

    Raises:
        ValueError: no data set, no labels where they are needed, an undecodable tile; names shard and key.
    """

    def __init__(self, folder: str, labelled: bool) -> None:
        """Read the index only; shards are opened when first used."""
        self.folder, self.labelled = Path(folder), labelled
        self.index: DatasetIndex = read_index(folder)
        if labelled and self.index.labelled < self.index.samples:
            raise ValueError(
                f"{folder}: {self.index.samples - self.index.labelled} of {self.index.samples} tiles have no label; "
                "give a data set whose tiles are all labelled"
            )
        self._starts = [0]
        for shard in self.index.shards:
            self._starts.append(self._starts[-1] + shard.samples)
        self._members: dict[int, list[dict[str, tuple[int, int]]]] = {}
        self._keys: dict[int, list[str]] = {}
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.index.samples

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Return image uint8 (3,H,W), label uint8 (H,W) and the item."""
        shard, row = self._locate(item[1])
        parts = self._shard(shard)[row]
        image_part = next((parts[e] for e in ("jpg", "png", "jpeg") if e in parts), None)
        if image_part is None or (self.labelled and "label.png" not in parts):
            raise ValueError(
                f"{self._name(shard, row)}: holds {sorted(parts)}; an image and its label are needed"
            )
        image = self._decode(shard, row, image_part, ImageReadMode.RGB)
        if not self.labelled:
            return image, torch.zeros(image.shape[1:], dtype=torch.uint8), item
        label = self._decode(shard, row, parts["label.png"], ImageReadMode.GRAY)[0]
        if label.shape != image.shape[1:]:
            raise ValueError(
                f"{self._name(shard, row)}: image {tuple(image.shape[1:])} and label {tuple(label.shape)} differ "
                "in size; pack the data set again"
            )
        return image, label, item

    def meta(self, sample: int) -> dict[str, Any]:
        """Return a sample's KEY.json with its key under ``key``."""
        shard, row = self._locate(sample)
        meta: dict[str, Any] = json.loads(self._read(shard, self._shard(shard)[row]["json"]))
        return {**meta, "key": self._keys[shard][row]}

    def _locate(self, sample: int) -> tuple[int, int]:
        shard = bisect_right(self._starts, sample) - 1
        return shard, sample - self._starts[shard]

    def _shard(self, shard: int) -> list[dict[str, tuple[int, int]]]:
        if shard not in self._members:
            path = self.folder / self.index.shards[shard].file
            keys: dict[str, dict[str, tuple[int, int]]] = {}
            try:
                with tarfile.open(path, "r:") as tar:
                    for member in tar:
                        key, _, kind = member.name.partition(".")
                        keys.setdefault(key, {})[kind] = (member.offset_data, member.size)
            except tarfile.TarError as error:
                raise ValueError(
                    f"{path}: not a whole tar ({error}); run 'shards verify', build it again"
                ) from None
            expected = self.index.shards[shard].samples
            if len(keys) != expected:
                raise ValueError(
                    f"{path}: holds {len(keys)} samples, the index says {expected}; build it again"
                )
            self._members[shard], self._keys[shard] = list(keys.values()), list(keys)
        return self._members[shard]

    def _read(self, shard: int, part: tuple[int, int]) -> bytes:
        if shard not in self._files:
            if len(self._files) >= MAX_OPEN:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[shard] = os.open(self.folder / self.index.shards[shard].file, os.O_RDONLY)
        return os.pread(self._files[shard], part[1], part[0])

    def _decode(self, shard: int, row: int, part: tuple[int, int], mode: ImageReadMode) -> Tensor:
        data = bytearray(self._read(shard, part))
        try:
            tensor: Tensor = decode_image(torch.frombuffer(data, dtype=torch.uint8), mode=mode)
            return tensor
        except (RuntimeError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"{self._name(shard, row)}: cannot be decoded ({reason}); run 'shards verify'"
            ) from None

    def _name(self, shard: int, row: int) -> str:
        return f"{self.folder / self.index.shards[shard].file}:{self._keys[shard][row]}"

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: each worker process opens its own."""
        return {**self.__dict__, "_files": {}}


def collate(items: list[tuple[Tensor, Tensor, tuple[int, int]]]) -> Batch:
    """Stack samples.

    Raises:
        ValueError: tiles of different sizes. Padding them would let a tile's view depend on its batch mates.
    """
    sizes = sorted({tuple(image.shape[1:]) for image, _, _ in items})
    if len(sizes) > 1:
        shown = " and ".join(f"{h} x {w}" for h, w in sizes[:2])
        raise ValueError(
            f"tiles of {shown} pixels in one batch; pack tiles of one size ('shards tile --size'), or use batch=1"
        )
    images, labels, ids = zip(*items, strict=True)
    return Batch(torch.stack(images), torch.stack(labels), list(ids))


def stream(tiles: TileSet, plan: Plan, start: int, stop: int, workers: int, pin: bool) -> Iterator[Batch]:
    """Yield this rank's batches of steps ``start`` .. ``stop - 1``.

    Args:
        tiles: the data set.
        plan: the order; entered at ``start`` by arithmetic.
        start: first step.
        stop: step after the last.
        workers: decoding processes; 0 decodes here.
        pin: put batches into pinned memory for non-blocking copies to a GPU.
    """
    loader: DataLoader[Any] = DataLoader(
        tiles,
        batch_sampler=_Steps(plan, start, stop),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else it draws from torch's own, and dropout after a resume is another
    )
    yield from _plain_errors(loader)


def _plain_errors(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Yield batches; a worker's error keeps its sentence and loses the worker's traceback."""
    try:
        yield from loader
    except ValueError as error:
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from None


class _Steps:
    """A batch sampler that makes its batches when asked, so that a run of days holds no list of them."""

    def __init__(self, plan: Plan, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.plan.steps(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start


def in_order(tiles: TileSet, batch: int, workers: int = 0) -> Iterator[Batch]:
    """Yield all samples once, in the data set's order; the last batch may be smaller."""
    order = [(0, i) for i in range(len(tiles))]
    chunks = [order[i : i + batch] for i in range(0, len(order), batch)]
    loader: DataLoader[Any] = DataLoader(
        tiles, batch_sampler=chunks, num_workers=workers, collate_fn=collate, generator=torch.Generator()
    )
    yield from _plain_errors(loader)

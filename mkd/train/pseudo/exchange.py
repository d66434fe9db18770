"""Pseudo-labelled tiles of a global batch: their order, the rank that holds each, and their way to another rank."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mkd.distributed.world import World

_HEAD = struct.Struct("<qq16s16sIB")  # epoch, sample; state, increment, kept half and its flag of a PCG64


@dataclass(frozen=True)
class PseudoTile:
    """A labelled candidate.

    Attributes:
        pair: (epoch, sample).
        weak: weak view, uint8 (3,S,S) or float32 (bands,S,S).
        labels: uint8 (S,S), class ids; 255 = dropped or outside the tile.
        generator: of its views; the strong view goes on from here.
    """

    pair: tuple[int, int]
    weak: Tensor
    labels: Tensor
    generator: np.random.Generator


@dataclass(frozen=True)
class TileSlot:
    """A place in the global order of tiles, which is the same on all ranks.

    Attributes:
        slot: the tile's place in its global candidate batch; rank r reads slots rU .. (r+1)U - 1.
        tile: None where another rank has it.
    """

    slot: int
    tile: PseudoTile | None


@dataclass(frozen=True)
class PseudoBatch:
    """What a step trains on: this rank's U tiles; with several ranks one more, the next of the global batch.

    Attributes:
        weak: weak views, of U or U+1 tiles.
        labels: uint8 (U or U+1,S,S), class ids; 255 where a filter dropped the pixel or it lies outside the tile.
        generators: one a tile; its strong view goes on from here.
    """

    weak: Tensor
    labels: Tensor
    generators: list[np.random.Generator]


def exchange_tiles(
    batch: Sequence[TileSlot], world: World, shape: Sequence[int], pixel_bytes: int = 3
) -> list[PseudoTile]:
    """Return the tiles of a global batch that this rank works with; those that lie elsewhere are fetched.

    Of R * U slots rank r trains on rU .. (r+1)U - 1. With several ranks one more tile comes last, the next one of the
    batch: CutMix pastes it into the last of these.

    Args:
        batch: in global order.
        world: all ranks call this at the same time.
        shape: (S,S), side of the tiles.
        pixel_bytes: of a pixel of a weak view: 3 of uint8, else 4 a band of float32.

    Returns:
        U tiles, with several ranks U + 1.
    """
    if world.ranks == 1:
        return [slot.tile for slot in batch if slot.tile is not None]
    # What each rank works with: its own part and the first tile of the next rank's.
    me, size = world.rank, len(batch) // world.ranks
    wanted = [[batch[(rank * size + n) % len(batch)] for n in range(size + 1)] for rank in range(world.ranks)]
    # What this rank holds of it is sent; who holds a slot follows from its number, so that nobody has to ask.
    out, counts = [], []
    for rank, theirs in enumerate(wanted):
        given = [slot.tile for slot in theirs if slot.tile is not None and rank != me]
        out.append(_packed(given, shape, world.device, pixel_bytes))
        counts.append(sum(slot.slot // size == rank != me for slot in wanted[me]))
    # Every rank waits here until its tiles have come from all others.
    fetched = [iter(_unpacked(rows, shape)) for rows in world.exchange(out, counts)]
    return [next(fetched[s.slot // size]) if s.tile is None else s.tile for s in wanted[me]]


def stack_tiles(tiles: Sequence[PseudoTile]) -> PseudoBatch:
    """Return tiles as one batch."""
    weak, labels = torch.stack([t.weak for t in tiles]), torch.stack([t.labels for t in tiles])
    return PseudoBatch(weak, labels, [t.generator for t in tiles])


def _packed(
    tiles: Sequence[PseudoTile], shape: Sequence[int], device: torch.device, pixel_bytes: int
) -> Tensor:
    """Return tiles as bytes, uint8 (N, head + (pixel bytes + 1) S S)."""
    if not tiles:
        size = _HEAD.size + (pixel_bytes + 1) * shape[0] * shape[1]
        return torch.empty(0, size, dtype=torch.uint8, device=device)
    heads = torch.frombuffer(bytearray(b"".join(_head(t) for t in tiles)), dtype=torch.uint8)
    weak = torch.stack([t.weak for t in tiles]).flatten(1).contiguous().view(torch.uint8)
    labels = torch.stack([t.labels for t in tiles]).flatten(1)
    return torch.cat([heads.view(len(tiles), -1).to(device), weak, labels], dim=1)


def _unpacked(rows: Tensor, shape: Sequence[int]) -> list[PseudoTile]:
    """Return the tiles that `_packed` made bytes of."""
    heads = rows[:, : _HEAD.size].cpu().numpy()
    area = shape[0] * shape[1]
    stored, labels = rows[:, _HEAD.size : -area].contiguous(), rows[:, -area:].reshape(len(rows), *shape)
    weak = stored if stored.shape[1] == 3 * area else stored.view(torch.float32)  # of 8 bits only in 3 bands
    weak = weak.reshape(len(rows), weak.shape[1] // area, *shape)
    return [_tile(head.tobytes(), image, ids) for head, image, ids in zip(heads, weak, labels, strict=True)]


def _head(tile: PseudoTile) -> bytes:
    """Return a tile's pair and the state of its generator as bytes."""
    now = tile.generator.bit_generator.state
    assert now["bit_generator"] == "PCG64"
    words = (now["state"][name].to_bytes(16, "little") for name in ("state", "inc"))
    return _HEAD.pack(*tile.pair, *words, now["uinteger"], now["has_uint32"])


def _tile(head: bytes, weak: Tensor, labels: Tensor) -> PseudoTile:
    """Return a tile whose generator goes on where the sender's was."""
    epoch, sample, *words, half, has_half = _HEAD.unpack(head)
    state, inc = (int.from_bytes(word, "little") for word in words)
    bits = np.random.PCG64(0)
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": state, "inc": inc},
        "has_uint32": has_half,
        "uinteger": half,
    }
    return PseudoTile((epoch, sample), weak, labels, np.random.Generator(bits))

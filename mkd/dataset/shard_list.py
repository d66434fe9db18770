"""Holds the shards of a data set in little memory, because each rank and each decoding process holds all of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class ShardInfo:
    """One tar of a data set: file name, tiles, labelled tiles, size in bytes, SHA-256 of the file (hex)."""

    file: str
    samples: int
    labelled: int
    bytes: int
    sha256: str


class ShardList(Sequence[ShardInfo]):
    """Shards, 64 bytes each where objects take 500; equal to any sequence of the same.

    Names such as NAME-000012.tar are held as numbers, digests as bytes; a shard of another form is held as it is.

    Args:
        shards: in their order.
    """

    def __init__(self, shards: Iterable[ShardInfo] = ()) -> None:
        self._prefix = ""  # of all regular file names, with the dash
        self._numbers = array("q")  # four a shard: number in its name, samples, labelled, bytes
        self._digests = bytearray()
        self._irregular: dict[int, ShardInfo] = {}  # place -> shard with another form of name or digest
        for shard in shards:
            self.append(shard)

    def append(self, shard: ShardInfo) -> None:
        """Add a shard at the end."""
        name, dash, rest = shard.file.rpartition("-")
        number = int(rest[:-4]) if rest[:-4].isdecimal() else 0
        self._prefix = self._prefix or name + dash
        digest = _digest(shard.sha256)
        if digest is None or shard.file != f"{self._prefix}{number:06d}.tar":
            self._irregular[len(self)] = shard
            number, digest = 0, bytes(32)
        self._digests += digest
        self._numbers.extend((number, shard.samples, shard.labelled, shard.bytes))

    @property
    def samples(self) -> list[int]:
        """Tiles of each shard."""
        return self._numbers[1::4].tolist()

    def sums(self) -> dict[str, int]:
        """Return samples, labelled and bytes of all shards together."""
        return {
            key: sum(self._numbers[place::4]) for place, key in enumerate(("samples", "labelled", "bytes"), 1)
        }

    def __len__(self) -> int:
        """Count the shards."""
        return len(self._numbers) // 4

    @overload
    def __getitem__(self, place: int) -> ShardInfo: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[ShardInfo]: ...

    def __getitem__(self, place: int | slice) -> ShardInfo | Sequence[ShardInfo]:
        """Return a shard, or some of them."""
        if isinstance(place, slice):
            return [self._at(each) for each in range(*place.indices(len(self)))]
        return self._at(range(len(self))[place])

    def __iter__(self) -> Iterator[ShardInfo]:
        """Give the shards."""
        return map(self._at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Compare shard by shard."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        """Show the shards as a tuple would."""
        return repr(tuple(self))

    def _at(self, place: int) -> ShardInfo:
        if self._irregular and place in self._irregular:
            return self._irregular[place]
        number, samples, labelled, size = self._numbers[4 * place : 4 * place + 4]
        digest = self._digests[32 * place : 32 * place + 32].hex()
        return ShardInfo(f"{self._prefix}{number:06d}.tar", samples, labelled, size, digest)


def _digest(text: str) -> bytes | None:
    """Return the bytes of a SHA-256 in lower-case hex; None for anything else."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    return digest if len(digest) == 32 and digest.hex() == text else None

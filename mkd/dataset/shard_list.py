"""Holds the shards of a data set in little memory, because each rank and each decoding process holds all of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from mkd.documents import shown, text
from mkd.storage.folder import Folder


@dataclass(frozen=True)
class ShardInfo:
    """One tar of a data set: file name, tiles, labelled tiles, size in bytes, SHA-256 of the file (hex).

    `url` is the full path or URL of an adopted shard, which lies where others wrote it; "" = in the data set's folder.
    An adopted shard has a file name all the same, of which the name of its record is made.
    """

    file: str
    samples: int
    labelled: int
    bytes: int
    sha256: str
    url: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what index and record hold of it; an empty `url` is left out, as earlier versions wrote it."""
        return {key: value for key, value in vars(self).items() if key != "url" or value}


def shard_place(folder: Folder, shard: ShardInfo) -> tuple[Folder, str]:
    """Return the folder that a shard's tar lies in, and its name there.

    Args:
        folder: of the data set.
        shard: one of its shards.
    """
    if not shard.url:
        return folder, shard.file
    parent, _, name = shard.url.rpartition("/")
    return folder.elsewhere(parent or "/"), name


def shard_url(folder: Folder, shard: ShardInfo) -> str:
    """Return the path or URL of a shard's tar, for messages."""
    return shard.url or folder.url_of(shard.file)


def shard_sizes(
    folder: Folder, shards: Iterable[ShardInfo], own: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the size in bytes of each shard's tar that is there, by the shard's file name.

    Args:
        folder: of the data set.
        shards: of the data set.
        own: sizes of the files in `folder`, where they are known; each other folder is listed once.
    """
    listings: dict[str, Mapping[str, int]] = {} if own is None else {folder.url: own}
    found = {}
    for shard in shards:
        place, name = shard_place(folder, shard)
        if place.url not in listings:
            listings[place.url] = place.sizes()
        if name in listings[place.url]:
            found[shard.file] = listings[place.url][name]
    return found


def parse_url(value: Any) -> str:
    """Return the path or URL of an adopted shard, as an index or record has it; "" = not adopted.

    Raises:
        ValueError: neither a full path nor a URL.
    """
    url = text(value, "a shard's url")
    if url and not (url.startswith("/") or "://" in url):
        raise ValueError(f"a shard's url is {shown(value)}, a full path or a URL is needed")
    return url


class ShardList(Sequence[ShardInfo]):
    """Shards, 64 bytes each where objects take 500; equal to any sequence of the same; adopted ones take their URL too.

    Names such as NAME-000012.tar are held as numbers, digests as bytes; a shard of another form is held as it is.

    Args:
        shards: in their order.
    """

    def __init__(self, shards: Iterable[ShardInfo] = ()) -> None:
        self._prefix = ""  # of all regular file names, with the dash
        self._numbers = array("q")  # four a shard: number in its name, samples, labelled, bytes
        self._digests = bytearray()
        self._irregular: dict[int, ShardInfo] = {}  # place -> shard with another form of name or digest
        self._urls: dict[int, str] = {}  # place -> URL of an adopted shard
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
        elif shard.url:
            self._urls[len(self)] = shard.url
        self._digests += digest
        self._numbers.extend((number, shard.samples, shard.labelled, shard.bytes))

    @property
    def samples(self) -> list[int]:
        """Tiles of each shard."""
        return self._numbers[1::4].tolist()

    @property
    def any_remote(self) -> bool:
        """Whether an adopted shard lies behind a URL."""
        urls = [*self._urls.values(), *(shard.url for shard in self._irregular.values())]
        return any("://" in url for url in urls)

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
        url = self._urls.get(place, "")
        return ShardInfo(f"{self._prefix}{number:06d}.tar", samples, labelled, size, digest, url)


def _digest(text: str) -> bytes | None:
    """Return the bytes of a SHA-256 in lower-case hex; None for anything else."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    return digest if len(digest) == 32 and digest.hex() == text else None

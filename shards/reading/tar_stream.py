"""Tars read once, from end to end: hashed, and cut into the members of each tile."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

from mkd.dataset.shard_record import Member, ShardRecord

Contents = dict[str, tuple[Member, bytes]]  # of a tile by extension: place in the tar, and the bytes

# As webdataset names samples: folders and all up to the first dot of the file name, then the extension.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_META = re.compile(r"__[^/]*__(?:$|/)")  # names that webdataset keeps for itself


class HashingReader(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, fewer at the end only."""
        data = self._file.read(size)
        self.digest.update(data)
        self.size += len(data)
        return data

    def drain(self) -> None:
        """Read what is left: the end of the tar, or all behind a damage."""
        while self.read(1 << 20):
            pass


class ForeignTile(NamedTuple):
    """A tile in a tar of others.

    Attributes:
        key: as webdataset names it, with its folders.
        members: by extension in small letters; the bytes of unwanted ones are not kept: their extensions only.
        unwanted: extensions of the other members.
        twice: extensions that stand there twice, of which webdataset makes an error.
    """

    key: str
    members: Contents
    unwanted: list[str]
    twice: list[str]


def group_members(
    file: HashingReader, name: str, limit: int, problems: list[str]
) -> Iterator[tuple[str, Contents]]:
    """Yield the members of a tar of ours, those of a tile together; note a damaged tar.

    Args:
        file: of ``limit`` bytes.
        name: what to call it in a problem.
        limit: bytes.
        problems: gets what is wrong.
    """
    key, contents = "", Contents()
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                stem, _, extension = member.name.partition(".")
                if stem != key and contents:
                    yield key, contents
                    contents = {}
                if not member.isreg() or member.issparse() or member.size > limit:
                    raise tarfile.TarError(f"its member {member.name!r} is no plain file that fits into it")
                key, contents[extension] = stem, _content(tar, member)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        problems.append(f"shard {name} cannot be read ({error}): copy it again, or pack it again")
        return
    if contents:
        yield key, contents


def recorded_members(file: HashingReader, record: ShardRecord) -> Iterator[tuple[str, Contents]]:
    """Yield the members of an adopted tar that its record names, as they are there now; others are passed over."""
    for tile in record.tiles:
        contents = Contents()
        for kind, member in sorted(tile.members.items(), key=lambda entry: entry[1].offset):
            while (gap := member.offset - file.size) > 0 and file.read(min(gap, 1 << 20)):
                pass
            offset, data = file.size, file.read(min(member.size, record.info.bytes))
            contents[kind] = Member(offset, len(data), zlib.crc32(data)), data
        yield tile.key, contents


def foreign_tiles(
    file: HashingReader, limit: int, wanted: Collection[str], most: int, odd: list[str]
) -> Iterator[ForeignTile]:
    """Yield the tiles of a tar of others, grouped as webdataset does: neighbours of one key.

    Args:
        file: of ``limit`` bytes.
        limit: bytes.
        wanted: extensions, in small letters, of members whose bytes are needed.
        most: bytes that such a member may have.
        odd: gets the names of members that webdataset passes over: links, folders, names without an extension.

    Raises:
        tarfile.TarError: a damaged tar, or a wanted member of more bytes.
        OSError: it cannot be read.
    """
    tile = ForeignTile("", {}, [], [])
    with tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            match = None if _META.match(member.name) else _NAME.fullmatch(member.name)
            if match is None or not member.isreg() or member.issparse():
                odd.append(member.name)
                continue
            if member.size > limit:
                raise tarfile.TarError(f"its member {member.name!r} has more bytes than the tar")
            key, extension = match[1], match[2].lower()
            if key != tile.key:
                if tile.key:
                    yield tile
                tile = ForeignTile(key, {}, [], [])
            if extension not in wanted:
                tile.unwanted.append(extension)
            elif extension in tile.members:
                tile.twice.append(extension)
            elif member.size > most:
                raise tarfile.TarError(
                    f"its member {member.name!r} has more than {most:,} bytes, see --max-pixels"
                )
            else:
                tile.members[extension] = _content(tar, member)
    if tile.key:
        yield tile


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[Member, bytes]:
    """Read a member: its place in the tar, and its bytes."""
    stream = tar.extractfile(member)
    data = b"" if stream is None else stream.read()
    return Member(member.offset_data, len(data), zlib.crc32(data)), data

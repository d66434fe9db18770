"""Writer of one shard: a tar with fixed metadata, hashed as it is written, and its record beside it."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.index import ShardInfo
from mkd.dataset.shard_record import Member, ShardRecord, TileRecord, write_record
from mkd.labels import IGNORE
from mkd.storage.folder import Folder
from shards.inputs.encode import EncodedTile, UnknownCounts
from shards.output.tar_format import encode_members, ending, header, padding

MAX_EXAMPLES = 10  # of what is counted
_WRITE_BYTES = 4 << 20  # bytes gathered for one hash and one write


class ShardWriter:
    """One shard being written: a context; its tar and then its record are in place after a clean exit.

    The same tiles in the same order give the same bytes. Of a shard that is adopted only the record is written.

    Args:
        folder: where to write; None = only count and hash, to compare with a shard that exists.
        file: name of the tar.
        classes: number of classes.
        unit: fingerprint of what the shard is made of.

    Attributes:
        record: what was written, after the exit.
    """

    record: ShardRecord

    def __init__(self, folder: Folder | None, file: str, classes: int, unit: str = "") -> None:
        self.file, self._folder, self._classes, self._unit = file, folder, classes, unit
        self._stack = ExitStack()
        self._out: BinaryIO | None = None
        self._tiles: dict[str, TileRecord] = {}
        self._labelled = self._size = self._waiting = self._missing = 0
        self._parts: list[bytes] = []
        self._digest = hashlib.sha256()
        self._counts = np.zeros(256, np.int64)
        self._kind: tuple[int, str] | None = None
        self._quarantine: list[dict[str, Any]] = []
        self._left_out: Counter[str] = Counter()
        self._named: dict[str, list[str]] = {}
        self._adopted: tuple[str, int, str] | None = (
            None  # URL, bytes and SHA-256 of a tar that stays where it is
        )

    def __enter__(self) -> ShardWriter:
        """Return the shard itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put tar and record in place, or drop the tar after an error."""
        if kind is None:
            self._close()
        else:
            self.discard()

    def discard(self) -> None:
        """Remove what was written so far."""
        with suppress(OSError):  # a full disk, again; what was written is removed in any case
            self._stack.__exit__(_Discarded, _Discarded(), None)

    def __len__(self) -> int:
        """Count the tiles so far."""
        return len(self._tiles)

    def add(self, tile: EncodedTile) -> None:
        """Append a tile; label ids are below the number of classes, or 255.

        Raises:
            ValueError: a key that is there already, or an image of another kind than the shard's first.
            OSError: a full disk, with the path.
        """
        self._check(tile.key, (tile.bands, tile.dtype))
        # Append the members, and note where each lies for range requests.
        found = {}
        for extension, data in encode_members(tile):
            self._append(header(f"{tile.key}.{extension}", len(data)))
            found[extension] = Member(self._size, len(data), zlib.crc32(data))
            self._append(data)
            self._append(padding(len(data)))
        self._enter(TileRecord(tile.key, tile.size, found), tile.counts)
        self._missing += tile.missing
        if self._waiting >= _WRITE_BYTES:
            self._flush()

    def enter(self, tile: TileRecord, counts: NDArray[np.int64] | None, kind: tuple[int, str]) -> None:
        """Enter a tile of an adopted tar; raises ValueError as `add` does.

        Args:
            tile: its key, size, and where its members lie in that tar.
            counts: (256,) pixels of each label id; None when it has no label.
            kind: bands and type of the image.
        """
        self._check(tile.key, kind)
        self._enter(tile, counts)

    def adopt(self, url: str, size: int, sha256: str) -> None:
        """Take a tar that others wrote for this shard, after its tiles were entered; it stays where it is.

        Args:
            url: its full path or URL.
            size: bytes.
            sha256: of all of it, hex.
        """
        self._adopted = (url, size, sha256)

    def quarantine(
        self,
        source: str,
        reason: str,
        labelled: bool,
        unknown: UnknownCounts | None = None,
        unread: bool = False,
        classes: Sequence[int] = (),
    ) -> None:
        """Note a bad tile that is left out.

        Args:
            source: file (and window).
            reason: what was found.
            labelled: whether it would have had a label.
            unknown: pixels of mask values which the class file does not know.
            unread: the system could not read it, this time: the same command tries again.
            classes: class ids that a mask with unknown values holds besides.
        """
        bad: dict[str, Any] = {"source": source, "reason": reason, "labelled": labelled}
        if unread:
            bad["unread"] = True
        if unknown:
            bad["unknown"] = [[value, pixels] for value, pixels in unknown.items()]
            bad["classes"] = list(classes)
        self._quarantine.append(bad)

    def left_out(self, name: str, number: int = 1, example: str = "") -> None:
        """Count tiles left out for a reason such as "blank"; a number of 0 makes the reason appear in the index.

        Args:
            name: the reason.
            number: of tiles.
            example: what one of them is called; the first ones of a reason are kept.
        """
        self._left_out[name] += number
        if example and example not in (examples := self._named.setdefault(name, [])):
            examples += [example] if len(examples) < MAX_EXAMPLES else []

    def _check(self, key: str, kind: tuple[int, str]) -> None:
        """Refuse a key that is there already, or an image of another kind than the shard's first."""
        if key in self._tiles:
            raise ValueError(f"key {key} occurs twice in {self.file}: give the files different names")
        if self._kind is not None and self._kind != kind:
            raise ValueError(
                f"tile {key} has {kind[0]} bands of {kind[1]}, those before it in {self.file} have {self._kind[0]} "
                f"of {self._kind[1]}: build one data set of each kind"
            )
        self._kind = kind

    def _enter(self, tile: TileRecord, counts: NDArray[np.int64] | None) -> None:
        """Note a tile, and count its label pixels."""
        if counts is not None:
            assert not counts[self._classes : IGNORE].any(), "ids are checked before"
            self._counts += counts
        self._tiles[tile.key] = tile
        self._labelled += counts is not None

    def _append(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self._waiting += len(data)

    def _flush(self) -> None:
        data = b"".join(self._parts)
        self._parts, self._waiting = [], 0
        self._digest.update(data)
        if self._folder is None:
            return
        try:
            if self._out is None:
                self._out = self._stack.enter_context(self._folder.writing(self.file, large=True))
            self._out.write(data)
        except OSError as error:
            raise OSError(
                f"{self._folder.url_of(self.file)}: cannot be written ({error.strerror or error}); mend it, start again"
            ) from None

    def _close(self) -> None:
        url, size, digest = self._adopted or ("", 0, "")
        if self._tiles and not url:
            self._append(ending(self._size))
            self._flush()
            size, digest = self._size, self._digest.hexdigest()
        self.record = ShardRecord(
            info=ShardInfo(self.file, len(self._tiles), self._labelled, size, digest, url),
            tiles=tuple(self._tiles.values()),
            histogram=tuple(np.trim_zeros(self._counts[:IGNORE], "b").tolist()),
            ignored_pixels=int(self._counts[IGNORE]),
            bands=self._kind[0] if self._kind else 3,
            dtype=self._kind[1] if self._kind else "uint8",
            unit=self._unit,
            quarantine=tuple(self._quarantine),
            left_out=dict(sorted(self._left_out.items())),
            missing_pixels=self._missing,
            named={reason: tuple(names) for reason, names in sorted(self._named.items())},
        )
        # The tar is put in place before its record: a record tells of a whole tar.
        if self._folder is not None:
            self._stack.close()
            if not self._tiles:
                self._folder.remove(self.file)
            write_record(self._folder, self.record)


class _Discarded(Exception):
    """Makes an open file drop its draft."""

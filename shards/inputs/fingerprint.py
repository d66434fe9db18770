"""Fingerprints of inputs: names, sizes and times of files tell whether a data set or shard exists already."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from mkd.cli.arguments import name_fault
from mkd.dataset.index import INDEX_NAME, read_index
from mkd.storage.folder import Folder
from mkd.storage.local_files import FileInfo, link_target
from shards.inputs.name_patterns import glob_to_regex

# What files mean: raise it when the same files come to make other tiles. A finished data set of an older meaning is
# then compared by content, and refused where it would differ; unfinished shards are made again.
READING = 1

_SUFFIXES = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif"}


class Stamp(NamedTuple):
    """An input file's size in bytes, and a mark that changes when it is another one (time, ETag, link's target)."""

    size: int
    changed: str


class FileTree:
    """Files below a folder, local or remote, found by listing each folder at most once."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._files: dict[str, dict[str, Stamp]] = {}
        self._folders: dict[str, list[str]] = {}
        self._faults: dict[str, str] = {}  # path -> why it is no file
        self._linked: dict[str, bool] = {}  # folder -> whether a link leads there

    def stamps(self, names: Iterable[str]) -> dict[str, Stamp]:
        """Return the stamp of each file that is there; missing ones are left out.

        Raises:
            ValueError: a name that is there, and no file.
        """
        found = {}
        for name in names:
            place, _, file = name.rpartition("/")
            self._list(place)
            self._check_file(name)
            if file in self._files[place]:
                found[name] = self._files[place][file]
        return found

    def matching(self, pattern: str) -> list[str]:
        """Return the relative paths that match a pattern with stars, sorted; hidden files are left out.

        Raises:
            ValueError: a match that is no file, or not named in UTF-8.
        """
        expression = glob_to_regex(nfc(pattern))
        found = self._candidates(pattern)
        visible = [name for name in self._faults if not name.rpartition("/")[2].startswith(".")]
        matching = sorted(name for name in {*found, *visible} if expression.fullmatch(nfc(name)))
        for name in matching:
            self._check_file(name)
        return matching

    def similar(self, pattern: str) -> list[str]:
        """Return the paths that would match, were it not for capitals or the spelling of a suffix (jpeg, tiff)."""
        expression, exact = glob_to_regex(_loose(pattern)), set(self.matching(pattern))
        return sorted(
            name
            for name in self._candidates(pattern)
            if name not in exact and expression.fullmatch(_loose(name))
        )

    def files(self, place: str) -> list[str]:
        """Return the names of the files in a folder, sorted; hidden files are left out."""
        place = self._spelled_folder(place)
        self._list(place)
        return sorted(name for name in self._files[place] if not name.startswith("."))

    def alike(self, name: str) -> list[str]:
        """Return the paths that differ from one by capitals or the spelling of the suffix."""
        place, _, file = name.rpartition("/")
        return [
            _join(place, other)
            for other in self.files(place)
            if other != file and _loose(other) == _loose(file)
        ]

    def resolve(self, name: str) -> str | None:
        """Return a path as its file is spelled there, maybe in another Unicode form; None without a file."""
        place, _, file = name.rpartition("/")
        place = self._spelled_folder(place)
        self._list(place)
        here = self._files[place]
        if file not in here:
            file = next((other for other in here if nfc(other) == nfc(file)), "")
        return _join(place, file) if file else None

    def _spelled_folder(self, place: str) -> str:
        spelled = ""
        for piece in place.split("/") if not place.isascii() else ():
            spelled = _join(spelled, self._spelling(spelled, piece))
        return spelled or place

    def _spelling(self, place: str, piece: str) -> str:
        """Return the name of a subfolder as it is spelled there."""
        if piece.isascii():  # has one spelling only, so the folder above need not be listed
            return piece
        self._list(place)
        names = self._folders[place]
        return piece if piece in names else next((name for name in names if nfc(name) == nfc(piece)), piece)

    def _candidates(self, pattern: str) -> set[str]:
        """Return the files of all folders that a pattern reaches."""
        found: list[str] = []
        self._match_pieces("", pattern.split("/"), found)
        return set(found)

    def _check_file(self, name: str) -> None:
        if fault := name_fault(name):
            raise ValueError(f"{self.folder} holds {ascii(name)}, {fault}: rename it")
        if name in self._faults:
            raise ValueError(
                f"{self.folder.url_of(name)} {self._faults[name]}: remove it, or choose other images"
            )

    def _match_pieces(self, place: str, pieces: list[str], found: list[str]) -> None:
        """Go only into folders that the pattern's next piece allows."""
        if not pieces[1:]:
            self._list(place)
            found += [_join(place, name) for name in self._files[place] if not name.startswith(".")]
        elif pieces[0] == "**":
            self._match_pieces(place, pieces[1:], found)
            for name in self._subfolders(place):
                self._match_pieces(_join(place, name), pieces, found)
        elif "*" not in pieces[0]:
            self._match_pieces(_join(place, self._spelling(place, pieces[0])), pieces[1:], found)
        else:
            for name in self._subfolders(place):
                if glob_to_regex(nfc(pieces[0])).fullmatch(nfc(name)):
                    self._match_pieces(_join(place, name), pieces[1:], found)

    def _subfolders(self, place: str) -> list[str]:
        self._list(place)
        return [name for name in self._folders[place] if not name.startswith(".")]

    def _list(self, place: str) -> None:
        if place not in self._files:
            if self._is_loop(place):
                raise ValueError(
                    f"{self.folder.url_of(place)} is a link to a folder that it lies in: remove it, or choose other "
                    "images"
                )
            rows = self.folder.listing(place)
            self._faults |= {_join(place, row.name): row.fault for row in rows if row.fault}
            files = [row for row in rows if not row.is_folder and not row.fault]
            self._files[place] = {row.name: self._stamp(place, row) for row in files}
            self._folders[place] = sorted(row.name for row in rows if row.is_folder)

    def _stamp(self, place: str, row: FileInfo) -> Stamp:
        """Take size and time, and where a local link leads; only what may be a link is looked up."""
        local, target = self.folder.local, ""
        if local is not None and (row.is_link or self._is_linked(place)):
            target = link_target(local / place / row.name, local)
        return Stamp(row.size, f"{row.version} -> {target}" if target else row.version)

    def _is_linked(self, place: str) -> bool:
        """Whether the source folder, or a folder below it on the way to a place, is a link."""
        if place not in self._linked:
            local = self.folder.local
            assert local is not None, "asked for on a disk only"
            above = self._is_linked(place.rpartition("/")[0]) if place else False
            self._linked[place] = above or os.path.islink(os.path.abspath(local / place))
        return self._linked[place]

    def _is_loop(self, place: str) -> bool:
        """Say whether a local folder is a link to one that it lies in."""
        local = self.folder.local
        if local is None or not place or not (local / place).is_symlink():
            return False
        real = os.path.realpath(local / place)
        return any(os.path.realpath(parent) == real for parent in (local / place).parents)


def identity(arguments: Mapping[str, Any], stamps: Mapping[str, Stamp] = MappingProxyType({})) -> str:
    """Hash what a data set is made of: arguments, names and sizes; a copy of the inputs is the same."""
    return _digest([arguments, {name: told.size for name, told in stamps.items()}])


def unit_fingerprint(arguments: Mapping[str, Any], stamps: Mapping[str, Stamp], *more: Any) -> str:
    """Hash what one shard is made of, times of the files and `READING` included: 16 hex digits.

    Shards that are made of another data set have no files, and `READING` has no part in them.
    """
    return _digest([arguments, stamps, more, *([READING] if stamps else [])])[:16]


def holds_dataset(folder: Folder, inputs_sha256: str) -> bool:
    """Say whether a folder already holds the data set of these inputs.

    Args:
        folder: where a data set is to be written.
        inputs_sha256: `identity` of the inputs of the command that asks.

    Returns:
        True when it is there, False when there is none.

    Raises:
        ValueError: another data set is there, or a damaged one.
    """
    if not folder.exists(INDEX_NAME):
        return False
    try:
        index = read_index(folder)
    except ValueError as error:
        raise ValueError(
            f"{folder} holds a damaged data set ({error}): remove its {INDEX_NAME} to mend it by the same command"
        ) from None
    if index.provenance.get("inputs_sha256") == inputs_sha256:
        return True
    raise ValueError(
        f"{folder} already holds the data set {index.name!r} made of other inputs: "
        "choose another --out, or remove it"
    )


def nfc(text: str) -> str:
    """Compose accents (NFC): names that look equal are equal; macOS writes them in two parts."""
    return unicodedata.normalize("NFC", text)


def _loose(path: str) -> str:
    """Write a path or pattern so that capitals and spellings of the suffix are equal."""
    head, slash, file = nfc(path).rpartition("/")
    stem, dot, suffix = file.lower().rpartition(".")
    return f"{head}{slash}{stem}{dot}{_SUFFIXES.get(suffix, suffix)}"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _join(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name

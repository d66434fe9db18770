"""Reads and writes `index.json`, the index of a data set: written last, so that a folder without it is no data set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mkd.dataset.band_statistics import BandStatistics
from mkd.dataset.shard_list import ShardInfo as ShardInfo
from mkd.dataset.shard_list import ShardList, parse_url, shard_sizes, shard_url
from mkd.documents import MAX_JSON, file_name, mapping, parse_json, sequence, shown, whole
from mkd.documents import text as one_line
from mkd.label_coding import LabelCoding
from mkd.labels import IGNORE, Colour
from mkd.pixel_scale import DTYPES, MAX_BANDS
from mkd.storage.folder import Folder

INDEX_NAME = "index.json"
FORMAT = "mkd-dataset"
VERSION = 2
_CODED = 3  # of sets whose labels are mapped at decoding: earlier programs would read other classes
_SHARD_KEYS = {field.name for field in fields(ShardInfo)} - {"url"}  # which adopted shards alone have


@dataclass(frozen=True)
class DatasetIndex:
    """The contents of a data set.

    Attributes:
        name: of the data set; its shards are NAME-000000.tar and so on.
        classes: names, in the order of their ids.
        palette: (r, g, b) of each class.
        samples: tiles, the sum over the shards; so are `labelled` (tiles with a label) and `bytes`.
        labelled: see `samples`.
        bytes: see `samples`.
        histogram: labelled pixels of each class.
        ignored_pixels: pixels with id 255.
        shards: any sequence of them; held as a `ShardList`.
        provenance: free: command, source, split.
        largest: greatest height and greatest width of a tile in pixels.
        bands: of all images.
        dtype: of all images, "uint8", "uint16", "int16" or "float32".
        ignore_index: 255.
        missing_pixels: pixels that hold no data; their tiles have a member "valid.png".
        statistics: of the bands, what networks normalise by; None for 3 bands of uint8, which need none.
        labels: what the values of the labels mean, of adopted sets; None: they are class ids.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    samples: int
    labelled: int
    bytes: int
    histogram: tuple[int, ...]
    ignored_pixels: int
    shards: ShardList
    provenance: Mapping[str, Any]
    largest: tuple[int, int]
    bands: int = 3
    dtype: str = "uint8"
    ignore_index: int = IGNORE
    missing_pixels: int = 0
    statistics: BandStatistics | None = None
    labels: LabelCoding | None = None

    def __post_init__(self) -> None:
        """Convert the shards to a `ShardList`, which takes little memory."""
        if not isinstance(self.shards, ShardList):
            object.__setattr__(self, "shards", ShardList(self.shards))

    @property
    def num_classes(self) -> int:
        """Number of classes, ignored pixels not counted."""
        return len(self.classes)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `index.json`."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        content["statistics"] = self.statistics and vars(self.statistics)
        content["labels"] = self.labels and self.labels.to_json()
        for name in (
            "missing_pixels",
            "statistics",
            "labels",
        ):  # left out where empty, as earlier versions wrote it
            if not content[name]:
                del content[name]
        return {
            "format": FORMAT,
            "version": _CODED if self.labels else VERSION,
            **content,
            "shards": [shard.to_json() for shard in self.shards],
        }

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of the canonical JSON: sorted keys, no spaces, UTF-8."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def read_index(folder: str | os.PathLike[str] | Folder, shards: bool = True) -> DatasetIndex:
    """Read the index of a data set, and check by one listing of each folder that its shards exist in full size.

    Args:
        folder: the data set, a path or URL, holding `index.json` and its shards.
        shards: check that all shards exist in full size; False leaves that to the caller.

    Returns:
        The index. Shards are not read; `shards verify` does that.

    Raises:
        ValueError: no folder, no index, another format, or a shard that is missing or of another size.
    """
    place = folder if isinstance(folder, Folder) else Folder(folder)
    path = place.url_of(INDEX_NAME)
    sizes = place.sizes()
    if INDEX_NAME not in sizes:
        if place.local is not None and not place.local.is_dir():
            raise ValueError(f"no data set at {place}: the folder does not exist; make it with `shards pack`")
        raise ValueError(
            f"no data set at {place}: it has no {INDEX_NAME}; was packing interrupted? run it again"
        )
    try:
        content = _content(place.read(INDEX_NAME, 0, MAX_JSON + 1 if place.local else None))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): pack the data set again") from None
    index = _parse(content, path)
    found = shard_sizes(place, index.shards, sizes) if shards else {}
    for shard in index.shards if shards else ():
        if fault := shard_fault(shard_url(place, shard), shard, found.get(shard.file)):
            raise ValueError(fault)
    return index


def write_index(folder: str | os.PathLike[str] | Folder, index: DatasetIndex) -> None:
    """Write `index.json` atomically.

    Args:
        folder: the data set's folder, its shards already in place.
        index: what the folder holds.

    Raises:
        OSError: a folder that cannot be written.
    """
    place = folder if isinstance(folder, Folder) else Folder(folder)
    place.write(INDEX_NAME, json.dumps(index.to_json(), indent=1, ensure_ascii=False) + "\n")


def _content(text: bytes) -> Any:
    """Decode JSON; shards go straight into their list: a million of them as dictionaries would be 500 MB."""
    shards = ShardList()

    def append_if_shard(decoded: dict[str, Any]) -> dict[str, Any] | None:
        if decoded.keys() - {"url"} != _SHARD_KEYS:
            return decoded
        try:
            shards.append(_shard(decoded))
        except ValueError:
            return decoded
        return None

    content = parse_json(text, append_if_shard)
    if isinstance(content, dict) and content.get("shards") == [None] * len(shards):
        return {**content, "shards": shards}
    return parse_json(text)  # damaged, or something in its provenance looks like a shard


def _parse(content: Any, path: str) -> DatasetIndex:
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
    if found not in ((FORMAT, VERSION), (FORMAT, _CODED)):
        raise ValueError(
            f"{path} has format {shown(found[0])} version {shown(found[1])}, this program reads {FORMAT!r} "
            f"versions {VERSION} and {_CODED}: pack the data set again"
        )
    try:
        index = _index(content)
    except KeyError as error:
        raise ValueError(f"{path} lacks the key {error}: pack the data set again") from None
    except ValueError as error:
        raise ValueError(f"{path} has a value of a wrong kind ({error}): pack the data set again") from None
    _check_sums(index, path)
    return index


def _index(content: dict[str, Any]) -> DatasetIndex:
    """Make an index of its JSON, believing nothing.

    Raises:
        KeyError: a key that is missing.
        ValueError: a value of a wrong kind, or out of its range.
    """
    samples, labelled, size = (whole(content[key], key) for key in ("samples", "labelled", "bytes"))
    height, width = sequence(content["largest"], "largest", 2)
    if (dtype := content["dtype"]) not in DTYPES:
        raise ValueError(f"dtype is {shown(dtype)}, allowed are {', '.join(DTYPES)}")
    bands = whole(content["bands"], "bands", 1, MAX_BANDS)
    return DatasetIndex(
        name=one_line(content["name"], "name"),
        classes=tuple(one_line(name, "a class") for name in sequence(content["classes"], "classes")),
        palette=tuple(_colour(colour) for colour in sequence(content["palette"], "palette")),
        samples=samples,
        labelled=whole(labelled, "labelled", 0, samples),
        bytes=size,
        histogram=tuple(whole(n, "a pixel count") for n in sequence(content["histogram"], "histogram")),
        ignored_pixels=whole(content["ignored_pixels"], "ignored_pixels"),
        shards=_shards(content["shards"]),
        provenance=mapping(content["provenance"], "provenance"),
        largest=(whole(height, "a tile's height", 0, 2**31), whole(width, "a tile's width", 0, 2**31)),
        bands=bands,
        dtype=str(dtype),
        ignore_index=whole(content["ignore_index"], "ignore_index", IGNORE, IGNORE),
        missing_pixels=whole(content.get("missing_pixels", 0), "missing_pixels"),
        statistics=BandStatistics.from_json(content.get("statistics"), bands),
        labels=LabelCoding.from_json(content.get("labels"), len(content["classes"])),
    )


def _colour(value: Any) -> Colour:
    red, green, blue = (whole(part, "a colour", 0, 255) for part in sequence(value, "a colour", 3))
    return red, green, blue


def _shards(content: Any) -> ShardList:
    if isinstance(content, ShardList):
        return content
    return ShardList(_shard(mapping(shard, "a shard")) for shard in sequence(content, "shards"))


def _shard(content: dict[str, Any]) -> ShardInfo:
    samples, labelled, size = (
        whole(content[key], f"a shard's {key}") for key in ("samples", "labelled", "bytes")
    )
    sha256, url = one_line(content["sha256"], "a shard's sha256"), parse_url(content.get("url", ""))
    return ShardInfo(file_name(content["file"], "a shard's file"), samples, labelled, size, sha256, url)


def _check_sums(index: DatasetIndex, path: str) -> None:
    """Refuse an index whose parts contradict each other, as after an edit by hand."""
    lengths = {"palette": len(index.palette), "histogram": len(index.histogram)}
    for name, length in lengths.items():
        if length != index.num_classes:
            raise ValueError(
                f"{path} has {index.num_classes} classes but {length} entries in {name}: pack it again"
            )
    for name, summed in index.shards.sums().items():
        if (listed := getattr(index, name)) != summed:
            raise ValueError(
                f"{path} says {name} {listed}, but its shards sum to {summed}: pack the data set again"
            )


def shard_fault(path: str, shard: ShardInfo, size: int | None) -> str:
    """Return "", or what is wrong with the size of a shard's file: None when there is none."""
    advice = "copy it here again, or pack the data set again"
    if shard.url:
        advice = "put it back, or adopt the shards again, into another folder"
    if size is None:
        return f"shard {path} is missing: {advice}"
    if size != shard.bytes:
        return f"shard {path} has {size} bytes, the index says {shard.bytes}: {advice.replace(' here', '')}"
    return ""

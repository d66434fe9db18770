"""Lists of tars that others wrote: URLs with braces expanded, sizes and times, and the name of each."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mkd.storage.folder import split_url
from shards.inputs.fingerprint import FileTree, Stamp
from shards.progress import list_first, pluralize

_MOST_NAMES = 10
_MOST_TARS = 1_000_000


class AdoptedTar(NamedTuple):
    """A tar of others: full path or URL, bytes, and its name, which stands before the keys of its tiles."""

    url: str
    size: int
    name: str


def expand(urls: Sequence[str]) -> list[str]:
    """Expand braces as webdataset does, and make local paths full ones.

    Raises:
        ValueError: braces or variables that webdataset cannot expand, a place that cannot be read by ranges, or a tar
            that is named twice.
    """
    from webdataset.shardlists import expand_urls  # seconds, which other commands need not wait

    found: list[str] = []
    for given in urls:
        if (number := _number_of_names(given)) > _MOST_TARS:
            raise ValueError(
                f"{given!r} names {number:,} shards, at most {_MOST_TARS:,} are allowed: give fewer"
            )
        try:
            found += [_full_url(url) for url in expand_urls(given)]
        except AssertionError as error:
            raise ValueError(
                f"{given!r} cannot be expanded ({error}): set that variable, or leave it out"
            ) from None
    if twice := [url for url, number in Counter(found).items() if number > 1]:
        listed = list_first(twice, _MOST_NAMES)
        raise ValueError(f"{pluralize(len(twice), 'shard')} named more than once: {listed}; name each once")
    return found


def _number_of_names(given: str) -> int:
    """Count what the ranges of numbers in braces make, before they are made."""
    number = 1
    for first, last in re.findall(r"\{(\d{1,18})\.\.(\d{1,18})\}", given):
        number *= abs(int(last) - int(first)) + 1
    return number


def _full_url(url: str) -> str:
    """Return the full path or URL of a tar.

    Raises:
        ValueError: one that cannot be read by ranges.
    """
    scheme, separator, _ = url.partition(":")
    if url.startswith("pipe:") or (separator and scheme in ("http", "https")):
        raise ValueError(
            f"{url}: tars are read by ranges where they lie, from a disk or an object store: give paths or s3:// URLs"
        )
    folder, name = split_url(url)
    return folder.url_of(name) if folder.local is None else str(folder.local.resolve() / name)


def tar_stamps(urls: Sequence[str]) -> dict[str, Stamp]:
    """Return size and time of each tar; each folder is listed once.

    Raises:
        ValueError: tars that are not there.
    """
    trees: dict[str, FileTree] = {}
    found: dict[str, Stamp] = {}
    for url in urls:
        folder, name = split_url(url)
        tree = trees.setdefault(folder.url, FileTree(folder))
        if stamp := tree.stamps([name]).get(name):
            found[url] = stamp
    if absent := [url for url in urls if url not in found]:
        raise ValueError(
            f"{len(absent)} of {pluralize(len(urls), 'shard')} not there: {list_first(absent, _MOST_NAMES)}; correct "
            "the path or URL, and put it in single quotes"
        )
    return found


def named_tars(stamps: Mapping[str, Stamp]) -> list[AdoptedTar]:
    """Name each tar by its path below the folder that all share, so that no two names are equal."""
    folders = os.path.commonprefix([url.rpartition("/")[0] + "/" for url in stamps])
    common = folders.rpartition("/")[0] + "/"
    return [
        AdoptedTar(url, stamp.size, url.removeprefix(common).removesuffix(".tar"))
        for url, stamp in stamps.items()
    ]

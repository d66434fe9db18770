"""Merge of a build: all shards exist, the bad tiles are within the budget, then the index is written."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from mkd.dataset.index import INDEX_NAME, DatasetIndex, read_index, write_index
from mkd.dataset.label_notes import label_notes
from mkd.dataset.shard_record import ShardRecord, read_record, record_name
from mkd.storage.folder import Folder
from shards.output.build_manifest import BuildManifest, read_manifest
from shards.output.folder_guard import QUARANTINE_NAME, remove_stale_files
from shards.output.folder_lock import FolderLock, lock_folder
from shards.output.totals import DatasetTotals
from shards.output.unknown_values import UnknownValues
from shards.progress import list_first, pluralize
from shards.reading.band_sample import band_statistics

_log = logging.getLogger(__name__)

_PARALLEL_READS = 16  # records read at the same time


def make_index(out: str | os.PathLike[str]) -> DatasetIndex:
    """Merge the parts of a build into a data set: `shards index OUT`.

    Raises:
        ValueError: no build there, missing shards, or more bad tiles than allowed.
    """
    folder = Folder(out)
    manifest = read_manifest(folder)
    if folder.exists(INDEX_NAME):
        index = read_index(folder)
        _log.info("already merged: %s (%s)", out, pluralize(index.samples, "tile"))
        return index
    with lock_folder(folder) as lock:
        index = merge(folder, manifest, lock)
    shards, tiles = pluralize(len(index.shards), "shard"), pluralize(index.samples, "tile")
    _log.info("merged %s, %s in %s", shards, tiles, out)
    for note in label_notes(index):
        _log.warning("note: %s", note)
    return index


def merge(folder: Folder, manifest: BuildManifest, lock: FolderLock, workers: int = 1) -> DatasetIndex:
    """Check that all shards of a build exist, list bad tiles, and write the index last.

    Args:
        folder: where it was built.
        manifest: what was built.
        lock: this job's, of the whole folder.
        workers: processes that read the bands' statistics, of images that need them.

    Returns:
        The index as written.

    Raises:
        ValueError: missing shards, more bad tiles than allowed, no tile at all, or a lock that was lost.
    """
    # Sum up the records of all shards.
    totals, bad, absent = DatasetTotals(), list[Mapping[str, Any]](), list[str]()
    sizes = folder.sizes()
    for file, record in _read_records(folder, manifest, sizes):
        if record is None:
            absent.append(file)
            continue
        totals.add(record)
        bad += record.quarantine
    if absent:
        raise ValueError(
            f"{folder} lacks {len(absent)} of {pluralize(len(manifest.units), 'shard')} of this build "
            f"({list_first(absent, 3)}): run the same command, or its missing parts, again"
        )
    # List the bad tiles, for the user to read whether or not they are too many.
    lock.check()
    _write_quarantine(folder, bad, sizes)
    _check_budget(folder, manifest, totals, bad)
    if not totals.shards:
        left_out = ", ".join(
            f"{number} {name}{f' ({list_first(names)})' if (names := totals.named.get(name)) else ''}"
            for name, number in sorted(totals.left_out.items())
        )
        raise ValueError(
            f"not a single tile for {folder} (left out: {left_out or 'none'}): choose other options"
        )
    if bad:
        listed = folder.url_of(QUARANTINE_NAME)
        _log.warning("note: %s left out, within what is allowed: %s", pluralize(len(bad), "bad tile"), listed)
    # Remove what earlier options left, then write the index: first make sure that the folder is still ours.
    files = [manifest.file(number) for number in range(len(manifest.units))]
    lock.confirm()
    remove_stale_files(folder, manifest.name, {*files, *map(record_name, files)})
    counts: dict[str, Any] = {"left_out": dict(sorted(totals.left_out.items())), "quarantined": totals.bad}
    if totals.named:
        counts["named"] = totals.named
    index = totals.index(manifest.name, manifest.classes, manifest.palette, {**manifest.provenance, **counts})
    index = replace(index, statistics=band_statistics(folder, index, workers), labels=manifest.labels)
    write_index(folder, index)
    return index


def _read_records(
    folder: Folder, manifest: BuildManifest, sizes: Mapping[str, int]
) -> Iterator[tuple[str, ShardRecord | None]]:
    """Yield name and record of each shard, None where it is missing or made of other inputs."""

    def read(number: int) -> tuple[str, ShardRecord | None]:
        file = manifest.file(number)
        if record_name(file) not in sizes:
            return file, None
        record = read_record(folder, file)
        whole = not record.tiles or bool(record.info.url) or sizes.get(file) == record.info.bytes
        return file, record if whole and record.unit == manifest.units[number] else None

    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        for start in range(0, len(manifest.units), 4 * _PARALLEL_READS):  # not all in memory at once
            stop = min(start + 4 * _PARALLEL_READS, len(manifest.units))
            yield from pool.map(read, range(start, stop))


def _write_quarantine(folder: Folder, bad: list[Mapping[str, Any]], sizes: Mapping[str, int]) -> None:
    if bad:
        folder.write(QUARANTINE_NAME, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in bad))
    elif QUARANTINE_NAME in sizes:
        folder.remove(QUARANTINE_NAME)


def _check_budget(
    folder: Folder, manifest: BuildManifest, totals: DatasetTotals, bad: list[Mapping[str, Any]]
) -> None:
    """Stop when too many tiles are bad; finished shards stay."""
    labelled = sum(shard.labelled for shard in totals.shards)
    good = {"labelled": labelled, "unlabelled": sum(shard.samples for shard in totals.shards) - labelled}
    allowed = {"labelled": manifest.budget.labelled, "unlabelled": manifest.budget.unlabelled}
    options = {"labelled": "--max-bad-labelled", "unlabelled": "--max-bad"}
    for kind, option in options.items():
        number, of = totals.bad[kind], good[kind] + totals.bad[kind]
        if number <= allowed[kind] * of:
            continue
        first = next(entry for entry in bad if entry["labelled"] is (kind == "labelled"))
        source, reason = first["source"], first["reason"]
        if first.get("unknown"):  # which are listed for all tiles together
            reason = "unknown mask values"
        shown = reason if source in reason else f"{source}: {reason}"
        listed = folder.url_of(QUARANTINE_NAME)
        raise ValueError(
            f"{number} of {pluralize(of, f'{kind} tile')} are bad, allowed is a share of {allowed[kind]:g} ({option}): "
            f"the first: {shown}; {_unknown_values_message(manifest, totals, bad)}all are listed in {listed}; "
            "correct them or allow more, and start again: finished shards are kept"
        )


def _unknown_values_message(
    manifest: BuildManifest, totals: DatasetTotals, bad: list[Mapping[str, Any]]
) -> str:
    """Sum up unknown mask values, which have one cause and one remedy for many tiles."""
    unknown, found = UnknownValues(), totals.classes_found()
    for entry in bad:
        found.update(entry.get("classes", ()))
        pairs = entry.get("unknown", ())
        unknown.add({_value(value): pixels for value, pixels in pairs}, entry["source"])
    text = unknown.message(manifest.classfile, manifest.masks, len(manifest.classes), found)
    return f"{text}; " if text else ""


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

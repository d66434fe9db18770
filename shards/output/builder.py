"""Building a data set from units of work, one shard each: in parallel, in parts, and on from where it stopped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mkd.dataset.index import DatasetIndex, read_index
from mkd.dataset.shard_record import ShardRecord, read_record, record_name
from mkd.storage.folder import Folder
from shards.inputs.fingerprint import is_done
from shards.output.build_manifest import (
    BUILD_NAME,
    BuildManifest,
    part_of,
    read_build,
    settle,
    share_of,
    write_build,
)
from shards.output.folder_guard import claim, remove_stray
from shards.output.folder_lock import FolderLock, locked
from shards.output.merge import merge
from shards.output.shard_writer import ShardWriter
from shards.process_pool import each
from shards.progress import Say, counted, progress

Work = Callable[[Any, ShardWriter], None]


class Unit(NamedTuple):
    """One shard to be made: its number, the fingerprint of its inputs and options, what the work gets."""

    number: int
    fingerprint: str
    args: Any


@dataclass(frozen=True)
class BuildResult:
    """The index, None for a part, and whether the data set stood there before."""

    index: DatasetIndex | None
    done_before: bool


def build(
    out: str | os.PathLike[str],
    description: BuildManifest,
    units: Sequence[Unit],
    work: Work,
    *,
    workers: int = 1,
    part: str | None = None,
    replace_other: bool = False,
    say: Say = print,
) -> BuildResult:
    """Make all shards of a data set, or those of one part, and the index when all of them stand.

    Args:
        out: path or URL of the data set.
        description: what is built, with "inputs_sha256" (`identity`) in its provenance; units are filled in here.
        units: all units of the build, numbered from 0, whatever the part.
        work: called with a unit's `args` and its `ShardWriter`; deterministic; picklable for several workers.
        workers: processes, >= 1.
        part: "I/N"; the index is then left to `make_index`.
        replace_other: an unfinished build of other options or inputs there is dropped instead of refused.
        say: takes each line of the report.

    Raises:
        ValueError: another job or data set there, what the work finds, or too many bad tiles.
        OSError: a place that cannot be written.
    """
    folder, where = Folder(out), part_of(part)
    wanted = replace(description, units=tuple(unit.fingerprint for unit in units))
    workers = _workers(folder, workers, say)
    if is_done(folder, wanted.provenance["inputs_sha256"]):
        index = read_index(folder)
        _check_unchanged(folder, wanted, index, units, work, workers)
        return BuildResult(index, True)
    claim(folder)
    with locked(folder, where) as lock:
        before = settle(folder, wanted, lock.alone, replace_other)
        if before not in ("", wanted.name):
            remove_stray(folder, before)
        mine = share_of(units, where)
        kept = _make(folder, wanted, mine, work, workers, lock)
        if kept:
            say(f"{kept} of {counted(len(mine), 'shard')} stood already")
        if where is None:
            return BuildResult(merge(folder, wanted, lock, say), False)
    say(
        f"part {part}: {len(mine)} of {counted(len(units), 'shard')} stand; when all parts are done: shards index {out}"
    )
    return BuildResult(None, False)


@dataclass(frozen=True)
class _Maker:
    """Makes one shard, unless it stands; returns whether it stood."""

    folder: str
    description: BuildManifest
    work: Work

    def __call__(self, task: tuple[Unit, bool]) -> bool:
        unit, recorded = task
        folder, file = Folder(self.folder), self.description.file(unit.number)
        if recorded and _stands(folder, file, unit.fingerprint):
            return True
        with ShardWriter(folder, file, len(self.description.classes), unit.fingerprint) as shard:
            self.work(unit.args, shard)
        return False


@dataclass(frozen=True)
class _Comparer:
    """Makes one shard without writing it; returns its SHA-256, "" when it has no tile."""

    description: BuildManifest
    work: Work

    def __call__(self, unit: Unit) -> tuple[str, str]:
        file = self.description.file(unit.number)
        with ShardWriter(None, file, len(self.description.classes)) as shard:
            self.work(unit.args, shard)
        return file, shard.record.info.sha256


def _make(
    folder: Folder, wanted: BuildManifest, units: Sequence[Unit], work: Work, workers: int, lock: FolderLock
) -> int:
    """Make the shards that do not stand; return how many did."""
    sizes, kept = folder.sizes(), 0
    tasks = [(unit, record_name(wanted.file(unit.number)) in sizes) for unit in units]
    maker = _Maker(folder.url, replace(wanted, units=()), work)
    for stood in progress(each(maker, tasks, workers), len(tasks), wanted.title):
        lock.check()
        kept += stood
    return kept


def _stands(folder: Folder, file: str, fingerprint: str) -> bool:
    """Say whether a shard of these inputs stands whole: size and SHA-256 are its record's."""
    try:
        record = read_record(folder, file)
        if any(bad.get("unread") for bad in record.quarantine):  # the disk may be well again
            return False
        return record.unit == fingerprint and (not record.tiles or _is_whole(folder, record))
    except (ValueError, FileNotFoundError):  # a damaged record or no tar: it is made again
        return False


def _is_whole(folder: Folder, record: ShardRecord) -> bool:
    digest, size = hashlib.sha256(), 0
    with folder.open(record.info.file) as file:
        while block := file.read(4 << 20):
            digest.update(block)
            size += len(block)
    return (size, digest.hexdigest()) == (record.info.bytes, record.info.sha256)


def _check_unchanged(
    folder: Folder,
    wanted: BuildManifest,
    index: DatasetIndex,
    units: Sequence[Unit],
    work: Work,
    workers: int,
) -> None:
    """Know a finished data set again when its inputs were written anew with the same names and sizes.

    Raises:
        ValueError: their content is another one.
    """
    if not folder.exists(BUILD_NAME):  # a copy of a data set without it: names and sizes must do
        return
    if read_build(folder).units == wanted.units:
        return
    known = {shard.file: shard.sha256 for shard in index.shards}
    maker = _Comparer(replace(wanted, units=()), work)
    for file, digest in progress(each(maker, units, workers), len(units), "compare"):
        if digest != known.get(file, ""):
            raise ValueError(
                f"{folder} already holds the data set {index.name!r} made of other inputs ({file} would differ): "
                "choose another --out, or remove it"
            )
    write_build(folder, wanted)


def _workers(folder: Folder, workers: int, say: Say) -> int:
    if workers < 1:  # before anything is written
        raise ValueError(f"--workers {workers}: at least one process is needed")
    if folder.url.startswith("memory://") and workers > 1:
        say("note: memory:// belongs to one process: --workers 1")
        return 1
    return workers

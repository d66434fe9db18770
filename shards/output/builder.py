"""Builds of data sets from units of work, one shard each: in parallel, in parts, resumable."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mkd.dataset.index import DatasetIndex, read_index
from mkd.dataset.shard_record import ShardRecord, read_record, record_name
from mkd.storage.folder import Folder
from shards.inputs.fingerprint import holds_dataset
from shards.output.build_manifest import (
    BUILD_NAME,
    BuildManifest,
    prepare_manifest,
    read_manifest,
    write_manifest,
)
from shards.output.build_options import BuildOptions, parse_part, select_part
from shards.output.folder_guard import prepare_folder, remove_stale_files
from shards.output.folder_lock import FolderLock, lock_folder
from shards.output.merge import merge
from shards.output.shard_writer import ShardWriter
from shards.process_pool import map_in_processes
from shards.progress import pluralize, progress

_log = logging.getLogger(__name__)

Work = Callable[[Any, ShardWriter], None]


class Unit(NamedTuple):
    """One shard to be made: its number, the fingerprint of its inputs and options, what the work gets."""

    number: int
    fingerprint: str
    args: Any


@dataclass(frozen=True)
class BuildResult:
    """The index, None for a part, and whether the data set existed before."""

    index: DatasetIndex | None
    done_before: bool


def build(manifest: BuildManifest, units: Sequence[Unit], work: Work, options: BuildOptions) -> BuildResult:
    """Make all shards of a data set, or those of one part; write the index once all exist.

    Args:
        manifest: what is built, with "inputs_sha256" (`identity`) in its provenance; units are filled in here.
        units: all units of the build, numbered from 0, whatever the part.
        work: called with a unit's `args` and its `ShardWriter`; deterministic; picklable for several workers.
        options: where to, in how many processes, which part; name, shard size and budget were used for the manifest.

    Returns:
        The index; None for a part, whose index is left to `make_index`.

    Raises:
        ValueError: another job or data set there, what the work finds, or too many bad tiles.
        OSError: a place that cannot be written.
    """
    folder, part = Folder(options.out), parse_part(options.part)
    wanted = replace(manifest, units=tuple(unit.fingerprint for unit in units))
    workers = _usable_workers(folder, options.workers)
    # A finished data set of these inputs is left as it is.
    if holds_dataset(folder, wanted.provenance["inputs_sha256"]):
        index = read_index(folder)
        _check_same_content(folder, wanted, index, units, work, workers)
        return BuildResult(index, True)
    prepare_folder(folder)
    # The lock keeps other jobs out of the folder; other parts of this build have locks of their own beside it.
    with lock_folder(folder, part) as lock:
        # What an earlier build of something else left may go only now: nobody else is at work on it.
        before = prepare_manifest(folder, wanted, lock.exclusive, options.replace)
        if before not in ("", wanted.name):
            remove_stale_files(folder, before)
        # Make the shards that do not exist yet.
        own_units = select_part(units, part)
        kept = _build_shards(folder, wanted, own_units, work, workers, lock)
        if kept:
            _log.info("%d of %s stood already", kept, pluralize(len(own_units), "shard"))
        # Only a build of all parts knows that every shard exists.
        if part is None:
            return BuildResult(merge(folder, wanted, lock, workers), False)
    _log.info(
        "part %s: %d of %s stand; when all parts are done: shards index %s",
        options.part,
        len(own_units),
        pluralize(len(units), "shard"),
        options.out,
    )
    return BuildResult(None, False)


@dataclass(frozen=True)
class _ShardBuilder:
    """Makes one shard, unless it exists already; returns whether it did. Runs in a worker process."""

    folder: str
    manifest: BuildManifest
    work: Work

    def __call__(self, task: tuple[Unit, bool]) -> bool:
        unit, recorded = task
        folder, file = Folder(self.folder), self.manifest.file(unit.number)
        if recorded and _is_complete(folder, file, unit.fingerprint):
            return True
        with ShardWriter(folder, file, len(self.manifest.classes), unit.fingerprint) as shard:
            self.work(unit.args, shard)
        return False


@dataclass(frozen=True)
class _ShardHasher:
    """Makes one shard without writing it; returns its name and SHA-256, "" when it has no tile."""

    manifest: BuildManifest
    work: Work

    def __call__(self, unit: Unit) -> tuple[str, str]:
        file = self.manifest.file(unit.number)
        with ShardWriter(None, file, len(self.manifest.classes)) as shard:
            self.work(unit.args, shard)
        return file, shard.record.info.sha256


def _build_shards(
    folder: Folder, wanted: BuildManifest, units: Sequence[Unit], work: Work, workers: int, lock: FolderLock
) -> int:
    """Make the shards that do not exist yet; return how many did."""
    # One listing tells which shards have a record; only those are read and hashed to be kept.
    sizes, kept = folder.sizes(), 0
    tasks = [(unit, record_name(wanted.file(unit.number)) in sizes) for unit in units]
    # Each worker gets the task once; the list of units, which may be long, is left out of it.
    builder = _ShardBuilder(folder.url, replace(wanted, units=()), work)
    for existed in progress(map_in_processes(builder, tasks, workers), len(tasks), wanted.title, "shards"):
        lock.check()  # another job may have taken over a remote lock in the meantime
        kept += existed
    return kept


def _is_complete(folder: Folder, file: str, fingerprint: str) -> bool:
    """Say whether a shard of these inputs exists whole: size and SHA-256 are its record's."""
    try:
        record = read_record(folder, file)
        if any(bad.get("unread") for bad in record.quarantine):  # the disk may be well again
            return False
        # The size and time of an adopted tar are part of the fingerprint: it is not read again.
        same = not record.tiles or bool(record.info.url) or _matches_record(folder, record)
        return record.unit == fingerprint and same
    except (ValueError, FileNotFoundError):  # a damaged record or no tar: it is made again
        return False


def _matches_record(folder: Folder, record: ShardRecord) -> bool:
    digest, size = hashlib.sha256(), 0
    with folder.open(record.info.file) as file:
        while block := file.read(4 << 20):
            digest.update(block)
            size += len(block)
    return (size, digest.hexdigest()) == (record.info.bytes, record.info.sha256)


def _check_same_content(
    folder: Folder,
    wanted: BuildManifest,
    index: DatasetIndex,
    units: Sequence[Unit],
    work: Work,
    workers: int,
) -> None:
    """Recognise a finished data set whose inputs were written again, or are read by another version.

    Their names and sizes are the same. A data set is kept where today's program makes the same shards of them.

    Raises:
        ValueError: their content is another one.
    """
    if not folder.exists(BUILD_NAME):  # a copy of a data set without it: names and sizes must do
        return
    if read_manifest(folder).units == wanted.units:
        return
    known = {shard.file: shard.sha256 for shard in index.shards}
    hasher = _ShardHasher(replace(wanted, units=()), work)
    for file, digest in progress(map_in_processes(hasher, units, workers), len(units), "compare", "shards"):
        if digest != known.get(file, ""):
            raise ValueError(
                f"{folder} already holds the data set {index.name!r} made of other inputs, or of the same ones by a "
                f"version that read them otherwise ({file} would differ): choose another --out, or remove it"
            )
    write_manifest(folder, wanted)


def _usable_workers(folder: Folder, workers: int) -> int:
    """Check the number of workers, before anything is written; memory:// takes one."""
    if workers < 1:
        raise ValueError(f"--workers {workers}: at least one process is needed")
    if folder.url.startswith("memory://") and workers > 1:
        _log.warning("note: memory:// belongs to one process: --workers 1")
        return 1
    return workers

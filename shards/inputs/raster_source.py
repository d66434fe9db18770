"""Rasters on a disk or behind any fsspec URL, opened for reading by windows."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from mkd.cli.arguments import name_fault
from mkd.geo.raster import RasterReader
from mkd.geo.raster_files import lossy_sources, raster_files, source_fault
from mkd.geo.raster_safety import RasterLimits
from mkd.geo.remote_file_bridge import Opener
from mkd.geo.vector.vector_labels import companion_files, vector_path
from mkd.storage.folder import Folder, split_url
from mkd.storage.local_files import link_target
from shards.inputs.fingerprint import FileTree, Stamp

_WORLD_FILES = (".tfw", ".tifw", ".wld", ".TFW")
_BESIDE = (".msk", ".aux.xml")


def open_raster(path: str, limits: RasterLimits = RasterLimits()) -> RasterReader:  # noqa: B008 - frozen
    """Open a raster; masks beside a remote one are found too.

    Args:
        path: path or URL.
        limits: what is believed of it.

    Raises:
        ValueError: no raster there, one that needs a world file at a URL, or a place that refuses or does not answer.
    """
    folder, name = split_url(path)
    if folder.local is not None:
        return RasterReader(folder.local / name, limits=limits)
    sizes = folder.sizes()
    if name not in sizes:
        raise ValueError(f"no raster at {path}: give the URL of a GeoTIFF")
    reader = RasterReader(path, _opener(folder, sizes), limits)
    worlds = [name[: name.rfind(".")] + end for end in _WORLD_FILES]
    world_file = next((world for world in worlds if world in sizes), None)
    if reader.info.transform is None and world_file is not None:
        reader.close()
        raise ValueError(
            f"{path} has its place on Earth in {world_file}, which GDAL does not read from a URL: put it into the "
            "raster with gdal_translate, or cut a local copy"
        )
    return reader


def _opener(folder: Folder, sizes: Mapping[str, int]) -> Opener:
    """Return how GDAL reaches the files of a remote folder, whose sizes are known."""

    def opened(asked: str) -> BinaryIO:
        if asked not in sizes:
            raise FileNotFoundError(asked)
        return folder.open(asked, sizes[asked])

    return opened


def expand_pattern(entry: str) -> list[str]:
    """List the rasters that a path, URL or pattern with stars means, sorted.

    Raises:
        ValueError: a pattern that matches none, or one with ? or brackets.
    """
    if re.search(r"[?\[\]]", entry) and not glob.glob(glob.escape(entry)):
        raise ValueError(
            f"--source {entry!r} has '?' or brackets: only * is a pattern here, use it or give the names"
        )
    if "*" not in entry:
        found = [spelled_there(entry)]
    elif "://" not in entry:
        found = sorted(glob.glob(entry, recursive=True))
    else:
        fixed = entry.partition("*")[0].rpartition("/")[0]
        names = FileTree(Folder(fixed)).matching(entry[len(fixed) + 1 :])
        found = [f"{fixed}/{name}" for name in names]
    for path in found:
        if fault := name_fault(path):
            raise ValueError(f"--source {entry!r} matches {ascii(path)}, {fault}: rename it")
    if not found:
        raise ValueError(f"no raster matches {entry!r}: give paths of GeoTIFFs")
    return found


def spelled_there(path: str) -> str:
    """Return a path or URL as its file is spelled: accents have two Unicode forms, which look equal."""
    if path.isascii() or ("://" not in path and os.path.exists(path)):
        return path
    folder, name = split_url(path)
    found = FileTree(folder).resolve(name) if folder.local is None or folder.local.is_dir() else None
    return path if found is None else path[: len(path) - len(name)] + found


def raster_coding(path: str) -> str:
    """Name the lossy coding of a raster's pixels, or of those that a VRT takes, "" where they are as they were drawn.

    Args:
        path: path or URL of a raster that exists.
    """
    return lossy_sources(*_files_of(path))


def check_sources(path: str) -> None:
    """Check that the files that a VRT names are taken as a viewer shows them.

    Args:
        path: path or URL of a raster that exists.

    Raises:
        ValueError: one of several pictures, or one that its EXIF orientation turns.
    """
    if path.lower().endswith(".vrt") and (fault := source_fault(*_files_of(path))):
        raise ValueError(fault)


def _files_of(path: str) -> tuple[list[str], Opener | None]:
    """List a raster and what it depends on, and how those are reached that are not on a disk."""
    folder, name = split_url(path)
    if folder.local is not None:
        return raster_files(folder.local / name), None
    return [name, *sorted(_remote_dependencies(folder, name))], _opener(folder, folder.sizes())


def raster_stamps(paths: Iterable[str]) -> dict[str, Stamp]:
    """Return size and time of each raster, listing each folder once."""
    trees: dict[str, FileTree] = {}
    stamps = {}
    for path in paths:
        folder, name = split_url(path)
        tree = trees.setdefault(folder.url, FileTree(folder))
        stamps[path] = tree.stamps([name])[name]
    return stamps


def dependency_stamps(paths: Iterable[str]) -> dict[str, dict[str, Stamp]]:
    """Return the stamps of the other files that each raster depends on.

    These are the sources of a VRT, also of those inside, masks, world files and metadata beside a raster.

    Args:
        paths: paths or URLs of rasters.

    Returns:
        By raster, the stamp of each file by its name from the raster's folder; size -1 for one that is not there.
    """
    return {path: _dependencies(path) for path in paths}


def _dependencies(path: str) -> dict[str, Stamp]:
    folder, name = split_url(path)
    if folder.local is None:
        return _remote_dependencies(folder, name)
    found = {}
    local = str(folder.local / name)
    for file in companion_files(local) if vector_path(local) else raster_files(local)[1:]:
        label = os.path.relpath(file, folder.local)  # a copy of all of them elsewhere is the same
        try:
            state = os.stat(file)
            target = link_target(file, os.path.dirname(file))  # mounts further up may differ between machines
            changed = f"{state.st_mtime_ns} -> {target}" if target else str(state.st_mtime_ns)
            found[label] = Stamp(state.st_size, changed)
        except OSError:  # a URL, or not there: reading the pixels tells
            found[label] = Stamp(-1, "")
    return found


def _remote_dependencies(folder: Folder, name: str) -> dict[str, Stamp]:
    """Take what lies beside a raster at a URL, and the sources of a VRT: GDAL reads them from its folder only."""
    tree, found, rest = FileTree(folder), dict[str, Stamp](), [name]
    while rest:
        file = rest.pop()
        stem = file[: file.rfind(".")]
        named = [file + end for end in _BESIDE] + [stem + end for end in (*_BESIDE, *_WORLD_FILES)]
        if file.lower().endswith(".vrt"):
            sources = re.findall(r"<SourceFilename[^>]*>([^<]+)<", folder.read(file).decode(errors="replace"))
            named += [source.rpartition("/")[2] for source in sources]
        new = {key: stamp for key, stamp in tree.stamps(named).items() if key not in found and key != name}
        found |= new
        rest += new
    return found

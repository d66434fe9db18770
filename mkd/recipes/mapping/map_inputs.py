"""The rasters that a map is asked of: found, checked, opened; and the maps that are there already."""

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mkd.atomic import check_writable
from mkd.config.constraints import on_disk, output_file
from mkd.config.schema import PredictRun
from mkd.geo.raster import RasterReader
from mkd.geo.raster_files import raster_files
from mkd.geo.raster_safety import RasterLimits
from mkd.inference.band_match import check_scene
from mkd.inference.row_parts import rows_folder
from mkd.pixel_scale import PixelScale
from mkd.recipes.mapping.map_products import check_min_area
from mkd.storage.folder import Folder, split_url
from mkd.storage.local_files import link_target
from shards.inputs.raster_source import (
    check_sources,
    dependency_stamps,
    expand_pattern,
    open_raster,
    raster_stamps,
)

SUFFIXES = (".tif", ".tiff", ".vrt")  # of the rasters in a folder
MADE_OF = "MKD_MADE_OF"  # tag of a map: hash of model, settings and inputs
ABANDONED_SECONDS = 3600.0  # after which a half-written map that no one goes on writing is removed


def plan_maps(config: PredictRun, scale: PixelScale) -> list[list[str]]:
    """Return path or URL of each raster with the path of its map, after a look at all of them for a model."""
    on_disk("output", config.output)
    sources = [source for entry in config.input for source in _expand(entry)]
    if twice := sorted({source for source in sources if sources.count(source) > 1}):
        raise ValueError(f"input names {', '.join(twice)} more than once; name each raster once")
    pairs = _with_outputs(config, sources)
    for source, output in pairs:
        check_writable(output)
        if "://" not in source and Path(output).resolve() == Path(source).resolve():
            raise ValueError(f"output={output} is the input; give the map another name or folder")
        if not source.startswith(("http://", "https://")):  # those are downloaded, one at a time
            with open_scene(source, config, scale) as reader:
                check_min_area(config, reader)
                check_sources(source)
    _remove_leftovers({Path(output) for _, output in pairs})
    return [[source, output] for source, output in pairs]


def _with_outputs(config: PredictRun, sources: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each raster with its map: the file `output`, or its own name in the folder `output`."""
    output = Path(config.output)
    names = {source: Path(source.partition("?")[0] if "://" in source else source).stem for source in sources}
    if len(sources) == 1 and len(config.input) == 1 and not _is_folder(config.input[0]):
        return [(sources[0], output_file("output", config.output, f"{names[sources[0]]}.tif"))]
    if output.is_file():
        raise ValueError(f"output={output} is a file, and there are {len(sources)} inputs; give a folder")
    by_name: dict[str, str] = {}
    for source, name in names.items():
        if name in by_name:
            raise ValueError(
                f"input: {by_name[name]} and {source} would both become {output / name}.tif; map them by two "
                "commands, with two folders as output="
            )
        by_name[name] = source
        if "://" not in source and output.resolve() == Path(source).resolve().parent:
            raise ValueError(
                f"output={output} is the folder of the input {source}; give the maps another one"
            )
    return [(source, str(output / f"{name}.tif")) for name, source in by_name.items()]


def _expand(entry: str) -> list[str]:
    """Return the rasters that a path, a folder, a pattern or a URL means, sorted."""
    entry = entry.removeprefix("file://")
    if "://" in entry:
        if entry.startswith(("http://", "https://")):
            return [entry]
        if "*" in entry:
            return expand_pattern(entry)
        if _is_folder(entry):
            found = [name for name in Folder(entry).sizes() if name.lower().endswith(SUFFIXES)]
            return _some(entry, [f"{entry.rstrip('/')}/{name}" for name in sorted(found)])
        return [entry]
    if Path(entry).is_dir():
        files = [str(p) for p in Path(entry).iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES]
        return _some(entry, sorted(file for file in files if not Path(file).name.startswith(".")))
    if Path(entry).is_file():
        return [entry]
    # A bracket in a pattern may be a part of a name.
    matches = glob.glob(entry, recursive=True) or glob.glob(entry.replace("[", "[[]"), recursive=True)
    return _some(entry, sorted(match for match in matches if Path(match).is_file()))


def _some(entry: str, found: list[str]) -> list[str]:
    if not found:
        raise ValueError(
            f"input={entry}: no raster there; give a GeoTIFF, a folder of {', '.join(SUFFIXES)} files, a pattern with "
            "* or a URL"
        )
    return found


def _is_folder(entry: str) -> bool:
    entry = entry.removeprefix("file://")
    if "://" not in entry:
        return Path(entry).is_dir() or glob.has_magic(entry) and not Path(entry).is_file()
    if entry.startswith(("http://", "https://")):
        return False
    return "*" in entry or entry.endswith("/") or not entry.lower().endswith(SUFFIXES)


@contextlib.contextmanager
def open_scene(source: str, config: PredictRun, scale: PixelScale) -> Iterator[RasterReader]:
    """Open a raster and check that it suits the model.

    One behind http(s) is downloaded first, because not every server gives ranges of a file.
    """
    limits = RasterLimits(trust_vrt=config.trust_vrt)
    if not source.startswith(("http://", "https://")):
        with open_raster(source, limits) as reader:
            check_scene(reader, config.bands, scale)
            yield reader
        return
    with tempfile.TemporaryDirectory(prefix="mkd-") as aside:
        folder, name = split_url(source)
        copy = Path(aside) / (Path(name.partition("?")[0]).name or "raster.tif")
        folder.download(name, copy)
        with RasterReader(copy, limits=limits) as reader:
            check_scene(reader, config.bands, scale)
            yield reader


def content_of(source: str, reader: RasterReader) -> Sequence[object]:
    """Return what tells one content of a raster from another, but for times on a disk: see `is_whole`."""
    if source.startswith(("http://", "https://")):
        digest = hashlib.sha256()
        with open(reader.path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return [digest.hexdigest()]
    if "://" in source:
        stamps = raster_stamps([source]) | dependency_stamps([source])[source]
        return [(name, *stamp) for name, stamp in sorted(stamps.items())]
    return sorted(map(_file_content, scene_files(source, reader)))


def scene_files(source: str, reader: RasterReader) -> list[str]:
    """Return the files on a disk that a raster consists of, those behind VRTs of VRTs too; none of a URL."""
    if "://" in source:
        return []
    behind = raster_files(source) if source.lower().endswith(".vrt") else []
    return list(dict.fromkeys([*reader.info.files, *(name for name in behind if Path(name).is_file())]))


def _file_content(name: str) -> tuple[str | int, ...]:
    """Return name and size of a file, and where it leads if it is a link, which may be turned to one of equal size."""
    target = link_target(name, Path(name).parent)
    return (Path(name).name, Path(name).stat().st_size, *([target] if target else []))


def is_whole(output: Path, made_of: str, files: Sequence[str]) -> bool:
    """Whether a map is there, made of the same, and none of its raster's files on a disk has changed since."""
    if not output.is_file():
        return False
    try:
        with RasterReader(output) as there:
            if there.info.tags.get(MADE_OF) != made_of:
                return False
    except ValueError:
        return False
    return newest_change(files) <= output.stat().st_mtime_ns


def newest_change(files: Sequence[str]) -> int:
    """Return when files on a disk changed last, ns since the epoch; 0 without any."""
    times = [Path(name).stat() for name in files]  # of a file moved here the ctime is new
    return max((max(file.st_mtime_ns, file.st_ctime_ns) for file in times), default=0)


def _remove_leftovers(outputs: set[Path]) -> None:
    """Remove what killed commands left: half-written maps of these names, and others that nobody writes any more.

    Finished rows of these names stay: this command may go on with them, see `RowParts`.
    """
    for folder in {output.parent for output in outputs}:
        kept = {rows_folder(output) for output in outputs}
        for left in {
            path for end in ("", ".parts", ".rows") for path in folder.glob(f".tmp-*.tif{end}")
        } - kept:
            mine = folder / left.name.removeprefix(".tmp-").removesuffix(".parts") in outputs
            with contextlib.suppress(OSError):
                if not mine and time.time() - left.stat().st_mtime < ABANDONED_SECONDS:
                    continue
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    os.unlink(left)

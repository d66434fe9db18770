"""launch/predict_map.py: model folder + rasters -> a land-cover map of each."""

import contextlib
import glob
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from mkd.atomic import check_writable
from mkd.cli.log_lines import route_log_lines, say_on_stdout
from mkd.config.constraints import on_disk, output_file
from mkd.config.schema import PredictRun
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World, find_world
from mkd.geo.raster import RasterReader
from mkd.inference.map_writer import MapSummary, check_scene, predict_map
from mkd.inference.windowed import default_overlap
from mkd.model_folder import ModelCard, weights_digest
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.storage.folder import Folder, split_url
from shards.inputs.fingerprint import identity
from shards.inputs.raster_source import expand_pattern, open_raster, raster_stamps

log = logging.getLogger(__name__)

UNKNOWN_CROP = 512  # pixels: the window of models that are older than the crop in their card
SUFFIXES = (".tif", ".tiff", ".vrt")  # of the rasters in a folder
MADE_OF = "MKD_MADE_OF"  # tag of a map: hash of model, settings and inputs
ABANDONED_SECONDS = 3600.0  # after which a half-written map that no one goes on writing is removed


def predict(config: PredictRun) -> str:
    """Write the maps that are not there yet; return one line about them.

    Each map appears when it is whole. Several ranks share the rasters, each by itself.

    Raises:
        ValueError: an input or output that does not do; nothing has been predicted then.
    """
    world = find_world(config.device)
    # Rank 0 looks at all inputs before any is predicted; the others wait for its list.
    pairs: list[list[str]] = run_on_rank0(world, lambda: _plan(config))
    model, card = factories.load_checked("model", config.model)
    made_by = {"model_sha256": weights_digest(config.model), **_settings(config, card)}
    lines = list[str]()
    with route_log_lines(say_on_stdout, __name__):
        for source, output in pairs[world.rank :: world.ranks]:
            with _reader(source) as reader:
                made_of = identity(made_by | {"input": _content(source, reader)})
                if _is_whole(Path(output), made_of, () if "://" in source else reader.info.files):
                    lines.append(f"{output}: this map is there already, of the same model and input")
                else:
                    title = Path(output).name if len(pairs) > 1 else "map"
                    done = _predict(config, model, card, world, reader, output, made_of, title)
                    lines.append(f"{output}: {_summary(card, done)}")
            if len(pairs) > 1:
                log.info(lines[-1])
    if len(pairs) == 1:
        return lines[0] if lines else f"{pairs[0][1]}: made by rank 0"
    return f"{len(lines)} maps in {Path(pairs[0][1]).parent}" + ("" if world.ranks == 1 else " by rank 0")


def _predict(
    config: PredictRun,
    model: SegmentationNetwork,
    card: ModelCard,
    world: World,
    reader: RasterReader,
    output: str,
    made_of: str,
    title: str,
) -> MapSummary:
    settings = _settings(config, card)
    return predict_map(
        model,
        card.palette,
        reader,
        output,
        tile=settings["tile"],
        overlap=settings["overlap"],
        batch=config.batch,
        device=world.device,
        autocast=world.device.type == "cuda",
        tags={MADE_OF: made_of},
        title=title,
    )


def _summary(card: ModelCard, done: MapSummary) -> str:
    shares = {
        c: n / max(1, sum(done.class_pixels)) for c, n in zip(card.classes, done.class_pixels, strict=True)
    }
    covers = ", ".join(f"{c} {100 * s:.1f} %" for c, s in shares.items())
    sure = "no data" if done.mean_confidence is None else f"mean confidence {done.mean_confidence:.2f}"
    return f"{done.width} x {done.height} pixels; {covers}; {sure}"


def _settings(config: PredictRun, card: ModelCard) -> dict[str, int]:
    """Return the keys that a map depends on beside model and input, with what stands for null."""
    tile = config.tile if config.tile is not None else card.crop or UNKNOWN_CROP
    overlap = default_overlap(tile) if config.overlap is None else config.overlap
    places = ("model", "input", "output", "batch", "device")
    return {k: v for k, v in asdict(config).items() if k not in places} | {"tile": tile, "overlap": overlap}


def _plan(config: PredictRun) -> list[list[str]]:
    """Return path or URL of each raster with the path of its map, after a look at all of them."""
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
            with _reader(source) as reader:
                check_scene(reader)
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
def _reader(source: str) -> Iterator[RasterReader]:
    """Open a raster; one behind http(s) is downloaded first, because not every server gives ranges of a file."""
    if not source.startswith(("http://", "https://")):
        with open_raster(source) as reader:
            yield reader
        return
    with tempfile.TemporaryDirectory(prefix="mkd-") as aside:
        folder, name = split_url(source)
        copy = Path(aside) / (Path(name.partition("?")[0]).name or "raster.tif")
        folder.download(name, copy)
        with RasterReader(copy) as reader:
            check_scene(reader)
            yield reader


def _content(source: str, reader: RasterReader) -> Sequence[object]:
    """Return what tells one content of a raster from another, but for times on a disk: see `_is_whole`."""
    if source.startswith(("http://", "https://")):
        digest = hashlib.sha256()
        with open(reader.path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return [digest.hexdigest()]
    if "://" in source:
        return [(name, *stamp) for name, stamp in raster_stamps([source]).items()]
    return sorted((Path(name).name, Path(name).stat().st_size) for name in reader.info.files)


def _is_whole(output: Path, made_of: str, files: Sequence[str]) -> bool:
    """Whether a map is there, made of the same, and none of its raster's files on a disk has changed since."""
    if not output.is_file():
        return False
    try:
        with RasterReader(output) as there:
            if there.info.tags.get(MADE_OF) != made_of:
                return False
    except ValueError:
        return False
    times = [Path(name).stat() for name in files]  # of a file moved here the ctime is new
    newest = max((max(file.st_mtime_ns, file.st_ctime_ns) for file in times), default=0)
    return newest <= output.stat().st_mtime_ns


def _remove_leftovers(outputs: set[Path]) -> None:
    """Remove what killed commands left: half-written maps of these names, and others that nobody writes any more."""
    for folder in {output.parent for output in outputs}:
        for left in folder.glob(".tmp-*.tif"):
            mine = folder / left.name.removeprefix(".tmp-") in outputs
            with contextlib.suppress(OSError):
                if mine or time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                    os.unlink(left)

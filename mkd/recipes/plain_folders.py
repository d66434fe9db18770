"""Plain folders of images and masks in place of data sets: packed beside the run folder, by `shards pack` itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from mkd.cli.log_lines import route_log_lines, say_on_stdout
from mkd.config import schema
from mkd.dataset.index import INDEX_NAME
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World
from mkd.storage.folder import Folder

if TYPE_CHECKING:
    from shards.inputs.class_file import ClassFile

KEYS = ("labelled", "unlabelled", "val")

C = TypeVar("C", bound=schema.RunConfig)


def pack_plain_folders(config: C, world: World) -> C:
    """Pack the plain folders of a config; all ranks wait for rank 0.

    Folder KEY goes to `OUT.data/KEY`. A packed copy of the same files is taken as it is, so a run that goes on packs
    nothing.

    Args:
        config: of the run, as it was given; `data.classes` says how its plain folders are laid out.
        world: this process's place.

    Returns:
        The config with the data sets in place of the plain folders; without any the config itself.

    Raises:
        ValueError: what `pack` refuses, or files that have changed since they were packed.
    """
    if config.data.classes is None:
        return config
    places: dict[str, Any] = run_on_rank0(world, lambda: _pack_all(config))
    return replace(config, data=replace(config.data, **places))


def _pack_all(config: schema.RunConfig) -> dict[str, str]:
    """Pack each plain folder; return the data set of each."""
    # Here and below, because most runs pack nothing: `pack` brings GDAL, once for rasters and once for vectors.
    from shards.inputs.class_file import read_classfile

    assert config.data.classes is not None, "asked for only where there is a class file"
    classfile, places = read_classfile(config.data.classes), dict[str, str]()
    for key in KEYS:
        folder = getattr(config.data, key)
        if folder is not None and not Folder(folder).exists(INDEX_NAME):
            # Labels of unlabelled tiles are never read, so they need not be there.
            layout = replace(classfile, mask=None) if key == "unlabelled" else classfile
            places[key] = _pack(config, key, folder, layout)
    return places


def _pack(config: schema.RunConfig, key: str, folder: str, classfile: ClassFile) -> str:
    """Pack one folder, and say where to."""
    from shards.commands.pack import pack
    from shards.output.build_options import BuildOptions

    place = f"{config.out.rstrip('/')}.data/{key}"
    options = BuildOptions(place, max_pixels=config.data.max_pixels)
    say_on_stdout(
        f"data.{key}={folder} is a plain folder, packed into {place} for this out= alone; for more than some 10,000 "
        "tiles, or many runs, pack it once (python -m shards pack) and give that data set"
    )
    try:
        with route_log_lines(say_on_stdout, "shards"):
            pack(folder, classfile, options)
    except ValueError as error:
        if not Folder(place).exists(INDEX_NAME):
            raise ValueError(f"data.{key}={folder}: {error}") from None
        raise ValueError(
            f"data.{key}={folder} or data.classes={config.data.classes} has changed since it was packed into {place}, "
            f"or a version that read it otherwise packed it: put the files back, or remove {place}, and a run that has "
            "begun goes on with accept=[data] only"
        ) from None
    return place

"""Builds of tiny data sets: in this process, and as jobs of their own."""

import sys
import time
from dataclasses import fields
from pathlib import Path

from shards.commands.pack import pack
from shards.commands.tile import tile
from shards.inputs.image_list import ImageSelection
from shards.inputs.scenes.tiling import TilingOptions
from shards.output.build_options import BuildOptions


def pack_into(source, classfile, out, check="ends", **options):
    """Pack with options given by their names."""
    selection = take_fields(ImageSelection, options)
    return pack(source, classfile, BuildOptions(out, **options), selection, check)


def tile_into(source, classfile, out, labels=None, **options):
    """Tile with options given by their names."""
    tiling = take_fields(TilingOptions, options)
    return tile(source, classfile, BuildOptions(out, **options), labels, tiling)


def take_fields(kind, options):
    """Take the options that a dataclass has fields for out of a dict, and make one."""
    return kind(**{field.name: options.pop(field.name) for field in fields(kind) if field.name in options})


def run(folder, out, **options):
    """Pack the folder in shards of one tile."""
    return pack_into(folder.root, folder.classfile, out, shard_size=1, **options)


def command(folder, out, *more):
    """Give the command line of the same."""
    places = ["--source", str(folder.root), "--classes", str(folder.classfile), "--out", str(out)]
    return [sys.executable, "-m", "shards", "pack", *places, "--shard-size", "1", *more]


def content(out):
    """Read all files of a data set."""
    return {path.name: path.read_bytes() for path in sorted(Path(out).iterdir())}


def workers_of(pid):
    """List the worker processes of a job: forked from a process that the job started."""
    parents, servers = {}, set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            status, line = path.read_text(), (path.parent / "cmdline").read_text()
        except OSError:
            continue
        number = int(path.parent.name)
        parents[number] = int(status.rpartition(")")[2].split()[1])
        if "forkserver" in line:
            servers.add(number)
    return [child for child in servers if parents[child] in servers and parents[parents[child]] == pid]


def wait_until(ready):
    """Wait for something that must come; a minute without it fails."""
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, "it did not come for a minute"
        time.sleep(0.02)

"""By what a build takes its inputs for unchanged: links that are turned, and versions that read otherwise."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mkd.dataset.shard_record import read_record
from mkd.storage.folder import Folder
from shards.commands.pack import pack
from shards.inputs import fingerprint
from shards.inputs.fingerprint import FileTree
from shards.inputs.raster_source import dependency_stamps
from shards.output.build_options import BuildOptions
from tests.helpers.processes.jobs import tile_into
from tests.helpers.shards import read_dataset


def twins(folder, names):
    """Write TIFFs without compression: other pixels, the same size and time."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
        os.utime(folder / name, (1e9, 1e9))
    assert len({os.stat(folder / name).st_size for name in names}) == 1


def turn(link, target):
    """Turn a link to another place."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)


@pytest.mark.parametrize("what", ["file", "folder", "the source folder"])
@pytest.mark.parametrize("command", ["pack", "tile"])
def test_a_link_that_is_turned_is_another_file(folder, tmp_path, command, what):
    """A link to another file of equal size and time makes another data set; a copy of all of it is the same."""
    root = tmp_path / "in"
    twins(root / "one", ["a.tif"])
    twins(root / "two", ["b.tif", "a.tif"])
    link, targets = {
        "file": (root / "src/a.tif", ("../one/a.tif", "../two/a.tif")),
        "folder": (root / "src/sub", ("../one", "../two")),
        "the source folder": (root / "src", ("one", "two")),
    }[what]
    link.parent.mkdir(exist_ok=True)
    images = "sub/a.tif" if what == "folder" else "a.tif"
    folder.describe(layout={"images": images, "masks": None})

    def build(source, out):
        if command == "pack":
            return pack(source / "src", folder.classfile, BuildOptions(out))
        return tile_into(source / "src" / images, None, out, size=16)

    turn(link, targets[0])
    assert not build(root, tmp_path / "out")["done_before"]
    assert build(root, tmp_path / "out")["done_before"]
    (before,) = read_dataset(tmp_path / "out")
    stamps = FileTree(Folder(root / "src")).stamps([images])
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    assert FileTree(Folder(tmp_path / "copy/src")).stamps([images]) == stamps
    turn(link, targets[1])
    with pytest.raises(ValueError, match="made of other inputs, or of the same ones by a version"):
        build(root, tmp_path / "out")
    build(root, tmp_path / "new")
    (after,) = read_dataset(tmp_path / "new")
    assert not np.array_equal(before.image, after.image)


def test_a_link_behind_a_vrt_counts(tmp_path):
    """A VRT's source that is a link and is turned changes the stamp of the VRT."""
    twins(tmp_path / "real", ["a.tif", "b.tif"])
    turn(tmp_path / "now.tif", "real/a.tif")
    path = str(tmp_path / "v.vrt")
    with open(path, "w") as file:
        file.write(
            '<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
            '<SourceFilename relativeToVRT="1">now.tif</SourceFilename><SourceBand>1</SourceBand>'
            "</SimpleSource></VRTRasterBand></VRTDataset>"
        )
    before = dependency_stamps([path])[path]
    turn(tmp_path / "now.tif", "real/b.tif")
    assert dependency_stamps([path])[path] != before
    turn(tmp_path / "now.tif", "real/a.tif")
    assert dependency_stamps([path])[path] == before


def test_an_older_reading_is_compared_by_content(folder, tmp_path, monkeypatch):
    """A set that an older version made is kept where it is the same today, and refused where it is not."""
    folder.image("images/t0.png")
    folder.describe(layout={"images": "images/*.png", "masks": "masks/{stem}.png"})
    options = BuildOptions(tmp_path / "out")
    monkeypatch.setattr(fingerprint, "READING", 0)
    pack(folder.root, folder.classfile, options)
    old = json.loads((tmp_path / "out/build.json").read_text())["units"]
    monkeypatch.undo()
    assert pack(folder.root, folder.classfile, options)["done_before"]
    new = json.loads((tmp_path / "out/build.json").read_text())["units"]
    assert new != old  # is not compared a second time
    # An older version that read a class otherwise.
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(fingerprint, "READING", 0)
    monkeypatch.setattr("shards.commands.image_packer.read_mask", _read_otherwise)
    pack(folder.root, folder.classfile, options)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="by a version that read them otherwise"):
        pack(folder.root, folder.classfile, options)
    # An unfinished build of the older version: its shard is made again.
    wrong = read_record(Folder(tmp_path / "out"), "toy-000000.tar").info.sha256
    (tmp_path / "out/index.json").unlink()
    pack(folder.root, folder.classfile, options)
    assert read_record(Folder(tmp_path / "out"), "toy-000000.tar").info.sha256 != wrong


def _read_otherwise(data, name, classfile, max_pixels):
    from shards.inputs.mask_file import read_mask

    found = read_mask(data, name, classfile, max_pixels)
    return found._replace(ids=np.roll(found.ids, 1))

"""What a mask's own file calls missing is ignored, by `pack` and `tile` alike, whatever it holds."""

import numpy as np
import pytest
import rasterio
from PIL import Image

from mkd.dataset.index import read_index
from shards.commands.pack import pack
from shards.output.build_options import BuildOptions
from tests.helpers.processes.jobs import tile_into
from tests.helpers.shards import read_dataset

HOLE = np.zeros((16, 16), bool)
HOLE[2:9, 5:16] = True
IDS = np.where(np.arange(256).reshape(16, 16) % 3 == 0, 1, 2)
COLOURS = np.array([[0, 128, 0], [128, 128, 128], [0, 0, 255]], np.uint8)


def write_tif(path, bands, **profile):
    """Write a TIFF of (bands, 16, 16)."""
    size = {"count": len(bands), "height": 16, "width": 16, "dtype": str(bands.dtype)}
    with rasterio.open(path, "w", driver="GTiff", **size, **profile) as out:
        out.write(bands)


def write_mask(path, how):
    """Write a mask whose file says that the pixels of the hole are missing; below it stands class 0."""
    ids = np.where(HOLE, 0, IDS).astype(np.uint8)
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    match how:
        case "nodata":
            write_tif(path, ids[None], nodata=0)
        case "float":
            write_tif(path, np.where(HOLE, -9999, IDS).astype(np.float32)[None], nodata=-9999)
        case "mask":
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                write_tif(path, ids[None])
                with rasterio.open(path, "r+") as out:
                    out.write_mask(~HOLE)
        case "grey alpha":
            write_tif(path, np.stack([ids, alpha]), alpha="YES")
        case "colours":
            rgba = np.concatenate([COLOURS[ids], alpha[..., None]], axis=2)
            write_tif(path, rgba.transpose(2, 0, 1), photometric="RGB", alpha="YES")
        case "grey png":
            Image.merge("LA", [Image.fromarray(ids), Image.fromarray(alpha)]).save(path)
        case "colours png":
            Image.fromarray(np.concatenate([COLOURS[ids], alpha[..., None]], axis=2)).save(path)


@pytest.mark.parametrize("command", ["pack", "tile"])
@pytest.mark.parametrize(
    "how", ["nodata", "float", "mask", "grey alpha", "colours", "grey png", "colours png"]
)
def test_what_a_mask_calls_missing_is_ignored(folder, tmp_path, how, command):
    """No-data value, mask and alpha of a mask mean 255; class 0, which lies below, has no pixel, and that is said."""
    end = "png" if how.endswith("png") else "tif"
    folder.describe(
        masks="rgb" if how.startswith("colours") else "ids",
        layout={"images": "images/t0.png", "masks": "masks/{stem}." + end},
    )
    folder.image("images/t0.png", size=(16, 16))
    for old in (folder.root / "masks").iterdir():
        old.unlink()
    write_mask(folder.root / f"masks/t0.{end}", how)
    if command == "pack":
        pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"))
        assert any(line.startswith("1 mask with pixels that the mask itself") for line in folder.messages)
    else:
        labels = "../masks/{stem}." + end
        tile_into(folder.root / "images/t0.png", folder.classfile, tmp_path / "out", labels=labels, size=16)
    (tile,) = read_dataset(tmp_path / "out")
    assert np.array_equal(tile.label, np.where(HOLE, 255, IDS))
    index = read_index(tmp_path / "out")
    assert (index.histogram[0], index.ignored_pixels) == (0, HOLE.sum())
    assert any("1 of 3 classes has no pixel in the labels: field" in line for line in folder.messages)


def test_a_transparent_colour_of_a_palette_stays_a_class(folder, tmp_path):
    """An index of a palette PNG is what the mask says, though a viewer would show nothing there."""
    ids = np.where(HOLE, 0, IDS).astype(np.uint8)
    picture = Image.fromarray(ids, "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    folder.image("images/t0.png", size=(16, 16))
    folder.describe(masks="palette", layout={"images": "images/t0.png", "masks": "masks/{stem}.png"})
    picture.save(folder.root / "masks/t0.png", transparency=0)
    pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"))
    (tile,) = read_dataset(tmp_path / "out")
    assert np.array_equal(tile.label, ids)


@pytest.mark.parametrize("command", ["pack", "tile"])
@pytest.mark.parametrize("which", ["image", "mask"])
@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_several_pages_are_refused(folder, tmp_path, command, which, kind):
    """A mask or an image of several pages or frames is no tile: nobody knows which of them is meant."""
    end = "tif" if kind == "TIFF" else "png"
    folder.image(f"images/t0.{end}", size=(16, 16))
    folder.describe(layout={"images": f"images/t0.{end}", "masks": "masks/{stem}." + end})
    folder.mask(f"masks/t0.{end}", IDS)
    bad = folder.root / f"{which}s/t0.{end}"
    page = Image.open(bad).copy()
    page.save(bad, kind, save_all=True, append_images=[Image.fromarray(255 - np.asarray(page))])
    masks, out = "../masks/{stem}." + end, tmp_path / "out"
    commands = {
        "pack": lambda: pack(folder.root, folder.classfile, BuildOptions(out)),
        "tile": lambda: tile_into(
            folder.root / f"images/t0.{end}", folder.classfile, out, labels=masks, size=16
        ),
    }
    with pytest.raises(ValueError, match=rf"t0\.{end} holds several pictures"):
        commands[command]()

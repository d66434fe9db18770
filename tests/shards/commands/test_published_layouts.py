"""Public data sets in their published folders: a tiny set of each, packed by its class file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mkd.dataset.index import read_index
from mkd.geo.grid import Window
from mkd.geo.raster import RasterWriter
from shards.commands.pack import pack
from shards.inputs.class_file import read_classfile
from shards.output.build_options import BuildOptions

FOLDER = Path(__file__).parents[3] / "configs" / "datasets"
PAIRS = {  # image and mask as the publishers name them, bands of the image
    "potsdam": ("2_Ortho_RGB/top_potsdam_2_10_RGB.tif", "5_Labels_all/top_potsdam_2_10_label.tif", 3),
    "vaihingen": ("top/top_mosaic_09cm_area1.tif", "gts_for_participants/top_mosaic_09cm_area1.tif", 3),
    "uavid": ("uavid_train/seq1/Images/000000.png", "uavid_train/seq1/Labels/000000.png", 3),
    "deepglobe": ("train/119_sat.jpg", "train/119_mask.png", 3),
    "openearthmap": ("aachen/images/aachen_1.tif", "aachen/labels/aachen_1.tif", 3),
    "flair": (
        "flair_aerial_train/D004_2021/Z1_NN/img/IMG_000001.tif",
        "flair_labels_train/D004_2021/Z1_NN/msk/MSK_000001.tif",
        5,
    ),
    "loveda": ("Train/Urban/images_png/12.png", "Train/Urban/masks_png/12.png", 3),
}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        height, width, bands = pixels.shape
        with RasterWriter(path, height, width, bands, "uint8") as writer:
            writer.write(Window(0, 0, height, width), pixels)
    else:
        Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(path)


@pytest.mark.parametrize("name", PAIRS)
def test_a_set_in_its_published_layout_is_packed(tmp_path, name):
    """Image and mask are found by the class file; a mask with 16 pixels of each class gives 16 of each."""
    classfile = read_classfile(FOLDER / f"{name}.yaml")
    image, mask, bands = PAIRS[name]
    count = len(classfile.classes)
    rng = np.random.default_rng(0)
    save(tmp_path / image, rng.integers(1, 255, (4 * count, 4, bands), dtype=np.uint8))
    if classfile.masks == "rgb":
        values = np.array(classfile.palette, np.uint8)
    else:
        raw = {new: old for old, new in classfile.ids.items()}
        values = np.array([[raw[n]] for n in range(count)], np.uint8)
    save(tmp_path / mask, np.repeat(np.repeat(values[:, None], 4, axis=0), 4, axis=1))
    pack(tmp_path, FOLDER / f"{name}.yaml", BuildOptions(tmp_path / "out"))
    index = read_index(tmp_path / "out")
    assert (index.samples, index.labelled) == (1, 1)
    assert list(index.histogram) == [16] * count

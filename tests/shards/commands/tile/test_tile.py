"""Cutting rasters: each tile is the raster's window, in its place on Earth."""

import json

import numpy as np
import pytest

from mkd.dataset.index import read_index
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from shards.commands.tile_cutter import tile_transform
from shards.commands.verify import verify
from shards.inputs.scenes.windows import uncovered_pixels
from shards.output.merge import make_index
from tests.helpers.processes.jobs import tile_into
from tests.helpers.shards import read_dataset

PLACE = (0.5, 0.0, 500000.0, 0.0, -0.5, 2800000.0)


def write(path, array, **options):
    """Write an array as GeoTIFF."""
    pixels = array[..., None] if array.ndim == 2 else array
    height, width, count = pixels.shape
    options = {"crs": "EPSG:32648", "transform": PLACE, **options}
    with RasterWriter(path, height, width, count, str(array.dtype), **options) as raster:
        raster.write(Window(0, 0, height, width), pixels)


@pytest.fixture
def scene(tmp_path, folder):
    """Give a 70 x 50 orthomosaic of noise with an alpha band, its label, and the class file."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (70, 50, 4), np.uint8)
    image[..., 3] = 255
    label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (70, 50))
    write(tmp_path / "ortho.tif", image)
    write(tmp_path / "ortho_label.tif", label)
    return image, label


def cut(folder, tmp_path, out="out", **options):
    """Tile the scene."""
    options = {"source": tmp_path / "ortho.tif", "labels": "{stem}_label.tif", "size": 16, **options}
    source = options.pop("source")
    return tile_into(source, folder.classfile, tmp_path / out, **options)


def test_each_tile_is_its_window_of_the_raster(scene, folder, tmp_path):
    """Image, label, window, CRS and transform of every tile are those of the raster; edges are counted."""
    image, label = scene
    report = cut(folder, tmp_path)
    assert (report["samples"], report["labelled"]) == (12, 12)
    assert report["uncovered_pixels"] == 70 * 50 - 64 * 48
    with RasterReader(tmp_path / "ortho.tif") as raster:
        crs = raster.info.crs
    for sample in read_dataset(tmp_path / "out"):
        row, col, height, width = sample.meta["window"]
        assert sample.key == f"ortho_{row:06d}_{col:06d}"
        assert sample.meta["source"] == "ortho"
        assert np.array_equal(sample.image, image[row : row + height, col : col + width, :3])
        assert np.array_equal(sample.label, label[row : row + height, col : col + width])
        a, b, c, d, e, f = sample.meta["transform"]
        assert (a, b, c, d, e, f) == (0.5, 0, 500000 + 0.5 * col, 0, -0.5, 2800000 - 0.5 * row)
        assert sample.meta["crs"] == crs
    assert verify(tmp_path / "out") == []


def test_a_turned_transform_moves_with_the_window():
    """The tile's origin is the raster's map of the window's corner, rotation included."""
    a, b, c, d, e, f = turned = (0.4, -0.3, 100.0, 0.3, 0.4, 200.0)
    moved = tile_transform(turned, Window(7, 11, 5, 5))
    assert moved == pytest.approx([a, b, a * 11 + b * 7 + c, d, e, d * 11 + e * 7 + f])


@pytest.mark.parametrize(("size", "stride"), [(16, 16), (16, 8), (16, 20), (64, 64), (51, 51)])
def test_uncovered_pixels_against_painting(size, stride):
    """The count of pixels in no tile equals that of a painted raster, for overlaps and gaps too."""
    covered = np.zeros((70, 50), bool)
    for row in range(0, 70 - size + 1, stride):
        for col in range(0, 50 - size + 1, stride):
            covered[row : row + size, col : col + size] = True
    assert uncovered_pixels((70, 50), size, stride) == (~covered).sum()


def test_tiles_without_data_are_left_out_and_counted(scene, folder, tmp_path):
    """Tiles below the share of valid pixels and tiles of one colour are counted; holes have no label."""
    image, label = scene
    image[:16, :16, 3] = 0  # nothing there
    image[:4, 16:32, 3] = 0  # a quarter missing: kept
    image[16:32, :16, :3] = 77  # one colour
    write(tmp_path / "ortho.tif", image)
    report = cut(folder, tmp_path)
    assert (report["samples"], report["no_data"], report["blank"]) == (10, 1, 1)
    (partly,) = (sample for sample in read_dataset(tmp_path / "out") if sample.meta["window"][:2] == [0, 16])
    assert (partly.label[:4] == 255).all()
    assert np.array_equal(partly.label[4:], label[4:16, 16:32])
    assert cut(folder, tmp_path, "strict", min_valid=0.9)["no_data"] == 2


def test_missing_labels_are_ignored_pixels(scene, folder, tmp_path):
    """The label raster's no-data value is no class, and a tile of that alone is unlabelled."""
    _, label = scene
    label[:16, :16], label[16:20, :16] = 9, 9
    write(tmp_path / "ortho_label.tif", label, nodata=9)
    report = cut(folder, tmp_path)
    assert (report["samples"], report["labelled"]) == (12, 11)
    samples = {tuple(sample.meta["window"][:2]): sample for sample in read_dataset(tmp_path / "out")}
    assert samples[0, 0].label is None
    assert (samples[16, 0].label[:4] == 255).all()
    assert np.array_equal(samples[16, 0].label[4:], label[20:32, :16])


def test_labels_as_colours_and_unlabelled_scenes(scene, folder, tmp_path):
    """A label raster in colours gives the same ids; without labels the tiles have none."""
    _, label = scene
    colours = np.zeros((256, 3), np.uint8)
    colours[:3], colours[255] = folder.content["palette"], (9, 9, 9)
    write(tmp_path / "colours.tif", colours[label])
    cut(folder, tmp_path)
    folder.describe(masks="rgb", ignore_colours=[[9, 9, 9]])
    cut(folder, tmp_path, "rgb", labels=tmp_path / "colours.tif")
    for one, other in zip(read_dataset(tmp_path / "out"), read_dataset(tmp_path / "rgb"), strict=True):
        assert np.array_equal(one.label, other.label)
    assert cut(folder, tmp_path, "bare", labels=None)["labelled"] == 0


def test_several_scenes_by_pattern_and_again(scene, folder, tmp_path):
    """A pattern takes all scenes in order; cutting again is known as done, with the same figures."""
    image, label = scene
    write(tmp_path / "more.ortho.tif", image[:40])
    write(tmp_path / "more.ortho_label.tif", label[:40])
    first = cut(folder, tmp_path, source=[tmp_path / "ortho.tif", str(tmp_path / "more*ortho.tif")])
    sources = [sample.meta["source"] for sample in read_dataset(tmp_path / "out")]
    assert sources == ["ortho"] * 12 + ["more.ortho"] * 6
    again = cut(folder, tmp_path, source=[tmp_path / "ortho.tif", str(tmp_path / "more*ortho.tif")])
    assert again == {**first, "done_before": True}
    assert read_index(tmp_path / "out").provenance["uncovered_pixels"] == first["uncovered_pixels"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "nowhere.tif"}, "no raster at nowhere.tif"),
        ({"source": "nowhere*.tif"}, r"no raster matches 'nowhere\*.tif'"),
        ({"labels": ["a.tif", "b.tif"]}, "2 label rasters for 1 source"),
        ({"labels": "{stem}_truth.tif"}, "no raster at .*ortho_truth.tif"),
        ({"size": 512}, "no tile of 512 x 512 pixels fits into"),
        ({"size": 0}, "size is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"min_valid": 2.0}, "min_valid 2.0 is not in 0..1"),
        ({"bands": (1, 2, 5)}, r"has bands 1\.\.4, --bands asks for 1,2,5"),
        ({"bands": (1, 2)}, "has 2 bands of uint8: tiles need 3 or more"),
        ({"bands": (1, 2, 3, 4), "format": "jpeg"}, "--format jpeg holds 3 bands of uint8, but .* gives 4"),
        ({"format": "bmp"}, "--format 'bmp': allowed are png, jpeg, tif"),
        ({"quality": 80}, "--quality 80 has no meaning with --format png: leave it out"),
        ({"format": "jpeg", "quality": 101}, "--quality 101: give a whole number from 1 to 100"),
        ({"format": "jpeg", "quality": 0}, "--quality 0: give a whole number from 1 to 100"),
        ({"labels": "{foo}.tif"}, r"--labels '\{foo\}.tif' has \{foo\}: only \{stem\} is known"),
        ({"source": "a?.tif"}, r"--source 'a\?.tif' has '\?' or brackets: only \* is a pattern"),
    ],
)
def test_what_cannot_be_cut_is_named(scene, folder, tmp_path, options, words):
    """A missing raster, labels that do not pair and options that cannot be are told, and nothing is left."""
    with pytest.raises(ValueError, match=words):
        cut(folder, tmp_path, **options)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_rasters_of_a_wrong_kind_are_named(scene, folder, tmp_path):
    """Another size or place of the label, 16 bits, one band, two of one name: each told before cutting."""
    image, label = scene
    write(tmp_path / "small.tif", label[:60])
    with pytest.raises(ValueError, match=r"label .*small.tif differ in size 70 x 50 and 60 x 50"):
        cut(folder, tmp_path, labels=tmp_path / "small.tif")
    write(tmp_path / "moved.tif", label, transform=(*PLACE[:2], 500001.0, *PLACE[3:]))
    with pytest.raises(ValueError, match=r"moved.tif differ in transform"):
        cut(folder, tmp_path, labels=tmp_path / "moved.tif")
    with pytest.raises(ValueError, match="has 1 band of uint8: tiles need 3 or more bands"):
        cut(folder, tmp_path, source=tmp_path / "ortho_label.tif", labels=None)
    write(tmp_path / "deep.tif", image.astype(np.uint16))
    both = [tmp_path / "ortho.tif", tmp_path / "deep.tif"]
    with pytest.raises(ValueError, match=r"ortho.tif has 3 bands of uint8, .*deep.tif 4 bands of uint16"):
        cut(folder, tmp_path, source=both, labels=None)
    write(tmp_path / "complex.tif", label.astype(np.complex64))
    with pytest.raises(ValueError, match="1 band of complex64, but masks: ids"):
        cut(folder, tmp_path, labels=tmp_path / "complex.tif")
    with pytest.raises(ValueError, match="several rasters are named 'ortho'"):
        cut(folder, tmp_path, source=[tmp_path / "ortho.tif"] * 2, labels=None)


def test_unknown_label_values_are_listed_with_counts(scene, folder, tmp_path):
    """Tiles with values outside the class file are bad; all values are summed up, and there is no data set."""
    _, label = scene
    label[0, :3], label[60, 40] = 7, 8
    write(tmp_path / "ortho_label.tif", label)
    with pytest.raises(
        ValueError, match=r"2 of 12 labelled .* 2 values which .*7: 3 pixels in .*; 8: 1 pixel"
    ):
        cut(folder, tmp_path)
    bad = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [entry["source"].rpartition("/")[2] for entry in bad] == [
        "ortho_label.tif at row 0, column 0",
        "ortho_label.tif at row 48, column 32",
    ]
    assert not (tmp_path / "out/index.json").exists()
    assert cut(folder, tmp_path, max_bad_labelled=0.2)["samples"] == 10


def content(path):
    """Read all shards, records and the index of a data set."""
    names = [file for file in path.iterdir() if not file.name.startswith(".")]
    return {file.name: file.read_bytes() for file in names if file.name != "build.json"}


def test_shards_are_the_same_for_any_number_of_workers_and_parts(scene, folder, tmp_path):
    """One process, two, and a build in three parts write the same bytes; empty shards leave a gap."""
    image, label = scene
    image[:32, :, :3] = 77  # the first two rows of windows: a whole shard of one colour
    write(tmp_path / "ortho.tif", image)
    write(tmp_path / "more.tif", image[20:])
    write(tmp_path / "more_label.tif", label[20:])
    options = {"source": [tmp_path / "ortho.tif", tmp_path / "more.tif"], "shard_size": 5}
    report = cut(folder, tmp_path, **options)
    assert (report["samples"], report["blank"], report["no_data"]) == (15, 6, 0)
    cut(folder, tmp_path, "two", workers=2, **options)
    for part in ("2/3", "3/3", "1/3"):
        assert "samples" not in cut(folder, tmp_path, "parts", part=part, **options)
    make_index(tmp_path / "parts")
    expected = content(tmp_path / "out")
    assert len(expected) == 2 * 5 - 1 + 1, "five units, the first without a tar, and the index"
    assert "toy-000000.tar" not in expected
    assert content(tmp_path / "two") == content(tmp_path / "parts") == expected
    assert verify(tmp_path / "out", workers=2) == []

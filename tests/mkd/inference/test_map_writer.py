"""Maps of small rasters: equal to the model itself, independent of tiling, honest about missing data."""

import tracemalloc
from itertools import product

import numpy as np
import pytest
import torch
from rasterio.crs import CRS
from torch import nn

from mkd.geo.grid import Window
from mkd.geo.place.control_points import ControlPoints
from mkd.geo.raster import RasterReader, RasterWriter
from tests.helpers.maps import predict_map

PALETTE = [(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 250)]
PLACE = (0.5, 0.0, 400000.0, 0.0, -0.5, 5600000.0)


def network(kernel, seed=0):
    """A convolution that sees kernel x kernel pixels, with clear margins between classes."""
    layer = nn.Conv2d(3, len(PALETTE), kernel, padding=kernel // 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(4 * torch.randn(parameter.shape, generator=generator))
    return layer


def pixels(height, width, bands=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


def raster(path, array, **more):
    height, width, bands = array.shape
    place = {"crs": "EPSG:32632", "transform": PLACE} | more
    with RasterWriter(path, height, width, bands, str(array.dtype), **place) as writer:
        writer.write(Window(0, 0, height, width), array)
    return path


def stored(path):
    with RasterReader(path) as reader:
        whole = Window(0, 0, reader.info.height, reader.info.width)
        return reader.info, reader.read(whole), reader.valid(whole)


def direct(model, array):
    with torch.inference_mode():
        image = torch.from_numpy(array).permute(2, 0, 1).float() / 255
        return model(image[None]).softmax(1)[0].numpy()


def same_map(found, probabilities):
    """The class where the two best differ by more than rounding, and the confidence within one step."""
    first, second = np.sort(probabilities, axis=0)[[-1, -2]]
    clear = first - second > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[..., 0][clear], probabilities.argmax(0)[clear])
    expected = np.minimum(254, np.round(255 * first)).astype(int)
    assert np.abs(found[..., 1].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("height", "width", "tile"), [(40, 52, 52), (33, 20, 64)])
def test_one_window_is_the_model_itself(tmp_path, height, width, tile):
    """A tile that covers the raster gives argmax and max of the model's own softmax."""
    model, array = network(5), pixels(height, width)
    raster(tmp_path / "in.tif", array)
    predict_map(model, PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tile=tile, overlap=8)
    same_map(stored(tmp_path / "map.tif")[1], direct(model, array))


def test_a_temperature_changes_confidence_and_no_class(tmp_path):
    """Over blended windows, too: band 1 stays to the last pixel, band 2 is that of p^(1/T), normalised."""
    model, array = network(1), pixels(40, 52)
    raster(tmp_path / "in.tif", array)
    maps = []
    for name, temperature in (("plain", 1.0), ("cool", 0.5), ("warm", 3.0)):
        done = predict_map(
            model,
            PALETTE,
            tmp_path / "in.tif",
            tmp_path / f"{name}.tif",
            tile=16,
            overlap=5,
            temperature=temperature,
        )
        found = stored(tmp_path / f"{name}.tif")[1]
        p = direct(model, array).astype(np.float64) ** (1 / temperature)
        best = (p / p.sum(axis=0)).max(axis=0)
        assert np.abs(found[..., 1] - np.minimum(254, 255 * best)).max() <= 1
        assert done.mean_confidence == pytest.approx(best.mean(), abs=1e-4)
        maps.append(found)
    for other in maps[1:]:
        np.testing.assert_array_equal(other[..., 0], maps[0][..., 0])
        assert (other[..., 1] != maps[0][..., 1]).mean() > 0.5


@pytest.mark.parametrize(
    ("tile", "overlap", "batch"), [(16, 0, 1), (16, 5, 4), (17, 16, 7), (31, 3, 2), (64, 63, 3)]
)
def test_a_pixelwise_model_maps_alike_under_any_tiling(tmp_path, tile, overlap, batch):
    """Where the model sees one pixel, tiling, overlap and batch change nothing."""
    model, array = network(1), pixels(45, 38)
    raster(tmp_path / "in.tif", array)
    predict_map(
        model, PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tile=tile, overlap=overlap, batch=batch
    )
    same_map(stored(tmp_path / "map.tif")[1], direct(model, array))


def test_windows_are_blended_by_raised_cosines(tmp_path):
    """A model that sees its window's edges gives the weighted mean, summed independently over arrays."""
    model, array, tile, overlap = network(7), pixels(40, 47), 20, 9
    raster(tmp_path / "in.tif", array)
    predict_map(model, PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tile=tile, overlap=overlap)
    bump = 1e-3 + (1 - 1e-3) * np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    total, weights = np.zeros((len(PALETTE), 40, 47)), np.zeros((40, 47))
    # The CRS begins 11,200,000 rows below and 800,000 columns left of the corner: windows every 11 pixels from 9 and 8.
    for row, col in product((0, 9, 20), (0, 8, 19, 27)):
        part = (slice(row, row + tile), slice(col, col + tile))
        total[(slice(None), *part)] += np.outer(bump, bump) * direct(model, array[part])
        weights[part] += np.outer(bump, bump)
    same_map(stored(tmp_path / "map.tif")[1], total / weights)


def test_the_map_lies_where_the_raster_lies(tmp_path):
    """CRS and transform are the input's; two uint8 bands, the palette on the first, 255 for missing."""
    raster(tmp_path / "in.tif", pixels(20, 30))
    predict_map(network(1), PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tile=16, overlap=4)
    given, found = stored(tmp_path / "in.tif")[0], stored(tmp_path / "map.tif")[0]
    assert (found.crs, found.transform) == (given.crs, PLACE)
    assert (found.height, found.width, found.bands, found.dtype, found.nodata) == (20, 30, 2, "uint8", 255)
    assert [found.colormap[i][:3] for i in range(len(PALETTE))] == PALETTE


@pytest.mark.parametrize("placed", [True, False])
def test_control_points_go_with_the_map(tmp_path, placed, caplog):
    """A scene with control points and no transform gives a map with them; one without any place is told."""
    points = ((0.0, 0.0, 5e5, 5e6, 0.0), (0.0, 20.0, 500002.0, 5e6, 0.0), (20.0, 0.0, 5e5, 4999998.0, 0.0))
    control = ControlPoints(points, CRS.from_epsg(32633).to_wkt()) if placed else None
    image = raster(tmp_path / "in.tif", pixels(20, 20), crs=None, transform=None, control=control)
    predict_map(network(1), PALETTE, image, tmp_path / "map.tif", tile=16, overlap=4)
    assert stored(tmp_path / "map.tif")[0].control == control
    assert any("has no place on Earth" in line for line in caplog.messages) is not placed


def test_missing_data_stays_missing(tmp_path):
    """Pixels without data are 255 in both bands and in no count; windows without any are not predicted."""
    array = np.maximum(pixels(60, 48), 1)
    array[:, :20] = 0
    raster(tmp_path / "in.tif", array, nodata=0)
    summary = predict_map(
        network(1), PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tile=16, overlap=0, batch=3
    )
    _, found, valid = stored(tmp_path / "map.tif")
    np.testing.assert_array_equal(valid, array[..., 0] > 0)
    assert (found[:, :20] == 255).all()
    assert (found[:, 20:, 1] <= 254).all()
    same_map(found[:, 20:], direct(network(1), array[:, 20:]))
    assert (summary.windows, summary.empty_windows) == (8, 4)
    assert summary.nodata_pixels == 60 * 20
    assert summary.class_pixels == tuple(np.bincount(found[:, 20:, 0].ravel(), minlength=4))
    assert summary.mean_confidence == pytest.approx(
        direct(network(1), array[:, 20:]).max(axis=0).mean(), abs=1e-5
    )


def test_full_confidence_is_not_taken_for_missing(tmp_path):
    """Probability 1 is stored as 254, since 255 means no data in every band of the file."""
    model = network(1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, 99.0, 0.0, 0.0]))
    raster(tmp_path / "in.tif", pixels(9, 9))
    predict_map(model, PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tile=9, overlap=0)
    _, found, valid = stored(tmp_path / "map.tif")
    assert valid.all()
    assert (found == (1, 254)).all()


def test_alpha_is_a_mask_and_other_bands_need_to_be_said(tmp_path):
    """RGBA is mapped as it is; of four colours the three to use are asked for; named ones go in that order."""
    array = pixels(12, 12, bands=4)
    array[..., 3] = 255
    array[:4, :, 3] = 0
    raster(tmp_path / "in.tif", array)
    predict_map(network(1), PALETTE, tmp_path / "in.tif", tmp_path / "map.tif")
    found = stored(tmp_path / "map.tif")[1]
    same_map(found[4:], direct(network(1), array[4:, :, :3].copy()))
    assert (found[:4] == 255).all()
    raster(tmp_path / "five.tif", pixels(12, 12, bands=5))
    with pytest.raises(ValueError, match=r"five.tif has 5 band\(s\), the model takes 3 .* bands=\[1,2,3\]"):
        predict_map(network(1), PALETTE, tmp_path / "five.tif", tmp_path / "map.tif")
    array[..., 3] = 255
    raster(tmp_path / "in.tif", array)
    predict_map(network(1), PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", bands=[3, 2, 1])
    same_map(stored(tmp_path / "map.tif")[1], direct(network(1), array[..., [2, 1, 0]].copy()))


@pytest.mark.parametrize(
    ("array", "options", "sentence"),
    [
        (pixels(8, 8, bands=1), {}, r"in.tif has 1 band\(s\), the model takes 3"),
        (pixels(8, 8).astype(np.uint16), {}, "in.tif holds uint16 values, allowed is uint8"),
        (pixels(8, 8), {"tile": 8, "overlap": 8}, "overlap is 8: it must be at least 0 and less than tile"),
        (pixels(8, 8), {"overlap": -1}, "overlap is -1"),
        (pixels(8, 8), {"batch": 0}, "batch is 0: both must be at least 1"),
        (pixels(8, 8), {"bands": [1, 2]}, r"bands is \[1, 2\]: name exactly three"),
        (pixels(8, 8), {"class_palette": PALETTE[:3]}, "predicts 4 classes, the palette has 3 colours"),
        (pixels(8, 8), {"output": "in.tif"}, "output is the input"),
        (pixels(8, 8), {"output": "no/map.tif"}, "the folder of output=.*no/map.tif does not exist"),
    ],
)
def test_what_cannot_be_mapped_is_said_in_one_sentence(tmp_path, array, options, sentence):
    """Wrong bands, types, sizes and palettes name what was found; no map and no temporary file is left."""
    raster(tmp_path / "in.tif", array)
    before = (tmp_path / "in.tif").read_bytes()
    given = {"class_palette": PALETTE, "output": "map.tif"} | options
    output = tmp_path / given.pop("output")
    with pytest.raises(ValueError, match=sentence):
        predict_map(network(1), input=tmp_path / "in.tif", output=output, **given)
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]
    assert (tmp_path / "in.tif").read_bytes() == before


def test_a_broken_model_leaves_no_map(tmp_path):
    """Logits that are not finite stop the map; an older map at that place stays as it was."""
    model = network(1)
    with torch.no_grad():
        model.bias[2] = torch.nan
    raster(tmp_path / "in.tif", pixels(8, 8))
    (tmp_path / "map.tif").write_text("older")
    with pytest.raises(ValueError, match="not finite"):
        predict_map(model, PALETTE, tmp_path / "in.tif", tmp_path / "map.tif")
    assert (tmp_path / "map.tif").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "map.tif"]


def test_memory_does_not_grow_with_height(tmp_path):
    """A raster eight times as tall needs the same arrays at once; holding it whole would take three times as much."""

    def peak(height):
        raster(tmp_path / "in.tif", pixels(height, 128))
        tracemalloc.start()
        predict_map(network(1), PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tile=128, overlap=32)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(64)  # first use loads modules
    assert peak(2048) < 1.3 * peak(256)


def test_dropout_is_off(tmp_path):
    """A model handed over in training mode is put in eval mode, so two maps are equal."""
    raster(tmp_path / "in.tif", pixels(16, 16))
    model = nn.Sequential(network(1), nn.Dropout(0.5)).train()
    for name in ("a.tif", "b.tif"):
        predict_map(model, PALETTE, tmp_path / "in.tif", tmp_path / name, tile=8, overlap=2)
    np.testing.assert_array_equal(stored(tmp_path / "a.tif")[1], stored(tmp_path / "b.tif")[1])
    same_map(stored(tmp_path / "a.tif")[1], direct(model[0], pixels(16, 16)))


def test_progress_is_plain_when_nobody_watches(tmp_path, capfd):
    """Without a terminal there is a line each tenth of the windows, on the error stream, without codes."""
    raster(tmp_path / "in.tif", pixels(40, 80))
    predict_map(network(1), PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tile=8, overlap=0, batch=1)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split()[1] for line in lines] == [str(5 * n) for n in range(1, 11)]
    assert lines[-1] == "map: 50 of 50 windows (100 %), ETA 0 s"

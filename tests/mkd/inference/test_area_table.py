"""areas.csv as a spreadsheet reads it, and what it measures, against slow sums."""

import csv

import numpy as np
import pytest

from mkd.geo.class_map import ClassMapWriter, Legend
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.inference import area_table
from mkd.inference.area_table import ClassArea, measure_areas, write_areas

NAN = float("nan")
LEGEND = Legend(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 9, 9)))


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def written(path, **place):
    rng = np.random.default_rng(0)
    pixels = np.stack([rng.integers(0, 2, (50, 40)), rng.integers(0, 255, (50, 40))], -1).astype(np.uint8)
    pixels[:9, :9] = 255
    with ClassMapWriter(path, 50, 40, LEGEND, **place) as writer:
        writer.write(Window(0, 0, 50, 40), pixels)
    return pixels


@pytest.mark.parametrize("strip", [7, 1024])
def test_measured_in_strips(tmp_path, monkeypatch, strip):
    """Pixels, hectares and confidence equal sums over the whole; a class without a pixel has no confidence."""
    monkeypatch.setattr(area_table, "_STRIP", strip)
    pixels = written(tmp_path / "m.tif", crs="EPSG:32633", transform=(2.0, 0, 5e5, 0, -2.0, 5e6))
    with RasterReader(tmp_path / "m.tif") as reader:
        found = measure_areas(reader, 3)
    for n in range(2):
        mine = pixels[..., 0] == n
        assert found[n].pixels == mine.sum()
        assert found[n].hectares == pytest.approx(mine.sum() * 4 / 10_000)
        assert found[n].confidence == pytest.approx(pixels[..., 1][mine].mean() / 255)
    assert found[2].pixels == 0
    assert np.isnan(found[2].confidence)


def test_without_a_place_there_are_no_hectares(tmp_path):
    """A map without CRS has pixels and no ground."""
    written(tmp_path / "m.tif")
    with RasterReader(tmp_path / "m.tif") as reader:
        assert all(np.isnan(area.hectares) for area in measure_areas(reader, 3))


def test_each_class_has_its_line(tmp_path):
    """Names with commas are quoted; hectares and confidence that are not known are empty."""
    areas = [ClassArea(75, 0.75, 0.5), ClassArea(25, NAN, 0.75), ClassArea(0, 0.0, NAN)]
    write_areas(tmp_path / "areas.csv", ("field", "wood, old", "water"), areas)
    found = rows(tmp_path / "areas.csv")
    assert [r["class"] for r in found] == ["field", "wood, old", "water"]
    assert [r["hectares"] for r in found] == ["0.750000", "", "0.000000"]
    assert [float(r["share"]) for r in found] == [0.75, 0.25, 0.0]
    assert [r["mean_confidence"] for r in found] == ["0.5000", "0.7500", ""]

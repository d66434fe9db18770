"""areas.csv as a spreadsheet reads it."""

import csv

from mkd.inference.area_table import write_areas
from mkd.inference.map_writer import MapSummary

NAN = float("nan")


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summary(areas):
    return MapSummary(10, 10, 1, 0, (75, 25, 0), areas, (0.5, 0.75, NAN), 0, 0.56)


def test_each_class_has_its_line(tmp_path):
    """Pixels, hectares, share of the mapped pixels and confidence; a class without a pixel has no confidence."""
    write_areas(tmp_path / "areas.csv", ("field", "wood, old", "water"), summary((7500.0, 2500.0, 0.0)))
    found = rows(tmp_path / "areas.csv")
    assert [r["class"] for r in found] == ["field", "wood, old", "water"]
    assert [r["hectares"] for r in found] == ["0.7500", "0.2500", "0.0000"]
    assert [float(r["share"]) for r in found] == [0.75, 0.25, 0.0]
    assert [r["mean_confidence"] for r in found] == ["0.5000", "0.7500", ""]


def test_without_a_crs_hectares_are_empty(tmp_path):
    """No CRS, no hectares."""
    write_areas(tmp_path / "areas.csv", ("a", "b", "c"), summary((NAN, NAN, NAN)))
    assert [r["hectares"] for r in rows(tmp_path / "areas.csv")] == ["", "", ""]

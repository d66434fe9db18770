"""What polygons of a sparse map cost, on a small one: one line, and nothing is left behind."""

import re

from mkd.benchmarks.polygon_cost import main


def test_a_small_map_is_measured(tmp_path, capfd):
    """Size, polygons, seconds and memory; map and polygons are removed."""
    main("1000", str(tmp_path))
    said = re.fullmatch(
        r"1000 x 1000 pixels: ([\d,]+) polygons in \d+ s; peak memory (\d+) MiB\n",
        capfd.readouterr().out,
    )
    assert int(said[1].replace(",", "")) > 500
    assert int(said[2]) > 30
    assert not list(tmp_path.iterdir())

"""Figures over rows: the band is the range over the seeds, pictures have the palette's colours, PNG is on white."""

import io

import numpy as np
from PIL import Image

from mkd.geo.palette import rgb_from_ids
from mkd.recipes.tables.table_pictures import UNLABELLED
from mkd.report.drawing.figures import COLOURS
from mkd.report.drawing.table_figures import (
    CurvePoint,
    GridRow,
    band,
    grid_figure,
    png_bytes,
    share_figure,
    validation_figure,
)


def series(steps, values):
    return np.array(steps, float), np.array(values, float)


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(png_bytes(figure, 60))).convert("RGB")).astype(int)


def test_a_band_is_the_range_over_the_seeds():
    """Lowest, mean and highest at the steps that all seeds have."""
    steps, low, mean, high = band(
        [
            series([0, 50, 100], [0.1, 0.4, 0.6]),
            series([0, 100, 150], [0.3, 0.2, 0.9]),
            series([0, 100], [0.2, 0.4]),
        ]
    )
    assert steps.tolist() == [0, 100]
    np.testing.assert_allclose([low, mean, high], [[0.1, 0.2], [0.2, 0.4], [0.3, 0.6]])


def test_every_row_has_a_line_that_differs(tmp_path):
    """More rows than colours get dashes; each title is in the figure."""
    rows = {f"row {n}": [series([0, 10], [0.1, 0.2 + n / 50])] for n in range(9)}
    (plot,) = validation_figure(rows).axes
    looks = {(line.get_color(), line.get_linestyle(), line._dash_pattern[1] is None) for line in plot.lines}
    assert len(looks) == len(rows)
    assert [line.get_label() for line in plot.lines] == list(rows)
    np.testing.assert_allclose(plot.lines[3].get_ydata(), [10.0, 26.0])


def test_a_curve_over_a_share_has_ours_and_the_papers():
    """Points lie in the order of their x, in percent; without a paper's value there is no second line."""
    points = [CurvePoint(100, 0.6, 0.02, 0.7705), CurvePoint(0, 0.5, 0.01, 0.7404)]
    (plot,) = share_figure(points, "share, %").axes
    ours, paper = plot.lines
    np.testing.assert_allclose(ours.get_xydata(), [[0, 50], [100, 60]])
    np.testing.assert_allclose(paper.get_xydata(), [[0, 74.04], [100, 77.05]])
    (alone,) = share_figure([CurvePoint(0, 0.5, None, None)], "share, %").axes
    assert len(alone.lines) == 1
    assert not alone.collections


def test_ids_get_their_colours_and_no_label_is_grey():
    """A class has its colour of the palette; 255 has none of them."""
    ids = np.array([[0, 1], [1, 255]], np.uint8)
    found = rgb_from_ids(ids, [(200, 0, 0), (0, 0, 200)], UNLABELLED)
    assert found.tolist() == [[[200, 0, 0], [0, 0, 200]], [[0, 0, 200], [236, 236, 236]]]


def test_a_grid_shows_its_pictures_on_white():
    """The PNG has white corners and the pictures' colours; a heading that repeats stands once."""
    red = np.full((8, 8, 3), (220, 20, 20), np.uint8)
    rows = [GridRow(f"tile {n}", [("image", red, ""), ("truth", red, "50 % right")]) for n in range(2)]
    figure = grid_figure(rows, [("road", "#00ff00")])
    assert [plot.get_title() for plot in figure.axes] == ["image", "truth", "", ""]
    found = pixels(figure)
    assert (found[0, 0] == 255).all()
    assert (found[-1, -1] == 255).all()
    assert (np.abs(found - (220, 20, 20)).sum(axis=2) < 10).mean() > 0.2
    assert (np.abs(found - (0, 255, 0)).sum(axis=2) < 10).any()


def test_colours_are_told_apart_without_red_and_green():
    """Seen by somebody without red or without green cones, no two of the colours fall together."""
    protan = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    deutan = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    table = np.array([[int(c[n : n + 2], 16) for n in (1, 3, 5)] for c in COLOURS]) / 255
    for seen in (protan, deutan):
        colours = table @ seen.T
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=2)[~np.eye(len(colours), dtype=bool)]
        assert apart.min() > 0.12

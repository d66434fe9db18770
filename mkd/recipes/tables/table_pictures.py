"""Figures of a table as PNG files beside it, and for its page: curves over its rows, tiles with every prediction."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mkd.atomic import written_aside
from mkd.config.schema import Experiment
from mkd.dataset.index import read_index
from mkd.geo.palette import rgb_from_ids
from mkd.inference.validation_picture import spread, tile_colours
from mkd.labels import IGNORE
from mkd.loader.loader import TileSet
from mkd.recipes.tables.budget import size_curve, validation_series
from mkd.recipes.tables.run_list import fill, page_folder, test_set
from mkd.report.content import PageFigure, Panel
from mkd.report.drawing.figures import inline_svg
from mkd.report.drawing.table_figures import (
    CurvePoint,
    GridRow,
    grid_figure,
    png_bytes,
    share_figure,
    validation_figure,
)
from mkd.report.tables import legend, percent

SAMPLES = 3  # tiles of a data set in figure 1
COMPARED = 4  # test tiles in figure 3
UNLABELLED = (236, 236, 236)  # colour of pixels without a label


def table_pictures(config: Experiment, results: dict[str, Any], shown: Sequence[Panel]) -> list[PageFigure]:
    """Draw what a table's runs left behind; each figure also becomes a PNG file beside the table.

    Args:
        config: the experiment, whose runs have all ended.
        results: what `experiment` returned.
        shown: test tiles with every row's prediction, for figure 3.

    Returns:
        Validation curves with bands over the seeds; with `curve`, mIoU over it; of figure 3, the test tiles.
    """
    found: list[PageFigure] = []
    curves = {title: curve for title, run in config.rows.items() if (curve := validation_series(config, run))}
    if curves:
        title = f"Validation mIoU, mean and range over {len(config.seeds)} seed(s)"
        found.append(_plotted(config, "validation", title, validation_figure(curves)))
    if config.curve:
        rows = {row["name"]: row for row in results["rows"]}
        points = [
            CurvePoint(x, rows[title]["miou_mean"], rows[title]["miou_std"], rows[title].get("paper"))
            for title, x in config.curve.items()
        ]
        law = size_curve(config, results["rows"])
        title = f"Test mIoU by {config.curve_label}"
        found.append(_plotted(config, "curve", title, share_figure(points, config.curve_label, law)))
    if config.figure == 3:
        found.append(
            _pictured(config, "figure3", "Image, truth and each row's prediction", _compared(config, shown))
        )
    return found


def sample_pictures(config: Experiment) -> list[PageFigure]:
    """Draw figure 1, tiles and annotation of each data set of `samples`; write it as a PNG file, too."""
    rows = []
    for title, folder in config.samples.items():
        tiles = TileSet(fill(config, folder, config.seeds[0]), labelled=True)
        pictures = []
        for n in spread(len(tiles), SAMPLES):
            item = tiles.tile((0, n))
            pictures.append(("image", tile_colours(item, tiles), ""))
            pictures.append(
                ("annotation", rgb_from_ids(item.labels[0].numpy(), tiles.index.palette, UNLABELLED), "")
            )
        rows.append(GridRow(title, pictures, legend(tiles.index.classes, tiles.index.palette)))
    return [_pictured(config, "figure1", "Samples and their annotation", grid_figure(rows, []))]


def _compared(config: Experiment, shown: Sequence[Panel]) -> Figure:
    """Return figure 3: a row for each test tile with its image, its truth and what each row's first model predicts."""
    index = read_index(test_set(config, config.seeds[0]))
    palette, rows = index.palette, []
    for panel in shown[:COMPARED]:  # the first of those on the page
        assert panel.truth is not None
        known = panel.truth != IGNORE
        pictures = [("image", panel.image, ""), ("truth", rgb_from_ids(panel.truth, palette, UNLABELLED), "")]
        for title, ids in panel.predictions.items():
            right = float((ids[known] == panel.truth[known]).mean()) if known.any() else None
            note = "" if right is None else f"{percent(right)} % right"
            pictures.append((title, rgb_from_ids(ids, palette, UNLABELLED), note))
        rows.append(GridRow(panel.name[-24:], pictures))
    return grid_figure(rows, legend(index.classes, palette))


def _plotted(config: Experiment, name: str, title: str, figure: Figure) -> PageFigure:
    _write_png(config, name, figure)
    return PageFigure(title, inline_svg(figure, title), title)


def _pictured(config: Experiment, name: str, title: str, figure: Figure) -> PageFigure:
    png = _write_png(config, name, figure)
    return PageFigure(title, f"data:image/png;base64,{base64.b64encode(png).decode()}", title)


def _write_png(config: Experiment, name: str, figure: Figure) -> bytes:
    png, path = png_bytes(figure), page_folder(config) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        Path(aside).write_bytes(png)
    return png

"""Figures of a table as PNG files beside it, and for its page: curves over its rows, tiles with every prediction."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mkd.atomic import written_aside
from mkd.config.schema import Experiment
from mkd.geo.palette import rgb_from_ids
from mkd.inference.validation_picture import spread, tile_colours
from mkd.labels import IGNORE
from mkd.loader.loader import TileSet
from mkd.recipes.reports import PANELS, panels
from mkd.recipes.tables.run_list import fill, page_folder, run_folder, test_set
from mkd.report.content import PageFigure, RunMetrics
from mkd.report.drawing.curves import Series, read_phases
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


def table_pictures(config: Experiment, results: dict[str, Any]) -> list[PageFigure]:
    """Draw what a table's runs left behind; each figure also becomes a PNG file beside the table.

    Args:
        config: the experiment, whose runs have all ended.
        results: what `experiment` returned.

    Returns:
        Validation curves with bands over the seeds; with `curve`, mIoU over it; of figure 3, the test tiles.
    """
    found: list[PageFigure] = []
    curves = {title: curve for title, run in config.rows.items() if (curve := _validation(config, run))}
    if curves:
        title = f"Validation mIoU, mean and range over {len(config.seeds)} seed(s)"
        found.append(_plotted(config, "validation", title, validation_figure(curves)))
    if config.curve:
        rows = {row["name"]: row for row in results["rows"]}
        points = [
            CurvePoint(x, rows[title]["miou_mean"], rows[title]["miou_std"], rows[title].get("paper"))
            for title, x in config.curve.items()
        ]
        title = f"Test mIoU by {config.curve_label}"
        found.append(_plotted(config, "curve", title, share_figure(points, config.curve_label)))
    if config.figure == 3:
        found.append(
            _pictured(config, "figure3", "Image, truth and each row's prediction", _compared(config))
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


def _compared(config: Experiment) -> Figure:
    """Return figure 3: a row for each test tile with its image, its truth and what each row's first model predicts."""
    first = config.seeds[0]
    tiles = TileSet(test_set(config, first), labelled=True)
    models = {title: run_folder(config, run, first) / "model" for title, run in config.rows.items()}
    palette, rows = tiles.index.palette, []
    chosen = spread(len(tiles), PANELS)[:COMPARED]  # the first of those on the page
    for panel in panels(tiles, models, chosen):
        assert panel.truth is not None
        known = panel.truth != IGNORE
        pictures = [("image", panel.image, ""), ("truth", rgb_from_ids(panel.truth, palette, UNLABELLED), "")]
        for title, ids in panel.predictions.items():
            right = float((ids[known] == panel.truth[known]).mean()) if known.any() else None
            note = "" if right is None else f"{percent(right)} % right"
            pictures.append((title, rgb_from_ids(ids, palette, UNLABELLED), note))
        rows.append(GridRow(panel.name[-24:], pictures))
    return grid_figure(rows, legend(tiles.index.classes, palette))


def _validation(config: Experiment, run: str) -> Sequence[Series]:
    """Return steps and validation mIoU of a run's last stage for each seed; empty where one was not validated."""
    found = []
    for seed in config.seeds:
        phases, _ = read_phases(RunMetrics(run, run_folder(config, run, seed) / "metrics.jsonl", seed))
        if not phases or "val_miou" not in phases[-1].series:
            return []
        found.append(phases[-1].series["val_miou"])
    return found


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

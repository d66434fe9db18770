"""Figures over the rows of a table: validation curves with bands over the seeds, and mIoU over a share.

Lines differ in their dashes where there are more than colours.
Pictures have a white ground, so that they can be read on light and on dark pages.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mkd.metrics.learning_curve import LearningCurve
from mkd.report.drawing.curves import Series
from mkd.report.drawing.figures import COLOURS, HAIRLINE, INK, MUTED, STYLE, new_figure

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # the second seven lines are dashed, and so on
PAPER = "#5d6b7a"
NAMES = 9  # class names in a column beside a row of pictures


@dataclass(frozen=True)
class CurvePoint:
    """One row on a curve: its x, mean mIoU and standard deviation over the seeds, and the paper's mIoU; shares."""

    x: float
    mean: float
    std: float | None
    paper: float | None


def validation_figure(curves: Mapping[str, Sequence[Series]]) -> Figure:
    """Draw validation mIoU over the steps: a row's mean over its seeds, and a band from the lowest to the highest.

    Args:
        curves: row title -> steps and mIoU in [0, 1] of each seed; steps that a seed lacks are left out.
    """
    figure, (plot,) = new_figure([3.4], width=6.4)
    for number, (title, seeds) in enumerate(curves.items()):
        steps, low, mean, high = band(seeds)
        colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        plot.fill_between(steps, 100 * low, 100 * high, color=colour, alpha=0.18, linewidth=0)
        look: dict[str, Any] = {"linestyle": dashes, "linewidth": 1.6, "marker": "o", "markersize": 3.0}
        plot.plot(steps, 100 * mean, color=colour, label=title, **look)
    plot.set_xlabel("step of the row's last stage")
    plot.set_ylabel("validation mIoU, %")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    return figure


def band(seeds: Sequence[Series]) -> tuple[NDArray[np.float64], ...]:
    """Return the steps that all seeds have, and the lowest, mean and highest value there.

    Args:
        seeds: steps and values of each seed, at least one.
    """
    common = common_steps(seeds)
    at = [dict(zip(steps.tolist(), values.tolist(), strict=True)) for steps, values in seeds]
    values = np.array([[known[step] for step in common] for known in at])
    return np.array(common), values.min(axis=0), values.mean(axis=0), values.max(axis=0)


def common_steps(seeds: Sequence[Series]) -> list[float]:
    """Return the steps that all seeds have, ascending."""
    return sorted(set.intersection(*(set(steps.tolist()) for steps, _ in seeds)))


def share_figure(points: Sequence[CurvePoint], label: str, law: LearningCurve | None = None) -> Figure:
    """Draw test mIoU over a share, with the deviation over the seeds and the paper's values beside it.

    Args:
        points: at least one.
        label: of the x axis.
        law: drawn dotted with its interval up to twice the largest share; None: there is none.
    """
    points = sorted(points, key=lambda point: point.x)
    x = np.array([point.x for point in points])
    mean = np.array([100 * point.mean for point in points])
    figure, (plot,) = new_figure([3.0], width=5.2)
    if all(point.std is not None for point in points):
        spread = np.array([100 * (point.std or 0.0) for point in points])
        plot.fill_between(x, mean - spread, mean + spread, color=COLOURS[0], alpha=0.18, linewidth=0)
    plot.plot(x, mean, color=COLOURS[0], marker="o", markersize=4.5, linewidth=1.8, label="ours")
    if law is not None:
        if law.low is not None and law.high is not None:
            plot.fill_between(law.sizes, 100 * law.low, 100 * law.high, color=MUTED, alpha=0.15, linewidth=0)
        plot.plot(law.sizes, 100 * law.scores, color=MUTED, linestyle=DASHES[2], label="power law")
    told = [(point.x, 100 * point.paper) for point in points if point.paper is not None]
    if told:
        plot.plot(
            *zip(*told, strict=True),
            color=PAPER,
            linestyle=DASHES[1],
            marker="s",
            markersize=4,
            label="paper",
        )
    plot.set_xlabel(label)
    plot.set_ylabel("test mIoU, %")
    plot.set_xticks([*x, *([] if law is None else [2 * x[-1]])])
    plot.legend(frameon=False, labelcolor=INK)
    return figure


@dataclass(frozen=True)
class GridRow:
    """A row of pictures: words at its left, and (heading, (H,W,3) uint8, words below) of each picture.

    `classes` are name and CSS colour of each, for a legend at its right; empty draws none.
    """

    name: str
    pictures: Sequence[tuple[str, NDArray[np.uint8], str]]
    classes: Sequence[tuple[str, str]] = ()


def grid_figure(rows: Sequence[GridRow], classes: Sequence[tuple[str, str]], side: float = 1.5) -> Figure:
    """Draw pictures in rows, with the classes' colours below; a heading stands where it differs from that above.

    Args:
        rows: at least one, each with at least one picture.
        classes: name and CSS colour of each; empty draws no legend.
        side: width and height of a picture, inches.
    """
    columns = max(len(row.pictures) for row in rows)
    below = 0.35 + 0.2 * -(-len(classes) // 6)
    right = 1.5 * -(-max(len(row.classes) for row in rows) // NAMES)
    with matplotlib.rc_context(STYLE):
        size = (side * columns + 0.4 + right, (side + 0.3) * len(rows) + below)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
    above: list[str] = []
    for line, row in zip(axes, rows, strict=True):
        headings = [heading for heading, _, _ in row.pictures]
        for n, plot in enumerate(line):
            if n >= len(row.pictures):
                plot.set_axis_off()
                continue
            plot.set(xticks=[], yticks=[])
            plot.spines[:].set_color(HAIRLINE)
            heading, image, note = row.pictures[n]
            plot.imshow(image, interpolation="nearest")
            if above[n : n + 1] != [heading]:
                plot.set_title(heading, fontsize=8, color=INK, pad=3, wrap=True)
            plot.text(
                0.5, -0.03, note, transform=plot.transAxes, ha="center", va="top", fontsize=7, color=MUTED
            )
        line[0].set_ylabel(row.name, fontsize=8, color=MUTED)
        above = headings
        if row.classes:
            place: dict[str, Any] = {
                "loc": "center left",
                "bbox_to_anchor": (1.03, 0.5),
                "borderaxespad": 0.0,
            }
            _add_legend(line[-1], row.classes, -(-len(row.classes) // NAMES), place)
    if classes:
        _add_legend(figure, classes, 6, {"loc": "outside lower center"})
    return figure


def png_bytes(figure: Figure, dots: int = 160) -> bytes:
    """Return a figure as PNG on white, with so many dots an inch."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dots, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _add_legend(
    to: Axes | Figure, classes: Sequence[tuple[str, str]], columns: int, place: dict[str, Any]
) -> None:
    patches = [Patch(facecolor=colour, edgecolor=HAIRLINE, label=name) for name, colour in classes]
    to.legend(handles=patches, ncols=columns, frameon=False, fontsize=7.5, labelcolor=INK, **place)

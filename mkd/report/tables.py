"""The page's tables and bars as ready text: results, IoU by class, confusion matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mkd.labels import Colour
from mkd.report.content import Evaluation, Row
from mkd.report.drawing.figures import css_colour, scale_colours

ABSENT = "absent"


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class ResultLine:
    """A line of the results table, as printed."""

    name: str
    miou: Cell
    spread: str
    gain: str
    seeds: str
    iou: list[Cell]
    paper: str = ""
    apart: str = ""
    cost: list[str] = field(default_factory=list)
    folder: str = ""
    interval: str = ""
    gain_interval: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar: which method, its colour, its length in percent (None = absent), its text."""

    name: str
    colour: str
    length: float | None
    text: str


@dataclass(frozen=True)
class ConfusionCell:
    """One cell of a confusion matrix: share of the true class's pixels, colours, words shown on hover."""

    text: str
    background: str
    dark: bool
    title: str
    diagonal: bool


@dataclass(frozen=True)
class ConfusionLine:
    """One true class: its cells (empty when the class is absent) and its number of pixels."""

    name: str
    cells: list[ConfusionCell]
    pixels: str


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share of 1 as a percentage without its sign; None is an absent class."""
    return ABSENT if share is None else f"{100 * share:.{digits}f}"


def result_lines(rows: Sequence[Row], classes: Sequence[str]) -> list[ResultLine]:
    """Write the results table; gains are against the first row, in points of mIoU.

    Args:
        rows: methods, the reference first.
        classes: class names, the order of the columns.

    Returns:
        One line a row.
    """
    best_miou = max((row.miou_mean for row in rows), default=0.0)
    best = {
        name: max((v for row in rows if (v := row.iou.get(name)) is not None), default=None)
        for name in classes
    }
    several = len(rows) > 1
    return [
        ResultLine(
            name=row.name,
            miou=Cell(percent(row.miou_mean), several and row.miou_mean == best_miou),
            spread="" if row.miou_std is None else f"± {percent(row.miou_std)}",
            gain="" if row is rows[0] else _points(row.miou_mean - rows[0].miou_mean),
            seeds=", ".join(map(str, row.seeds)),
            iou=[_iou_cell(row.iou, name, best[name] if several else None) for name in classes],
            paper="" if row.paper is None else percent(row.paper, 2),
            apart="" if row.paper is None else _points(row.miou_mean - row.paper),
            cost=list(row.cost.values()),
            folder=row.folder,
            interval="" if row.interval is None else span(row.interval),
            gain_interval="" if row.gain_interval is None else _gain_interval(row.gain_interval),
        )
        for row in rows
    ]


def iou_bars(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, list[Bar]]:
    """Return the bars of the mean and of each class, one a row, the last row in the strongest colour.

    Args:
        rows: methods; those without IoU by class are left out.
        classes: class names.

    Returns:
        "mIoU", then each class name, to its bars.
    """
    told = [row for row in rows if row.iou]
    shades = [css_colour(colour) for colour in scale_colours("Blues", len(told), low=0.35, high=0.92)]
    bars = {"mIoU": [_bar(row, c, row.miou_mean) for row, c in zip(told, shades, strict=True)]}
    groups = {
        name: [_bar(row, c, row.iou.get(name)) for row, c in zip(told, shades, strict=True)]
        for name in classes
    }
    return bars | groups


def confusion_lines(evaluation: Evaluation) -> list[ConfusionLine]:
    """Write a confusion matrix, each row as shares of its true class; counts are in the cells' titles.

    share(t, p) = n(t, p) / sum_q n(t, q); a row without pixels has no shares.
    """
    names, shades = list(evaluation.iou), scale_colours("Blues", 101, low=0.0, high=0.85)
    lines = []
    for truth, counts in zip(names, evaluation.confusion.tolist(), strict=True):
        total = sum(counts)
        cells = [
            ConfusionCell(
                text=f"{100 * count / total:.0f}" if count else "",
                background=css_colour(shades[round(100 * count / total)]),
                dark=count / total > 0.75,
                title=f"truth {truth}, predicted {name}: {count:,} pixels, {100 * count / total:.2f} %",
                diagonal=truth == name,
            )
            for name, count in zip(names, counts, strict=True)
            if total
        ]
        lines.append(ConfusionLine(truth, cells, f"{total:,}"))
    return lines


def worst_confusions(evaluation: Evaluation, count: int = 3, least: float = 0.02) -> list[str]:
    """Return the largest errors, by share of the true class, as sentences; none for shares under `least`."""
    names, found = list(evaluation.iou), []
    for truth, counts in zip(names, evaluation.confusion.tolist(), strict=True):
        total = max(1, sum(counts))
        found += [(n / total, truth, name) for name, n in zip(names, counts, strict=True) if name != truth]
    found.sort(reverse=True)
    return [
        f"{100 * share:.0f} % of {truth} is taken for {name}"
        for share, truth, name in found[:count]
        if share >= least
    ]


def legend(classes: Sequence[str], palette: Sequence[Colour]) -> list[tuple[str, str]]:
    """Pair class names with their CSS colours."""
    return [(name, css_colour(colour)) for name, colour in zip(classes, palette, strict=True)]


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")


def span(ends: Sequence[float | None]) -> str:
    """Write the ends of an interval of shares as percentages; nothing where one is not known."""
    low, high = ends
    return "" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def _gain_interval(ends: Sequence[float]) -> str:
    """Write an interval of points, and whether it shows a difference: it does where it leaves out 0."""
    low, high = ends
    return f"{_points(low)} to {_points(high)}" + ("" if low > 0 or high < 0 else ", not shown")


def _iou_cell(iou: Mapping[str, float | None], name: str, best: float | None) -> Cell:
    if name not in iou:
        return Cell("–")
    value = iou[name]
    return Cell(percent(value), value is not None and value == best)


def _bar(row: Row, colour: str, value: float | None) -> Bar:
    return Bar(row.name, colour, None if value is None else round(100 * value, 2), percent(value))

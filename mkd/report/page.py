"""The page itself: a `Report` through the template into one HTML file, which needs no network."""

from pathlib import Path
from typing import Any

from mkd.atomic import write_text
from mkd.labels import IGNORE
from mkd.report.content import Evaluation, Report, Row
from mkd.report.drawing.curves import draw_curves
from mkd.report.drawing.image_panels import map_panel, panel_views
from mkd.report.evaluation_views import evaluation_views
from mkd.report.tables import confusion_lines, iou_bars, legend, percent, result_lines, worst_confusions
from mkd.report.templates import render_template


def write_report(path: str | Path, report: Report) -> Path:
    """Write a report as one HTML file, atomically.

    Args:
        path: where it goes; its folder must exist.
        report: what it shows; every part is optional, and the page says what is missing.

    Returns:
        The path written.

    Raises:
        ValueError: no such folder, another number of colours than classes, or a part that does not fit.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"the folder of the report {path} does not exist: create it, or name another")
    html = render_report(report)
    try:
        write_text(path, html)
    except OSError as error:
        raise ValueError(f"the report {error}") from None
    return path


def render_report(report: Report) -> str:
    """Return the HTML text of a report; equal reports give equal text.

    Args:
        report: what it shows.

    Returns:
        A complete HTML document.

    Raises:
        ValueError: another number of colours than classes, or a part that does not fit.
    """
    if len(report.palette) != len(report.classes):
        raise ValueError(
            f"the report has {len(report.classes)} classes and {len(report.palette)} colours: give one each"
        )
    return render_template("page.jinja", _views(report))


def _views(report: Report) -> dict[str, Any]:
    """Return everything the template shows, as ready text and pictures."""
    rows = list(report.rows) or [Row.from_evaluations(e.name, [e]) for e in report.evaluations]
    classes = list(report.classes) or list(dict.fromkeys(name for row in rows for name in row.iou))
    absent = [name for name in classes if rows and all(name in r.iou and r.iou[name] is None for r in rows)]
    return {
        "report": report,
        "facts": dict(report.facts) or _facts(report.evaluations[-1] if report.evaluations else None),
        "classes": classes,
        "legend": legend(report.classes, report.palette),
        "absent": absent,
        "costs": list(rows[0].cost) if rows else [],
        "results": result_lines(rows, classes if any(row.iou for row in rows) else []),
        "bars": iou_bars(rows, classes) if any(row.iou for row in rows) else {},
        "confusions": [(e, confusion_lines(e), worst_confusions(e)) for e in report.evaluations],
        "cards": draw_curves(report.runs),
        "unlabelled": any(
            panel.truth is not None and (panel.truth == IGNORE).any()
            for panel in [*report.panels, *report.worst]
        ),
        "panels": panel_views(report.panels, report.classes, report.palette),
        "worst": panel_views(report.worst, report.classes, report.palette),
        "details": evaluation_views(report.evaluations),
        "map": map_panel(report.map, report.classes, report.palette) if report.map else None,
    }


def _facts(evaluation: Evaluation | None) -> dict[str, str]:
    if evaluation is None:
        return {}
    one_class = sum(share is not None for share in evaluation.iou.values()) < 2
    return {
        "mIoU": "one class only" if one_class else f"{percent(evaluation.miou)} %",
        "pixels right": f"{percent(evaluation.pixel_accuracy)} %",
        "test tiles": f"{evaluation.samples:,}",
    }

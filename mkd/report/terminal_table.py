"""Results as a table in the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mkd.report.table_files import points, to_paper


def show(results: dict[str, Any]) -> None:
    """Print rows, then controls, of an experiment's results: mIoU mean, spread, and IoU by class."""
    rows = results["rows"]
    table = Table(title=Text(results["title"] or results["name"]))
    table.add_column("")
    papers = any("paper" in row for row in rows)
    frequent_too = ["frequent"] if "frequent_mean" in rows[0] else []
    for heading in ("mIoU", "std", *(["paper", "- paper"] if papers else []), *frequent_too, *rows[0]["iou"]):
        table.add_column(Text(heading), justify="right")  # a class name is no markup
    for row in [*rows, *results.get("controls", [])]:
        frequent = [f"{100 * row['frequent_mean']:.2f}"] if "frequent_mean" in row else []
        iou = ["absent" if v is None else f"{100 * v:.1f}" for v in row["iou"].values()]
        std = "1 seed" if row["miou_std"] is None else f"{100 * row['miou_std']:.2f}"
        table.add_row(
            Text(row["name"]),
            f"{100 * row['miou_mean']:.2f}",
            std,
            *(
                (f"{100 * row['paper']:.2f}" if "paper" in row else "", points(to_paper(row)))
                if papers
                else ()
            ),
            *frequent,
            *iou,
            end_section=row is rows[-1],
        )
    console = Console(width=140, markup=False, emoji=False)
    console.print(table)
    for found in [*results.get("differences", []), *results.get("budget", [])]:
        console.print(found["text"], highlight=False)


def show_rows(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of texts; the first column is flush left, the others flush right."""
    table = Table(title=Text(title))
    for number, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=140, markup=False, emoji=False).print(table)

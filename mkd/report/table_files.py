"""The results of an experiment as Markdown and CSV: ours, the paper's, difference, seeds, spread, run folder."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from mkd.report.tables import ABSENT, percent


def to_paper(row: dict[str, Any]) -> float | None:
    """Return a row's mean mIoU less the paper's, as a share; None where the paper has none."""
    return row["miou_mean"] - row["paper"] if "paper" in row else None


def points(difference: float | None) -> str:
    """Write a difference of shares in points with its sign; empty for None."""
    return "" if difference is None else f"{100 * difference:+.1f}"


def cost_cells(row: dict[str, Any]) -> dict[str, str]:
    """Return column name -> text of what a row's network costs; empty where that was not asked for."""
    cost = row.get("cost")
    if cost is None:
        return {}
    counted = {f"GMAC at {size}": f"{gmac:.1f}" for size, gmac in cost["gmac"].items()}
    return {
        "parameters, M": f"{cost['parameters'] / 1e6:.2f}",
        **counted,
        "images/s": f"{cost['speed']['images_per_second']:.3g}",
    }


def speed_note(rows: Sequence[dict[str, Any]]) -> str | None:
    """Return on what images/s was measured, one sentence; None where it was not."""
    speeds = [row["cost"]["speed"] for row in rows if "cost" in row]
    told = dict.fromkeys(
        f"{s['device']}, {s['threads']} threads, {s['precision']}, batches of {s['batch']}, {s['size']} x {s['size']} "
        f"pixels, after {s['warm_up']} unmeasured batch"
        for s in speeds
    )
    return f"Images/s: {'; '.join(told)}." if told else None


def markdown_table(results: dict[str, Any]) -> str:
    """Return an experiment's results as a Markdown page: rows, controls, differences.

    Args:
        results: what `mkd.recipes.tables.results.collect` returns.
    """
    rows = [*results["rows"], *results["controls"]]
    cost, classes = list(cost_cells(rows[0])), list(rows[0]["iou"])
    names = ["", "ours, %", "paper, %", "difference", "seeds", "spread", *cost, *classes, "run folder"]
    lines = [f"# {results['title'] or results['name']}", "", _line(names), "|" + "---|" * len(names)]
    for row in rows:
        spread = "one seed" if row["miou_std"] is None else f"± {percent(row['miou_std'])}"
        paper = percent(row["paper"], 2) if "paper" in row else ""
        cells = [
            row["name"],
            percent(row["miou_mean"]),
            paper,
            points(to_paper(row)),
            ", ".join(row["seeds"]),
        ]
        iou = [percent(value) for value in row["iou"].values()]
        lines.append(_line([*cells, spread, *cost_cells(row).values(), *iou, f"`{row['folder']}`"]))
    told = [found["text"] for found in [*results["differences"], *results["budget"]]]
    notes = [*told, *([note] if (note := speed_note(rows)) else [])]
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def csv_table(results: dict[str, Any]) -> str:
    """Return an experiment's results as CSV: a line for each row and seed, and one for the row's mean.

    mIoU, spread, the paper's mIoU, the difference to it and IoU are in percent; a class that the test set lacks is
    `absent`, what is not known is empty.

    Args:
        results: what `mkd.recipes.tables.results.collect` returns.
    """
    rows = [*results["rows"], *results["controls"]]
    cost, classes = list(cost_cells(rows[0])), list(rows[0]["iou"])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["row", "run", "seed", "miou", "spread", "paper", "difference", "folder", *cost, *classes]
    writer.writerow(names)
    for row in rows:
        for seed, miou in row["seeds"].items():
            iou = row["iou_by_seed"][seed]
            known = [
                row["name"],
                row["run"],
                seed,
                f"{100 * miou:.4f}",
                "",
                "",
                "",
                f"{row['folder']}/seed{seed}",
            ]
            writer.writerow([*known, *[""] * len(cost), *(_exact(iou[name]) for name in classes)])
        spread = "" if row["miou_std"] is None else f"{100 * row['miou_std']:.4f}"
        paper = f"{100 * row['paper']:.2f}" if "paper" in row else ""
        apart = to_paper(row)
        mean = [f"{100 * row['miou_mean']:.4f}", spread, paper, "" if apart is None else f"{100 * apart:.4f}"]
        iou = [_exact(value) for value in row["iou"].values()]
        writer.writerow(
            [row["name"], row["run"], "mean", *mean, row["folder"], *cost_cells(row).values(), *iou]
        )
    return out.getvalue()


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _exact(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.4f}"

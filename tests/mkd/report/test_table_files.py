"""Results as Markdown and CSV say what results.json holds."""

import csv
import io

import pytest

from mkd.report.table_files import csv_table, markdown_table


def row(name, run, mious, paper=None, iou=None):
    mean = sum(mious) / len(mious)
    std = None if len(mious) == 1 else (sum((m - mean) ** 2 for m in mious) / (len(mious) - 1)) ** 0.5
    iou = iou or {"road": mean, "lake, or sea": None}
    found = {
        "name": name,
        "run": run,
        "folder": f"out/{run}",
        "miou_mean": mean,
        "miou_std": std,
        "seeds": {str(n): m for n, m in enumerate(mious)},
        "iou": iou,
        "iou_by_seed": {str(n): {**iou, "road": m} for n, m in enumerate(mious)},
    }
    return found | ({} if paper is None else {"paper": paper})


RESULTS = {
    "name": "t",
    "title": "A table",
    "seeds": [0, 1],
    "rows": [
        row("Base | plain", "base", [0.5, 0.6], paper=0.6107),
        row("Next, with SSL", "next", [0.7, 0.6]),
    ],
    "controls": [row("Control", "control", [0.4, 0.4])],
    "differences": [
        {"text": "SSL - base: +10.0 +- 10.0 mIoU points over 2 seeds, not shown (below twice ...)"}
    ],
    "budget": [{"text": "Doubling the tiles beyond 100 would add +1.0 mIoU points"}],
}


def test_csv_has_a_line_for_each_row_and_seed_and_the_mean():
    """Read back by the csv module, it gives the seeds, mean, spread, the paper's value and the difference to it."""
    lines = list(csv.DictReader(io.StringIO(csv_table(RESULTS))))
    assert [(line["run"], line["seed"]) for line in lines] == [
        (run, seed) for run in ("base", "next", "control") for seed in ("0", "1", "mean")
    ]
    mean = lines[2]
    assert mean["row"] == "Base | plain"
    assert [float(mean[k]) for k in ("miou", "spread", "paper", "difference")] == pytest.approx(
        [55.0, 7.0711, 61.07, -6.07], abs=1e-3
    )
    assert (lines[1]["miou"], lines[1]["folder"], lines[1]["paper"]) == ("60.0000", "out/base/seed1", "")
    assert (mean["road"], mean["lake, or sea"], mean["folder"]) == ("55.0000", "absent", "out/base")
    assert (lines[5]["paper"], lines[5]["difference"]) == ("", "")


def test_markdown_has_the_columns_of_the_page():
    """Ours, the paper's, difference, seeds, spread, IoU and folder of each row; a bar in a name does not end a cell."""
    text = markdown_table(RESULTS)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == (
        "|  | ours, % | paper, % | difference | seeds | spread | road | lake, or sea | run folder |"
    )
    assert table[2] == "| Base \\| plain | 55.0 | 61.07 | -6.1 | 0, 1 | ± 7.1 | 55.0 | absent | `out/base` |"
    assert table[3].startswith("| Next, with SSL | 65.0 |  |  | 0, 1 |")
    assert len(table) == 2 + 3
    assert "- Doubling the tiles beyond 100 would add +1.0" in text
    assert "- SSL - base: +10.0 +- 10.0 mIoU points over 2 seeds, not shown" in text


def test_one_seed_has_no_spread():
    """The deviation of one seed is said to be that, not 0."""
    results = RESULTS | {
        "rows": [row("Base", "base", [0.5])],
        "controls": [],
        "differences": [],
        "budget": [],
    }
    assert "| one seed |" in markdown_table(results)
    assert list(csv.DictReader(io.StringIO(csv_table(results))))[1]["spread"] == ""


def test_costs_are_columns_and_the_speed_says_what_it_is_of():
    """Parameters, counts at each size and speed stand beside the row; device, precision, batch and warm-up below."""
    speed = {
        "images_per_second": 2.5,
        "device": "cpu",
        "threads": 2,
        "precision": "float32",
        "batch": 1,
        "size": 512,
        "warm_up": 1,
    }
    cost = {"parameters": 3_210_000, "gmac": {"512": 1.25, "1024": 5.0}, "speed": speed}
    text = markdown_table(RESULTS | {"rows": [RESULTS["rows"][0] | {"cost": cost}], "controls": []})
    assert "| parameters, M | GMAC at 512 | GMAC at 1024 | images/s | road |" in text
    assert "| 3.21 | 1.2 | 5.0 | 2.5 | 55.0 |" in text
    assert "cpu, 2 threads, float32, batches of 1, 512 x 512 pixels, after 1 unmeasured batch" in text

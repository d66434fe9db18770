"""The page is one valid file that loads nothing, says what is missing, and lets no name become markup."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from mkd.report.content import Evaluation, MapView, Panel, Report, Row, RunMetrics
from mkd.report.page import render_report, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
CLASSES, PALETTE = ("road", "water"), ((240, 200, 60), (50, 110, 200))


class Page(HTMLParser):
    """Reads a page: balance of its elements, its links, its texts, its ids."""

    def __init__(self, html):
        super().__init__()
        self.open, self.links, self.texts, self.ids, self.tags, self.titles = [], [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            if name == "title":
                self.titles.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append(" ".join(data.split()))


DETAILS = {
    "interval": {
        "level": 0.95,
        "blocks": "tile",
        "number": 4,
        "miou": [0.41, 0.63],
        "iou": {"road": [0.4, 0.6], "water": [None, None]},
    },
    "boundary_f1": {"tolerance": 3, "mean": 0.777, "classes": {"road": 0.777, "water": None}},
    "calibration": {
        "ece": 0.031,
        "bins": [{"low": 0.8, "high": 0.9, "pixels": 8, "confidence": 0.844, "accuracy": 0.875}],
    },
    "costly_confusions": [{"truth": "road", "predicted": "water", "pixels": 1, "miou": 0.025}],
}


def evaluation(name="ours, seed 0", details=None):
    results = {
        "miou": 0.5,
        "iou": {"road": 0.5, "water": None},
        "pixel_accuracy": 0.875,
        "confusion": [[7, 1], [0, 0]],
        "samples": 4,
        "provenance": {"model": "runs/a/model", "commit": None, "versions": {"torch": "2"}},
    }
    return Evaluation.from_results(name, results | (details or {}))


@pytest.fixture
def full(tmp_path):
    lines = [{"phase": "student", "step": s, "loss": 1 / s, "loss_kd": 0.5 / s} for s in range(1, 30)]
    lines.append({"phase": "student", "step": 20, "val_miou": 0.5})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    image, ids = np.full((4, 6, 3), 90, np.uint8), np.zeros((4, 6), np.uint8)
    return Report(
        title="Land cover",
        summary="It gains.",
        classes=CLASSES,
        palette=PALETTE,
        facts={"time": "6 min"},
        rows=[Row("base", 0.4, 0.01, (0, 1), {"road": 0.4, "water": None}), Row("ours", 0.5, 0.02, (0, 1))],
        evaluations=[evaluation(details=DETAILS)],
        runs=[
            RunMetrics("stage 1", tmp_path / "metrics.jsonl"),
            RunMetrics("stage 2", tmp_path / "metrics.jsonl"),
        ],
        panels=[Panel("tile-7", image, ids, {"ours": ids})],
        worst=[Panel("tile-9", image, ids, {"ours": ids})],
        map=MapView(image, ids, ids + 200, "A field."),
        configs={"ours": "seed: 0\n"},
        versions={"torch": "2.9"},
        command="python launch/demo.py out=runs/demo",
        notes=["Two seeds only."],
        created="1 May 2026",
    )


def test_a_full_page_shows_every_part(full):
    """Each thing given is on the page, in a well-formed document with unique ids."""
    page = Page(render_report(full))
    shown = " | ".join(page.texts)
    for text in (
        *(
            "Land cover",
            "It gains.",
            "6 min",
            "base",
            "ours",
            "40.0",
            "± 1.0",
            "+10.0",
            "Two seeds only.",
            "tile-7",
        ),
        *("100.0 % right", "A field.", "seed: 0", "2.9", "python launch/demo.py out=runs/demo", "1 May 2026"),
        *(
            "tile-9",
            "41.0 to 63.0",
            "40.0 to 60.0",
            "77.7",
            "Calibration, expected error 3.1 %",
            "within 3 pixels",
        ),
        *("road taken for water: 2.5 points, 1 pixels", "bootstrap over 4 tiles"),
        *("stage 1: student", "runs/a/model", "not recorded", "absent from the test set", "total", "kd"),
    ):
        assert text in shown, text
    assert "truth road, predicted water: 1 pixels, 12.50 %" in page.titles
    assert len(page.ids) == len(set(page.ids))
    assert "No " not in shown


def test_the_page_loads_nothing(full):
    """Every source is inside the page; no script, no outside address, and a policy that forbids both."""
    html = render_report(full)
    page = Page(html)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#") and len(link) > 1} <= set(page.ids)
    assert "script" not in page.tags
    assert "@import" not in html
    assert "url(http" not in html
    assert "default-src 'none'" in html


def test_every_missing_part_is_said():
    """An empty report is a page of sentences, not an error and not blank."""
    page = Page(render_report(Report(title="Nothing yet")))
    for sentence in (
        "No evaluation was run, so there are no results.",
        "No IoU by class is known.",
        "No test tiles were rendered.",
        "No evaluation was run, so there is no confusion matrix.",
        "No evaluation with intervals, boundaries and calibration was run.",
        "No training metrics were given.",
        "The command was not recorded.",
        "No provenance was recorded.",
        "No configuration was recorded.",
        "No versions were recorded.",
    ):
        assert sentence in page.texts
    assert "map" not in page.ids  # most pages have none, and miss nothing


def test_an_absent_class_is_never_a_zero():
    """One run without rows: the table is made from its evaluation, and the absent class says absent."""
    page = Page(
        render_report(Report("r", classes=CLASSES, palette=PALETTE, evaluations=[evaluation("run-a")]))
    )
    assert page.texts.count("absent") == 2  # table and bars
    assert "0.0" not in page.texts
    assert any("water: absent from the test set, left out of the mean." in text for text in page.texts)
    assert "87.5 %" in page.texts


def test_names_never_become_markup(full):
    """Angle brackets and quotes in titles, rows, panels and configurations are shown as they are."""
    evil = '<script>alert(1)</script>"&'
    report = Report(
        title=evil,
        summary=evil,
        classes=(evil, "water"),
        palette=PALETTE,
        rows=[Row(evil, 0.5, iou={evil: 0.5, "water": 0.1})],
        runs=[RunMetrics(evil, full.runs[0].metrics)],
        panels=[Panel(evil, full.panels[0].image, None, {evil: full.panels[0].truth})],
        configs={evil: evil, "b": evil},
        notes=[evil],
        command=evil,
    )
    page = Page(render_report(report))
    assert "script" not in page.tags
    assert evil in page.texts


def test_equal_reports_give_equal_pages(full):
    """No date and no chance: the same report is the same file."""
    assert render_report(full) == render_report(full)


def test_written_whole_or_not_at_all(tmp_path, full, monkeypatch):
    """The file appears complete; a failing disk leaves the older page and no temporary file."""
    folder = tmp_path / "out"
    folder.mkdir()
    path = write_report(folder / "report.html", full)
    assert path.read_text(encoding="utf-8") == render_report(full)

    def broken(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(ValueError, match=r"the report .*report.html: cannot be written \(No space left"):
        write_report(folder / "report.html", Report("other"))
    assert [p.name for p in folder.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == render_report(full)


def test_what_does_not_fit_is_a_sentence(tmp_path):
    """No folder, and colours that do not match the classes, name what was found."""
    with pytest.raises(ValueError, match="the folder of the report .*none/report.html does not exist"):
        write_report(tmp_path / "none" / "report.html", Report("r"))
    with pytest.raises(ValueError, match="the report has 2 classes and 1 colours"):
        render_report(Report("r", classes=CLASSES, palette=PALETTE[:1]))

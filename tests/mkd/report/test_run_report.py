"""A run folder becomes a report: what is there is shown, what is broken is named."""

import json

import pytest

from mkd.report.page import render_report
from mkd.report.run_report import report_of_run

RESULTS = {
    "miou": 0.5,
    "iou": {"road": 0.5, "water": None},
    "pixel_accuracy": 0.9,
    "confusion": [[1, 0], [0, 0]],
    "samples": 1,
}


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "run-3"
    (run / "model").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"phase": "student", "step": 1, "loss": 2.0}\n')
    (run / "config.yaml").write_text("seed: 3\n")
    (run / "versions.json").write_text('{"torch": "2.9"}')
    (run / "model" / "model.yaml").write_text("classes: [road, water]\npalette: [[1, 2, 3], [4, 5, 6]]\n")
    (run / "results.json").write_text(json.dumps(RESULTS))
    return run


def test_a_whole_folder(folder):
    """Curves, configuration, versions, classes and the folder's own results are found, and make a page."""
    report = report_of_run(folder, command="python launch/kd.py seed=3")
    assert report.title == "Run run-3"
    assert (report.classes, report.palette) == (("road", "water"), ((1, 2, 3), (4, 5, 6)))
    assert report.configs == {"config.yaml": "seed: 3\n"}
    assert report.versions == {"torch": "2.9"}
    assert [e.miou for e in report.evaluations] == [0.5]
    html = render_report(report)
    assert "run-3: student" in html
    assert "python launch/kd.py seed=3" in html


def test_an_empty_folder(tmp_path):
    """A run that has written nothing yet is a page that says so."""
    report = report_of_run(tmp_path)
    assert (report.runs, report.evaluations, report.configs, report.versions) == ([], [], {}, {})
    assert "No training metrics were given." in render_report(report)


def test_results_from_elsewhere(folder, tmp_path):
    """A named results file is taken instead of the folder's; one that is not there is an error, not a gap."""
    other = tmp_path / "other.json"
    other.write_text(json.dumps(RESULTS | {"miou": 0.25}))
    assert report_of_run(folder, results=other).evaluations[0].miou == 0.25
    with pytest.raises(ValueError, match=r"no results at .*gone.json: run evaluate first"):
        report_of_run(folder, results=tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("versions.json", "{", "cannot read .*versions.json"),
        ("results.json", "[]", "results.json holds a list, expected names and values"),
        ("model/model.yaml", "a: [", "cannot read .*model.yaml"),
    ],
)
def test_broken_files_are_named(folder, name, text, sentence):
    """A file that cannot be understood stops with its path."""
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=sentence):
        report_of_run(folder)


def test_no_folder(tmp_path):
    """A wrong path is a sentence."""
    with pytest.raises(ValueError, match="no run folder at .*gone"):
        report_of_run(tmp_path / "gone")

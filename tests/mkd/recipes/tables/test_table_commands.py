"""table=3 and what follows from it, on small drawn landscapes and a few steps: shared runs, files, figures."""

import csv
import json
from dataclasses import replace

import pytest

from mkd.config.load import load
from mkd.config.schema import DemoRun, Experiment
from mkd.dataset.index import read_index
from mkd.recipes.tables.command import table_or_plan
from mkd.recipes.tables.drawn_sets import draw_table_sets
from mkd.recipes.tables.run_list import run_folder
from tests.helpers.training.runs import digests

SIZES = DemoRun(scene=512, tile=64, block=128, intermediate_scenes=1, target_scenes=2, labelled=6)
SHORT = ["steps=2", "save_every=1", "val_every=1", "data.batch=2", "data.crop=32", "device=cpu"]


def short(root, *words):
    """Compose a table as typed, with a few small steps for each run."""
    given = [*words, f"out={root / 'runs'}", f"data={root / 'data'}"]
    config = load(Experiment, "experiment", given)
    common = {script: [*texts, *SHORT] for script, texts in config.common.items()}
    common["kd"] += ["kd.fisher_tiles=2", "kd.teacher_epochs=1"]
    return replace(config, common=common)


@pytest.fixture(scope="module")
def table3(tmp_path_factory):
    """Table 3 of two seeds, trained; the small sets are there before it asks for the demo's."""
    root = tmp_path_factory.mktemp("tables")
    draw_table_sets(root / "data", SIZES)
    config = short(root, "table=3", "seeds=[0,1]")
    return root, config, table_or_plan(config, "typed")


@pytest.mark.slow
def test_a_table_by_its_number(table3):
    """Page, results, Markdown, CSV and figures lie in OUT/table3; each row says what the paper has."""
    root, config, said = table3
    page = root / "runs" / "table3"
    assert said == f"report: {page / 'report.html'}"
    names = {"report.html", "results.json", "table.md", "table.csv", "validation.png", "curve.png"}
    assert {path.name for path in page.iterdir()} == names
    rows = {row["name"]: row for row in json.loads((page / "results.json").read_text())["rows"]}
    assert list(rows) == list(config.rows)
    assert [row["paper"] for row in rows.values()] == pytest.approx([0.7404, 0.7520, 0.7640, 0.7705])
    lines = list(csv.DictReader((page / "table.csv").open(newline="")))
    assert len(lines) == 3 * 5
    mean = next(line for line in lines if line["row"] == "10 %" and line["seed"] == "mean")
    assert float(mean["miou"]) == pytest.approx(100 * rows["10 %"]["miou_mean"], abs=1e-3)
    assert float(mean["difference"]) == pytest.approx(float(mean["miou"]) - 75.20, abs=1e-3)
    text = (page / "report.html").read_text()
    for part in ("75.20", "ours − paper", "Test mIoU by share of the unlabelled tiles", "typed"):
        assert part in text


@pytest.mark.slow
def test_shares_are_parts_of_the_unlabelled_set(table3):
    """10 and 50 % of the tiles; label shares leave all others unlabelled."""
    data = table3[0] / "data"
    whole = read_index(data / "target" / "unlabelled").samples
    for percent in (10, 50):
        part = read_index(data / f"unlabelled_{percent}" / "unlabelled")
        assert (part.samples, part.labelled) == (round(whole * percent / 100), 0)
    train = read_index(data / "target" / "train").samples
    for part in (16, 8, 4, 2):
        found = {n: read_index(data / f"label_{part}" / n).samples for n in ("labelled", "unlabelled")}
        assert found == {"labelled": round(train / part), "unlabelled": train - round(train / part)}


@pytest.mark.slow
def test_tables_share_their_runs(table3, capsys):
    """Table 5 trains no run of table 3 again, and only what its own rows need; its page lies beside."""
    root, config, _ = table3
    shared = [run_folder(config, name, 0) for name in ("stage1", "stage2", "ssl")]
    before = [digests(folder) for folder in shared]
    fifth = replace(short(root, "table=5"), rows={"full": "ssl", "without EWC": "stage2_no_ewc"})
    fifth = replace(fifth, controls={}, differences={"EWC": ["ssl", "stage2_no_ewc"]}, paper={"full": 77.05})
    table_or_plan(fifth, "typed")
    assert [digests(folder) for folder in shared] == before
    assert capsys.readouterr().out.count("this run has ended") == len(shared)
    assert {path.name for path in (root / "runs").iterdir()} == {
        *("stage1", "stage2", "ssl", "ssl_10", "ssl_50", "control", "table3"),
        *("stage1_no_ewc", "stage2_no_ewc", "table5"),
    }
    assert table_or_plan(replace(fifth, plan=True), "typed").endswith(
        "left: 0 of 5 runs, 0 h one after another"
    )


@pytest.mark.slow
def test_figures_are_pages_and_pictures(table3):
    """Figure 1 draws the sets and trains nothing; figure 3 has the models of its rows side by side."""
    root, config, _ = table3
    table_or_plan(short(root, "figure=1"), "typed")
    third = replace(short(root, "figure=3"), rows={"two stages": "stage2", "SSL": "ssl"})
    table_or_plan(third, "typed")
    for name in ("figure1", "figure3"):
        assert (root / "runs" / name / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "data:image/png" in (root / "runs" / name / "report.html").read_text()


@pytest.mark.slow
def test_costs_are_counted_once(table3):
    """With cost=true parameters, counts at 512 and 1024 pixels and a measured speed stand beside a row."""
    root, config, _ = table3
    costly = replace(config, cost=True, seeds=[0], rows={"two stages": "stage2"}, controls={}, differences={})
    costly = replace(costly, curve={}, paper={}, page="cost")
    table_or_plan(costly, "typed")
    (row,) = json.loads((root / "runs" / "cost" / "results.json").read_text())["rows"]
    assert row["cost"]["gmac"]["1024"] == pytest.approx(4 * row["cost"]["gmac"]["512"], rel=1e-6)
    assert row["cost"]["parameters"] > 1e6
    table_or_plan(costly, "typed")
    (again,) = json.loads((root / "runs" / "cost" / "results.json").read_text())["rows"]
    assert again["cost"] == row["cost"]

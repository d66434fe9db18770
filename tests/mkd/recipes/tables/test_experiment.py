"""A table of runs: placeholders, rows, averages over seeds, and going on where it ended."""

import json
from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest

from mkd.config.schema import DemoRun, Experiment, ExperimentStep
from mkd.recipes.reports import experiment_report, table_panels
from mkd.recipes.tables.demo import demo
from mkd.recipes.tables.experiment import experiment
from mkd.recipes.tables.results import _row
from mkd.recipes.tables.run_list import fill, run_folder
from mkd.report.terminal_table import show
from tests.helpers.training.runs import QUICK, RANDOM, digests


def table(tmp_path, **more):
    runs = {"base": ExperimentStep("supervised"), "next": ExperimentStep("semi")}
    given = {
        "name": "t",
        "out": str(tmp_path / "out"),
        "data": "tiles",
        "seeds": [0, 1, 2],
        "test": "{data}/test",
    }
    return Experiment(**({"runs": runs, "rows": {"Base": "base"}} | given | more))


def test_placeholders(tmp_path):
    """{data}, {out}, {seed} and {run:NAME} become folders and numbers, several in one override too."""
    config = table(tmp_path)
    out = config.out
    assert fill(config, "data.val={data}/val{seed}", 2) == "data.val=tiles/val2"
    assert fill(config, "semi.start={run:base}/model", 1) == f"semi.start={out}/base/seed1/model"
    assert fill(config, "x={out}/{run:next}", 0) == f"x={out}/{out}/next/seed0"
    assert fill(config, "steps=5", 0) == "steps=5"


@pytest.mark.parametrize("text", ["a={run:other}/model", "a={what}", "a={seed"])
def test_an_unknown_placeholder_is_refused(tmp_path, text):
    """What cannot be filled in is one sentence with what can."""
    with pytest.raises(ValueError, match=r"\{data\}, \{out\}, \{seed\} and \{run:NAME\}") as caught:
        fill(table(tmp_path), text, 0)
    assert text.split("=")[1].split("}")[0] in str(caught.value)


def test_what_is_filled_in_stays_as_it_is(tmp_path):
    """Braces in the name of a folder are no placeholder."""
    config = table(tmp_path, data="/d/{seed} {x", out=str(tmp_path / "{out}"))
    assert fill(config, "a={data}/v", 3) == "a=/d/{seed} {x/v"
    assert fill(config, "a={run:base}/model", 3) == f"a={tmp_path}/{{out}}/base/seed3/model"


def test_a_typo_in_a_placeholder_names_what_was_meant(tmp_path):
    """The nearest run is named, and all that there are."""
    with pytest.raises(
        ValueError, match=r"\{run:bsae\} is not known; did you mean \{run:base\}\?.*base, next"
    ):
        fill(table(tmp_path), "semi.start={run:bsae}/model", 0)


def results(config, run, figures):
    """Write the result files of one run by hand: (mIoU, IoU by class) for each seed."""
    for seed, (miou, iou) in zip(config.seeds, figures, strict=True):
        folder = run_folder(config, run, seed)
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"miou": miou, "iou": iou}))


THREE = [
    (0.5, {"a": 0.4, "b": 0.6, "c": None}),
    (0.6, {"a": 0.5, "b": 0.7, "c": None}),
    (0.4, {"a": 0.3, "b": 0.5, "c": None}),
]


def test_a_row_averages_over_seeds(tmp_path):
    """Mean and standard deviation (n - 1) of mIoU, mean IoU by class; a class absent from the test set stays null."""
    config = table(tmp_path)
    results(config, "base", THREE)
    assert _row(config, "Base", "base") == {
        "name": "Base",
        "miou_mean": pytest.approx(0.5),
        "miou_std": pytest.approx(stdev([0.5, 0.6, 0.4])),
        "seeds": {"0": 0.5, "1": 0.6, "2": 0.4},
        "iou": {"a": pytest.approx(0.4), "b": pytest.approx(0.6), "c": None},
    }


def test_one_seed_has_no_spread(tmp_path):
    """The deviation of a single run is not 0 but unknown."""
    config = table(tmp_path, seeds=[4])
    results(config, "base", THREE[:1])
    row = _row(config, "Base", "base")
    assert (row["miou_mean"], row["miou_std"], row["seeds"]) == (0.5, None, {"4": 0.5})


def test_frequent_classes_have_a_mean_of_their_own(tmp_path):
    """`frequent` names the classes of a second mean, averaged over seeds like the first."""
    config = table(tmp_path, frequent=["b"])
    results(config, "base", THREE)
    row = _row(config, "Base", "base")
    assert row["frequent_mean"] == pytest.approx(0.6)
    assert row["frequent_std"] == pytest.approx(stdev([0.6, 0.7, 0.5]))


@pytest.mark.parametrize("frequent", [["c"], ["nowhere"]])
def test_a_frequent_class_that_is_not_there(tmp_path, frequent):
    """A class that the test set lacks, or that no class file knows, is one sentence with the key."""
    config = table(tmp_path, frequent=frequent)
    results(config, "base", THREE)
    with pytest.raises(ValueError, match="frequent"):
        _row(config, "Base", "base")


def test_the_table_is_printed(tmp_path, capsys):
    """One line a row with mIoU in percent, spread and IoU by class; unknown spread and absent class in words."""
    config = table(tmp_path, seeds=[4], frequent=["b"])
    results(config, "base", THREE[:1])
    show({"title": "A title", "name": "t", "rows": [_row(config, "Base", "base")]})
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if "Base" in line)
    assert "A title" in text
    assert line.replace("│", " ").split() == ["Base", "50.00", "1", "seed", "60.00", "40.0", "60.0", "absent"]


@pytest.mark.parametrize(("work", "kind"), [(experiment, Experiment), (demo, DemoRun)])
def test_one_of_several_ranks_is_refused(tmp_path, monkeypatch, work, kind):
    """Each of several ranks would start all runs: one sentence, and nothing is made."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="not for several ranks; start it with python"):
        work(kind(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_row_of_no_run_is_refused_first(tmp_path):
    """A row that names no run stops before anything is trained, with the runs there are."""
    config = table(tmp_path, rows={"Base": "bse"})
    with pytest.raises(ValueError, match=r"'Base' names the run 'bse'; the runs are base, next"):
        experiment(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("step", "word"),
    [
        (ExperimentStep("superwised"), "superwised"),
        (ExperimentStep("supervised", ["a={run:gone}"]), "gone"),
        (ExperimentStep("supervised", ["optim.lrr=1"]), "optim.lrr"),
    ],
)
def test_every_run_is_checked_before_the_first_is_trained(tmp_path, sets, step, word):
    """A mistake in the last run of a table of hours is found at its start."""
    good = ExperimentStep("supervised", [f"data.labelled={sets['labelled']}", *RANDOM, *QUICK, "steps=1"])
    runs, rows = {"base": good, "next": step}, {"Base": "base", "Next": "next"}
    config = table(tmp_path, runs=runs, rows=rows, seeds=[0], test=sets["val"])
    with pytest.raises(ValueError, match=word):
        experiment(config)
    assert not (tmp_path / "out" / "base").exists()


def test_folders_and_test_set_are_checked_before_the_first_run_is_trained(tmp_path, sets):
    """A folder of the last run, a test set that is not there or has other classes, and the order of the runs."""
    common = {"supervised": [*RANDOM, *QUICK, "steps=1", f"data.labelled={sets['labelled']}"]}
    good = ExperimentStep("supervised")
    gone = ExperimentStep("supervised", ["data.val={data}/gone"])
    early = ExperimentStep("supervised", ["student_init={run:next}/model"])
    for runs, test, word in (
        (
            {"base": good, "next": gone},
            sets["val"],
            "run 'next', seed 0: data.val=tiles/gone: no such folder",
        ),
        ({"base": good}, "{data}/test", "test=tiles/test: no such folder"),
        ({"base": good}, sets["source"], "has the classes grass, path, lake, roof"),
        ({"base": good}, sets["unlabelled"], "have no label"),
        ({"base": early, "next": good}, sets["val"], "is not trained before it"),
    ):
        rows = {name: name for name in runs}
        config = table(tmp_path, runs=runs, rows=rows, seeds=[0], test=str(test), common=common)
        with pytest.raises(ValueError, match=word):
            experiment(config)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def small(sets, tmp_path_factory):
    """A baseline and a semi-supervised run on top of it, two seeds, one step each."""
    root = tmp_path_factory.mktemp("table")
    common = [f"data.labelled={sets['labelled']}", f"data.val={sets['val']}", *QUICK, "steps=1"]
    config = Experiment(
        name="small",
        title="Small",
        out=str(root / "out"),
        data=str(root),
        seeds=[0, 1],
        test=sets["val"],
        common={"supervised": [*common, *RANDOM], "semi": [*common, f"data.unlabelled={sets['unlabelled']}"]},
        runs={
            "base": ExperimentStep("supervised"),
            "next": ExperimentStep("semi", ["semi.start={run:base}/model"]),
        },
        rows={"Base": "base", "+ SSL": "next"},
        differences={"SSL - base": ["next", "base"]},
    )
    return config, experiment(config)


def test_a_small_table(small):
    """Each run lies in OUT/RUN/seedN with its results; the table averages them and is written."""
    config, found = small
    assert [row["name"] for row in found["rows"]] == ["Base", "+ SSL"]
    for row, run in zip(found["rows"], ("base", "next"), strict=True):
        files = [run_folder(config, run, seed) / "results.json" for seed in (0, 1)]
        mious = [json.loads(f.read_text())["miou"] for f in files]
        assert row["seeds"] == dict(zip("01", mious, strict=True))
        assert row["miou_mean"] == pytest.approx(sum(mious) / 2)
    assert json.loads((run_folder(config, "x", 0).parent.parent / "results.json").read_text()) == found


def test_differences_are_paired(small):
    """Mean and standard error of the seeds' own differences; below twice its error it is not shown."""
    _, found = small
    base, following = (list(row["seeds"].values()) for row in found["rows"])
    (got,) = found["differences"]
    apart = np.subtract(following, base)
    assert list(got["seeds"].values()) == pytest.approx(list(apart))
    assert got["mean"] == pytest.approx(apart.mean())
    assert got["standard_error"] == pytest.approx(apart.std(ddof=1) / 2**0.5)
    assert got["shown"] == (abs(apart.mean()) > 2 * got["standard_error"])
    assert got["text"].startswith(f"SSL - base: {100 * apart.mean():+.1f} +- ")
    assert ("not shown" in got["text"]) == (not got["shown"])


def test_a_difference_names_two_measured_runs(small):
    """A run that no row and no control evaluates has no figures to compare."""
    for pair in (["next"], ["next", "gone"]):
        with pytest.raises(ValueError, match=r"differences: 'd' is .*; give two runs of rows and controls"):
            experiment(replace(small[0], differences={"d": pair}))


def test_a_second_start_repeats_nothing(small, capsys):
    """Ended runs are not trained again and results stay; not a byte changes."""
    config, found = small
    before = digests(config.out)
    assert experiment(config) == found
    assert digests(config.out) == before
    assert capsys.readouterr().out.count("this run has ended") == 4


def test_its_report(small, tmp_path):
    """The page of the experiment is one file with its rows, classes and command."""
    config, found = small
    experiment_report(
        config,
        found | {"seconds": 60.0, "peak_gib": 1.5},
        tmp_path / "r.html",
        None,
        None,
        "make it",
        shown=table_panels(config),
    )
    text = (tmp_path / "r.html").read_text()
    for part in ("Small", "+ SSL", "road", "make it", f"{100 * found['rows'][0]['miou_mean']:.1f}"):
        assert part in text
    assert "http://" not in text.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_parallel_seeds_give_the_same_table(small, tmp_path, monkeypatch):
    """Two seeds at once, each in a process with one thread, end in the figures of one after the other."""
    config, found = small
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    wanted = [{**row, "folder": str(tmp_path / "out" / row["run"])} for row in found["rows"]]
    assert experiment(replace(config, out=str(tmp_path / "out"), parallel=2))["rows"] == wanted

"""The plan of a table: which runs it needs, in which state they are, what is left, and the jobs of a cluster."""

import json
import re
import subprocess

import pytest

from mkd.config.run_config import to_yaml
from mkd.config.schema import Experiment, ExperimentStep
from mkd.recipes.factories import architecture, settle
from mkd.recipes.tables.run_list import goes_on_from, needed_runs, overrides_of, parse_run, run_folder
from mkd.recipes.tables.run_plan import plan_runs, plan_text, sbatch_lines

STEPS = 40


def family(tmp_path, **more):
    """Return runs that several tables share: a chain of three, a branch of it, and one of its own."""
    kd = ["model=lite0", "data.labelled={data}/few", f"steps={STEPS}"]
    runs = {
        "alone": ExperimentStep("supervised", hours=0.5),
        "stage1": ExperimentStep("kd", ["data.labelled={data}/between"], hours=2.0),
        "stage2": ExperimentStep("kd", ["kd.source={run:stage1}/model"], hours=1.0),
        "ssl": ExperimentStep("semi", hours=4.0),
        "branch": ExperimentStep("semi", ["semi.start={run:stage1}/model"]),
    }
    given = {
        "name": "t",
        "out": str(tmp_path / "runs of mine"),
        "data": "no/such/data",
        "test": "{data}/test",
        "hardware": "two cores",
        "common": {
            "supervised": kd,
            "kd": kd,
            "semi": ["semi.start={run:stage2}/model", "data.labelled={data}/few", f"steps={STEPS}"],
        },
        "runs": runs,
        "rows": {"SSL": "ssl"},
    }
    return Experiment(**(given | more))


def begin(config, name, step=None, ended=False):
    """Leave behind what a run has at some step, or at its end."""
    folder = run_folder(config, name, 0)
    folder.mkdir(parents=True)
    run = parse_run(config, name, 0)
    if config.runs[name].script != "semi":  # as a run does with the network that it has built
        settle(run.model, architecture(run.model, run.data.crop))
        assert run.model.mean is not None
    (folder / "config.yaml").write_text(to_yaml(run))
    phase = "semi" if config.runs[name].script == "semi" else "student"
    if step is not None:
        rows = [{"phase": phase, "step": n} for n in range(0, step + 1, 10)]
        (folder / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows) + '{"phase": "stu'
        )
    if ended:
        (folder / "model").mkdir()
        (folder / "model" / "model.yaml").touch()


def test_only_what_rows_need_is_planned(tmp_path):
    """A row's run and all it goes on from, in the order of the file; no data set has to be there."""
    assert needed_runs(family(tmp_path)) == ["stage1", "stage2", "ssl"]
    assert needed_runs(family(tmp_path, rows={"a": "alone"}, controls={"b": "stage1"})) == ["alone", "stage1"]
    assert needed_runs(family(tmp_path, rows={})) == []
    assert [run.name for run in plan_runs(family(tmp_path, seeds=[0, 1]))] == ["stage1", "stage2", "ssl"] * 2


@pytest.mark.parametrize("key", ["paper", "curve"])
def test_a_figure_of_no_row_is_refused(tmp_path, key):
    """A title that is no row's is found before anything is trained."""
    with pytest.raises(ValueError, match=f"{key}: 'SLS' is no row; the rows are SSL"):
        plan_runs(family(tmp_path, **{key: {"SLS": 77.05}}))


def test_an_override_that_a_later_one_replaces_needs_nothing(tmp_path):
    """The start that all semi-supervised runs share does not count for one that has a start of its own."""
    config = family(tmp_path, rows={"Branch": "branch"})
    assert goes_on_from(config, "branch") == ["stage1"]
    assert needed_runs(config) == ["stage1", "branch"]
    assert sum(text.startswith("semi.start=") for text in overrides_of(config, "branch", 0)) == 1


def test_states_and_hours(tmp_path):
    """Ended, broken off (with what is left of its hours) and not begun, from what lies in the folders."""
    config = family(tmp_path)
    begin(config, "stage1", 40, ended=True)
    begin(config, "stage2", 30)
    planned = {run.name: run for run in plan_runs(config)}
    assert {name: run.state for name, run in planned.items()} == {
        "stage1": "ended",
        "stage2": "broken off at step 30 of phase student",
        "ssl": "not begun",
    }
    assert [run.left for run in planned.values()] == [0.0, pytest.approx(0.25), 4.0]
    text = plan_text(config, list(planned.values()))
    assert "hours are of: two cores" in text
    assert "stage2, seed 0: broken off at step 30 of phase student; 0.25 of 1 h left" in text
    assert f"python launch/kd.py 'out={config.out}/stage2/seed0' seed=0 model=lite0" in text
    assert text.splitlines()[-1] == "left: 2 of 3 runs, 4.2 h one after another"


def test_hours_that_are_not_stated_are_not_counted_as_none(tmp_path):
    """The sum says how many runs it lacks."""
    config = family(tmp_path, rows={"Branch": "branch"})
    text = plan_text(config, plan_runs(config))
    assert "branch, seed 0: not begun; hours not stated" in text
    assert text.endswith("2 h one after another without 1 run(s) whose hours are not stated")


def test_the_folder_of_another_run_is_told(tmp_path):
    """A run that would be refused is said so with the difference, and no job is submitted for it."""
    config = family(tmp_path)
    begin(config, "stage1", 40, ended=True)
    path = run_folder(config, "stage1", 0) / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 4"))
    planned = plan_runs(config)
    assert planned[0].state == "another run lies in its folder (there seed: 4; now seed: 0)"
    with pytest.raises(
        ValueError, match=r"stage1/seed0: another run lies .* give another out=, or delete it"
    ):
        sbatch_lines(config, planned, "again")


SBATCH = """#!/bin/bash
{ printf '%s|' "$RUN" "$START" "$SCRIPT" "$TEACHERS_PER_NODE" "$@"; echo; } >>"$LOG"
echo $((100 + $(wc -l <"$LOG")))
"""


def submitted(tmp_path, text):
    """Run lines of sbatch in a shell whose sbatch writes down what it is given; return that, a list a job."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    (tools / "sbatch").write_text(SBATCH)
    (tools / "sbatch").chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "LOG": str(log)}
    subprocess.run(["bash", "-eu", "-c", text], check=True, env=environment)
    return [line.split("|")[:-1] for line in log.read_text().splitlines()]


def test_a_shell_submits_the_jobs_in_their_order(tmp_path):
    """Each run that has not ended is a job after those it goes on from; overrides arrive as they are planned."""
    config = family(tmp_path, rows={"SSL": "ssl", "Alone": "alone"}, seeds=[0, 1])
    begin(config, "stage1", 40, ended=True)
    planned = plan_runs(config)
    jobs = submitted(tmp_path, sbatch_lines(config, planned, "python launch/experiment.py table=2"))
    left = [run for run in planned if not run.ended]
    assert [job[0] for job in jobs] == [str(run_folder(config, run.name, run.seed)) for run in left]
    numbers = {(run.name, run.seed): str(101 + n) for n, run in enumerate(left)}
    for run, (_, start, script, teachers, *words) in zip(left, jobs, strict=True):
        after = [numbers[name, run.seed] for name in run.after if (name, run.seed) in numbers]
        assert [w for w in words if "dependency" in w] == [f"--dependency=afterok:{n}" for n in after]
        batch = next(n for n, word in enumerate(words) if word.endswith(".sbatch"))
        semi = run.script == "semi"
        assert words[batch] == ("slurm/ssl.sbatch" if semi else "slurm/kd.sbatch")
        own = [f"out={run_folder(config, run.name, run.seed)}", *([f"semi.start={start}"] if semi else [])]
        assert sorted([*own, *words[batch + 1 :]]) == sorted(run.overrides)
        assert (script, teachers) == ("supervised" if run.script == "supervised" else "", "0" if semi else "")


def test_nothing_is_submitted_where_all_has_ended(tmp_path):
    """The lines are comments then, with the command that writes the table."""
    config = family(tmp_path, rows={"Alone": "alone"})
    begin(config, "alone", 40, ended=True)
    text = sbatch_lines(config, plan_runs(config), "python launch/experiment.py table=2")
    assert all(line.startswith("#") for line in text.splitlines())
    assert re.search(r"^# python launch/experiment.py table=2$", text, re.M)

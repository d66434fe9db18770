"""The benchmark of steps: its clock, its tables, and every stage of it run on a few small tiles."""

import json
from types import SimpleNamespace

import pytest

from mkd.benchmarks.settings import StepSpeedRun
from mkd.benchmarks.step.product import conduct, stage_config
from mkd.benchmarks.step.stopwatch import PARTS
from mkd.benchmarks.step.suite import FEWEST, READ_AHEAD, measure_step, seconds_a_step, table, trace_path
from mkd.config.load import load
from mkd.recipes import run as run_module
from mkd.train.loop import fit

SMALL = ["model=lite0", "crop=32", "batch=2", "workers=0", "device=cpu", "rounds=2", "seconds=0.01"]
EVERY = {"data", "copy", "augment", "forward", "losses", "backward", "optimizer", "log", "other"}
EXPECTED = {
    "supervised": EVERY,
    "kd": EVERY | {"teacher", "EWC"},
    "semi": EVERY | {"pseudo-labels", "teacher", "EMA"},
}


def small(tmp_path, *overrides):
    return load(StepSpeedRun, "step", [f"out={tmp_path}/out", *SMALL, *overrides])


@pytest.mark.parametrize(("step_s", "unmeasured"), [(0.01, READ_AHEAD), (2.0, 3), (20.0, 1)])
def test_the_first_steps_of_a_round_do_not_count(step_s, unmeasured):
    """Eight steps, or those of half the ten seconds; the others take twice as long here, and are what is returned."""
    now = SimpleNamespace(s=0.0)
    steps, found = 0, []

    def clock():
        found.append((yield from seconds_a_step(10.0, lambda: None, lambda: now.s)))

    for _ in clock():
        steps += 1
        now.s += step_s if steps <= unmeasured else 2 * step_s
    assert found == [pytest.approx(2 * step_s)]
    assert steps >= unmeasured + FEWEST
    assert steps - unmeasured == pytest.approx(max(FEWEST, 5 / step_s), abs=1)


@pytest.mark.parametrize("stage", EXPECTED)
def test_a_stage_is_measured(stage, tmp_path, capsys):
    """Rates and their ratio, and the parts that a stage must have; nothing of it is left in the product."""
    file = tmp_path / "found.json"
    measure_step(small(tmp_path, f"json={file}", f"stages=[{stage}]", "parts=[rate,split]"))
    found, printed = json.loads(file.read_text()), capsys.readouterr().out
    of = found[stage]
    ratios = [a / b for a, b in zip(of["rounds"]["ours"], of["rounds"]["plain"], strict=True)]
    assert found[f"{stage}_vs_plain"] == pytest.approx(sum(ratios) / 2)
    assert ("semi_vs_unimatch" in found) == ("semi_vs_unimatch" in printed) == (stage == "semi")
    assert tuple(of["seconds_of_parts"]) == PARTS
    assert {part for part, s in of["seconds_of_parts"].items() if s > 0} == EXPECTED[stage]
    assert of["device_waits"] == "not on a CPU"
    for name in (f"{stage}_vs_plain", f"{stage}, ours", f"{stage}, plain", "| pseudo-labels |"):
        assert name in printed
    for name in ("EWC", "EMA", "augment"):
        share = of["seconds_of_parts"][name] / sum(of["seconds_of_parts"].values())
        assert found[f"{name}_share"] == pytest.approx(share)
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith("tmp")] == []
    assert run_module.fit is fit


def test_a_trace_is_written(tmp_path, capsys):
    """Of one stage to the file that was named, of several to files of theirs; a viewer is named too."""
    several = StepSpeedRun(profile="runs/trace.json")
    assert str(trace_path(several, "kd")) == "runs/trace-kd.json"
    trace = tmp_path / "trace.json"
    measure_step(small(tmp_path, "stages=[supervised]", "parts=[]", f"profile={trace}"))
    events = json.loads(trace.read_text())["traceEvents"]
    assert (
        sum(
            event.get("name") == "aten::_fused_adamw_" or "Optimizer.step" in event.get("name", "")
            for event in events
        )
        >= 3
    )
    assert f"{trace}: 3 steps of supervised; open it at https://ui.perfetto.dev" in capsys.readouterr().out


def test_the_conductor_counts_the_steps_of_the_loop(tmp_path):
    """As many steps as it gives, of the run's own loop: the journal has them, and the run folder no model."""
    config = small(tmp_path, "extra=[log_every=1,optim.lr=0.25]")
    run = stage_config(config, "supervised", f"{tmp_path}/run")
    assert (run.optim.lr, run.data.crop, run.data.batch) == (0.25, 32, 2)
    seen = []
    conduct("supervised", run, lambda trainer: iter([seen.append(trainer)] * 3))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row.get("kind", "train") == "train"] == [1, 2, 3]
    assert [trainer.phase.name for trainer in seen] == ["student"]
    assert not (tmp_path / "run" / "model").exists()


def test_the_table_says_what_is_met_and_missed():
    """Figures at their bounds are met; what was not measured says so."""
    config = StepSpeedRun(stages=["semi"], parts=["rate", "split", "memory"])
    parts = {"seconds_of_parts": dict.fromkeys(PARTS, 0.5), "device_waits": 3.5}
    semi = {
        "images_per_s": {"ours": 5.0, "plain": 2.0},
        "peak_mib": {"ours": 900.0, "plain": 1000.0},
        **parts,
    }
    lines = table(config, {"semi": semi, "semi_vs_plain": 2.5, "EMA_share": 0.03}).splitlines()
    ends = {line.split()[0]: line.split()[-1] for line in lines if line}
    assert ends["semi_vs_plain"] == "met"
    assert ends["EMA_share"] == "MISSED"
    assert ends["kd_vs_plain"] == "measured"
    assert any(" ".join(line.split()) == "semi, device waits 3.5 of a step" for line in lines)
    assert "| EWC | 500 |" in lines


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("model=unknown", "model=unknown is not allowed; choose one of"),
        ("batch=1", "batch=1; at least 2 is allowed"),
        ("stages=[semi,all]", "stages=all is not allowed"),
        ("stages=[]", "give at least one of supervised, kd, semi"),
        ("parts=[speed]", "parts=speed is not allowed"),
        ("data=/nowhere", "data=/nowhere: no such folder"),
        ("seconds=0", "seconds=0.0; a finite value > 0"),
    ],
)
def test_bad_keys_are_refused(tmp_path, typed, message):
    """One sentence, before torch is imported."""
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        small(tmp_path, typed)

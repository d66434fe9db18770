"""The semi-supervised stage from config to model folder: its result, its ledger, collapse and rollback."""

import io
import json
import socket
import threading
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mkd.recipes.semi as stage
import mkd.train.pseudo.monitor as monitoring
from mkd.recipes.semi import ema_decay
from mkd.semi.entropy import PseudoLabels
from mkd.teacher.api import TeachersGone
from mkd.teacher.local import LocalTeacher
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.stop_request import Stopped
from tests.helpers.teacher.services import until
from tests.helpers.training.runs import Killed, finish, rows
from tests.helpers.training.runs import start as begin


@pytest.fixture(scope="module")
def start(runs):
    """What every run here starts from."""
    return [f"semi.start={runs['kd'].out}/model", "data.val=null", "semi.confidence=0.34"]


def same_model(one, other):
    names = ("model.safetensors", "model.yaml")
    return all(
        (Path(one) / "model" / n).read_bytes() == (Path(other) / "model" / n).read_bytes() for n in names
    )


def test_the_result_is_the_teachers_or_the_students(start, config_of, tmp_path):
    """semi.result=teacher writes the EMA's weights, semi.result=student the student's."""
    for result in ("teacher", "student"):
        stage.semi(config_of("semi", f"out={tmp_path}/{result}", *start, "steps=2", f"semi.result={result}"))
        saved = Checkpoints(tmp_path / result / "checkpoints" / "semi").load()
        ema = {n.removeprefix("state."): t for n, t in saved["step_state"]["ema"].items() if n != "updates"}
        wanted = ema if result == "teacher" else saved["model"]
        other = saved["model"] if result == "teacher" else ema
        model = load_file(tmp_path / result / "model" / "model.safetensors")
        assert all(torch.equal(t, wanted[n]) for n, t in model.items())
        assert not all(torch.equal(t, other[n]) for n, t in model.items())


def test_a_run_says_who_labels(start, config_of, tmp_path, capsys):
    """One line with the number of unlabelled tiles and the teacher."""
    stage.semi(config_of("semi", f"out={tmp_path}/run", *start, "steps=1"))
    assert f"{tmp_path}/run: 6 unlabelled tiles, labelled by the local teacher" in capsys.readouterr().out


def test_the_ledger_is_the_plans_prefix(start, config_of, tmp_path):
    """teacher.ledger=true: trained and rejected tiles are the plan's, once each; without it there is no file."""
    given = [*start, "steps=6", "semi.drop_start=0.6", "semi.drop_end=0.6"]
    stage.semi(config_of("semi", f"out={tmp_path}/run", *given, "teacher.ledger=true"))
    text = (tmp_path / "run" / "ledger-0.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    seen = [tuple(pair) for r in found for kind in ("trained", "rejected") for pair in r[kind]]
    state = Checkpoints(tmp_path / "run" / "checkpoints" / "semi").load()["step_state"]["pseudo"]
    assert len(set(seen)) == len(seen) == 2 * state["position"] - len(state["rows"])
    by_epoch = [[s for e, s in sorted(seen) if e == epoch] for epoch in range(max(seen)[0])]
    assert by_epoch
    assert all(samples == list(range(6)) for samples in by_epoch)
    stage.semi(config_of("semi", f"out={tmp_path}/none", *given, "steps=1"))
    assert not (tmp_path / "none" / "ledger-0.jsonl").exists()


class Sick(LocalTeacher):
    """Sees stripes of all classes; from the 5th update on all is field, while it is trusted by more than `cured`."""

    cured, monitor, kill = 0.5, None, None

    def collect(self, ticket):
        answer = super().collect(ticket)
        if self.kill == (self.ema.updates, self.monitor.rollbacks):
            raise Killed
        stripes = torch.arange(answer.labels.shape[-1]) % 3
        if self.ema.updates >= 5 and self.monitor.weight_factor > self.cured:
            stripes.zero_()
        labels = stripes.to(torch.uint8).expand_as(answer.labels).masked_fill(answer.labels == 255, 255)
        return PseudoLabels(labels, answer.score, answer.accepted, answer.version)


@contextmanager
def sick(cured=0.5, kill=None):
    """Let runs have a `Sick` teacher, cured at this trust, killed at (update, rollback); two bad rows do."""
    make = stage._pseudo_feed

    def made(config, run, phase, batches, teacher):
        pseudo = make(config, run, phase, batches, teacher)
        teacher.monitor, teacher.cured, teacher.kill = pseudo.monitor, cured, kill
        return pseudo

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitoring, "ROWS", 2)
        patch.setattr(stage, "LocalTeacher", Sick)
        patch.setattr(stage, "_pseudo_feed", made)
        yield


ILL = ("steps=10", "save_every=2", "log_every=1", "semi.drop_start=0.3", "semi.drop_end=0.3")


def test_a_collapse_is_a_warning(start, config_of, tmp_path, capsys):
    """semi.on_collapse=warn says it once and goes on."""
    with sick(cured=0):
        stage.semi(config_of("semi", f"out={tmp_path}/run", *start, *ILL))
    said = capsys.readouterr().out
    assert said.count("warning: the pseudo-labels have collapsed") == 1
    assert "'field' has" in said
    assert len([r for r in rows(tmp_path / "run") if "loss" in r]) == 10
    assert not (tmp_path / "run" / "checkpoints" / "semi" / "good.pt").exists()


@pytest.fixture(scope="module")
def cured(start, config_of, tmp_path_factory):
    """A run that collapses once, goes back and ends: its config, its folder and what it said."""
    out = tmp_path_factory.mktemp("cured") / "run"
    config = config_of("semi", f"out={out}", *start, *ILL, "semi.on_collapse=rollback")
    said = io.StringIO()
    with sick(), redirect_stdout(said):
        stage.semi(config)
    return config, out, said.getvalue()


def test_a_rollback_goes_on_from_the_good_checkpoint(cured):
    """Back to the last checkpoint before the bad rows; from there L_cons counts half; each step has one row."""
    config, folder, said = cured
    found = [r for r in rows(folder) if "loss" in r]
    assert [r["step"] for r in found] == list(range(1, 11))
    (line,) = [text for text in said.splitlines() if "rollback 1" in text]
    at = int(line.partition("rollback 1 to step ")[2].partition(",")[0])
    assert "have collapsed" in line
    assert at == 4
    assert f"going on from step {at} of 10" in said
    for row in found:
        weight = config.semi.weight * (1 if row["step"] <= at else 0.5)
        assert row["loss"] == pytest.approx(row["loss_sup"] + weight * row["loss_cons"], rel=1e-5)
    assert any(r["loss_cons"] > 0 for r in found)
    assert max(r["kept"]["road"] + r["kept"]["water"] for r in found[at:]) > 0


@pytest.mark.parametrize("kill", [(6, 0), (5, 1), (8, 1)])
def test_killed_around_a_rollback(start, config_of, tmp_path, cured, kill):
    """Killed in the collapse, or some steps after the rollback: the same model, and the same rows."""
    out = tmp_path / "killed"
    config = config_of("semi", f"out={out}", *start, *ILL, "semi.on_collapse=rollback")
    with sick(kill=kill), pytest.raises(Killed):
        stage.semi(config)
    with sick():
        stage.semi(config)
    assert rows(out) == rows(cured[1])
    assert same_model(out, cured[1])


def test_too_many_rollbacks_are_one_sentence(start, config_of, tmp_path, capsys):
    """What stays sick ends after three rollbacks; the good checkpoint stays."""
    config = config_of("semi", f"out={tmp_path}/run", *start, *ILL, "semi.on_collapse=rollback")
    with sick(cured=0), pytest.raises(ValueError, match="after 3 rollbacks; raise semi.confidence") as caught:
        stage.semi(config)
    assert "in 2 rows" in str(caught.value)
    assert capsys.readouterr().out.count("is halved from there on") == 3
    assert (tmp_path / "run" / "checkpoints" / "semi" / "good.pt").is_file()


@pytest.fixture
def service(runs, tmp_path):
    """A teacher of the start model, for the run `service`, in a process of its own; gives its HOST:PORT."""
    process = begin(
        "teacher", "serve", f"model={runs['kd'].out}/model", f"run={tmp_path}/service", "device=cpu"
    )
    try:
        ready = next(line for line in process.stdout if "teacher ready" in line)
        yield ready.partition("endpoint=")[2].split()[0]
    finally:
        process.terminate()
        finish(process)


@pytest.mark.parametrize(
    ("steps", "result"), [(6, "teacher"), pytest.param(200, "student", marks=pytest.mark.slow)]
)
def test_a_service_that_is_waited_for_is_the_local_teacher(
    start, config_of, tmp_path, service, one_thread, steps, result
):
    """teacher.kind=service with max_age=0 and sync_every=1: the same weights as with teacher.kind=local."""
    given = [*start, f"steps={steps}", "semi.drop_start=0.4", "semi.drop_end=0.2", f"semi.result={result}"]
    given += ["save_every=100"]
    remote = [
        "teacher.kind=service",
        f"teacher.endpoints=[{service}]",
        "teacher.max_age=0",
        "teacher.sync_every=1",
    ]
    for name, more in {"local": [], "service": remote}.items():
        stage.semi(config_of("semi", f"out={tmp_path}/{name}", *given, *more, "teacher.ledger=true"))
    assert same_model(tmp_path / "local", tmp_path / "service")
    ledgers = [(tmp_path / name / "ledger-0.jsonl").read_text() for name in ("local", "service")]
    assert ledgers[0] == ledgers[1]
    assert len(rows(tmp_path / "service")) == steps
    for row in rows(tmp_path / "service"):
        assert row["ages"] == {"0": sum(row["ages"].values())}
        assert 0 < row["wait_teacher"] <= 1


def test_working_ahead_of_a_service(start, config_of, tmp_path, service):
    """With batches in flight the run ends too; ages are counted, and the row has the share of waiting."""
    remote = [
        "teacher.kind=service",
        f"teacher.endpoints=[{service}]",
        "teacher.depth=2",
        "teacher.max_age=4",
    ]
    stage.semi(config_of("semi", f"out={tmp_path}/service", *start, "steps=6", *remote))
    found = rows(tmp_path / "service")
    assert [r["step"] for r in found] == list(range(1, 7))
    ages = [int(age) for r in found for age in r["ages"]]
    assert max(ages) <= 4
    assert all(0 <= r["wait_teacher"] <= 1 for r in found)
    assert (tmp_path / "service" / "teacher" / "weights.safetensors").is_file()


def test_services_that_are_gone(start, config_of, tmp_path):
    """Nobody at the endpoint: after teacher.patience one sentence; with teacher.fallback=local it goes on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{unused.getsockname()[1]}"
        remote = ["teacher.kind=service", f"teacher.endpoints=[{where}]", "teacher.patience=0.5", "steps=2"]
        config = config_of("semi", f"out={tmp_path}/run", *start, *remote)
        with pytest.raises(TeachersGone):
            stage.semi(config)
        assert Checkpoints(tmp_path / "run" / "checkpoints" / "semi").load()["step"] == 0
        stage.semi(config_of("semi", f"out={tmp_path}/local", *start, *remote, "teacher.fallback=local"))
    assert (tmp_path / "local" / "model" / "model.yaml").is_file()
    assert rows(tmp_path / "local")[-1]["teacher"]["local"] > 0


def test_a_run_that_waits_for_services_can_be_stopped(start, config_of, tmp_path):
    """RUN/stop and signals are heard while nobody is at the endpoint: a checkpoint long before patience ends."""
    out = tmp_path / "run"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{unused.getsockname()[1]}"
        remote = ["teacher.kind=service", f"teacher.endpoints=[{where}]", "teacher.patience=3600", "steps=2"]
        ledger = out / "ledger-0.jsonl"

        def wish():
            until(ledger.is_file)  # its feed has begun
            (out / "stop").touch()

        thread = threading.Thread(target=wish)
        thread.start()
        with pytest.raises(Stopped):
            stage.semi(config_of("semi", f"out={out}", *start, *remote, "teacher.ledger=true"))
        thread.join()
    assert Checkpoints(out / "checkpoints" / "semi").load()["step"] == 0


@pytest.mark.parametrize(("steps", "decay"), [(1, 0.99), (9_999, 0.99), (10_000, 0.996), (40_000, 0.999)])
def test_the_decay_follows_the_length(steps, decay):
    """The average reaches back a small part of the run."""
    assert ema_decay(steps) == decay

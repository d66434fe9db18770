"""launch/teacher.py as people and scripts use it."""

import json
import signal
import threading
from types import SimpleNamespace

import pytest
import torch

from mkd.config import schema
from mkd.config.load import load, to_yaml
from mkd.distributed.world import World
from mkd.model_folder import ModelCard, read_card, save_model
from mkd.models.architecture import Architecture
from mkd.models.build import build as network
from mkd.recipes import teacher_service as build
from mkd.recipes.semi import _labelled_by, _teacher, _token
from mkd.teacher import protocol, weights
from mkd.teacher.auth import TOKEN_VARIABLE, make_token
from mkd.teacher.client.flight_client import Access, FlightClient, Lost
from mkd.teacher.local import LocalTeacher
from mkd.teacher.server import service as server_module
from tests.helpers.teacher.services import IDENTITY, service, until
from tests.helpers.training.runs import finish, launch, start

SMALL = Architecture("tf_efficientnet_lite0", aspp_channels=8, low_channels=4, decoder_channels=8)
CLASSES = ("grass", "road", "water")
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run that started from a small model and has published version 7 of its weights."""
    root = tmp_path_factory.mktemp("run")
    model = network(SMALL, 3, None, seed=0)
    card = ModelCard(SMALL, CLASSES, ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    save_model(root / "start", model.state_dict(), card)
    run = root / "run"
    run.mkdir()
    config = schema.SemiRun(out=str(run), semi=schema.SemiConfig(start=str(root / "start")))
    config.data.labelled = "somewhere"
    (run / "config.yaml").write_text(to_yaml(config))
    state = {k: v + 1 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    weights.write_file(run / build.WEIGHTS, weights.to_bytes(state, protocol.WeightsVersion("job.0", 7, 14)))
    token = root / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    return run


def test_serve_status_and_stop(run_folder, capsys):
    """Ready line with the published version; status for people and scripts; SIGTERM ends it with status 0."""
    token = f"token_file={run_folder.parent / 'token'}"
    process = start("teacher", f"run={run_folder}", token, "device=cpu", "max_tile=64")
    try:
        line = next(line for line in process.stdout if line.startswith("teacher ready"))
        said = dict(part.split("=", 1) for part in line.split()[2:6])
        assert said["endpoint"].startswith("127.0.0.1:")
        assert (said["version"], said["session"], said["device"]) == ("7", "job.0", "cpu")
        endpoint = f"endpoint={said['endpoint']}"
        assert launch("teacher", "status", endpoint, token) == 0
        assert f"teacher {said['endpoint']} on cpu" in capsys.readouterr().out
        assert launch("teacher", "status", endpoint, token, "--json") == 0
        line = capsys.readouterr().out
        assert line.count("\n") == 1
        found = json.loads(line)
        assert (found["version"], found["updates"], found["queue"], found["clients"]) == (7, 14, 0, 0)
        assert launch("teacher", "status", endpoint) == 2
        assert "token is missing or wrong" in capsys.readouterr().err
        access = Access(build.identity_of(read_card(run_folder.parent / "start")), TOKEN)
        writer, _ = FlightClient(said["endpoint"], access).open(8, 8)  # a client that does not hang up
        port = said["endpoint"].rpartition(":")[2]
        assert launch("teacher", f"run={run_folder}", f"port={port}", "device=cpu") == 2
        assert f"port={port}: cannot be listened on" in capsys.readouterr().err
    finally:
        process.send_signal(signal.SIGTERM)
        status, rest = finish(process)
    assert status == 0, rest
    with pytest.raises(Lost):
        writer.close()
    assert f"teacher stopped endpoint={said['endpoint']} tiles=0" in rest


def test_the_published_weights_are_taken_up(run_folder):
    """A late teacher starts with the weights of the run's file, not with those of the model folder."""
    model = network(SMALL, 3, None, seed=0)
    first = next(iter(model.state_dict()))
    before = model.state_dict()[first].clone()
    assert build._newest_weights(str(run_folder), model) == protocol.WeightsVersion("job.0", 7, 14)
    assert torch.equal(model.state_dict()[first], before + 1)
    assert build._newest_weights(str(run_folder.parent), model) == protocol.WeightsVersion("", 0, 0)
    assert build._start_model_of(str(run_folder)) == str(run_folder.parent / "start")


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ([], "give model="),
        (["model=nowhere"], "no model.yaml"),
        (["run=nowhere"], "not the config of a semi-supervised run"),
        (["host=0.0.0.0"], "there is no token"),
        (["host=127.0.0.1"], "there is no token"),
        (["host=localhost", "port=0"], "there is no token"),
        (["host=''"], "host= is empty"),
        (["port=70000"], "port=70000"),
        (["max_batch=0"], "max_batch=0"),
        (["wait_ms=-1"], "wait_ms=-1"),
        (["tls_cert=x"], "give both, or none"),
        (["tls_cert=nowhere", "tls_key=nowhere"], "tls_cert=nowhere: cannot be read"),
        (["token_file=nowhere"], "token_file=nowhere: cannot be read"),
        (["host=203.0.113.7", f"token_file={TOKEN}"], "cannot be read"),
    ],
)
def test_mistakes_end_in_one_sentence(run_folder, monkeypatch, capsys, typed, text):
    """A missing, impossible or contradictory key: status 2, one line, nothing listens."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    given = typed[:1] and typed[0].split("=")[0] in ("model", "run")
    model = [] if given or not typed else [f"model={run_folder.parent / 'start'}"]
    assert launch("teacher", *model, *typed, "device=cpu") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert text in err


@pytest.mark.parametrize(("hangs_up", "status"), [(True, None), (False, 1)])
def test_a_service_that_cannot_label_any_more_ends(monkeypatch, capsys, hangs_up, status):
    """Whoever still holds a stream open: the process must not stay as one that greets and never answers."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(build.os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    monkeypatch.setattr(server_module, "GRACE", 0.5)
    with service() as server:
        stream = FlightClient(server.endpoint, Access(IDENTITY, TOKEN)).open(6, 5)
        until(lambda: server._streams)
        if hangs_up:
            stream[1].cancel()
            until(lambda: not server._streams)
        server.batcher._swap = lambda: 1 / 0
        with pytest.raises(RuntimeError if hangs_up else SystemExit) as caught:
            build._serve_until_signal(server, server.batcher, "127.0.0.1", "cpu")
        assert getattr(caught.value, "code", None) == status
        stream[1].cancel()
    said = capsys.readouterr()
    assert "thread that labels has died" in str(caught.value) + said.err
    assert "teacher stopped" in said.out


def test_a_service_of_a_run_has_a_token(run_folder, tmp_path, monkeypatch, capsys):
    """RUN.token is made where none is given, and said; the one given, or the environment's, comes first."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    run = tmp_path / "run"
    path = tmp_path / "run.token"
    assert build._token_file(schema.TeacherServe()) is None
    assert build._token_file(schema.TeacherServe(run=str(run), token_file="mine")) == "mine"
    assert not path.exists()
    for word in ("made now", "it was there"):
        assert build._token_file(schema.TeacherServe(run=str(run))) == str(path)
        assert f"students and status need token_file={path} ({word})" in capsys.readouterr().err
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert build._token_file(schema.TeacherServe(run=str(run))) is None


def test_a_student_of_the_run_has_its_token(tmp_path, monkeypatch):
    """RUN.token, made where it is not there yet, where no other is given; one that others may read is refused."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    said = []
    run = SimpleNamespace(folder=tmp_path / "run", journal=SimpleNamespace(say=said.append))
    config = schema.SemiRun()
    path = tmp_path / "run.token"
    assert _token(config, run) == path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not make_token(path), "a teacher that starts later takes the same"
    assert _token(config, run) == path.read_text()
    assert said == [
        f"teachers are asked with the token in {path} ({w})" for w in ("made now", "it was there")
    ]
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert _token(config, run) == TOKEN
    config.teacher.token_file = str(path)
    assert _token(config, run) == path.read_text()
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        _token(config, run)


def test_an_address_that_cannot_be_listened_on(run_folder, capsys):
    """Of another machine, or a name that nobody knows: one sentence, with a token too."""
    given = [f"run={run_folder}", f"token_file={run_folder.parent / 'token'}", "device=cpu"]
    for host in ("203.0.113.7", "::2", "no-such-host.invalid"):
        assert launch("teacher", *given, f"host={host}") == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "cannot be listened on (" in err


def test_the_control_calls_no_service():
    """With semi.weight=0 nobody is asked for a label, so nobody need be there."""
    config = schema.SemiRun(teacher=schema.TeacherConfig(kind="service", endpoints=["h:1"]))
    config.semi.weight = 0.0
    run = SimpleNamespace(world=World.single())
    assert isinstance(_teacher(config, torch.nn.Conv2d(3, 2, 1), None, run, 0.9, None), LocalTeacher)
    assert "no teacher is asked" in _labelled_by(config)
    config.semi.weight = 1.0
    assert _labelled_by(config) == "labelled by h:1"


HOSTILE = "a\x1b]0;owned\x07[bold]b[/x]\nc\u202e"


@pytest.mark.parametrize("change", [{"session": HOSTILE}, {"device": HOSTILE}, {"refused": {HOSTILE: 1}}])
def test_a_status_acts_on_no_terminal(monkeypatch, capsys, change):
    """Names that others chose are printed with their control characters escaped, brackets as they are."""
    with service() as server:
        found = {**server.status(), **change}
        monkeypatch.setattr(FlightClient, "status", lambda _: found)
        build.status(schema.TeacherStatus(endpoint=server.endpoint))
        text = capsys.readouterr().out
        assert r"a\x1b]0;owned\x07[bold]b[/x]\nc\u202e" in text
        assert all(c.isprintable() or c == "\n" for c in text)
        assert text.count("\n") == 6
        build.status(schema.TeacherStatus(endpoint=server.endpoint, json=True))
        assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize("found", [{}, {"device": "cpu"}, {"uptime_s": "x"}])
def test_a_status_that_is_none(monkeypatch, found):
    """Who answers is no teacher: one sentence, no traceback."""
    monkeypatch.setattr(FlightClient, "status", lambda _: found)
    with pytest.raises(ValueError, match="endpoint=h:1: no teacher answers there"):
        build.status(schema.TeacherStatus(endpoint="h:1"))


def test_several_ranks_cannot_wait_for_longer_than_their_calls():
    """A rank that waits for a teacher must not be given up by the others; one rank may wait as long as it likes."""
    config = schema.SemiRun(teacher=schema.TeacherConfig(kind="service", endpoints=["h:1"], patience=3600.0))
    run = SimpleNamespace(world=World(0, 2, torch.device("cpu")))
    with pytest.raises(ValueError, match=r"teacher.patience=3600: .* at most 540 is allowed"):
        _teacher(config, torch.nn.Identity(), None, run, 0.9, None)
    assert schema.TeacherConfig().patience < 540


@pytest.mark.parametrize("endpoint", ["here", "http://here:1"])
def test_a_status_of_nowhere(capsys, endpoint):
    """What is not HOST:PORT is named before anybody is called."""
    assert launch("teacher", "status", f"endpoint={endpoint}") == 2
    assert f"endpoint: '{endpoint}' is not HOST:PORT" in capsys.readouterr().err


def test_a_file_that_is_no_pem(tmp_path):
    """A certificate in another form is named."""
    path = tmp_path / "cert.der"
    path.write_bytes(b"\x30\x82")
    with pytest.raises(ValueError, match="cert.der is not a PEM file"):
        build.read_pem("tls_cert", str(path))


def test_identity_of_a_card():
    """Student and teacher compare architecture, classes and normalisation of their model folders."""
    card = ModelCard(SMALL, CLASSES, ((0, 0, 0),) * 3)
    one = build.identity_of(card)
    assert protocol.differences(one, build.identity_of(card)) == ""
    other = ModelCard(Architecture("hrnet_w48", mean=(0, 0, 0)), CLASSES[:2], ((0, 0, 0),) * 2)
    text = protocol.differences(one, build.identity_of(other))
    for part in (
        "backbone tf_efficientnet_lite0 at the student, hrnet_w48 here",
        "3 (grass",
        "normalisation mean",
    ):
        assert part in text


def test_defaults(run_folder):
    """Loopback, a free port, batches of 32 tiles."""
    config = load(schema.TeacherServe, "teacher", [f"model={run_folder.parent / 'start'}"])
    assert (config.host, config.port, config.max_batch) == ("127.0.0.1", 0, 32)

"""All benchmarks in one command."""

import json
from pathlib import Path

import pytest

from mkd.benchmarks import every_kind
from mkd.benchmarks.every_kind import QUICK, WITH_PEERS, measure_all
from mkd.benchmarks.kinds import FLAGS, KINDS
from mkd.benchmarks.settings import AllRuns
from mkd.config.load import load, parse


def test_every_kind_is_run_once_with_its_keys(tmp_path, monkeypatch):
    """In the order of the kinds, small where quick; what each wrote is in one file."""
    seen = {}

    def measure(kind, config):
        seen[kind] = config
        Path(config.json).write_text(json.dumps({"kind": kind}))

    monkeypatch.setattr(every_kind, "measure", measure)
    file = tmp_path / "all.json"
    measure_all(load(AllRuns, "all", [f"out={tmp_path}/out", "peers=null", "quick=true", f"json={file}"]))
    assert list(seen) == list(QUICK) == [kind for kind in KINDS if kind != "all"]
    assert json.loads(file.read_text()) == {kind: {"kind": kind} for kind in seen}
    assert (seen["step"].crop, seen["step"].out) == (64, f"{tmp_path}/out/step")
    assert all(seen[kind].peers is None for kind in WITH_PEERS)
    measure_all(load(AllRuns, "all", [f"out={tmp_path}/out", "peers=null"]))
    assert seen["step"].crop == KINDS["step"][0]().crop


def test_flags_are_keys():
    """--quick, --fit and --profile mean keys that there are."""
    for flag, kind in (("--quick", "all"), ("--fit", "step"), ("--profile", "step")):
        parse(KINDS[kind][0], kind, [FLAGS[flag]])
    assert len(FLAGS) == 3


@pytest.mark.slow
def test_every_kind_works(tmp_path, capsys):
    """`throughput.py all --quick`: every benchmark to its end, with its figures."""
    file = tmp_path / "all.json"
    measure_all(load(AllRuns, "all", [f"out={tmp_path}/out", "peers=null", "quick=true", f"json={file}"]))
    found = json.loads(file.read_text())
    assert set(found) == set(QUICK)
    for figure, kind in (
        ("semi_vs_plain", "step"),
        ("predict_vs_plain", "predict"),
        ("loader_vs_decode", "data"),
        ("service_vs_bare", "teacher"),
        ("gmac", "cost"),
        ("fps", "speed"),
    ):
        assert found[kind][figure] > 0
    assert found["step"]["kd"]["peak_mib"]["ours"] > 100
    assert found["predict"]["peak_mib"]["plain"] > 100
    assert "no figure says how fast anything is" in capsys.readouterr().out

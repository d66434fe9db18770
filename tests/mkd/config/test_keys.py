"""Every key has a meaning; --help and docs/keys.md show what the schema holds."""

import runpy
import subprocess
import sys

import pytest

from mkd.config import schema
from mkd.config.keys import COMMANDS, help_text, keys_of, markdown
from mkd.config.load import parse
from tests.helpers.training.runs import ROOT


@pytest.mark.parametrize(("command", "kind"), COMMANDS)
def test_every_key_has_a_meaning(command, kind):
    """A key without a comment in the schema would have an empty line in --help."""
    assert [key.name for key in keys_of(kind) if not key.meaning] == []


def test_defaults_are_as_one_types_them():
    """Each default, given on the command line, gives the config that leaving it out gives."""
    needed = {"out": "x", "data.labelled": "y"}
    typed = [f"{k.name}={needed.get(k.name, k.default)}" for k in keys_of(schema.SupervisedRun)]
    given = [f"{name}={value}" for name, value in needed.items()]
    assert parse(schema.SupervisedRun, "supervised", typed).optim == schema.OptimConfig()
    plain = parse(schema.SupervisedRun, "no choices", given)
    assert parse(schema.SupervisedRun, "no choices", typed) == plain


def test_the_page_of_keys_is_current():
    """docs/keys.md is what `python -m mkd.config.keys` prints."""
    assert (ROOT / "docs" / "keys.md").read_text(encoding="utf-8") == markdown()


def test_help_names_keys_defaults_and_choices():
    """Required keys, defaults, meanings and the files that may be chosen are there."""
    text = help_text(schema.KdRun, "kd")
    assert text.startswith("launch/kd.py: one distillation stage.")
    for part in ("out=... ", "optim.lr=0.001", "steps=null", "w_kd", "model=hrnet_w48_psa", "lite0"):
        assert part in text, part


@pytest.mark.parametrize(
    "script", ["supervised", "kd", "semi", "evaluate", "predict_map", "experiment", "demo"]
)
def test_each_script_answers_help(script, monkeypatch, capsys):
    """--help of each script starts with what it does."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    runpy.run_path(str(ROOT / "launch" / f"{script}.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith(f"launch/{script}.py")


@pytest.mark.parametrize(
    "words",
    [
        ["kd", "--help"],
        ["teacher", "serve", "--help"],
        ["teacher", "-h"],
        ["supervised", "out=x", "optim.lrr=1"],
    ],
)
def test_help_and_refusals_import_no_torch(words):
    """Help, and the sentence about a typo, come before torch is imported."""
    code = f"""import contextlib, runpy, sys
sys.argv = {words}
with contextlib.suppress(SystemExit):
    runpy.run_path("launch/{words[0]}.py", run_name="__main__")
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ("did you mean optim.lr" in done.stderr) == ("optim.lrr=1" in words)
    assert bool(done.stdout) == ("optim.lrr=1" not in words)

"""The clock of the start: parts that add up, and imports that are told once."""

import os
import re
import subprocess
import sys
import time

import pytest
import torch

from mkd.train.run.startup_timer import StartupTimer, process_age
from tests.helpers.training.runs import ROOT


def test_parts_add_up():
    """What was done since the last word counts for the word; the same word twice counts together."""
    clock, began = StartupTimer(), time.monotonic()
    clock.parts.clear()
    for name in ("ranks", "model", "data", "model"):
        time.sleep(0.01)
        clock.lap(name)
    assert not clock.reported
    said = clock.first_step(torch.zeros(()))
    assert clock.reported
    assert list(clock.parts) == ["ranks", "model", "data", "first step"]
    assert clock.parts["model"] >= 0.02
    assert sum(clock.parts.values()) == pytest.approx(time.monotonic() - began, abs=0.05)
    assert re.fullmatch(
        r"start-up to first step: \d+\.\d s \(ranks \d\.\d, model \d\.\d, data \d\.\d, first step \d\.\d\)",
        said,
    )


def test_the_age_of_this_process():
    """It grows as the clock does, and is what ps says."""
    age, now = process_age(), time.monotonic()
    elapsed = subprocess.run(["ps", "-o", "etimes=", "-p", str(os.getpid())], capture_output=True, text=True)
    assert age == pytest.approx(int(elapsed.stdout), abs=2)
    time.sleep(0.05)
    assert process_age() - age == pytest.approx(time.monotonic() - now, abs=0.03)


def test_imports_are_the_first_runs():
    """The first clock of a process counts from the process's start, a second one from its own."""
    code = (
        "from mkd.train.run.startup_timer import *; a, b = StartupTimer(), StartupTimer(); "
        "print(a.parts['imports'] > 0.2, b.parts)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True {}\n", done.stderr

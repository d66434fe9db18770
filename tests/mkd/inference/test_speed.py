"""Speed is images over seconds, after one call that is not counted."""

import time

import pytest
import torch

from mkd.benchmarks.network import build_named
from mkd.inference.speed import inference_speed, seconds_a_call

CPU = torch.device("cpu")


def test_the_first_call_is_not_counted(monkeypatch):
    """A clock that work moves: one slow warm-up call, then so many calls that the wanted time has passed."""
    clock, calls = [0.0], []

    def work():
        calls.append(clock[0])
        clock[0] += 2.0 if len(calls) > 1 else 500.0

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert seconds_a_call(work, CPU, at_least=5.0) == pytest.approx(2.0)
    assert len(calls) == 1 + 3


def test_what_a_speed_is_of():
    """The answer names device, threads, precision, batch, size and warm-up."""
    found = inference_speed(build_named("lite0", 3), 64, 2, CPU, at_least=0.0)
    assert found.pop("images_per_second") > 0
    assert found == {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "precision": "float32",
        "batch": 2,
        "size": 64,
        "warm_up": 1,
    }

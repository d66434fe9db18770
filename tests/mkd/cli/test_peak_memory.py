"""Peak memory of a process and its children."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mkd.cli.peak_memory import PeakMemory

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="Linux only")


def until(ready):
    """Wait for a sample that must come; reading /proc takes its time on a busy machine."""
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end, "no sample saw it for a minute"
        time.sleep(0.01)


def test_the_shortest_block_has_a_figure():
    """The first sample is taken at the start."""
    with PeakMemory(interval=60) as memory:
        assert memory.gib > 0


def test_the_peak_is_seen_though_it_passed():
    """Memory that was given back before the end still counts."""
    with PeakMemory(interval=0.01) as memory:
        before = memory.gib
        block = bytearray(256 * 2**20)
        until(lambda: memory.gib > before + 0.2)
        del block
    assert memory.gib - before == pytest.approx(0.25, abs=0.05)


def test_children_count():
    """What a child process takes is part of the sum."""
    code = "block = bytearray(256 * 2**20); print(flush=True); input()"
    with PeakMemory(interval=0.01) as memory:
        before = memory.gib
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-S", "-c", code], **pipes) as child:
            assert child.stdout.readline() == "\n"
            until(lambda: memory.gib > before + 0.22)
            child.communicate("\n", timeout=60)
    assert memory.gib - before > 0.22

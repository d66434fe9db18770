"""Peak memory of a process and its children."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mkd.cli.peak_memory import PeakMemory

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="Linux only")


def test_the_peak_is_seen_though_it_passed():
    """Memory that was given back before the end still counts."""
    with PeakMemory(interval=0.01) as memory:
        time.sleep(0.1)
        before = memory.gib
        block = bytearray(256 * 2**20)
        time.sleep(0.2)
        del block
    assert memory.gib - before == pytest.approx(0.25, abs=0.05)


def test_children_count():
    """What a child process takes is part of the sum."""
    with PeakMemory(interval=0.01) as memory:
        time.sleep(0.1)
        before = memory.gib
        code = "import time; block = bytearray(256 * 2**20); time.sleep(0.5)"
        subprocess.run([sys.executable, "-S", "-c", code], check=True)
    assert memory.gib - before > 0.22

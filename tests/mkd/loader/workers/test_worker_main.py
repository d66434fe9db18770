"""A decoding process is light, ends with the training process whatever happens, and not before."""

import os
import signal
import subprocess
import sys
import time

from mkd.loader.loader import TileSet, stream
from mkd.loader.sampler import Sampler
from tests.helpers.plain import members_of, smooth, write_plain
from tests.helpers.processes.decoders import decoders, gone
from tests.helpers.training.runs import ROOT

READER = """
import sys, time
from mkd.loader.loader import TileSet, in_order
batches = in_order(TileSet(sys.argv[1], True), 2, workers=2)
next(batches)
print("ready", flush=True)
time.sleep(600)
"""


def packed(tmp_path, count=12):
    pairs = smooth(count, 32)
    return write_plain(tmp_path / "set", [members_of(*pair) for pair in pairs], (32, 32), [count])


def test_it_needs_no_torch():
    """It starts in a moment and beside CUDA: neither torch nor the S3 client is imported for local JPEG or PNG."""
    code = (
        "import sys, mkd.loader.workers.worker_main; print({'torch', 's3fs', 'rasterio'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_it_ends_with_a_killed_training_process(tmp_path):
    """kill -9 of the training process leaves no decoding process behind."""
    command = [sys.executable, "-c", READER, packed(tmp_path)]
    reader = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert reader.stdout.readline() == "ready\n"
    pids = decoders(reader.pid)
    assert len(pids) == 2
    reader.kill()
    reader.communicate()
    assert gone(pids) == []


def test_it_outlives_the_signals_meant_for_the_training_process(tmp_path):
    """Ctrl-C and Slurm's TERM reach the whole group; the training process still gets batches for its last step."""
    tiles = TileSet(packed(tmp_path), True)
    batches = stream(tiles, Sampler(tiles.shard_counts, 4, 0), 0, 40, 2)
    next(batches)
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in decoders():
            os.kill(pid, number)
    time.sleep(0.2)
    assert sum(1 for _ in batches) == 39
    assert decoders() == []

"""Tiny training runs: in this process, or as processes of their own that a test can kill."""

import contextlib
import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from mkd.distributed.engine import Engine
from mkd.distributed.world import World
from mkd.loader.augment import Geometry
from mkd.loader.loader import TileSet
from mkd.train.batches import BatchStream
from mkd.train.loop import fit
from mkd.train.optim import make_optimizer
from mkd.train.phase import Phase
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.journal import Journal
from mkd.train.run.startup_timer import StartupTimer
from mkd.train.run.stop_request import StopRequest
from mkd.train.trainer import Trainer
from tests.helpers.shards import CLASSES

ROOT = Path(__file__).resolve().parents[3]
CPU = World.single()
LITE0 = ("model=lite0", "model.pretrained=null")  # the small network, from random weights
RANDOM = (*LITE0, "student_init=random")  # the same for launch/supervised.py
QUICK = ("data.crop=32", "data.batch=2", "data.workers=0", "device=cpu")


def coloured(count, size=(40, 40), seed=0):
    """Make pairs of image and ids whose class shows in the colour, with some pixels 255: a learnable set."""
    rng = np.random.default_rng(seed)
    colours = np.array([[40, 160, 60], [150, 150, 150], [30, 60, 200]])
    pairs = []
    for _ in range(count):
        ids = np.kron(rng.integers(0, 3, (size[0] // 4, size[1] // 4)), np.ones((4, 4), int))
        image = (colours[ids] + rng.normal(0, 12, (*ids.shape, 3))).clip(0, 255).astype(np.uint8)
        ids[rng.random(ids.shape) < 0.1] = 255
        pairs.append((image, ids.astype(np.uint8)))
    return pairs


def retitle(folder, classes):
    """Give a data set other classes; its label ids stay."""
    path = Path(folder) / "index.json"
    index = json.loads(path.read_text())
    more = len(classes) - len(index["classes"])
    index["classes"] = list(classes)
    index["palette"] += [[n, n, n] for n in range(more)]
    index["histogram"] += [0] * more
    path.write_text(json.dumps(index))
    return folder


def feed_of(
    labelled, unlabelled=None, crop=8, batch=2, seed=0, scale=(0.5, 2.0), world=CPU, workers=0, **more
):
    """Open tiles as training does, by default decoding in this process."""
    other = None if unlabelled is None else TileSet(unlabelled, labelled=False)
    geometry = Geometry(crop, scale, aerial=True)
    return BatchStream(TileSet(labelled, labelled=True), other, batch, seed, geometry, world, workers, **more)


def phase_of(name="student", steps=8, **more):
    """Describe a phase that logs every step, saves every third and validates every second."""
    given = {"steps_an_epoch": 3.0, "lr": 0.05, "power": 0.9, "seed": 0, "batch": 2}
    often = {"log_every": 1, "save_every": 3, "val_every": 2}
    return Phase(name=name, steps=steps, **(given | often | more))


class Killed(BaseException):
    """What a test raises where a kill would end the process."""


def killed_at(feed, step):
    """Let a feed end the run before this step."""

    def cut(start, stop):
        for n, views in zip(range(start, stop), feed(start, stop), strict=True):
            if n == step:
                raise Killed
            yield views

    return cut


def fit_in(folder, step, feed, phase, validate=None, kill=None, monitor=None, world=CPU, **kept):
    """Train one phase in a run folder; `kill` ends it before that step, and nothing after it happens."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(
        "sgd", step.model, set(), lr=phase.lr, head_factor=1.0, momentum=0.9, weight_decay=1e-3
    )
    engine = Engine(world, step.model, optimizer, rank_batch=phase.batch // world.ranks)
    checkpoints = Checkpoints(folder / "checkpoints" / phase.name, world.is_main, **kept)
    journal = Journal(folder, CLASSES, world.is_main)
    given = feed if kill is None else killed_at(feed, kill)
    trainer = Trainer(phase, step, engine, checkpoints, journal, validate, monitor)
    with contextlib.suppress(Killed), StopRequest(world, folder / "stop") as stop:
        weights = fit(trainer, given, stop, StartupTimer())
        assert kill is None, f"the run ended before step {kill}"
        journal.end()
        return {name: t.clone() for name, t in weights.items()}
    return None


def rows(run):
    """Read a run's metrics without the speed, which no two runs share."""
    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "img_s"} for line in lines]


def digests(folder):
    """Map each file below a folder to the SHA-256 of its content."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def launch(script, *overrides):
    """Run launch/SCRIPT.py in this process as if typed; return its exit status."""
    before = sys.argv, sys.path[:]
    sys.argv = [f"launch/{script}.py", *overrides]
    try:
        runpy.run_path(str(ROOT / "launch" / f"{script}.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv, sys.path[:] = before
    return 0


def start(script, *overrides):
    """Start launch/SCRIPT.py as a process of one thread."""
    command = [sys.executable, str(ROOT / "launch" / f"{script}.py"), *overrides]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)


def torchrun(script, *overrides, ranks=2, options=()):
    """Start launch/SCRIPT.py on several ranks, with torchrun as users have it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [*options, str(ROOT / "launch" / f"{script}.py"), *overrides]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=one, **quiet)


def rank_processes(process):
    """Map rank -> process id of the ranks that a torchrun has started."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            words = (path.parent / "environ").read_bytes().split(b"\0")
            if parent == process.pid and (rank := [w for w in words if w.startswith(b"RANK=")]):
                found[int(rank[0][5:])] = int(path.parent.name)
    return found


def kill_once(process, ready):
    """Kill -9 a process once `ready()` is true; it must not have ended before."""
    while process.poll() is None and not ready():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


def once(process, ready):
    """Wait until `ready()` is true; the process must not have ended before."""
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


def finish(process, timeout=None):
    """Wait for a process; return exit status and what it printed."""
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output

"""Stop training at random moments and go on: the weights must be those of a run never stopped, bit for bit.

    python tests/soak_resume.py [--stops 30] [--ranks 1] [--seed 0]

Stages are kd (teacher, Fisher and student) and semi (local teacher), in turn. A stop is kill -9 or SIGTERM at any
moment after the first checkpoint (each sixth: before it, which is mostly imports), or kill -9 between the beginning and
the end of a checkpoint's write. Exit code 0 when all are identical.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from mkd.train.run.checkpoint import Checkpoints
from tests.helpers.shards import write_dataset
from tests.helpers.training.runs import (
    LITE0,
    QUICK,
    RANDOM,
    coloured,
    finish,
    launch,
    once,
    rows,
    start,
    torchrun,
)

OFTEN = ("data.batch=2", "steps=12", "save_every=2", "keep_every=4", "val_every=4", "log_every=3")
PHASES = {"kd": ("teacher", "student"), "semi": ("semi",)}
WAYS = ("kill -9", "SIGTERM", "kill -9 in a write")
EARLY = (0, 9)  # of 12 stops: a kill and a SIGTERM that come before the first checkpoint


def main():
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stops", type=int, default=30)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="soak-resume-") as place:
        return soak(Path(place), given.stops, given.ranks, random.Random(given.seed))


def soak(place, stops, ranks, rng):
    """Train each stage once undisturbed, then stop and finish as often as asked."""
    typed = commands(place)
    seconds = {}
    for stage in PHASES:
        job, began = begin(stage, typed, place / stage, ranks), time.monotonic()
        once(job, first_checkpoint(stage, place / stage).is_file)
        first = time.monotonic() - began
        status, said = finish(job)
        assert status == 0, said
        seconds[stage] = first, time.monotonic() - began - first
        print(
            f"undisturbed {stage}: first checkpoint {first:.1f} s, then {seconds[stage][1]:.1f} s", flush=True
        )
    same = 0
    for n in range(stops):
        stage, way, out = ("kd", "semi")[n % 2], WAYS[n // 2 % 3], place / "run"
        stopped = stop(stage, typed, out, ranks, way, n % 12 in EARLY, seconds[stage], rng)
        status, said = finish(begin(stage, typed, out, ranks))
        report = difference(stage, out, place / stage) if status == 0 else f"FAILED: {said}"
        same += report == ""
        print(f"{n + 1}. {stage}, {way} {stopped}: {report or 'identical'}", flush=True)
    print(f"{same} of {stops} identical")
    return 0 if same == stops else 1


def commands(place):
    """Make the data sets and the model that the stages start from; return what to type for each."""
    counts = {"labelled": 6, "unlabelled": 6, "val": 2}
    sets = {
        name: write_dataset(place / name, coloured(n, seed=seed), labelled=name != "unlabelled")
        for seed, (name, n) in enumerate(counts.items())
    }
    base = [f"data.labelled={sets['labelled']}", f"data.val={sets['val']}", *QUICK, *OFTEN]
    assert launch("supervised", *base, *RANDOM, "steps=2", f"out={place}/source") == 0
    source = [f"kd.source={place}/source/model", f"kd.source_data={sets['labelled']}"]
    kd = [*base, *LITE0, *source, "kd.teacher_epochs=3", "kd.fisher_tiles=4", "kd.ewc_weight=1e-4"]
    semi = [*base, f"semi.start={place}/source/model", f"data.unlabelled={sets['unlabelled']}"]
    filters = ["semi.confidence=0.34", "semi.drop_start=0.5", "semi.drop_end=0.2", "semi.result=teacher"]
    return {"kd": kd, "semi": [*semi, *filters]}


def begin(stage, typed, out, ranks):
    """Start a stage."""
    words = [*typed[stage], f"out={out}"]
    return start(stage, *words) if ranks == 1 else torchrun(stage, *words, ranks=ranks)


def first_checkpoint(stage, out):
    """Return where the first phase's checkpoint will be."""
    return Checkpoints(out / "checkpoints" / PHASES[stage][0]).latest


def stop(stage, typed, out, ranks, way, early, seconds, rng):
    """Start a run and stop it before its end; return when that was."""
    while True:
        shutil.rmtree(out, ignore_errors=True)
        job, began = begin(stage, typed, out, ranks), time.monotonic()
        before, after = seconds
        if way == "kill -9 in a write":
            wait_for_write(job, out, stage, rng.randint(1, 4))
        elif early:
            time.sleep(rng.uniform(0, before))
        else:
            once(job, first_checkpoint(stage, out).is_file)
            time.sleep(rng.uniform(0, after))
        after = time.monotonic() - began
        job.send_signal(signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL)
        status, said = finish(job)
        if status != 0 and not (out / "model").exists():
            return f"after {after:.1f} s at {position(stage, out)}"
        assert status in (0, 1, 143, -signal.SIGTERM, -signal.SIGKILL), said


def wait_for_write(job, out, stage, writes):
    """Wait until a checkpoint is being written for the `writes`-th time, or the run ends."""
    folders, before = [out / "checkpoints" / phase for phase in PHASES[stage]], False
    while writes and job.poll() is None:
        now = any((folder / ".tmp-latest.pt").exists() for folder in folders)
        writes -= now and not before
        before = now


def position(stage, out):
    """Say what was saved."""
    found = [(phase, Checkpoints(out / "checkpoints" / phase).load()) for phase in PHASES[stage]]
    return ", ".join(f"{phase} {state['step']}" for phase, state in found if state) or "no checkpoint"


def difference(stage, out, whole):
    """Return what differs from the undisturbed run: weights, optimizer, averages, metrics, kept files; or nothing."""
    found = [
        name
        for name in ("model/model.safetensors", "model/model.yaml", "fisher.safetensors")
        if (whole / name).exists() and (out / name).read_bytes() != (whole / name).read_bytes()
    ]
    for phase in PHASES[stage]:
        mine, theirs = (Checkpoints(f / "checkpoints" / phase).load() for f in (out, whole))
        found += [f"{phase} checkpoint {place}" for place in differing(mine, theirs)]
        kept = [sorted(p.name for p in (f / "checkpoints" / phase).iterdir()) for f in (out, whole)]
        found += [] if kept[0] == kept[1] else [f"{phase} files {kept}"]
    found += [] if rows(out) == rows(whole) else ["metrics"]
    return "" if not found else f"DIFFERENT: {found[:5]}"


def differing(mine, theirs, place=""):
    """Yield the places of nested states that are not equal to the bit."""
    if isinstance(theirs, torch.Tensor):
        if not torch.equal(mine, theirs):
            yield place
    elif isinstance(theirs, dict):
        if mine.keys() != theirs.keys():
            yield place
        for name in theirs:
            yield from differing(mine[name], theirs[name], f"{place}/{name}")
    elif mine != theirs:
        yield place


if __name__ == "__main__":
    sys.exit(main())

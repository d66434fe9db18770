"""Kill a build at random moments and finish it: shards, records and index must be those of an undisturbed build.

    python tests/soak_pack.py [--kills 20] [--images 2000] [--seed 0]

Each kill is SIGKILL to the whole process group of `python -m shards pack`. Exit code 0 when all are identical.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, SHARD = 256, 50
CLASSFILE = """
name: soak
classes: [field, road, water]
palette: [[0, 128, 0], [128, 128, 128], [0, 0, 255]]
masks: ids
layout: {images: "images/*.jpg", masks: "masks/{stem}.png"}
source: made for the soak
"""


def main():
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-pack-") as place:
        return soak(Path(place), given.kills, given.images, random.Random(given.seed))


def soak(place, kills, images, rng):
    """Build once undisturbed, then kill and finish as often as asked."""
    write_images(place, images, rng)
    start = time.monotonic()
    subprocess.run(command(place, place / "whole"), check=True)
    seconds = time.monotonic() - start
    wanted = content(place / "whole")
    print(f"undisturbed: {len(wanted)} files in {seconds:.1f} s", flush=True)
    same = 0
    for kill in range(1, kills + 1):
        moment, stood = killed(place, rng, seconds)
        report = finished(place, stood, wanted)
        same += report == "identical"
        print(f"kill {kill} after {moment:.2f} s, {len(stood)} shards stood: {report}", flush=True)
    print(
        f"{same} of {kills} builds, killed at random moments and finished, are identical to an undisturbed one"
    )
    return 0 if same == kills else 1


def write_images(place, count, rng):
    """Write noisy pictures and masks of blocks."""
    draw = np.random.default_rng(rng.randrange(2**32))
    (place / "set/images").mkdir(parents=True)
    (place / "set/masks").mkdir()
    (place / "soak.yaml").write_text(CLASSFILE)
    for n in range(count):
        coarse = draw.integers(0, 256, (SIZE // 8, SIZE // 8, 3), np.uint8)
        Image.fromarray(coarse).resize((SIZE, SIZE)).save(place / f"set/images/t{n:05d}.jpg", quality=90)
        ids = np.kron(draw.integers(0, 3, (SIZE // 8, SIZE // 8)), np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(ids).save(place / f"set/masks/t{n:05d}.png")


def command(place, out):
    """Give the command line of the build, on two processes."""
    options = {"--source": place / "set", "--classes": place / "soak.yaml", "--out": out}
    options |= {"--shard-size": SHARD, "--workers": 2}
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "shards", "pack", *words]


def killed(place, rng, seconds):
    """Start a build and kill its process group; return the moment, and what stood then with its place on the disk."""
    out = place / "out"
    while True:
        shutil.rmtree(out, ignore_errors=True)
        moment = rng.uniform(0, seconds)
        job = subprocess.Popen(command(place, out), start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(moment)
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
        if job.wait() == -signal.SIGKILL:
            records = out.glob("soak-*.json")
            return moment, {
                path.with_suffix(".tar").name: inode(path.with_suffix(".tar")) for path in records
            }


def finished(place, stood, wanted):
    """Run the same command to its end, and compare."""
    done = subprocess.run(command(place, place / "out"), capture_output=True, text=True)
    if done.returncode:
        return f"FAILED: {done.stderr.strip()}"
    found = content(place / "out")
    other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    again = [name for name, number in stood.items() if inode(place / "out" / name) != number]
    if other or again:
        return f"DIFFERENT: {other[:5]}, made again: {again[:5]}"
    return "identical"


def content(folder):
    """Read all files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def inode(path):
    """Return a file's number on its disk."""
    return path.stat().st_ino


if __name__ == "__main__":
    sys.exit(main())

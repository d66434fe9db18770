"""Kill a build at random moments and finish it: shards, records and index must be those of an undisturbed build.

    python tests/soak_pack.py [--kills 20] [--images 2000] [--seed 0]

`pack` and `tile` alternate. Each kill is SIGKILL to the whole process group of `python -m shards`. Exit code 0 when
all are identical.
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
import rasterio
from PIL import Image

SIZE, SHARD, EDGE = 256, 50, 40  # pixels of a tile, tiles of a shard, tiles along an edge of an orthomosaic
COMMANDS = ("pack", "tile")
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
    """Build once undisturbed by each command, then kill and finish as often as asked."""
    write_images(place, images, rng)
    write_scene(place, rng)
    wanted, seconds = {}, {}
    for command in COMMANDS:
        start = time.monotonic()
        subprocess.run(command_line(command, place, place / command), check=True)
        seconds[command] = time.monotonic() - start
        wanted[command] = read_files(place / command)
        print(f"{command}, undisturbed: {len(wanted[command])} files in {seconds[command]:.1f} s", flush=True)
    same = 0
    for kill in range(1, kills + 1):
        command = COMMANDS[kill % 2]
        moment, complete = start_and_kill(command, place, rng, seconds[command])
        report = finish_and_compare(command, place, complete, wanted[command])
        same += report == "identical"
        print(
            f"kill {kill}, {command}, after {moment:.2f} s, {len(complete)} shards stood: {report}",
            flush=True,
        )
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


def write_scene(place, rng):
    """Write an orthomosaic of noise, a piece of it without data, and its labels in blocks."""
    draw = np.random.default_rng(rng.randrange(2**32))
    edge = EDGE * SIZE
    profile = {"driver": "GTiff", "height": edge, "width": edge, "dtype": "uint8", "tiled": True}
    coarse = draw.integers(1, 256, (3, edge // 8, edge // 8), np.uint8)
    coarse[:, : edge // 32] = 0
    with rasterio.open(place / "scene.tif", "w", count=3, nodata=0, **profile) as file:
        file.write(coarse.repeat(8, 1).repeat(8, 2))
    ids = draw.integers(0, 3, (1, edge // 64, edge // 64), np.uint8)
    with rasterio.open(place / "scene_ids.tif", "w", count=1, **profile) as file:
        file.write(ids.repeat(64, 1).repeat(64, 2))


def command_line(command, place, out):
    """Give the command line of a build, on two processes."""
    inputs = {
        "pack": {"--source": place / "set"},
        "tile": {"--source": place / "scene.tif", "--labels": "{stem}_ids.tif", "--size": SIZE},
    }
    options = {**inputs[command], "--classes": place / "soak.yaml", "--out": out}
    options |= {"--shard-size": SHARD, "--workers": 2}
    given = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "shards", command, *given]


def start_and_kill(command, place, rng, seconds):
    """Start a build and kill its process group; return the moment, and the inodes of complete shards."""
    out = place / "out"
    while True:
        shutil.rmtree(out, ignore_errors=True)
        moment = rng.uniform(0, seconds)
        job = subprocess.Popen(
            command_line(command, place, out), start_new_session=True, stdout=subprocess.DEVNULL
        )
        time.sleep(moment)
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
        if job.wait() == -signal.SIGKILL:
            tars = [path.with_suffix(".tar") for path in out.glob("soak-*.json")]
            # a unit without a single tile has a record and no tar
            return moment, {tar.name: inode(tar) for tar in tars if tar.exists()}


def finish_and_compare(command, place, complete, wanted):
    """Run the same command to its end, and compare."""
    done = subprocess.run(command_line(command, place, place / "out"), capture_output=True, text=True)
    if done.returncode:
        return f"FAILED: {done.stderr.strip()}"
    found = read_files(place / "out")
    other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    again = [name for name, number in complete.items() if inode(place / "out" / name) != number]
    if other or again:
        return f"DIFFERENT: {other[:5]}, made again: {again[:5]}"
    return "identical"


def read_files(folder):
    """Read all files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def inode(path):
    """Return a file's number on its disk."""
    return path.stat().st_ino


if __name__ == "__main__":
    sys.exit(main())

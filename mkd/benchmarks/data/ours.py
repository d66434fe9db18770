"""Our side of the benchmark of data: each function runs in a process of its own and prints a line of JSON.

`python -m mkd.benchmarks.data.ours WHAT {...}`
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing import Barrier, Process, SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np

from mkd.benchmarks.data.peers import loading_rate

SHARDS, SAMPLES, RANKS = 1_000_000, 1_000, 4_096  # the largest data set that the plan is measured on
UNLABELLED_TILES = 169_000  # tiles of the paper's unlabelled set
DECODED = 2_000  # tiles that the decoders are compared on, at most


def load(data: str, batch: int, workers: int, tiles: int) -> dict[str, Any]:
    """Return the rate of our loader over an epoch, and resident memory at 10 % and at the end of it."""
    from mkd.loader.loader import TileSet, stream
    from mkd.loader.sampler import Sampler

    found = TileSet(data, labelled=False)
    plan, steps = Sampler(found.shard_counts, batch, seed=0), tiles // batch
    memory: dict[int, int] = {}
    marks = {max(1, steps // 10), steps}

    def batches() -> Iterator[Any]:
        # Another epoch follows, so that as much is read ahead when the clock stops as when it starts.
        endless = stream(found, plan, 0, 2 * steps, workers)
        for number, images in enumerate((batch.images for batch in islice(endless, steps)), 1):
            if number in marks:
                memory[number] = resident_bytes()
            yield images
            del images  # a buffer that is held cannot be filled again

    every = batches()
    result = loading_rate(every, tiles, batch)
    for _ in every:  # the clock stops before the epoch does
        pass
    first, last = (memory[number] for number in (min(marks), max(marks)))
    return {**result, "rss_mib": [first / 2**20, last / 2**20], "rss_growth": last / first}


def resume(data: str, batch: int, workers: int) -> dict[str, Any]:
    """Return the seconds from the index to the first batch when an epoch is entered at 90 %, and shards opened."""
    from mkd.loader.loader import TileSet, stream
    from mkd.loader.sampler import Sampler

    began = time.perf_counter()
    found = TileSet(data, labelled=False)
    step = 9 * len(found) // (10 * batch)
    batches = stream(found, Sampler(found.shard_counts, batch, seed=0), step, step + 100, workers)
    next(batches)
    seconds = time.perf_counter() - began
    files = (link for process in _processes() for link in Path(f"/proc/{process}/fd").iterdir())
    opened = {name for link in files if (name := os.path.realpath(link)).endswith(".tar")}
    return {"seconds": seconds, "shards_opened": len(opened), "shards": len(found.shard_counts)}


def resident_bytes() -> int:
    """Return the resident memory of this process and of its children; pages that they share count in each."""
    fields = (Path(f"/proc/{process}/statm").read_text().split() for process in _processes())
    return sum(int(each[1]) for each in fields) * os.sysconf("SC_PAGE_SIZE")


def _processes() -> list[str]:
    """Return this process and its children as /proc names them."""
    return ["self", *Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def decode(images: str, size: int, batch: int, workers: int, tiles: int) -> dict[str, Any]:
    """Return the rate of our decoder on bytes in memory, in as many processes as the loader has."""
    paths = [str(path) for path in sorted(Path(images).iterdir())[:tiles]]
    # The barrier lets all processes start their clocks at once; the parent waits for one rate from each.
    barrier, rates = Barrier(workers), SimpleQueue()  # type: ignore[var-annotated]
    parts = [paths[number::workers] for number in range(workers)]
    processes = [Process(target=_decode_part, args=(part, size, batch, barrier, rates)) for part in parts]
    for process in processes:
        process.start()
    rate = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return {"rate": rate}


def _decode_part(paths: list[str], size: int, batch: int, barrier: Any, rates: Any) -> None:
    from mkd.dataset.codec import decode_image

    files = [Path(path).read_bytes() for path in paths]
    out = np.zeros((batch, size, size, 3), np.uint8)
    decode_image(files[0], "jpg", out[0])
    barrier.wait()  # for the other processes, whose files are then read and decoder loaded as well
    began = time.perf_counter()
    for number, data in enumerate(files):
        decode_image(data, "jpg", out[number % batch])
    rates.put(len(files) / (time.perf_counter() - began))


def decoders(images: str) -> dict[str, Any]:
    """Return tiles/s of three JPEG decoders in one process on one thread, interleaved every 100 tiles."""
    import simplejpeg
    import torch
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.set_num_threads(1)
    files = [path.read_bytes() for path in sorted(Path(images).iterdir())[:DECODED]]
    decode_functions: dict[str, Callable[[bytes], Any]] = {
        "torchvision": lambda data: decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB
        ),
        "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, "RGB"),
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    seconds = dict.fromkeys(decode_functions, 0.0)
    for first in range(0, len(files), 100):
        for name, decode_one in decode_functions.items():
            began = time.perf_counter()
            for data in files[first : first + 100]:
                decode_one(data)
            seconds[name] += time.perf_counter() - began
    return {name: len(files) / spent for name, spent in seconds.items()}


def copy(data: str, url: str) -> dict[str, Any]:
    """Copy a data set to a URL."""
    from mkd.storage.folder import Folder

    target = Folder(url)
    for path in sorted(Path(data).iterdir()):
        target.write(path.name, path.read_bytes())
    return {}


def plan(shards: int, samples: int, ranks: int) -> dict[str, Any]:
    """Return the seconds and the peak MiB of making a sampler and its first step."""
    from mkd.loader.sampler import Sampler

    before, began = _memory("VmRSS"), time.perf_counter()
    counts = np.full(shards, samples // shards, np.int64)
    counts[: samples % shards] += 1
    Sampler(counts, batch=8 * ranks, seed=0, rank=ranks - 1, ranks=ranks).step(0)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "mib": _memory("VmHWM") - before}


def _memory(field: str) -> float:
    """Return a figure of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "load": load,
    "decode": decode,
    "decoders": decoders,
    "copy": copy,
    "plan": plan,
    "resume": resume,
}

if __name__ == "__main__":
    print(json.dumps(FUNCTIONS[sys.argv[1]](**json.loads(sys.argv[2]))))

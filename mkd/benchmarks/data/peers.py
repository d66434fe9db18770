"""Other libraries on the same tiles, each as its own guide says: a script of its own, for an interpreter of its own.

`python -I peers.py WHAT {...}` prints one line of JSON. It imports nothing of this project, because the
libraries measured here need other versions than ours; each is imported where it is used.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SHUFFLE = 1000  # samples in webdataset's buffer, as in its guide
CLOCK_START = 0.1  # share of an epoch's batches before the clock starts
CLOCK_STOP = 0.95  # share at which it stops: no loader is charged for workers that end unevenly


def loading_rate(batches: Iterable[Any], tiles: int, batch: int) -> dict[str, Any]:
    """Measure a loader's rate between two points of its epoch, after start-up and before the workers end.

    Args:
        batches: gives images of (B,3,H,W) or a prefix of an epoch of them.
        tiles: of the epoch.
        batch: tiles of a batch.

    Returns:
        Tiles a second, and shape and kind of a batch.
    """
    whole = tiles // batch
    warm, end = max(1, int(CLOCK_START * whole)), max(2, int(CLOCK_STOP * whole))
    counted, began = 0, time.perf_counter()
    for number, images in enumerate(batches, 1):
        if number > warm:
            counted += len(images)
        if number == warm:
            began = time.perf_counter()
        if number == end:
            seconds = time.perf_counter() - began
            return {"rate": counted / seconds, "shape": list(images.shape), "kind": str(images.dtype)}
    raise SystemExit(f"the epoch ended before batch {end}")


def load_webdataset(data: str, batch: int, workers: int, tiles: int, decode: str) -> dict[str, Any]:
    """Run webdataset's own pipeline; "torchrgb" gives float images in 0..1, "torchrgb8" uint8."""
    wds = importlib.import_module("webdataset")
    shards = sorted(str(path) for path in Path(data).glob("*.tar"))
    pipeline = wds.WebDataset(
        shards, shardshuffle=len(shards), select_files=lambda name: name.endswith(".jpg"), seed=0
    )
    pipeline = pipeline.shuffle(SHUFFLE).decode(decode).to_tuple("jpg").batched(batch)
    loader = wds.WebLoader(pipeline, batch_size=None, num_workers=workers)
    return loading_rate((images for (images,) in loader), tiles, batch)


def make_litdata(images: str, out: str, workers: int) -> dict[str, Any]:
    """Write litdata's optimised chunks; a picture opened from a file is stored with the file's bytes."""
    litdata = importlib.import_module("litdata")
    paths = sorted(str(path) for path in Path(images).iterdir())
    litdata.optimize(open_image, paths, output_dir=out, chunk_bytes="64MB", num_workers=workers)
    return {}


def open_image(path: str) -> Any:
    """Open a picture without decoding it."""
    return importlib.import_module("PIL.Image").open(path)


def load_litdata(data: str, batch: int, workers: int, tiles: int) -> dict[str, Any]:
    """Run litdata's streaming loader; it decodes with torchvision."""
    litdata = importlib.import_module("litdata")
    dataset = litdata.StreamingDataset(data, shuffle=True)
    loader = litdata.StreamingDataLoader(dataset, batch_size=batch, num_workers=workers)
    return loading_rate(loader, tiles, batch)


def make_mosaic(images: str, out: str, workers: int) -> dict[str, Any]:
    """Write mosaicml-streaming's MDS shards with its encoding "jpeg", which keeps the file's bytes; one process."""
    del workers
    streaming = importlib.import_module("streaming")
    with streaming.MDSWriter(out=out, columns={"image": "jpeg"}) as writer:
        for path in sorted(Path(images).iterdir()):
            with open_image(str(path)) as image:
                writer.write({"image": image})
    return {}


def load_mosaic(data: str, batch: int, workers: int, tiles: int) -> dict[str, Any]:
    """Run mosaicml-streaming's data set in torch's loader; it decodes with Pillow."""
    streaming, utils = (importlib.import_module(n) for n in ("streaming", "torch.utils.data"))
    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(local=data, shuffle=True, batch_size=batch)
    loader = utils.DataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=_stack)
    return loading_rate(loader, tiles, batch)


def _stack(rows: list[dict[str, Any]]) -> Any:
    """Turn a worker's pictures into one uint8 tensor."""
    torch, functional = (importlib.import_module(n) for n in ("torch", "torchvision.transforms.functional"))
    return torch.stack([functional.pil_to_tensor(row["image"]) for row in rows])


def write_shards(images: str, pattern: str, shard_size: int, part: int, parts: int) -> dict[str, Any]:
    """Write one of some equal parts of the tiles with webdataset.ShardWriter, the JPEGs alone."""
    wds = importlib.import_module("webdataset")
    began = time.perf_counter()
    with wds.ShardWriter(pattern, maxcount=shard_size, verbose=0) as writer:
        for path in sorted(Path(images).iterdir())[part::parts]:
            writer.write({"__key__": path.stem, "jpg": path.read_bytes()})
    return {"seconds": time.perf_counter() - began}


def versions() -> dict[str, Any]:
    """Return the versions of the libraries that this interpreter has."""
    metadata = importlib.import_module("importlib.metadata")
    names = ("webdataset", "litdata", "mosaicml-streaming", "torch", "torchvision", "pillow", "numpy")
    installed = {found.metadata["Name"].lower() for found in metadata.distributions()}
    return {name: metadata.version(name) for name in names if name in installed}


FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "load_webdataset": load_webdataset,
    "make_litdata": make_litdata,
    "load_litdata": load_litdata,
    "make_mosaic": make_mosaic,
    "load_mosaic": load_mosaic,
    "write_shards": write_shards,
    "versions": versions,
}

if __name__ == "__main__":
    print(json.dumps(FUNCTIONS[sys.argv[1]](**json.loads(sys.argv[2]))))

"""Makes version1.tar.xz: what the version before the move of the packages left on disk (commit 85667d7).

    python tests/compatibility/make_fixture.py CHECKOUT OUT.tar.xz

It types commands and knows file formats only, never a module of the project, so that it runs against any version.
Weights are replaced by short repeating patterns, which compress; the files around them are as the program wrote them.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

NAMES = {"target": ["field", "road", "water"], "source": ["grass", "path", "lake", "roof"]}
COLOURS = [(40, 160, 60), (150, 150, 150), (30, 60, 200), (200, 60, 30)]
SMALL = ["model=lite0", "data.crop=32", "data.batch=2", "data.workers=0", "device=cpu"]
OFTEN = ["steps=6", "save_every=2", "val_every=3", "log_every=1"]
SETS = {
    "labelled": (4, "target"),
    "unlabelled": (5, "target"),
    "val": (2, "target"),
    "source": (4, "source"),
}  # name -> tiles, domain


def write_images(folder: Path, count: int, classes: int, seed: int) -> None:
    """Write pairs of images/N.png and masks/N.png of 40 x 40 pixels whose class shows in the colour."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for n in range(count):
        ids = np.kron(rng.integers(0, classes, (5, 5)), np.ones((8, 8), int))
        image = np.array(COLOURS)[ids] + 10 * rng.integers(-1, 2, (40, 40, 1))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"images/{n}.png")
        Image.fromarray(ids.astype(np.uint8)).save(folder / f"masks/{n}.png")


def pattern(name: str, tensor: torch.Tensor, shift: int) -> torch.Tensor:
    """Return weights of a like size that repeat every 61 numbers; BatchNorm's statistics stay sane."""
    if not tensor.is_floating_point():
        return tensor
    if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
        return torch.ones_like(tensor)
    numbers = torch.from_numpy(np.random.default_rng(shift).normal(size=61)).to(tensor.dtype)
    fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 10000
    return numbers.repeat(tensor.numel() // 61 + 1)[: tensor.numel()].reshape(tensor.shape) * fan**-0.5


def simplify(path: Path, shift: int) -> None:
    """Replace the weights in a safetensors file or a checkpoint by patterns."""
    if path.suffix == ".safetensors":
        found = {k: pattern(k, v, shift) for k, v in load_file(path).items()}
        if path.stem == "fisher":
            found = {k: v.abs() for k, v in found.items()}
        save_file(found, path)
        return
    state = torch.load(path, weights_only=True)

    def change(value, name="", depth=0):
        if isinstance(value, torch.Tensor):
            new = pattern(name, value, shift + depth)
            return 1e-2 * new if name == "momentum_buffer" else new
        if isinstance(value, dict):
            return {k: change(v, str(k), depth + 1) for k, v in value.items()}
        return [change(v, name, depth + 1) for v in value] if isinstance(value, list) else value

    torch.save(change(state), path)


def refer_again(run: Path) -> None:
    """Let a checkpoint name the SHA-256 of files that were simplified after it."""
    path = run / "checkpoints/student/latest.pt"
    state = torch.load(path, weights_only=True)
    for name in state.get("refers", {}):
        state["refers"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    torch.save(state, path)


def script(checkout: Path, stage: str) -> str:
    """Return the path of a stage's entry script."""
    return str(checkout / "launch" / f"{stage}.py")


def type_in(checkout: Path, root: Path, *words: str, wait: bool = True) -> "subprocess.Popen[bytes]":
    """Start `python WORDS` with the checkout's packages, in the fixture's folder."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *words], cwd=root, env=env)
    if wait and process.wait() != 0:
        raise SystemExit(f"failed: {words}")
    return process


def write_sets(checkout: Path, root: Path) -> None:
    """Draw images, and pack them into the data sets ROOT/sets/NAME."""
    for seed, (name, (count, domain)) in enumerate(SETS.items()):
        write_images(root / "images" / name, count, len(NAMES[domain]), seed)
        if name == "unlabelled":
            shutil.rmtree(root / "images" / name / "masks")
    for domain, names in NAMES.items():
        text = f"""name: {domain}
classes: {names}
palette: {[list(c) for c in COLOURS[: len(names)]]}
masks: ids
layout:
  images: "images/*.png"
  masks: "masks/{{stem}}.png"
source: drawn
"""
        (root / f"{domain}.yaml").write_text(text)
        if domain == "target":
            (root / "unlabelled.yaml").write_text(text.replace('"masks/{stem}.png"', "null"))
    for name, (_, domain) in SETS.items():
        classes = "unlabelled.yaml" if name == "unlabelled" else f"{domain}.yaml"
        words = ["-m", "shards", "pack", "--source", f"images/{name}", "--classes", classes]
        type_in(checkout, root, *words, "--out", f"sets/{name}", "--shard-size", "3")


def write_models(checkout: Path, root: Path) -> None:
    """Train the models that the runs start from, ROOT/models/DOMAIN, for one step each."""
    for domain, data in (("source", "sets/source"), ("target", "sets/labelled")):
        words = [
            "steps=1",
            f"data.labelled={data}",
            "data.val=null",
            "model.pretrained=null",
            f"out=models/{domain}",
        ]
        type_in(checkout, root, script(checkout, "supervised"), *SMALL, *words)
        for path in (root / "models" / domain / "model").glob("*.safetensors"):
            simplify(path, 1)


def commands() -> dict[str, list[str]]:
    """Return what is typed for a run of each stage, without out=."""
    target = ["data.labelled=sets/labelled", "data.val=sets/val", *SMALL, *OFTEN]
    return {
        "supervised": [*target, "model.pretrained=null"],
        "kd": [
            *target,
            "model.pretrained=null",
            "kd.source=models/source/model",
            "kd.source_data=sets/source",
            "kd.teacher_epochs=1",
            "kd.fisher_tiles=2",
            "kd.ewc_weight=1e-4",
        ],
        "semi": [w for w in target if w != "model=lite0"]
        + [
            "semi.start=models/target/model",
            "data.unlabelled=sets/unlabelled",
            "semi.confidence=0.34",
            "semi.result=teacher",
        ],
    }


def write_run(checkout: Path, root: Path, stage: str, words: list[str]) -> None:
    """Kill a run after its first checkpoint, keep it as ROOT/runs/STAGE, and what it says when it goes on."""
    run, phase = root / "runs" / stage, "semi" if stage == "semi" else "student"
    latest = run / "checkpoints" / phase / "latest.pt"
    process = type_in(checkout, root, script(checkout, stage), *words, f"out=runs/{stage}", wait=False)
    while not latest.is_file():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "model").exists()
    for shift, path in enumerate(sorted([*run.rglob("*.safetensors"), *run.rglob("*.pt")])):
        simplify(path, 10 * shift)
    if stage == "kd":
        refer_again(run)
    assert 0 < torch.load(latest, weights_only=True)["step"] < 6
    # The killed run is kept, and a second start of it gives the figures that are expected.
    shutil.copytree(run, root / "kept" / stage)
    type_in(checkout, root, script(checkout, stage), *words, f"out=runs/{stage}")
    (root / "expected").mkdir(exist_ok=True)
    shutil.copy(run / "metrics.jsonl", root / "expected" / f"{stage}.jsonl")
    shutil.rmtree(run)
    shutil.copytree(root / "kept" / stage, run)


def main(checkout: Path, out: Path) -> None:
    """Write the fixture."""
    root = Path(tempfile.mkdtemp())
    write_sets(checkout, root)
    write_models(checkout, root)
    typed = commands()
    for stage, words in typed.items():
        write_run(checkout, root, stage, words)
    shutil.rmtree(root / "kept")
    for path in [*(root / "models").rglob("checkpoints"), *root.rglob("tensorboard"), root / "images"]:
        shutil.rmtree(path)
    (root / "commands.json").write_text(json.dumps(typed, indent=1))
    with tarfile.open(out, "w:xz", preset=9) as tar:
        tar.add(root, ".")
    print(out, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())

"""A tiny folder data set, and helpers to change it."""

import logging
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

PALETTE = [[0, 128, 0], [128, 128, 128], [0, 0, 255]]


@dataclass
class Folder:
    """Images and masks in a folder, with the class file that describes them."""

    root: Path
    classfile: Path
    content: dict = field(default_factory=dict)
    messages: list = field(default_factory=list)

    def describe(self, **changes):
        """Write the class file, with changes; None removes a key."""
        content = {**self.content, **changes}
        content = {key: value for key, value in content.items() if value is not None}
        self.classfile.write_text(yaml.safe_dump(content))

    def image(self, name, seed=0, size=(12, 16), **options):
        """Write a picture of noise."""
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.root / name, **options)

    def mask(self, name, values):
        """Write a mask: ids (H, W), colours (H, W, 3), or a picture."""
        picture = values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values, np.uint8))
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(self.root / name)

    def ids(self, seed=0, size=(12, 16)):
        """Draw class ids, some ignored."""
        return np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), size)


class Collector(logging.Handler):
    """Keeps the text of each message."""

    def __init__(self, messages):
        super().__init__()
        self.messages = messages

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture
def messages():
    """Give a list that takes each message that the shard commands log."""
    collector, package = Collector([]), logging.getLogger("shards")
    package.addHandler(collector)
    package.setLevel(logging.INFO)
    yield collector.messages
    package.removeHandler(collector)
    package.setLevel(logging.NOTSET)


@pytest.fixture
def folder(tmp_path, messages):
    """Give five labelled pictures: three PNG, two JPEG."""
    made = Folder(tmp_path / "set", tmp_path / "toy.yaml", messages=messages)
    made.content = {
        "name": "toy",
        "classes": ["field", "road", "water"],
        "palette": PALETTE,
        "masks": "ids",
        "layout": {"images": "images/*.*", "masks": "masks/{stem}.png"},
        "splits": {"train": "splits/train.txt"},
        "source": "made for a test",
    }
    made.describe()
    for number in range(5):
        made.image(f"images/t{number}.{'png' if number < 3 else 'jpg'}", seed=number)
        made.mask(f"masks/t{number}.png", made.ids(number))
    (made.root / "splits").mkdir()
    (made.root / "splits/train.txt").write_text("t3.jpg\n\n# a comment\nt0\n")
    return made


@pytest.fixture
def small_disk(tmp_path):
    """Give an empty disk of 6 MB."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: a full disk needs root, to mount a small one")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "mkd-test", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: a full disk needs a mount ({mounted.stderr.decode().strip()})")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)

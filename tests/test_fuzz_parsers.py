"""Each parser of what strangers write, with thousands of mutants: a value or a sentence, soon, in little memory."""

import contextlib
import io
import json
import resource
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mkd.config.load import parse
from mkd.config.schema import EvaluateRun, SemiRun, SupervisedRun
from mkd.dataset.index import DatasetIndex, read_index
from mkd.dataset.shard_record import ShardRecord, read_matching_record
from mkd.geo.raster import encode_tiff
from mkd.image_header import check_size
from mkd.model_folder import read_card
from mkd.storage.folder import Folder
from shards.commands.verify import verify
from shards.inputs.class_file import read_classfile
from shards.inputs.encode import encode_png
from shards.inputs.images.image_file import image_member
from shards.reading.shard_reader import meta_of
from tests.helpers.mutants import VALUES, damaged, mutants
from tests.helpers.shards import pictures, write_dataset

FAST = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
CARD = {
    "architecture": {
        "backbone": "tf_efficientnet_lite0",
        "aspp_channels": 16,
        "mean": [0.5, 0.4, 0.3],
        "separable": True,
    },
    "classes": ["a", "b"],
    "palette": [[0, 0, 0], [1, 1, 1]],
    "crop": 32,
    "provenance": {"stage": "kd"},
}
CLASSES = {
    "name": "t",
    "classes": ["a", "b"],
    "palette": [[1, 2, 3], [4, 5, 6]],
    "masks": "ids",
    "ids": {1: 0, 2: 255},
    "layout": {"images": "*.png", "masks": "{stem}.png"},
    "splits": {"train": "train.txt"},
    "source": "x",
}
PIXELS = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)


@contextlib.contextmanager
def for_people():
    """Pass on everything but a ValueError in one short line; and see to time and memory."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    except ValueError as error:
        said = str(error)
        assert type(error).__module__.partition(".")[0] in ("builtins", "mkd", "shards"), repr(error)  # noqa: PT017
        assert not isinstance(error, UnicodeError), repr(error)  # noqa: PT017
        assert "\n" not in said.strip(), said
        assert 0 < len(said) < 2000, said
    assert time.process_time() - begun < 2  # of the processor, as the machine may be busy elsewhere
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Path(write_dataset(tmp_path_factory.mktemp("fuzz") / "set", pictures(2, (16, 16))))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


def written(path, content, form):
    """Write a mutant as JSON or YAML, or as text that is damaged."""
    text = json.dumps(content) if form == "json" else yaml.safe_dump(content, allow_unicode=False)
    path.write_text(text)
    return path


def fuzz_index(dataset, scratch, data):
    """index.json."""
    content = json.loads((dataset / "index.json").read_text())
    written(scratch / "index.json", data.draw(mutants(content)), "json")
    with for_people():
        assert isinstance(read_index(scratch, shards=False), DatasetIndex)


def fuzz_index_bytes(dataset, scratch, data):
    """index.json, bytes."""
    (scratch / "index.json").write_bytes(data.draw(damaged((dataset / "index.json").read_bytes())))
    with for_people():
        read_index(scratch, shards=False)


def fuzz_record(dataset, scratch, data):
    """Records of shards."""
    content = json.loads((dataset / "tiny-000000.json").read_text())
    written(scratch / "tiny-000000.json", data.draw(mutants(content)), "json")
    with for_people():
        info = read_index(dataset).shards[0]
        assert isinstance(read_matching_record(Folder(scratch), info), ShardRecord)


def fuzz_meta(dataset, scratch, data):
    """KEY.json."""
    content = data.draw(
        damaged(json.dumps({"source": "a", "window": [1, 2, 3, 4], "size": [16, 16]}).encode())
    )
    with for_people():
        assert isinstance(meta_of("key", {"json": content}, "shard"), dict)


def fuzz_class_file(dataset, scratch, data):
    """Class files."""
    path = written(scratch / "c.yaml", data.draw(mutants(CLASSES)), "yaml")
    with for_people():
        read_classfile(path)


def fuzz_class_file_bytes(dataset, scratch, data):
    """Class files, bytes."""
    (scratch / "c.yaml").write_bytes(data.draw(damaged(yaml.safe_dump(CLASSES).encode())))
    with for_people():
        read_classfile(scratch / "c.yaml")


def fuzz_card(dataset, scratch, data):
    """model.yaml."""
    written(scratch / "model.yaml", data.draw(mutants(CARD)), "yaml")
    with for_people():
        read_card(scratch)


def fuzz_card_bytes(dataset, scratch, data):
    """model.yaml, bytes."""
    (scratch / "model.yaml").write_bytes(data.draw(damaged(yaml.safe_dump(CARD).encode())))
    with for_people():
        read_card(scratch)


def _pictures():
    found = [encode_png(PIXELS), encode_tiff(PIXELS), encode_tiff(np.zeros((9, 9, 5), np.uint16))]
    for kind in ("JPEG", "TIFF", "GIF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


PICTURES = _pictures()


def fuzz_header(dataset, scratch, data):
    """Image headers."""
    content = data.draw(damaged(data.draw(st.sampled_from(PICTURES))))
    with for_people():
        check_size(content, "x")


def fuzz_picture(dataset, scratch, data):
    """Whole images, as they are packed."""
    content = data.draw(damaged(data.draw(st.sampled_from(PICTURES))))
    with for_people():
        image_member(content, "x", data.draw(st.sampled_from(["ends", "decode"])))


def fuzz_tar(dataset, scratch, data):
    """Members of tars."""
    whole = (dataset / "tiny-000000.tar").read_bytes()
    content = json.loads((dataset / "index.json").read_text())
    changed = bytearray(data.draw(damaged(whole)))
    with tarfile.open(dataset / "tiny-000000.tar") as tar:
        starts = [member.offset for member in tar]
    for start in data.draw(st.lists(st.sampled_from(starts), max_size=2)):  # a header: name, size, type, ...
        for place in data.draw(st.lists(st.integers(start, start + 511), max_size=3)):
            if place < len(changed):
                changed[place] = data.draw(st.sampled_from(b"\0\x80\xff012789xSLKgA"))
        if start + 512 <= len(changed):  # with a checksum that is right again
            header = changed[start : start + 512]
            header[148:156] = b" " * 8
            changed[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    (scratch / "tiny-000000.tar").write_bytes(changed)
    (scratch / "tiny-000000.json").write_bytes((dataset / "tiny-000000.json").read_bytes())
    content["shards"][0]["bytes"] = content["bytes"] = len(changed)
    written(scratch / "index.json", content, "json")
    with for_people():
        assert all(isinstance(line, str) for line in verify(scratch))


KEYS = [
    "data.scale",
    "optim.lr",
    "steps",
    "data.crop",
    "seed",
    "device",
    "out",
    "accept",
    "epochs",
    "data.batch",
]
WORDS = st.sampled_from(
    [
        "[1,inf]",
        "inf",
        "nan",
        ".nan",
        "1e999",
        "-1",
        "[",
        "{a: 1",
        "${x}",
        "${oc.env:HOME}",
        "*a",
        "&a [*a]",
        "null",
        "'",
    ]
)


CONFIGS = [(SupervisedRun, "supervised"), (SemiRun, "semi"), (EvaluateRun, "evaluate")]


@pytest.fixture(scope="module", autouse=True)
def composed_once():
    """Compose each config before the clock runs: the first one starts Hydra, whatever the value."""
    for kind, name in CONFIGS:
        with contextlib.suppress(ValueError):
            parse(kind, name, [])


def fuzz_config(dataset, scratch, data):
    """Values of configs."""
    kind, name = data.draw(st.sampled_from(CONFIGS))
    key = data.draw(st.sampled_from(KEYS))
    value = data.draw(WORDS | st.text(st.characters(codec="utf-8"), max_size=8) | VALUES.map(repr))
    with for_people():
        parse(kind, name, [f"{key}={value}"])


FUZZERS = {
    name.removeprefix("fuzz_"): each for name, each in list(globals().items()) if name.startswith("fuzz_")
}


@pytest.mark.parametrize("name", FUZZERS)
@pytest.mark.parametrize(
    "many", [pytest.param(FAST, id="few"), pytest.param(SLOW, id="10,000", marks=pytest.mark.slow)]
)
def test_no_input_is_a_traceback(name, many, dataset, scratch):
    """Whatever is read, what comes out is a value or one sentence, in under 2 s and 1 GB."""

    @many
    @given(st.data())
    def check(data):
        FUZZERS[name](dataset, scratch, data)

    check()

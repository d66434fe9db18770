"""Adopted shards and plain folders are trained on: resumed to the same weights, changes noticed, bad tiles refused."""

import numpy as np
import pytest
import torch
import webdataset as wds
import yaml
from PIL import Image
from safetensors.torch import load_file

from mkd.config.load import load
from mkd.config.schema import KdRun, SemiRun, SupervisedRun
from mkd.dataset.index import read_index
from mkd.dataset.shard_record import read_record
from mkd.loader.loader import TileSet, in_order
from mkd.recipes.distill import kd
from mkd.recipes.semi import semi
from mkd.recipes.supervised import supervised
from mkd.storage.folder import Folder
from shards.commands.adopt import adopt
from shards.commands.verify import verify
from shards.output.build_options import BuildOptions
from tests.helpers.shards import CLASSES, PALETTE
from tests.helpers.training.runs import (
    LITE0,
    QUICK,
    RANDOM,
    coloured,
    finish,
    kill_once,
    rows,
    start,
    torchrun,
)

SAVES = ("save_every=1", "val_every=4", "log_every=1", "steps=8")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def classfile(tmp_path):
    """Give a class file whose masks are class ids."""
    content = {"name": "toy", "classes": list(CLASSES), "palette": [list(c) for c in PALETTE], "masks": "ids"}
    content |= {"layout": {"images": "images/*.*", "masks": "masks/{stem}.png"}, "source": "made for a test"}
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def adopted(tmp_path, classfile):
    """Adopt six tiles that webdataset.ShardWriter wrote into two shards."""
    (tmp_path / "theirs").mkdir()
    with wds.ShardWriter(f"{tmp_path}/theirs/%06d.tar", maxcount=3, verbose=0) as writer:
        for number, (image, ids) in enumerate(coloured(6)):
            writer.write({"__key__": f"t{number}", "jpg": image, "seg.png": ids})
    adopt([f"{tmp_path}/theirs/{{000000..000001}}.tar"], classfile, BuildOptions(tmp_path / "set"))
    return tmp_path / "set"


@pytest.fixture
def plain(tmp_path):
    """Write a folder of six images and masks."""
    for kind in ("images", "masks"):
        (tmp_path / "plain" / kind).mkdir(parents=True)
    for number, (image, ids) in enumerate(coloured(6)):
        Image.fromarray(image).save(tmp_path / f"plain/images/t{number}.png")
        Image.fromarray(ids).save(tmp_path / f"plain/masks/t{number}.png")
    return tmp_path / "plain"


def killed_and_gone_on(tmp_path, *words):
    """Train in one go, and with a kill -9 after some checkpoint; return both run folders."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert finish(start("supervised", f"out={whole}", *words))[0] == 0
    checkpoint = cut / "checkpoints" / "student" / "latest.pt"
    kill_once(start("supervised", f"out={cut}", *words), checkpoint.is_file)
    assert not (cut / "model").exists()
    assert finish(start("supervised", f"out={cut}", *words))[0] == 0
    return whole, cut


def assert_same_run(whole, cut):
    one, other = (load_file(run / "model" / "model.safetensors") for run in (whole, cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_on_adopted_shards_goes_on_after_a_kill(tmp_path, adopted):
    words = [f"data.labelled={adopted}", f"data.val={adopted}", *RANDOM, *QUICK, *SAVES, "data.workers=1"]
    assert_same_run(*killed_and_gone_on(tmp_path, *words))


def test_a_bad_tile_of_an_adopted_shard_ends_the_run_and_is_listed(tmp_path, adopted):
    record = read_record(Folder(adopted), read_index(adopted).shards[0].file)
    with open(tmp_path / "theirs" / "000000.tar", "r+b") as file:
        file.seek(record.tiles[1].members["label.png"].offset + 40)
        file.write(b"\0\1\2\3")
    status, said = finish(
        start("supervised", f"out={tmp_path / 'run'}", f"data.labelled={adopted}", *RANDOM, *QUICK, *SAVES)
    )
    assert status == 2
    assert "theirs/000000.tar:000000__t1: its 'label.png' has changed" in said
    assert "000000__t1" in (tmp_path / "run" / "quarantine.jsonl").read_text()


def test_training_on_a_plain_folder_goes_on_after_a_kill(tmp_path, plain, classfile):
    words = [
        f"data.labelled={plain}",
        f"data.val={plain}",
        f"data.classes={classfile}",
        *RANDOM,
        *QUICK,
        *SAVES,
    ]
    whole, cut = killed_and_gone_on(tmp_path, *words)
    assert_same_run(whole, cut)
    assert [verify(f"{run}.data/{key}") for run in (whole, cut) for key in ("labelled", "val")] == [[]] * 4
    # The same tiles as packed by hand, in the same order: the same run.
    config = load(SupervisedRun, "supervised", [f"out={tmp_path / 'hand'}", f"data.labelled={whole}.data/labelled",
                                                f"data.val={whole}.data/val", *RANDOM, *QUICK, *SAVES])  # fmt: skip
    supervised(config)
    assert_same_run(whole, tmp_path / "hand")
    assert rows(whole) == rows(tmp_path / "hand")


def test_the_packed_folder_holds_the_folders_pixels(tmp_path, plain, classfile):
    words = [
        f"out={tmp_path / 'run'}",
        f"data.labelled={plain}",
        f"data.classes={classfile}",
        *RANDOM,
        *QUICK,
        "steps=1",
    ]
    supervised(load(SupervisedRun, "supervised", words))
    batches = in_order(TileSet(f"{tmp_path / 'run'}.data/labelled", labelled=True), 1)
    for batch, (image, ids) in zip(batches, coloured(6), strict=True):
        np.testing.assert_array_equal(batch.images[0].movedim(0, -1), image)
        np.testing.assert_array_equal(batch.labels[0], ids)


def test_a_changed_file_is_noticed(tmp_path, plain, classfile):
    """Also by a run that was moved; the config keeps the folder as it was given."""
    words = [f"data.labelled={plain}", f"data.classes={classfile}", *RANDOM, *QUICK]
    out = tmp_path / "run"
    supervised(load(SupervisedRun, "supervised", [f"out={out}", *words, "steps=1"]))
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["labelled"] == str(plain)
    out.rename(tmp_path / "moved")
    longer = [f"out={tmp_path / 'moved'}", *words, "steps=2", "extend=true"]
    supervised(load(SupervisedRun, "supervised", longer))  # packed again, into the same bytes
    Image.fromarray(coloured(1, seed=9)[0][0]).save(plain / "images" / "t3.png")
    with pytest.raises(
        ValueError, match=r"plain or data.classes=.* has changed since it was packed into .*moved.data"
    ):
        supervised(load(SupervisedRun, "supervised", [*longer[:-2], "steps=3", "extend=true"]))


def test_unlabelled_tiles_in_a_plain_folder(tmp_path, plain, classfile, config_of):
    """Their masks need not be there; the stage runs to its end."""
    few = tmp_path / "few" / "images"
    few.mkdir(parents=True)
    for image in (plain / "images").iterdir():
        (few / image.name).write_bytes(image.read_bytes())
    start_run = config_of("supervised", f"out={tmp_path / 'first'}", f"data.labelled={plain}", "data.val=null",
                          f"data.classes={classfile}")  # fmt: skip
    supervised(start_run)
    words = [
        f"data.labelled={plain}",
        "data.val=null",
        f"data.classes={classfile}",
        f"data.unlabelled={few.parent}",
    ]
    run = config_of("semi", f"out={tmp_path / 'run'}", f"semi.start={tmp_path / 'first' / 'model'}", *words)
    assert isinstance(run, SemiRun)
    semi(run)
    assert (tmp_path / "run" / "model" / "model.yaml").is_file()
    assert read_index(f"{tmp_path / 'run'}.data/unlabelled").labelled == 0


def test_a_second_stage_on_plain_folders(tmp_path, plain, classfile, config_of):
    """kd trains on a plain folder; its source's tiles are what the first stage has packed, and no plain folder."""
    folders = [f"data.labelled={plain}", f"data.val={plain}", f"data.classes={classfile}"]
    supervised(config_of("supervised", f"out={tmp_path / 'first'}", *folders))
    source = [f"kd.source={tmp_path / 'first' / 'model'}", "kd.ewc_weight=1e-6"]
    with pytest.raises(
        ValueError, match=r"kd.source_data=.*plain: no index.json .*OUT.data/labelled of its out="
    ):
        config_of("kd", f"out={tmp_path / 'run'}", *folders, *source, f"kd.source_data={plain}")
    packed = f"kd.source_data={tmp_path / 'first'}.data/labelled"
    run = config_of("kd", f"out={tmp_path / 'run'}", *folders, *source, packed)
    assert isinstance(run, KdRun)
    kd(run)
    assert (tmp_path / "run" / "model" / "model.yaml").is_file()
    assert read_index(f"{tmp_path / 'run'}.data/labelled").samples == 6


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["kd", "semi"])
def test_two_ranks_on_plain_folders(tmp_path, plain, classfile, stage):
    """Under torchrun rank 0 packs each folder once, both ranks train on the copies, and a missing mask ends both."""
    folders = [f"data.labelled={plain}", f"data.val={plain}", f"data.classes={classfile}", *QUICK]
    few = tmp_path / "few" / "images"
    few.mkdir(parents=True)
    for image in (plain / "images").iterdir():
        (few / image.name).write_bytes(image.read_bytes())
    supervised(load(SupervisedRun, "supervised", [f"out={tmp_path / 'first'}", *folders, *RANDOM, "steps=2"]))
    more = [f"semi.start={tmp_path / 'first' / 'model'}"]
    if stage == "kd":
        more = [
            f"kd.source={tmp_path / 'first' / 'model'}",
            f"kd.source_data={tmp_path / 'first'}.data/labelled",
        ]
        more += [*LITE0, "kd.teacher_epochs=1", "kd.fisher_tiles=2", "kd.tiles=all"]
    words = [*folders, *more, f"data.unlabelled={few.parent}", "steps=4"]
    status, said = finish(torchrun(stage, f"out={tmp_path / 'run'}", *words), 500)
    assert status == 0, said
    assert said.count("is a plain folder, packed into") == 3
    assert (tmp_path / "run" / "model" / "model.yaml").is_file()
    kinds = ("labelled", "unlabelled", "val")
    assert [read_index(f"{tmp_path / 'run'}.data/{kind}").labelled for kind in kinds] == [6, 0, 6]
    (plain / "masks" / "t2.png").unlink()
    status, said = finish(torchrun(stage, f"out={tmp_path / 'bad'}", *words), 500)
    assert status != 0
    assert "lacks 1 mask: masks/t2.png" in said
    assert not (tmp_path / "bad" / "model").exists()


def test_bad_folders_are_one_sentence(tmp_path, plain, classfile):
    """A missing mask, no class file, or a folder that is neither: what to give."""
    given = [f"out={tmp_path / 'run'}", f"data.labelled={plain}", *RANDOM, *QUICK]
    with pytest.raises(ValueError, match="for a plain folder of images give data.classes=FILE"):
        load(SupervisedRun, "supervised", given)
    with pytest.raises(ValueError, match="no such file; give a class file"):
        load(SupervisedRun, "supervised", [*given, "data.classes=none.yaml"])
    (plain / "masks" / "t2.png").unlink()
    with pytest.raises(ValueError, match=r"data\.labelled=.*plain: .*lacks 1 mask: masks/t2.png"):
        supervised(load(SupervisedRun, "supervised", [*given, f"data.classes={classfile}"]))

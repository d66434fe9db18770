"""launch/teacher.py label: a data set of pseudo-labels beside the tiles, resumed, made in parts, trained from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mkd.config.load import load
from mkd.config.schema import TeacherLabel
from mkd.dataset.index import read_index
from mkd.loader.loader import TileSet
from mkd.model_folder import load_model, save_model, weights_digest
from mkd.recipes.label_dataset import label
from mkd.recipes.semi import semi
from shards.commands.verify import verify
from shards.output.merge import make_index
from tests.helpers import references
from tests.helpers.shards import CLASSES, overwrite
from tests.helpers.training.runs import digests, launch, rows


@pytest.fixture(scope="module")
def model(runs, sets, tmp_path_factory):
    """A model folder whose network is sure of some pixels and not of others: its logits are spread out."""
    network, card = load_model(f"{runs['kd'].out}/model")
    tiles = TileSet(sets["unlabelled"], labelled=False)
    with torch.no_grad():
        logits = network(torch.stack([tiles[(0, n)][0] for n in range(len(tiles))]).float() / 255)
        scale = 2 / logits.std(dim=(0, 2, 3))
        network.classifier.bias.sub_(logits.mean(dim=(0, 2, 3))).mul_(scale)
        network.classifier.weight.mul_(scale[:, None, None, None])
    folder = tmp_path_factory.mktemp("sure") / "model"
    save_model(folder, network.state_dict(), replace(card, crop=None))  # tiles are predicted whole
    return folder


@pytest.fixture
def config_for(model, sets, tmp_path):
    """A function (*overrides) -> config of labelling the unlabelled tiles."""

    def config(*overrides):
        given = [f"data={sets['unlabelled']}", f"model={model}", f"out={tmp_path}/new", "device=cpu"]
        return load(TeacherLabel, "teacher label", [*given, "confidence=0.6", *overrides])

    return config


def answers(config):
    """Label each tile on its own with plain formulas: {key: (ids, score)}."""
    model, tiles, found = load_model(config.model)[0], TileSet(config.data, labelled=False), {}
    for n in range(len(tiles)):
        with torch.no_grad():
            logits = model(tiles[(0, n)][0][None].float() / 255).double()
        top, ids = torch.softmax(logits, dim=1)[0].max(dim=0)
        scores = [references.entropy(z) for (z,) in references.pixels(logits.numpy())]
        sure = (top - config.confidence).abs() > 1e-5  # float32 may round the others either way
        found[tiles.meta(n)["key"]] = ids, top >= config.confidence, sure, sum(scores) / len(scores)
    return found


def test_labels_are_those_of_the_formula(config_for):
    """Key, image and meta stay; labels are the arg max where the network is sure; meta tells score and weights."""
    config = config_for("batch=3")
    label(config)
    new, old, expected = (
        TileSet(config.out, labelled=True),
        TileSet(config.data, labelled=False),
        answers(config),
    )
    dropped = [float((~kept).float().mean()) for _, kept, _, _ in expected.values()]
    assert 0 < min(dropped) < 1, "the case must have kept and dropped pixels"
    keys = [new.meta(n)["key"] for n in range(len(new))]
    assert keys == [key for key, (_, kept, _, _) in expected.items() if kept.any()]
    place = {old.meta(n)["key"]: n for n in range(len(old))}
    for n, key in enumerate(keys):
        ids, kept, sure, score = expected[key]
        image, found, _ = new[(0, n)]
        assert torch.equal(image, old[(0, place[key])][0])
        wanted = torch.where(kept, ids, 255).to(torch.uint8)
        assert torch.equal(found[sure], wanted[sure])
        meta, before = new.meta(n), old.meta(place[key])
        pseudo = meta.pop("pseudo")
        assert pseudo["score"] == pytest.approx(score, rel=1e-4)
        assert pseudo["kept"] == (found != 255).double().mean().item() > 0
        assert pseudo["version"] == weights_digest(config.model)
        assert {**meta, "labelled": False} == before
    index = read_index(config.out)
    assert (index.classes, index.samples) == (CLASSES, index.labelled)
    assert verify(config.out) == []


def test_every_tile_is_accounted_for(config_for, capsys):
    """Tiles above tile_entropy, or of which nothing is kept, are left out and counted, and this is said."""
    scores = sorted(score for *_, score in answers(config_for()).values())
    limit = (scores[1] + scores[2]) / 2
    label(config_for(f"tile_entropy={limit}", "confidence=0"))
    index = read_index(config_for().out)
    assert index.samples == 2
    assert index.provenance["left_out"] == {"above_tile_entropy": 4, "nothing_kept": 0}
    assert "out of 6; left out {'above_tile_entropy': 4, 'nothing_kept': 0}" in capsys.readouterr().out


def test_made_in_parts_it_is_the_same(config_for, tmp_path, capsys):
    """Each part makes its shards; the merge, or the command without part=, writes the index; the bytes are the same."""
    label(config_for())
    whole = tmp_path / "new"
    for name, finish in {"merged": make_index, "again": lambda out: label(config_for(f"out={out}"))}.items():
        out = tmp_path / name
        for part in ("2/2", "1/2"):
            label(config_for(f"out={out}", f"part={part}"))
            assert not (out / "index.json").exists()
        before = {p: p.stat().st_mtime_ns for p in out.glob("*.tar")}
        assert len(before) == 2
        finish(str(out))
        assert {p: p.stat().st_mtime_ns for p in before} == before
        shards, others = digests(out), digests(whole)
        assert {n: d for n, d in shards.items() if n != "build.json"} == {
            n: d for n, d in others.items() if n != "build.json"
        }


def test_another_model_in_the_same_place_is_refused(config_for, runs):
    """A finished data set of other weights stays as it is."""
    config = config_for()
    label(config)
    before = digests(config.out)
    with pytest.raises(ValueError, match="already holds|other inputs"):
        label(replace(config, model=f"{runs['supervised'].out}/model"))
    assert digests(config.out) == before


def test_a_damaged_tile_is_within_its_budget_or_ends_it(config_for, sets, tmp_path):
    """An unreadable tile is left out and listed up to max_bad, else the command ends in one sentence."""
    bad = tmp_path / "bad"
    shutil.copytree(sets["unlabelled"], bad)
    overwrite(bad, 700, bytes(200))  # inside the first image
    with pytest.raises(ValueError, match="tile0000"):
        label(config_for(f"data={bad}", "confidence=0"))
    label(config_for(f"data={bad}", "confidence=0", "max_bad=0.5"))
    assert read_index(config_for().out).samples == 5
    assert "tile0000" in (Path(config_for().out) / "quarantine.jsonl").read_text()


def test_training_from_stored_labels(runs, model, sets, config_of, tmp_path, capsys):
    """The command as typed, then semi.py on its data set: it says so, trains, and asks no teacher."""
    given = [f"data={sets['unlabelled']}", f"model={model}", f"out={tmp_path}/new"]
    assert launch("teacher", "label", *given, "confidence=0.6", "device=cpu") == 0
    offline = ["teacher.kind=offline", f"data.pseudo={tmp_path}/new", "data.unlabelled=null", "data.val=null"]
    start = [f"semi.start={runs['kd'].out}/model", "teacher.ledger=true", f"out={tmp_path}/run"]
    semi(config_of("semi", *start, *offline))
    assert f"unlabelled tiles, labelled by {tmp_path}/new" in capsys.readouterr().out
    found = rows(tmp_path / "run")
    assert [r["step"] for r in found] == [1, 2, 3, 4]
    assert all(r["kept_tiles"] == 1 and r["tile_entropy"] is None for r in found)
    assert any(r["loss_cons"] > 0 for r in found)
    ledger = [json.loads(line) for line in (tmp_path / "run" / "ledger-0.jsonl").read_text().splitlines()]
    assert [(len(r["trained"]), r["rejected"]) for r in ledger] == [(2, [])] * 4
    assert np.isfinite([r["loss"] for r in found]).all()

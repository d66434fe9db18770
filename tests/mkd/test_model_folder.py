"""Model folders: bit for bit there and back, and one sentence for every way to be wrong."""

import hashlib
import os
from dataclasses import replace

import pytest
import torch
import yaml

from mkd.model_folder import ModelCard, load_model, read_card, save_model, set_temperature, weights_digest
from mkd.models.architecture import Architecture
from mkd.models.build import build
from tests.helpers.training.nets import perturb

ARCHITECTURE = Architecture(
    "tf_efficientnet_lite0",
    output_stride=32,
    aspp_channels=16,
    low_channels=8,
    decoder_channels=16,
    separable=True,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
)
CARD = ModelCard(
    ARCHITECTURE,
    ("meadow", "Straße", "water"),
    ((0, 128, 0), (128, 128, 128), (0, 0, 255)),
    {"stage": "kd", "seed": 3, "versions": {"torch": "2", "cuda": None}, "size": (1, 2)},
)


@pytest.fixture(scope="module")
def model():
    """A network whose weights and statistics are not those of a fresh one, laid out channels-last."""
    net = build(ARCHITECTURE, 3, None, seed=5).to(memory_format=torch.channels_last)
    perturb(net, 1)
    return net


@pytest.fixture
def folder(model, tmp_path):
    save_model(tmp_path / "model", model.state_dict(), CARD)
    return tmp_path / "model"


def test_weights_come_back_bit_for_bit(model, folder):
    """Every weight and buffer is the same, and so are the logits of an image in eval mode."""
    loaded, _ = load_model(folder)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[n]) and t.dtype == after[n].dtype for n, t in before.items())
    assert not loaded.training
    image = torch.rand(1, 3, 40, 50)
    twin = (
        build(ARCHITECTURE, 3, None).eval().to(memory_format=torch.channels_last)
    )  # the layout decides the rounding
    twin.load_state_dict(before)
    with torch.no_grad():
        assert torch.equal(loaded(image), twin(image))


def test_a_temperature_is_written_into_the_card(folder):
    """Weights keep their bytes, the rest of the card its content; a card without one is read as 1."""
    before, digest = read_card(folder), weights_digest(folder)
    assert before.temperature == 1
    assert "temperature" not in (folder / "model.yaml").read_text()
    set_temperature(folder, 1.25, {"data": "val", "pixels": 9})
    card = read_card(folder)
    assert card.temperature == 1.25
    assert card.provenance == {**before.provenance, "temperature": {"data": "val", "pixels": 9}}
    assert replace(card, temperature=1.0, provenance=before.provenance) == before
    assert weights_digest(folder) == digest


@pytest.mark.parametrize("value", ["0", "-1.5", ".inf", ".nan", "true", "warm", "[1]"])
def test_a_temperature_that_is_none(folder, value):
    """What is no such number is refused in one sentence."""
    with open(folder / "model.yaml", "a", encoding="utf-8") as file:
        file.write(f"temperature: {value}\n")
    with pytest.raises(ValueError, match="temperature is .*, a number from 0.001 to 1000|is not finite"):
        read_card(folder)


def test_the_card_comes_back(folder):
    """Architecture, class names, palette and provenance are read as they were written."""
    card = read_card(folder)
    assert replace(card, provenance={}) == replace(CARD, provenance={})
    assert card.provenance == {**CARD.provenance, "size": [1, 2]}
    assert isinstance(card.architecture.dropout, tuple)


def test_writing_twice_gives_the_same_bytes(model, folder, tmp_path):
    """The same weights and card make the same two files, and nothing else."""
    save_model(tmp_path / "again", {n: t.contiguous() for n, t in model.state_dict().items()}, CARD)
    names = {p.name for p in folder.iterdir()}
    assert names == {"model.safetensors", "model.yaml"}
    assert all((folder / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in names)
    assert weights_digest(folder) == weights_digest(tmp_path / "again")


def test_the_digest_is_that_of_the_file(folder):
    """weights_digest is what sha256sum prints, and changes with the weights."""
    content = (folder / "model.safetensors").read_bytes()
    assert weights_digest(folder) == hashlib.sha256(content).hexdigest()


def test_the_card_is_written_last(model, tmp_path, monkeypatch):
    """A kill while the weights are written leaves a folder that is no model."""

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_model(tmp_path / "model", model.state_dict(), CARD)
    assert not any((tmp_path / "model").iterdir())
    with pytest.raises(ValueError, match=r"model\.yaml"):
        load_model(tmp_path / "model")


def refusal(folder):
    with pytest.raises(ValueError, match=r"\w") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"a text file, not weights",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights(folder, damage):
    """The file is named, with what to do."""
    path = folder / "model.safetensors"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    text = refusal(folder)
    assert "model.safetensors: cannot be read" in text
    assert "write the model folder again" in text


@pytest.mark.parametrize("name", ["model.yaml", "model.safetensors"])
def test_missing_file(folder, name):
    """A folder without one of its two files is named with that file."""
    (folder / name).unlink()
    assert name in refusal(folder)


def test_missing_folder(tmp_path):
    """So is a folder that is not there."""
    assert "model.yaml" in refusal(tmp_path / "gone")


@pytest.mark.parametrize(
    "change",
    [{"decoder_channels": 24}, {"aspp_channels": 8}, {"backbone": "resnet101"}, {"separable": False}],
)
def test_weights_of_another_architecture(folder, change):
    """A card edited to another network does not fit the weights, and that is said."""
    card = yaml.safe_load((folder / "model.yaml").read_text())
    card["architecture"].update(change)
    (folder / "model.yaml").write_text(yaml.safe_dump(card))
    assert "not the weights of the architecture in model.yaml" in refusal(folder)


@pytest.mark.parametrize(
    "card",
    [
        "",
        "[1, 2]",
        "classes: [a, b]",
        "architecture: lite0\nclasses: [a, b]\npalette: [[0, 0, 0], [1, 1, 1]]",
        "architecture: {backbone: lite0, depth: 3}\nclasses: [a, b]\npalette: [[0, 0, 0], [1, 1, 1]]",
        "architecture: {backbone: lite0, psa: full}\nclasses: [a, b]\npalette: [[0, 0, 0], [1, 1, 1]]",
        "architecture: {backbone: lite0}\nclasses: [a, b]\npalette: [[0, 0, 0], [1, 1]]",
        "architecture: {backbone: lite0}\nclasses: [a, b]\npalette: [[0, 0, 0]]",
        "architecture: {backbone: lite0}\nclasses: [a, b\npalette: [[0, 0, 0]]",
        "\x00\x01",
    ],
)
def test_what_is_no_card(folder, card):
    """Whatever else stands in model.yaml: one sentence that names the file."""
    (folder / "model.yaml").write_text(card)
    with pytest.raises(ValueError, match=r"model\.yaml: not a model card") as caught:
        read_card(folder)
    assert "give a folder that a training run wrote" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_that_is_not_text(folder):
    """Bytes that are not UTF-8 too."""
    (folder / "model.yaml").write_bytes(b"\xff\xfe\x00")
    assert "model.yaml: not a model card" in refusal(folder)


def test_an_unknown_backbone(folder):
    """A card of a network that this version does not have says which it has."""
    card = yaml.safe_load((folder / "model.yaml").read_text())
    card["architecture"]["backbone"] = "resnet9"
    (folder / "model.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ValueError, match=r"resnet9.*tf_efficientnet_lite0"):
        load_model(folder)

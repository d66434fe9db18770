"""One distillation stage: what the teacher learns, whose Fisher it is, where the student starts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mkd.distributed.world import find_world
from mkd.loader.augment import Geometry
from mkd.loader.loader import TileSet
from mkd.model_folder import load_model
from mkd.models.backbone import create_backbone
from mkd.models.build import build
from mkd.recipes.distill import _consolidation, _start_as_teacher, _student, kd
from mkd.recipes.run import Run, labelled_index
from mkd.train.run.startup_timer import StartupTimer
from tests.helpers.training.runs import digests, rows


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def moved(one, other):
    """Return the names whose tensors differ in value or shape."""
    return {n for n, t in one.items() if t.shape != other[n].shape or not torch.equal(t, other[n])}


def started(config, teacher):
    """Return the student as its training begins."""
    student = _student(config, 3, teacher.architecture)
    _start_as_teacher(config, student, teacher)
    return student


def test_only_the_classifier_of_a_source_model_is_tuned(runs):
    """M_T is the source model with a new, trained classifier; every other weight and statistic is the source's."""
    config = runs["kd"]
    source, teacher = weights(config.kd.source), weights(Path(config.out) / "teacher")
    assert moved(teacher, source) == {"classifier.weight", "classifier.bias"}
    assert teacher["classifier.weight"].shape[0] == 3
    assert source["classifier.weight"].shape[0] == 4


def test_the_new_classifier_was_trained(runs):
    """It is not the fresh one: it moved, and its bias left 0."""
    config = runs["kd"]
    fresh, _ = load_model(config.kd.source)
    fresh.reset_classifier(3, torch.Generator().manual_seed(config.seed))
    teacher = weights(Path(config.out) / "teacher")
    assert moved(teacher, fresh.state_dict()) == {"classifier.weight", "classifier.bias"}


@pytest.fixture(scope="module")
def first_stage(config_of, tmp_path_factory):
    """Stage 1 from a local weights file, with one step a phase."""
    root = tmp_path_factory.mktemp("first")
    torch.manual_seed(7)
    backbone = create_backbone("tf_efficientnet_lite0", 32)
    save_file(backbone.body.state_dict(), root / "imagenet.safetensors")
    given = [f"model.pretrained={root / 'imagenet.safetensors'}", "kd.teacher_epochs=0.3", "steps=1"]
    config = config_of("kd", f"out={root / 'run'}", *given)
    kd(config)
    return config


def test_the_whole_head_of_an_imagenet_model_is_tuned(first_stage):
    """Stage 1: the backbone is the file's, bit for bit, statistics included; ASPP, decoder and classifier moved."""
    config = first_stage
    teacher = weights(Path(config.out) / "teacher")
    given = {f"backbone.body.{n}": t for n, t in load_file(config.model.pretrained).items()}
    assert moved(given, teacher) == set()
    start = build(
        load_model(Path(config.out) / "teacher")[1].architecture, 3, None, seed=config.seed
    ).state_dict()
    head = {n for n in start if not n.startswith("backbone.")}
    learnt = {n for n in head if start[n].is_floating_point()}
    assert moved({n: start[n] for n in head}, teacher) >= learnt - {"aspp.project.1.bias"}


def test_without_source_tiles_the_fisher_is_the_teachers(first_stage):
    """Stage 1 has no ImageNet tiles: F is M_T's on this stage's labelled tiles, all of its parameters."""
    found = load_file(Path(first_stage.out) / "fisher.safetensors")
    teacher, _ = load_model(Path(first_stage.out) / "teacher")
    expected = fisher_by_hand(teacher, first_stage.data.labelled, first_stage.kd.fisher_tiles)
    compare(found, expected)


def fisher_by_hand(model, folder, count):
    """Square the gradient of the sum of log p_y of each cropped tile, average over tiles, divide by the mean."""
    model.eval().requires_grad_(True)
    total = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in model.named_parameters()}
    tiles = TileSet(folder, labelled=True)
    crop = Geometry(32, (1.0, 1.0), aerial=False)
    for n in range(count):
        image, label, _ = tiles[(0, n)]
        image, label = crop(image[None], label[None], [np.random.default_rng([0, 0, 0, n])])
        model.zero_grad()
        log_p = model(image.float() / 255).double().log_softmax(1)[0].permute(1, 2, 0)[label[0] != 255]
        log_p.gather(1, label[label != 255].long()[:, None]).sum().backward()
        for name, p in model.named_parameters():
            total[name] += p.grad.double() ** 2
    return {n: t / t.mean() for n, t in total.items()}


def compare(found, expected):
    assert found.keys() == expected.keys()
    for name, f in found.items():
        assert f.mean().item() == pytest.approx(1, rel=1e-4), name
        np.testing.assert_allclose(f, expected[name], rtol=2e-2, atol=1e-3)


def test_the_fisher_is_the_source_models_on_source_tiles(runs):
    """Stage 2: F is of the source model, its own classifier included, on the first fisher_tiles source tiles."""
    config = runs["kd"]
    source, _ = load_model(config.kd.source)
    expected = fisher_by_hand(source, config.kd.source_data, config.kd.fisher_tiles)
    compare(load_file(Path(config.out) / "fisher.safetensors"), expected)


def consolidation(config, folder, monkeypatch):
    """Make EWC's constants anew in an ended run's folder, without touching it."""
    monkeypatch.setattr("mkd.recipes.run_folder.open_run", lambda config: folder)
    if not (folder / "config.yaml").exists():
        shutil.copy(Path(config.out) / "config.yaml", folder)
    run = Run(config, find_world("cpu"), labelled_index(config), StartupTimer())
    source, _ = load_model(config.kd.source)
    teacher, _ = load_model(Path(config.out) / "teacher")
    student = started(config, teacher)
    return _consolidation(config, run, source, teacher, student), teacher, student


def test_the_anchor_is_the_teacher(runs, monkeypatch):
    """anchor=teacher: theta* = M_T; the classifier, of other classes than F's, is left out; F is capped for SGD."""
    config = runs["kd"]
    ewc, teacher, _ = consolidation(config, Path(config.out), monkeypatch)
    assert moved(dict(teacher.named_parameters()), ewc.anchor) == set()
    named = {n for n, _ in teacher.named_parameters()}
    assert set(ewc.fisher) == {n for n in named if not n.startswith("classifier.")}
    stored = load_file(Path(config.out) / "fisher.safetensors")
    limit = 1.9 / config.optim.lr
    assert all(torch.equal(f, stored[n].clamp(max=limit)) for n, f in ewc.fisher.items())
    assert ewc.weight == config.kd.ewc_weight > 0


def test_the_anchor_can_be_the_start(config_of, runs, tmp_path, monkeypatch):
    """anchor=init: theta* = the student's start, F on this stage's labelled tiles, the classifier included."""
    given = [
        f"kd.source={runs['kd'].kd.source}",
        f"kd.source_data={runs['kd'].kd.source_data}",
        "kd.anchor=init",
    ]
    config = config_of("kd", f"out={runs['kd'].out}", *given)
    ewc, _, student = consolidation(config, tmp_path, monkeypatch)
    assert moved(dict(student.named_parameters()), ewc.anchor) == set()
    assert set(ewc.fisher) == {n for n, _ in student.named_parameters()}
    compare(load_file(tmp_path / "fisher.safetensors"), fisher_by_hand(student, config.data.labelled, 2))
    assert all(p.requires_grad for p in student.parameters())


def test_where_the_student_starts(config_of, runs, first_stage):
    """random: nobody's weights; imagenet: the file's backbone; teacher: M_T's, all of them."""
    teacher, _ = load_model(Path(first_stage.out) / "teacher")
    file = f"model.pretrained={first_stage.model.pretrained}"
    starts = {
        kind: dict(
            started(config_of("kd", "out=x", file, f"kd.student_init={kind}"), teacher).named_parameters()
        )
        for kind in ("random", "imagenet", "teacher")
    }
    theirs = dict(teacher.named_parameters())
    kernels = {n for n, p in theirs.items() if p.dim() == 4}
    backbone = {n for n in kernels if n.startswith("backbone.")}
    assert moved(starts["random"], theirs) >= kernels
    assert moved(starts["imagenet"], theirs) & kernels == kernels - backbone
    assert moved(starts["teacher"], theirs) == set()


@pytest.mark.parametrize(
    "lost", [["teacher"], ["fisher.safetensors", "checkpoints/student"], ["checkpoints/student"]]
)
def test_a_kill_between_the_phases(runs, tmp_path, lost):
    """Killed before the teacher's folder, before the Fisher or before the student's first checkpoint: same bits."""
    config = runs["kd"]
    whole = tmp_path / "whole"
    shutil.copytree(config.out, whole)
    try:
        for name in ["model", "checkpoints/student", "fisher.safetensors", *lost]:
            path = Path(config.out) / name
            if path.is_dir():
                shutil.rmtree(path)
            elif name in lost or "teacher" in lost:
                path.unlink(missing_ok=True)
        kd(config)
        for name in ("teacher", "model", "fisher.safetensors"):
            assert (digests(Path(config.out) / name)) == digests(whole / name)
        assert (Path(config.out) / "fisher.safetensors").read_bytes() == (
            whole / "fisher.safetensors"
        ).read_bytes()
        assert rows(config.out) == rows(whole)
    finally:
        shutil.rmtree(config.out)
        shutil.copytree(whole, config.out)


def test_the_teacher_is_frozen_while_the_student_learns(runs):
    """After the student's phase the teacher's folder still holds what the teacher's phase chose."""
    folder = Path(runs["kd"].out)
    best = load_file(folder / "checkpoints" / "teacher" / "best.safetensors")
    assert moved(weights(folder / "teacher"), best) == set()


def refusal(config):
    with pytest.raises(ValueError, match=r"\w") as caught:
        kd(config)
    assert "\n" not in str(caught.value)
    assert not Path(config.out).exists()
    return str(caught.value)


def test_source_tiles_of_other_classes(config_of, runs, sets, tmp_path):
    """kd.source_data must have the source model's classes."""
    given = [f"kd.source={runs['kd'].kd.source}", f"kd.source_data={sets['labelled']}"]
    text = refusal(config_of("kd", f"out={tmp_path}/run", *given))
    assert "kd.source_data=" in text
    assert "has 3 classes (field, road, water) but kd.source has 4" in text


def test_ewc_needs_one_architecture(config_of, runs, tmp_path):
    """With EWC source and student must be the same network; each value that differs is named."""
    given = [f"kd.source={runs['kd'].kd.source}", "model.decoder_channels=32"]
    assert "decoder_channels 128 there, 32 here" in refusal(config_of("kd", f"out={tmp_path}/run", *given))


def test_a_student_that_starts_as_its_teacher_needs_one_architecture(config_of, runs, tmp_path):
    """kd.student_init=teacher with another network is one sentence too, EWC or not."""
    given = [
        f"kd.source={runs['kd'].kd.source}",
        "model.decoder_channels=32",
        "kd.ewc_weight=0",
        "kd.student_init=random",
    ]
    text = refusal(config_of("kd", f"out={tmp_path}/run", *given, "kd.student_init=teacher"))
    assert "decoder_channels 128 there, 32 here" in text


def test_teacher_and_student_may_differ_without_ewc(config_of, runs, tmp_path):
    """Plain distillation works across networks."""
    given = [
        f"kd.source={runs['kd'].kd.source}",
        "model.decoder_channels=32",
        "kd.ewc_weight=0",
        "kd.student_init=random",
        "steps=1",
    ]
    kd(config_of("kd", f"out={tmp_path}/run", *given, "kd.teacher_epochs=0.3", "data.val=null"))
    assert not (tmp_path / "run" / "fisher.safetensors").exists()
    assert load_model(tmp_path / "run" / "model")[1].architecture.decoder_channels == 32


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["model.backbone=resnet9"], "resnet9"),
        (["model.dropout=[1.5,0]"], "dropout"),
        (["model.pretrained=bundled", "model.backbone=resnet101"], "bundled"),
    ],
)
def test_what_no_run_can_be_leaves_no_folder(config_of, runs, tmp_path, overrides, word):
    """A network that cannot be built is refused before the run folder is made, so that the next try may use it."""
    with pytest.raises(ValueError, match=word):
        kd(config_of("kd", f"out={tmp_path}/run", "model.pretrained=bundled", *overrides))
    assert not (tmp_path / "run").exists()


def test_unlabelled_tiles_join(config_of, runs, sets, tmp_path, capsys):
    """kd.tiles=all trains on both streams and says how many tiles there are."""
    given = [f"kd.source={runs['kd'].kd.source}", "kd.tiles=all", f"data.unlabelled={sets['unlabelled']}"]
    quick = ["steps=1", "kd.teacher_epochs=0.3", "kd.fisher_tiles=1", "data.val=null"]
    kd(config_of("kd", f"out={tmp_path}/run", *given, *quick))
    lines = capsys.readouterr().out.splitlines()
    assert any("student, 1 steps" in line and "6 labelled and 6 unlabelled tiles" in line for line in lines)
    assert any("teacher, 1 steps" in line and "unlabelled tiles" not in line for line in lines)

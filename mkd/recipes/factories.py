"""Objects that every stage needs, made from its config."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from mkd.config import schema
from mkd.dataset.index import DatasetIndex, read_index
from mkd.distributed.engine import Engine
from mkd.distributed.world import World
from mkd.inference.evaluator import confusion
from mkd.loader.augment import Geometry
from mkd.loader.bad_tiles import BadTileBudget
from mkd.loader.loader import TileSet
from mkd.metrics.confusion import ConfusionMatrix
from mkd.model_folder import ModelCard, load_model
from mkd.models.deeplab import Architecture, DeepLabV3Plus
from mkd.train.batches import BatchStream
from mkd.train.optim import make_optimizer
from mkd.train.phase import Phase
from mkd.train.steps.supervised import Ohem


def architecture(config: schema.ModelConfig) -> Architecture:
    """Return the network's plan; `pretrained` says where weights come from and is no part of it."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in asdict(config).items()}
    del fields["pretrained"]
    return Architecture(**fields)


def ohem(config: schema.OhemConfig) -> Ohem:
    """Return L_sup."""
    return Ohem(config.threshold, config.min_kept)


def batch_stream(
    data: schema.DataConfig, seed: int, world: World, unlabelled: bool, folder: Path
) -> BatchStream:
    """Open the training tiles; ``unlabelled`` adds the second stream; what they lose is listed in the run folder."""
    path = folder / ("quarantine.jsonl" if world.ranks == 1 else f"quarantine-rank{world.rank}.jsonl")
    tiles, other = open_tiles(data, data.labelled, labelled=True), None
    lost, other_lost = BadTileBudget(tiles.folder, True, len(tiles), path=path), None
    if unlabelled:
        place = data.pseudo or data.unlabelled
        assert place is not None
        other = open_tiles(data, place, labelled=data.pseudo is not None)
        key = f"data.max_bad={data.max_bad}"
        other_lost = BadTileBudget(other.folder, False, len(other), data.max_bad, path, key)
    geometry = Geometry(data.crop, (data.scale[0], data.scale[1]), data.aerial)
    return BatchStream(tiles, other, data.batch, seed, geometry, world, data.workers, (lost, other_lost))


def open_tiles(data: schema.DataConfig, folder: str, labelled: bool) -> TileSet:
    """Open a data set, with the cache of the config."""
    return TileSet(folder, labelled, data.cache, round(data.cache_gib * 2**30))


def validator(data: schema.DataConfig, world: World) -> Callable[[nn.Module], ConfusionMatrix] | None:
    """Return a function model -> confusion matrix over the validation tiles, or None without ``data.val``.

    A forward pass takes as many tiles as one in training.
    """
    if data.val is None:
        return None
    tiles, size = (
        open_tiles(data, data.val, labelled=True),
        data.batch // world.ranks // micro_batches(data, world.ranks),
    )
    return lambda model: confusion(model, tiles, size, world, data.workers)


def check_classes(key: str, path: str, classes: Sequence[str], other: str) -> DatasetIndex:
    """Return a data set's index, or raise ValueError when its classes are not ``classes``.

    Args:
        key: config key of the data set.
        path: its folder.
        classes: what is expected.
        other: who expects it.
    """
    index = read_index(path)
    if tuple(index.classes) != tuple(classes):
        raise ValueError(
            f"{key}={path} has {len(index.classes)} classes ({', '.join(index.classes)}) but {other} has "
            f"{len(classes)} ({', '.join(classes)}); use a data set and a model of the same classes"
        )
    return index


def load_checked(key: str, path: str, wanted: Architecture | None = None) -> tuple[DeepLabV3Plus, ModelCard]:
    """Load a model folder; with ``wanted`` its architecture must be that."""
    model, card = load_model(path)
    if wanted is not None and card.architecture != wanted:
        differs = [
            f"{k} {v} there, {asdict(wanted)[k]} here"
            for k, v in asdict(card.architecture).items()
            if v != asdict(wanted)[k]
        ]
        raise ValueError(
            f"{key}={path} has another architecture ({'; '.join(differs)}); choose the same model="
        )
    return model, card


def micro_batches(data: schema.DataConfig, ranks: int) -> int:
    """Return how many forward passes a rank makes of its part of a batch.

    Raises:
        ValueError: ``data.batch`` is not ranks x that x ``data.micro``.
    """
    batch, micro = data.batch, data.micro
    together = ranks * (micro or 1)
    if batch % together:
        shown = "null" if micro is None else micro
        fits = [n for n in (batch - batch % together, batch - batch % together + together) if n]
        raise ValueError(
            f"data.batch={batch} is not {ranks} ranks x data.micro={shown} x a whole number of forward passes; give "
            f"data.batch={' or '.join(map(str, fits))}, {_micros(batch, ranks)}or another number of ranks"
        )
    return 1 if micro is None else batch // together


def _micros(batch: int, ranks: int) -> str:
    """Say what data.micro may be, where the ranks can share the batch."""
    if batch % ranks:
        return ""
    part = batch // ranks
    fits = ", ".join(str(n) for n in range(1, part + 1) if part % n == 0)
    return f"data.micro={fits} or null (all {part} tiles of a rank at once), "


def phase(
    config: schema.RunConfig,
    name: str,
    *,
    epochs: float,
    steps: int | None,
    tiles: int,
    lr: float,
    ranks: int = 1,
) -> Phase:
    """Return one phase of the loop.

    Args:
        config: of the run.
        name: of the phase.
        epochs: passes over ``tiles``.
        steps: overrides ``epochs``; None does not.
        tiles: of an epoch.
        lr: base learning rate.
        ranks: that share a batch.
    """
    an_epoch = tiles / config.data.batch
    total = steps if steps is not None else max(1, round(epochs * an_epoch))
    return Phase(
        name=name,
        steps=total,
        steps_an_epoch=an_epoch,
        lr=lr,
        power=config.optim.power,
        seed=config.seed,
        log_every=config.log_every,
        save_every=config.save_every,
        val_every=config.val_every,
        batch=config.data.batch,
        micro_batches=micro_batches(config.data, ranks),
    )


def engine(
    config: schema.RunConfig, model: DeepLabV3Plus, world: World, phase: Phase, streams: int
) -> Engine:
    """Return what runs the model, with its optimizer.

    Args:
        config: of the run.
        model: moved to its device.
        world: this process's place.
        phase: its learning rate and batch.
        streams: 2 where a forward pass holds as many unlabelled tiles as labelled ones, else 1.
    """
    o = config.optim
    head = {n for n, _ in model.named_parameters() if not n.startswith("backbone.")}
    optimizer = make_optimizer(
        o.name,
        model,
        head,
        lr=phase.lr,
        head_factor=o.head_factor,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
    )
    tiles = streams * phase.batch // world.ranks // phase.micro_batches
    return Engine(
        world,
        model,
        optimizer,
        kind=config.engine,
        clip=o.clip,
        compiles=config.compile,
        rank_batch=tiles,
    )

"""Objects that every stage needs, made from its config."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
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
from mkd.models.architecture import Architecture, fitting_rates, map_side
from mkd.models.backbone import normalisation
from mkd.models.bands import with_bands
from mkd.models.segmentation import SegmentationNetwork
from mkd.pixel_scale import PLAIN, PixelScale
from mkd.train.batches import BatchStream
from mkd.train.input_bands import bands_note, check_kind
from mkd.train.optim import make_optimizer
from mkd.train.phase import Phase
from mkd.train.steps.supervised import SupervisedLoss

_log = logging.getLogger(__name__)


def architecture(
    config: schema.ModelConfig,
    crop: int | None = None,
    source: Architecture | None = None,
    *,
    resumed: bool = False,
    bands: dict[str, Any] | None = None,
) -> Architecture:
    """Return the network's plan; where weights come from, and how it is run, is no part of it.

    Args:
        config: keys that are None are filled in: the normalisation by timm's, the ASPP's rates by the source's, else
            by the published ones, made smaller where the crop is small.
        crop: side of the crops that it is trained on, pixels; None: published rates; source: of the model before it.
        resumed: the run exists: rates that it was begun with are no longer refused.
        bands: see `band_fields`; None: RGB of 8 bits.

    Raises:
        ValueError: an impossible network, or given rates that reach beyond the crop.
    """
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in asdict(config).items()}
    del fields["pretrained"], fields["checkpointing"]
    if bands and "mean" in bands:
        fields |= {**bands, "mean": fields["mean"] or bands["mean"], "std": fields["std"] or bands["std"]}
    elif config.mean is None or config.std is None:
        mean, std = normalisation(config.backbone)
        fields["mean"], fields["std"] = fields["mean"] or mean, fields["std"] or std
    found = Architecture(**fields)
    if crop is None or found.decoder != "deeplab" or found.aspp_rates is None:
        return found
    if config.aspp_rates is not None:
        if not resumed and (fault := unfit_rates(found, crop)):
            raise ValueError(fault)
        return found
    if source is not None and source.decoder == "deeplab":
        return replace(found, aspp_rates=source.aspp_rates)
    return replace(found, aspp_rates=fitting_rates(found.aspp_rates, map_side(crop, found.map_stride)))


def unfit_rates(plan: Architecture, crop: int) -> str:
    """Return what is wrong with the ASPP's rates at a crop, in one sentence; nothing where they fit."""
    side = map_side(crop, plan.map_stride)
    if plan.decoder != "deeplab" or plan.aspp_rates is None or max(plan.aspp_rates) < side:
        return ""
    branch = next(n for n, rate in enumerate(plan.aspp_rates, 1) if rate >= side)
    enough = (max(plan.aspp_rates) * plan.map_stride) // 32 * 32 + 1
    return (
        f"model.aspp_rates={list(plan.aspp_rates)}: the outer taps of branch {branch} are "
        f"{plan.aspp_rates[branch - 1]} pixels off on a map of {side} x {side} (data.crop={crop}, stride "
        f"{plan.map_stride}): they never meet a feature in training, keep their random start and spoil larger images; "
        f"give data.crop={enough} or more, or "
        "model.aspp_rates=null in a stage that starts from ImageNet"
    )


def settle(config: schema.ModelConfig, plan: Architecture) -> None:
    """Write what was filled into a network's plan back into the config, which the run folder keeps."""
    mean: Any = plan.mean  # tuples, which a file's lists become too
    std: Any = plan.std
    config.mean, config.std, config.aspp_rates = mean, std, plan.aspp_rates


def supervised_loss(config: schema.OhemConfig) -> SupervisedLoss:
    """Return L_sup."""
    return SupervisedLoss(config.threshold, config.min_kept)


def batch_stream(
    data: schema.DataConfig,
    seed: int,
    world: World,
    unlabelled: bool,
    folder: Path,
    scale: PixelScale = PLAIN,
) -> BatchStream:
    """Open the training tiles; ``unlabelled`` adds the second stream; what they lose is listed in the run folder."""
    path = folder / ("quarantine.jsonl" if world.ranks == 1 else f"quarantine-rank{world.rank}.jsonl")
    tiles, other = open_tiles(data, data.labelled, labelled=True), None
    check_kind(f"data.labelled={data.labelled}", tiles.index, scale)
    lost, other_lost = BadTileBudget(tiles.folder, True, len(tiles), path=path), None
    if unlabelled:
        place = data.pseudo or data.unlabelled
        assert place is not None
        other = open_tiles(data, place, labelled=data.pseudo is not None)
        check_kind(f"data.{'pseudo' if data.pseudo else 'unlabelled'}={place}", other.index, scale)
        key = f"data.max_bad={data.max_bad}"
        other_lost = BadTileBudget(other.folder, False, len(other), data.max_bad, path, key)
    geometry = Geometry(data.crop, (data.scale[0], data.scale[1]), data.aerial)
    bad = (lost, other_lost)
    return BatchStream(tiles, other, data.batch, seed, geometry, world, data.workers, bad, scale)


def open_tiles(data: schema.DataConfig, folder: str, labelled: bool) -> TileSet:
    """Open a data set, with the cache of the config."""
    return TileSet(folder, labelled, data.cache, round(data.cache_gib * 2**30), data.max_pixels)


def validator(
    data: schema.DataConfig,
    world: World,
    check: Callable[[str, TileSet], None] | None = None,
    scale: PixelScale = PLAIN,
) -> Callable[[nn.Module], ConfusionMatrix] | None:
    """Return a function model -> confusion matrix over the validation tiles, or None without ``data.val``.

    A forward pass takes as many tiles as one in training; ``check`` gets the config key and the opened tiles.
    """
    if data.val is None:
        return None
    tiles = open_tiles(data, data.val, labelled=True)
    size = data.batch // world.ranks // micro_batches(data, world.ranks)
    if check is not None:
        check("data.val", tiles)
    check_kind(f"data.val={data.val}", tiles.index, scale)
    more: dict[str, Any] = {"window": data.crop, "workers": data.workers, "scale": scale}
    return lambda model: confusion(model, tiles, size, world, **more)


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


def load_checked(
    key: str, path: str, wanted: Architecture | None = None
) -> tuple[SegmentationNetwork, ModelCard]:
    """Load a model folder; with ``wanted`` its architecture must be that, but for its bands, which are changed."""
    model, card = load_model(path)
    if wanted is not None and card.architecture.scale.kind != wanted.scale.kind:
        _log.warning("note: %s", bands_note(f"{key}={path}", card.architecture.scale, wanted.scale))
        model = with_bands(model, wanted)
    if wanted is not None and model.architecture != wanted:
        differs = [
            f"{k} {v} there, {asdict(wanted)[k]} here"
            for k, v in asdict(model.architecture).items()
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


def length(epochs: float | None, tiles: int, batch: int, usual: float, least: int) -> int:
    """Return the number of steps of a phase.

    Args:
        epochs: passes over the tiles; None: the usual number, and at least ``least`` steps: a few tiles need as many.
        tiles: of an epoch.
        batch: tiles of a step.
        usual: passes.
        least: steps.
    """
    if epochs is not None:
        return max(1, round(epochs * tiles / batch))
    return max(least, round(usual * tiles / batch))


def phase(config: schema.RunConfig, name: str, *, steps: int, tiles: int, lr: float, ranks: int = 1) -> Phase:
    """Return one phase of the loop.

    Args:
        config: of the run.
        name: of the phase.
        steps: in all.
        tiles: of an epoch.
        lr: base learning rate.
        ranks: that share a batch.
    """
    an_epoch = tiles / config.data.batch
    return Phase(
        name=name,
        steps=steps,
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
    config: schema.RunConfig, model: SegmentationNetwork, world: World, phase: Phase, streams: int
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
    assert isinstance(config, (schema.SupervisedRun, schema.KdRun, schema.SemiRun))
    tiles = streams * phase.batch // world.ranks // phase.micro_batches
    return Engine(
        world,
        model,
        optimizer,
        kind=config.engine,
        clip=o.clip,
        compiles=config.compile,
        rank_batch=tiles,
        checkpointed=model.backbone if config.model.checkpointing else None,
    )

"""Cross-checks of a config before any data is opened."""

import glob
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mkd.config import schema as s
from mkd.config.constraints import (
    at_least,
    below_one,
    choice,
    dataset,
    endpoint,
    model_folder,
    not_negative,
    on_disk,
    positive,
    share,
)

ACCEPTABLE = ("data", "model", "checkpoint", "threads", "versions")  # what accept= may name


@runtime_checkable
class ChecksItself(Protocol):
    """A config of a floor above that brings its own checks, such as those of launch/throughput.py."""

    def check(self) -> None:
        """Check ranges, choices and paths; raise ValueError as `check` does."""
        ...


def check(config: Any, later: str | None = None) -> None:
    """Check ranges, choices, paths and pairs of a schema object.

    Args:
        config: a schema object.
        later: folder in which the model folders that a run starts from need not be yet.

    Raises:
        ValueError: one sentence with the key, the value found, what is allowed and what to change.
    """
    match config:
        case s.RunConfig():
            _check_run(config, later)
        case s.PredictRun():
            _check_predict(config)
        case s.TeacherServe():
            _check_serve(config)
        case s.TeacherStatus():
            endpoint("endpoint", config.endpoint)
        case s.TeacherLabel():
            dataset("data", config.data)
            model_folder("model", config.model)
            _check_filters(config.confidence, config.tile_entropy, "")
            at_least("batch", config.batch, 1)
            at_least("max_pixels", config.max_pixels, 1)
            share("max_bad", config.max_bad)
        case s.DemoRun() | s.LandscapesRun():
            on_disk("out", config.out)
        case ChecksItself():
            config.check()
        case s.Experiment():
            on_disk("out", config.out)
            at_least("parallel", config.parallel, 1)
            if not config.seeds:
                raise ValueError("seeds=[]; give at least one, such as seeds=[0]")
            if config.page in (".", "..", *config.runs) or "/" in (config.page or ""):
                raise ValueError(
                    f"page={config.page}: give a name for a folder of OUT that is none of its runs"
                )


def _check_predict(c: s.PredictRun) -> None:
    model_folder("model", c.model)
    if c.batch is not None:
        at_least("batch", c.batch, 1)
    if c.tile is not None:
        at_least("tile", c.tile, 1)
    if c.overlap is not None:
        at_least("overlap", c.overlap, 0)
    choice("tta", c.tta, ("none", "flips", "d4"))
    if not c.input:
        raise ValueError("input=[]; give a GeoTIFF, a folder or a pattern")
    for path in c.input:
        if not ("://" in path or glob.has_magic(path) or Path(path).exists()):
            raise ValueError(
                f"input={path}: no such file; give a GeoTIFF, a folder, a pattern with * or a URL"
            )


def _check_serve(c: s.TeacherServe) -> None:
    if c.model is None and c.run is None:
        raise ValueError(
            "model=null and run=null; give model=, the students' semi.start, or run=, their folder"
        )
    if c.model is not None:
        model_folder("model", c.model)
    for key, low in {"max_batch": 1, "max_tile": 32, "queue": 1}.items():
        at_least(key, getattr(c, key), low)
    not_negative("wait_ms", c.wait_ms)
    if not c.host:
        raise ValueError("host= is empty; give an address of this machine, or 0.0.0.0 for all of them")
    if not 0 <= c.port < 65536:
        raise ValueError(f"port={c.port}; a port in 0..65535 is allowed, 0 takes a free one")
    if (c.tls_cert is None) != (c.tls_key is None):
        raise ValueError(f"tls_cert={c.tls_cert} and tls_key={c.tls_key}: give both, or none for no TLS")


def _check_run(c: s.RunConfig, later: str | None) -> None:
    on_disk("out", c.out)
    for name in c.accept:
        choice("accept", name, ACCEPTABLE)
    if c.data.classes is not None and "://" not in c.data.classes and not Path(c.data.classes).is_file():
        raise ValueError(f"data.classes={c.data.classes}: no such file; give a class file, see docs/data.md")
    for key in ("labelled", "unlabelled", "pseudo", "val"):
        if (path := getattr(c.data, key)) is not None:
            dataset(f"data.{key}", path, c.data.classes if key != "pseudo" else None)
    offline = isinstance(c, s.SemiRun) and c.teacher.kind == "offline"
    if c.data.pseudo is not None and not offline:
        raise ValueError(
            f"data.pseudo={c.data.pseudo} is for launch/semi.py with teacher.kind=offline; give that, or leave it out"
        )
    at_least("data.batch", c.data.batch, 1)
    if c.data.micro is not None:
        at_least("data.micro", c.data.micro, 1)
    at_least("data.crop", c.data.crop, 32)
    at_least("data.max_pixels", c.data.max_pixels, 1)
    at_least("data.workers", c.data.workers, 0)
    share("data.max_bad", c.data.max_bad)
    positive("data.cache_gib", c.data.cache_gib)
    if not 0 < c.data.scale[0] <= c.data.scale[1]:
        raise ValueError(f"data.scale={c.data.scale} is not a range; give [low,high] with 0 < low <= high")
    choice("optim.name", c.optim.name, ("sgd", "adamw"))
    positive("optim.lr", c.optim.lr)
    positive("optim.head_factor", c.optim.head_factor)
    below_one("optim.momentum", c.optim.momentum)
    not_negative("optim.weight_decay", c.optim.weight_decay)
    if c.optim.clip is not None:
        positive("optim.clip", c.optim.clip)
    at_least("seed", c.seed, 0)
    if c.epochs is not None:
        positive("epochs", c.epochs)
    if c.steps is not None:
        at_least("steps", c.steps, 1)
    _check_every(c)
    choice("engine", c.engine, ("auto", "plain", "ddp", "zero1", "zero2"))
    if c.ohem.threshold is not None:
        share("ohem.threshold", c.ohem.threshold)
    share("ohem.min_kept", c.ohem.min_kept)
    match c:
        case s.KdRun():
            _check_kd(c, later)
        case s.SemiRun():
            _check_semi(c, later)
        case s.SupervisedRun():
            _check_start(c, later)


def _check_every(c: s.RunConfig) -> None:
    for key in ("log_every", "save_every", "val_every", "keep"):
        at_least(key, getattr(c, key), 1)
    if c.keep_every is not None and (c.keep_every < 1 or c.keep_every % c.save_every):
        raise ValueError(
            f"keep_every={c.keep_every}; a multiple of save_every={c.save_every} is allowed: kept checkpoints are "
            "among those that are saved"
        )


def check_model(m: s.ModelConfig) -> None:
    """Refuse choices and pairs of a network that cannot be built; raises ValueError as `check` does."""
    choice("model.decoder", m.decoder, ("deeplab", "fpn", "dpt"))
    choice("model.psa", m.psa, ("none", "paper", "published"))
    choice("model.output_stride", m.output_stride, (8, 16, 32))
    p = m.pretrained
    bundled = ("tf_efficientnet_lite0", "tf_efficientnet_lite2")
    if p == "bundled" and m.backbone not in bundled:
        raise ValueError(
            f"model.pretrained=bundled is for model.backbone={' or '.join(bundled)}, not {m.backbone}; "
            "give a weights file, a timm tag or null"
        )
    if p is not None and (p.endswith(".safetensors") or "/" in p) and not Path(p).is_file():
        raise ValueError(f"model.pretrained={p}: no such file; give a .safetensors file, a timm tag or null")


def _is_in(folder: str | None, path: str) -> bool:
    return folder is not None and Path(folder) in Path(path).parents


def _check_start(c: s.SupervisedRun, later: str | None) -> None:
    check_model(c.model)
    if c.student_init == "imagenet" and c.model.pretrained is None:
        raise ValueError(
            "student_init=imagenet needs model.pretrained: a timm tag, a weights file or 'bundled'"
        )
    if c.student_init not in ("random", "imagenet") and not _is_in(later, c.student_init):
        if not Path(c.student_init).is_dir():
            raise ValueError(
                f"student_init={c.student_init} is not allowed; choose random, imagenet or a model folder"
            )
        model_folder("student_init", c.student_init)


def _check_kd(c: s.KdRun, later: str | None) -> None:
    kd = c.kd
    check_model(c.model)
    choice("kd.teacher_tunes", kd.teacher_tunes, (None, "classifier", "head"))
    choice("kd.student_init", kd.student_init, ("random", "imagenet", "teacher"))
    choice("kd.tiles", kd.tiles, ("labelled", "all"))
    choice("kd.anchor", kd.anchor, ("teacher", "init"))
    positive("kd.temperature", kd.temperature)
    if kd.teacher_epochs is not None:
        positive("kd.teacher_epochs", kd.teacher_epochs)
    at_least("kd.fisher_tiles", kd.fisher_tiles, 1)
    not_negative("kd.weight", kd.weight)
    not_negative("kd.ewc_weight", kd.ewc_weight)
    if kd.teacher_lr is not None:
        positive("kd.teacher_lr", kd.teacher_lr)
    if kd.source is not None:
        if not _is_in(later, kd.source):
            model_folder("kd.source", kd.source)
    elif c.model.pretrained is None:
        raise ValueError(
            "kd.source=null starts the teacher from the ImageNet backbone, but model.pretrained is null: "
            "give model.pretrained (a timm tag, a weights file or 'bundled') or kd.source (a model folder)"
        )
    if kd.student_init == "imagenet" and c.model.pretrained is None:
        raise ValueError("kd.student_init=imagenet needs model.pretrained: a timm tag, a file or 'bundled'")
    if kd.tiles == "all" and c.data.unlabelled is None:
        raise ValueError(
            "kd.tiles=all distils on unlabelled tiles too: give data.unlabelled or kd.tiles=labelled"
        )
    if kd.source_data is not None and kd.source is None and Path(kd.source_data).is_dir():
        raise ValueError("kd.source_data= has no use without kd.source; give kd.source or leave it out")
    if kd.source_data is not None:
        dataset("kd.source_data", kd.source_data)


def _check_semi(c: s.SemiRun, later: str | None) -> None:
    _check_teacher(c.teacher)
    if c.teacher.kind == "offline" and (c.data.pseudo is None or c.data.unlabelled is not None):
        raise ValueError(
            f"teacher.kind=offline reads the tiles of data.pseudo={c.data.pseudo} and not those of "
            f"data.unlabelled={c.data.unlabelled}; give data.pseudo=, made by launch/teacher.py label, alone"
        )
    choice("semi.on_collapse", c.semi.on_collapse, ("warn", "rollback"))
    choice("semi.result", c.semi.result, ("student", "teacher"))
    if not _is_in(later, c.semi.start):
        model_folder("semi.start", c.semi.start)
    if c.data.unlabelled is None and c.teacher.kind != "offline":
        raise ValueError(
            "data.unlabelled is null; the semi-supervised stage needs a data set of unlabelled tiles"
        )
    _check_filters(c.semi.confidence, c.semi.tile_entropy, "semi.")
    not_negative("semi.weight", c.semi.weight)
    if c.semi.ema_decay is not None:
        below_one("semi.ema_decay", c.semi.ema_decay)
    choice("semi.average", c.semi.average, ("valid", "kept"))
    choice("semi.teacher_views", c.semi.teacher_views, ("none", "flips", "d4"))
    at_least("semi.strong_views", c.semi.strong_views, 1)
    share("semi.cutmix", c.semi.cutmix)
    share("semi.paste", c.semi.paste)
    at_least("semi.views", c.semi.views, 1)
    if c.semi.plateau is not None:
        at_least("semi.plateau", c.semi.plateau, 1)
    for key in ("drop_start", "drop_end", "feature_dropout"):
        below_one(f"semi.{key}", getattr(c.semi, key))


def _check_filters(confidence: float, tile_entropy: float | None, group: str) -> None:
    share(f"{group}confidence", confidence)
    if tile_entropy is not None:
        share(f"{group}tile_entropy", tile_entropy)


def _check_teacher(t: s.TeacherConfig) -> None:
    choice("teacher.kind", t.kind, ("local", "service", "offline"))
    choice("teacher.fallback", t.fallback, ("none", "local"))
    for key, low in {"depth": 0, "sync_every": 1, "max_age": 0}.items():
        at_least(f"teacher.{key}", getattr(t, key), low)
    positive("teacher.patience", t.patience)
    if t.tls_ca is not None and not Path(t.tls_ca).is_file():
        raise ValueError(f"teacher.tls_ca={t.tls_ca}: no such file; give a PEM file of certificates")
    if t.kind != "service" and t.endpoints:
        raise ValueError(
            f"teacher.endpoints={t.endpoints} has no use with teacher.kind={t.kind}; give teacher.kind=service too"
        )
    if t.kind == "service" and not t.endpoints:
        raise ValueError(
            "teacher.kind=service needs teacher.endpoints=[HOST:PORT,...]: what launch/teacher.py says when ready"
        )
    for place in t.endpoints:
        endpoint("teacher.endpoints", place)
    if twice := sorted({place for place in t.endpoints if t.endpoints.count(place) > 1}):
        raise ValueError(f"teacher.endpoints names {', '.join(twice)} more than once; name each teacher once")

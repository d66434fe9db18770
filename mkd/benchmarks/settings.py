"""Every key of launch/throughput.py."""

from dataclasses import dataclass, field
from pathlib import Path

from mkd.config.constraints import at_least, choice, dataset, model_folder, positive
from mkd.config.cross_checks import check_model
from mkd.config.keys import CONFIGS
from mkd.config.schemas.model_schema import ModelConfig

GPU_SERVERS = ("rtx4090", "h100", "h200")  # that the benchmark of scaling knows


@dataclass
class CostRun:
    """launch/throughput.py cost: parameters and multiply-accumulates."""

    size: int = 512
    classes: int = 6
    json: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)

    def check(self) -> None:
        """Refuse a network that cannot be built, and sizes that no network takes."""
        check_model(self.model)
        at_least("size", self.size, 32)
        at_least("classes", self.classes, 1)


@dataclass
class SpeedRun(CostRun):
    """launch/throughput.py speed: inference FPS and training step beside the device's matmul rate."""

    batch: int = 8
    seconds: float = 10.0  # of measuring for each figure
    device: str | None = None


@dataclass
class DataSpeedRun:
    """launch/throughput.py data: loading and packing beside other libraries'."""

    out: str = "runs/throughput"  # tiles and data sets; made again by each run, but for the tiles
    tiles: int = 10_000
    size: int = 512  # edge of a tile, pixels
    images: str | None = None  # folder of pictures to cut the tiles from; null = procedural landscapes
    batch: int = 32
    workers: int = 2
    rounds: int = 3
    peers: str | None = (
        ".venv-peers/bin/python"  # interpreter with litdata and mosaicml-streaming; null = without
    )
    parts: list[str] = field(default_factory=lambda: ["plan", "pack", "loader", "s3"])
    json: str | None = None

    def check(self) -> None:
        """Refuse sizes, parts and paths that the benchmark cannot use."""
        for key, low in {"size": 32, "batch": 1, "workers": 1, "rounds": 1}.items():
            at_least(key, getattr(self, key), low)
        at_least(
            "tiles", self.tiles, 10 * self.batch
        )  # the clock needs some batches between its start and its stop
        for part in self.parts:
            choice("parts", part, ("plan", "pack", "loader", "s3"))
        if self.images is not None and not Path(self.images).is_dir():
            raise ValueError(f"images={self.images}: no such folder; give a folder of pictures, or null")
        if self.peers is not None and "loader" in self.parts and not Path(self.peers).is_file():
            raise ValueError(
                f"peers={self.peers}: no such interpreter; make it with 'make peers', or give peers=null to leave "
                "litdata and mosaicml-streaming out"
            )


@dataclass
class TeacherSpeedRun:
    """launch/throughput.py teacher: the teacher service beside a bare forward pass, its transport, a cluster."""

    models: list[str] = field(default_factory=lambda: ["lite0", "hrnet_w18_small"])  # of configs/model
    size: int = 512  # edge of a tile, pixels
    classes: int = 6
    batch: int = 4  # tiles in a request and in a forward pass
    rounds: int = 3
    seconds: float = 20.0  # of measuring for each figure, in each round
    device: str | None = None  # none: cuda when there is one, else cpu
    json: str | None = None

    def check(self) -> None:
        """Refuse sizes that the benchmark cannot use."""
        for key, low in {"size": 32, "classes": 2, "batch": 1, "rounds": 1}.items():
            at_least(key, getattr(self, key), low)
        positive("seconds", self.seconds)
        if not self.models:
            raise ValueError("models=[]; give at least one, such as models=[lite0]")


@dataclass
class ScalingRun:
    """launch/throughput.py scaling: steps on several gloo ranks of this machine, and an upper bound for GPUs."""

    out: str = "runs/scaling"  # tiles and model that the measured runs start from
    data: str | None = None  # labelled data set to train on; null = procedural landscapes
    model: str = "lite0"  # of configs/model: the network that is trained here
    crop: int = 128  # pixels
    batch: int = 2  # labelled tiles of a rank a step, and as many unlabelled ones
    ranks: list[int] = field(default_factory=lambda: [1, 2, 4])
    steps: int = 20  # that are counted
    predict: str = "hrnet_w48_psa"  # of configs/model: the network on GPUs
    size: int = 512  # edge of a tile on GPUs, pixels
    gpus: list[int] = field(default_factory=lambda: [8, 16, 32, 64, 128, 256, 512])
    achieved: dict[str, float] = field(
        default_factory=dict
    )  # TFLOP/s of a training step, measured by `speed`, in place of the peak: rtx4090, h100, h200
    json: str | None = None

    def check(self) -> None:
        """Refuse sizes and numbers of ranks and GPUs that the benchmark cannot use."""
        for key, low in {"crop": 32, "batch": 1, "steps": 1, "size": 32}.items():
            at_least(key, getattr(self, key), low)
        if 1 not in self.ranks or min(self.ranks) < 1:
            raise ValueError(
                f"ranks={self.ranks}: give 1, which efficiency is relative to, and others, as in [1,2,4]"
            )
        if not self.gpus or min(self.gpus) < 1:
            raise ValueError(f"gpus={self.gpus}: give numbers of GPUs, as in [8,64,512]")
        for name, rate in self.achieved.items():
            choice("achieved", name, GPU_SERVERS)
            positive(f"achieved.{name}", rate)


@dataclass
class StepSpeedRun:
    """launch/throughput.py step: whole training steps of each stage beside a plain loop written from the paper."""

    out: str = "runs/step"  # drawn tiles and files of the peer; kept for the next time
    data: str | None = None  # labelled data set to train on; null = procedural landscapes
    model: str = "hrnet_w18_small"  # of configs/model, with random weights
    crop: int = 256  # pixels
    batch: int = 4  # labelled tiles a step, and in stage semi as many unlabelled ones
    stages: list[str] = field(default_factory=lambda: ["supervised", "kd", "semi"])
    workers: int = 2  # decoding processes of each stream; 0 decodes in the training process
    rounds: int = 3
    seconds: float = 30.0  # of measuring, in each round
    parts: list[str] = field(default_factory=lambda: ["rate", "split", "memory"])
    extra: list[str] = field(default_factory=list)  # more keys of our runs, such as compile=true
    profile: str | None = None  # file for a trace of a few of our steps; with several stages NAME-STAGE
    fit: bool = False  # instead of all this find the largest batch and the largest crop that the GPU holds
    device: str | None = None  # none: cuda when there is one, else cpu
    json: str | None = None

    def check(self) -> None:
        """Refuse sizes, stages, parts and data that the benchmark cannot use."""
        _check_named("model", self.model)
        for key, low in {"crop": 32, "batch": 2, "workers": 0, "rounds": 1}.items():
            at_least(key, getattr(self, key), low)
        positive("seconds", self.seconds)
        if not self.stages:
            raise ValueError("stages=[]; give at least one of supervised, kd, semi")
        for stage in self.stages:
            choice("stages", stage, ("supervised", "kd", "semi"))
        for part in self.parts:
            choice("parts", part, ("rate", "split", "memory"))
        if self.data is not None:
            dataset("data", self.data)


@dataclass
class PredictSpeedRun:
    """launch/throughput.py predict: maps beside the bare forward pass and beside a plain sliding window."""

    out: str = "runs/predict"  # drawn scene and maps; kept for the next time
    scene: int = 2048  # side of the drawn scene, pixels
    weights: str | None = None  # model folder of the 6 classes of the demo; null = random weights of `model`
    model: str = "hrnet_w18_small"  # of configs/model
    tile: int = 512  # side of a window, pixels
    overlap: int = 128  # of neighbouring windows, pixels
    batch: int | None = None  # windows in a forward pass of ours; null: as launch/predict_map.py
    rounds: int = 3
    parts: list[str] = field(default_factory=lambda: ["rate", "memory"])
    # interpreter with segmentation_models_pytorch; null = without
    peers: str | None = ".venv-peers/bin/python"
    device: str | None = None  # none: cuda when there is one, else cpu
    json: str | None = None

    def check(self) -> None:
        """Refuse sizes, parts and paths that the benchmark cannot use."""
        _check_named("model", self.model)
        for key, low in {"tile": 32, "overlap": 0, "rounds": 1}.items():
            at_least(key, getattr(self, key), low)
        if self.batch is not None:
            at_least("batch", self.batch, 1)
        at_least("scene", self.scene, self.tile)
        if self.overlap >= self.tile:
            raise ValueError(f"overlap={self.overlap}: less than tile={self.tile} is allowed")
        for part in self.parts:
            choice("parts", part, ("rate", "memory"))
        if self.weights is not None:
            model_folder("weights", self.weights)
        if self.peers is not None and not Path(self.peers).is_file():
            raise ValueError(
                f"peers={self.peers}: no such interpreter; make it with 'make peers', or give peers=null to leave "
                "segmentation_models_pytorch out"
            )


@dataclass
class AllRuns:
    """launch/throughput.py all: every benchmark, one after the other."""

    out: str = "runs/throughput-all"  # a folder for each benchmark, and its figures as KIND.json
    quick: bool = (
        False  # sizes at which each ends in about a minute: says that they work, not how fast anything is
    )
    peers: str | None = ".venv-peers/bin/python"  # interpreter of `make peers`; null = without
    json: str | None = None


def _check_named(key: str, name: str) -> None:
    """Refuse a network that configs/model does not have."""
    choice(key, name, sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml")))

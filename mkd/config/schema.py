"""Every key a run knows, with its type and default; the defaults are the method's."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from mkd.config.schemas.choice_schema import DomainsRun as DomainsRun
from mkd.config.schemas.choice_schema import SelectTilesRun as SelectTilesRun
from mkd.config.schemas.evaluate_schema import EvaluateRun as EvaluateRun
from mkd.config.schemas.experiment_schema import DemoRun as DemoRun
from mkd.config.schemas.experiment_schema import Experiment as Experiment
from mkd.config.schemas.experiment_schema import ExperimentStep as ExperimentStep
from mkd.config.schemas.experiment_schema import LandscapesRun as LandscapesRun
from mkd.config.schemas.field_marks import LENGTH, RESUMABLE, resumable
from mkd.config.schemas.model_schema import ModelConfig as ModelConfig
from mkd.config.schemas.model_schema import StartedModelConfig as StartedModelConfig
from mkd.image_header import MAX_PIXELS


@dataclass
class DataConfig:
    """Which data sets are read and how tiles become batches."""

    labelled: str = MISSING  # data set with labels: a folder or a URL such as s3://bucket/tiles
    # class file; labelled, unlabelled and val may then be plain folders of images and masks, laid out as it says, which
    # are packed into OUT.data first
    classes: str | None = None
    unlabelled: str | None = None  # data set; labels in it are never read
    pseudo: str | None = None  # data set of launch/teacher.py label, for teacher.kind=offline
    val: str | None = None  # labelled data set for model selection; none keeps the last weights
    one_class: bool = resumable(False)  # train although the labels, or those of val, hold one class only
    crop: int = 512  # side of the square crops that are trained on, pixels
    batch: int = 8  # tiles a step over all ranks; a semi-supervised step adds as many unlabelled ones
    micro: int | None = None  # tiles in a forward pass of a rank; none: its whole part of the batch
    workers: int = resumable(2)  # decoding processes of each stream; 0 decodes in the training process
    # share of an epoch's unlabelled tiles that may be unreadable; labelled ones: none
    max_bad: float = resumable(0.001)
    # local folder for copies of remote shards, shared by all runs; none keeps none
    cache: str | None = resumable(None)
    cache_gib: float = resumable(100.0)  # size that the cache may reach
    max_pixels: int = resumable(MAX_PIXELS)  # of a tile; an index that says more is refused
    scale: tuple[float, float] = (0.5, 2.0)  # range of the random scale
    aerial: bool = True  # also vertical flips and 90-degree turns


@dataclass
class OptimConfig:
    """Optimizer and learning rate; poly decay per step."""

    name: str = "adamw"  # sgd | adamw
    lr: float = 1e-3  # learning rate at the first step; launch/semi.py: 5e-4
    head_factor: float = 1.0  # learning rate of ASPP, decoder and classifier, in units of lr
    momentum: float = 0.9  # of sgd
    weight_decay: float = 1e-2  # L2 penalty of sgd, decoupled decay of adamw
    power: float = 0.9  # of the decay: lr (1 - step / steps)^power
    clip: float | None = None  # largest gradient norm; none does not clip


@dataclass
class OhemConfig:
    """Hard-pixel mining of L_sup."""

    # probability of the true class from which a pixel is easy and left out; none: plain cross-entropy over all pixels
    threshold: float | None = 0.7
    min_kept: float = 1 / 16  # least share of the batch's pixels that is kept


@dataclass
class KdConfig:
    """One distillation stage."""

    source: str | None = None  # model folder of the last stage; none starts from the ImageNet backbone
    source_data: str | None = None  # labelled data set of the source domain, for the Fisher
    # classifier | head: layers of the teacher that are trained; none: classifier for a source model, else head
    teacher_tunes: str | None = None
    # passes over the labelled tiles to train the teacher; none: 20, and at least 200 steps
    teacher_epochs: float | None = None
    teacher_lr: float | None = 3e-3  # of the few layers that are trained; none is 10 x optim.lr
    student_init: str = "teacher"  # random | imagenet | teacher: weights the student starts from
    tiles: str = "labelled"  # labelled | all (L_KD on the unlabelled tiles as well)
    temperature: float = 3.0  # T of L_KD
    weight: float = 0.1  # w_kd, weight of L_KD
    ewc_weight: float = 0.01  # w_ewc, weight of L_EWC: as a weight decay towards the anchor
    anchor: str = "teacher"  # teacher | init: the weights theta* of L_EWC
    fisher_tiles: int = 256  # tiles the Fisher is estimated on


@dataclass
class SemiConfig:
    """The semi-supervised stage."""

    start: str = MISSING  # model folder both student and teacher start from
    weight: float = 1.0  # w_u, weight of L_cons; 0 is the control: the same training on the labels alone
    # valid | kept: pixels that L_cons is the mean over, all of the unlabelled crops or those with a pseudo-label
    average: str = "valid"
    strong_views: int = 1  # strong views of each unlabelled tile, 1 or more
    # chance of a feature channel to be dropped in one more view of each tile, the weak one; 0: no such view
    feature_dropout: float = 0.0
    # none | flips | d4: symmetries of a weak view whose predictions the teacher averages, 1, 4 or 8 forward passes
    teacher_views: str = "none"
    cutmix: float = 1.0  # share of the strong views that get a box of another one
    paste: float = 0.0  # share of the strong views that then get a box of a labelled tile, with its labels
    # least probability of a kept pixel; OHEM leaves a network less sure than plain cross-entropy, which goes with 0.95
    confidence: float = 0.7
    tile_entropy: float | None = None  # absolute tau of the tile filter; none uses the percentile schedule
    drop_start: float = 0.2  # share of tiles dropped at the start
    drop_end: float = 0.0  # share of tiles dropped at the end
    # upper bound of a in the EMA; none: 0.99 below 10,000 steps, 0.996 below 40,000, else 0.999
    ema_decay: float | None = None
    result: str = "teacher"  # student | teacher: whose weights become the model folder
    # most views of unlabelled tiles where neither epochs= nor steps= is given
    views: int = field(default=500_000, metadata=LENGTH)
    # validations in a row without a rise after which the stage ends; none goes on to the last step
    plateau: int | None = field(default=25, metadata=LENGTH)
    on_collapse: str = "warn"  # warn | rollback: back to the last good checkpoint, with half of weight


@dataclass
class TeacherConfig:
    """Who gives pseudo-labels in the semi-supervised stage."""

    kind: str = "local"  # local: in the student's process | service: launch/teacher.py | offline: data.pseudo
    # [HOST:PORT,HOST:PORT,...] of the services
    endpoints: list[str] = field(default_factory=list, metadata=RESUMABLE)
    # shared token, mode 0600; none: environment MKD_TEACHER_TOKEN, else OUT.token, which is made
    token_file: str | None = resumable(None)
    tls_ca: str | None = resumable(None)  # PEM file of certificates to trust; none connects without TLS
    depth: int = 2  # batches of unlabelled tiles that a service is given ahead of the step
    sync_every: int = 1  # steps between two versions of the EMA weights that services get
    # versions that an answer may be behind the student when it is used; 0 waits for each version
    max_age: int = 8
    patience: float = resumable(300.0)  # seconds without any service until the run ends or falls back
    fallback: str = "none"  # none | local: then go on with the EMA in the student's process
    # write which tiles were trained on and which rejected: RUN/ledger-RANK.jsonl
    ledger: bool = resumable(False)


@dataclass
class RunConfig:
    """What every training run has."""

    out: str = resumable(MISSING)  # run folder
    seed: int = 0  # of weights, order and augmentation
    # passes over the labelled tiles (semi: over the unlabelled ones); none: 100, and at least 1,000 steps; semi: 100
    # passes or semi.views, whichever is less, and at least 3,000 steps
    epochs: float | None = field(default=None, metadata=LENGTH)
    steps: int | None = field(default=None, metadata=LENGTH)  # optimizer steps; overrides epochs
    # go on with the run in out= to another length: from its last checkpoint on by the schedule of that length
    extend: bool = resumable(False)
    # data, model, checkpoint, threads, versions: go on although these are not those that the run was begun with
    accept: list[str] = field(default_factory=list, metadata=RESUMABLE)
    device: str | None = resumable(None)  # none: cuda when there is one, else cpu
    engine: str = resumable("auto")  # auto: plain for one rank, ddp for more | plain | ddp | zero1 | zero2
    compile: bool = resumable(False)  # torch.compile the network; GPU only
    log_every: int = resumable(10)  # steps between lines of metrics.jsonl
    save_every: int = resumable(200)  # steps between checkpoints
    # steps between checkpoints that stay as step-N.pt; none: no others
    keep_every: int | None = resumable(None)
    keep: int = resumable(3)  # how many step-N.pt stay, the newest
    val_every: int = 200  # steps between validations
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ohem: OhemConfig = field(default_factory=OhemConfig)


@dataclass
class SupervisedRun(RunConfig):
    """launch/supervised.py: the baseline without distillation."""

    student_init: str = "imagenet"  # random | imagenet | a model folder: weights to start from
    model: ModelConfig = field(default_factory=ModelConfig)


@dataclass
class KdRun(RunConfig):
    """launch/kd.py: one distillation stage."""

    kd: KdConfig = field(default_factory=KdConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


@dataclass
class SemiRun(RunConfig):
    """launch/semi.py: the semi-supervised stage; the architecture is that of semi.start."""

    model: StartedModelConfig = field(default_factory=StartedModelConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    semi: SemiConfig = field(default_factory=SemiConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4))


@dataclass
class PredictRun:
    """launch/predict_map.py: model and rasters -> a land-cover map of each."""

    model: str = MISSING  # model folder
    # raster of the model's bands and type (GeoTIFF, COG, VRT), a folder of them, a pattern with *, a URL, or [A,B] of
    # these; alpha is a mask
    input: list[str] = MISSING
    output: str = MISSING  # cloud-optimised GeoTIFF to write: class ids and confidence; a folder for several
    polygons: str | None = None  # GeoPackage to write: polygons by class with area and confidence
    min_area: float = 0.0  # square metres: smaller polygons go to their largest neighbour first
    areas: str | None = None  # CSV to write: pixels, hectares, share and confidence of each class
    preview: str | None = None  # HTML page to write: the map over its scene, with a slider and a legend
    tile: int | None = None  # side of a window, pixels; none: the crop that the model was trained on
    overlap: int | None = None  # least overlap of neighbouring windows, pixels; none: a quarter of the window
    # numbers from 1, or names, of the bands to use: data, even where the raster calls one alpha; none: all but alpha
    bands: list[str] | None = None
    # views of each window whose probabilities are averaged: none, flips (4), d4 (8, with quarter turns); as many times
    # the time
    tta: str = "none"
    # windows in a forward pass; none: as many as have the pixels of one of 512 x 512 on a CPU, of four on a GPU
    batch: int | None = None
    trust_vrt: bool = False  # let the input name any other files, on the network too
    device: str | None = None  # none: cuda when there is one, else cpu


@dataclass
class ExportRun:
    """launch/export.py: model folder -> ONNX."""

    model: str = MISSING  # model folder
    output: str = MISSING  # ONNX file to write
    tile: int | None = None  # side of the input, pixels; none: the crop that the model was trained on
    uint8: bool = False  # input of 0 to 255 instead of float32 in 0 to 1
    overlap: int = 25  # of tiles in programs that cut them, percent of the side
    resolution: float | None = None  # ground size of a pixel, centimetres; none: not stored
    stac: str | None = None  # STAC item of the model to write, a JSON file


@dataclass
class TeacherServe:
    """launch/teacher.py serve: one teacher inference service."""

    model: str | None = None  # model folder: the students' semi.start; none: the one that run= started from
    run: str | None = None  # run folder of the students; weights published there before are taken up
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: all
    port: int = 0  # to listen on; 0 takes a free one
    device: str | None = None  # none: cuda when there is one, else cpu
    # shared token, mode 0600; none: environment MKD_TEACHER_TOKEN, else RUN.token, which is made
    token_file: str | None = None
    tls_cert: str | None = None  # PEM file of the certificate; with tls_key
    tls_key: str | None = None  # PEM file of its private key
    max_batch: int = 32  # tiles in a forward pass, and in a request
    wait_ms: float = 5.0  # time that a request waits for others to share its forward pass
    max_tile: int = 1024  # side of the largest tile, pixels
    queue: int = 8  # requests that may wait, of each student and of all


@dataclass
class TeacherLabel:
    """launch/teacher.py label: a data set -> the same tiles with pseudo-labels."""

    data: str = MISSING  # data set; labels in it are never read
    out: str = MISSING  # data set to make
    model: str = MISSING  # model folder
    confidence: float = 0.7  # least probability of a kept pixel, as semi.confidence
    tile_entropy: float | None = None  # tiles with a higher mean entropy are left out; none keeps all
    batch: int = 8  # tiles in a forward pass
    max_bad: float = 0.001  # share of the tiles that may be unreadable
    max_pixels: int = MAX_PIXELS  # of a tile; an index that says more is refused
    part: str | None = None  # I/N: make this part of the shards only; processes share the work so
    device: str | None = None  # none: cuda when there is one, else cpu


@dataclass
class TeacherStatus:
    """launch/teacher.py status: what a service says about itself."""

    endpoint: str = MISSING  # HOST:PORT
    token_file: str | None = None  # shared token; none: environment MKD_TEACHER_TOKEN
    tls_ca: str | None = None  # PEM file of the certificates to trust; none asks without TLS
    json: bool = False  # one line for scripts; --json means the same

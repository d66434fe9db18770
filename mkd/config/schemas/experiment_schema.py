"""The keys of an experiment, of the demo, and of procedural landscapes."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class Experiment:
    """launch/experiment.py: the runs behind one table; configs/experiment/NAME.yaml."""

    name: str = MISSING  # of the experiment; experiment=NAME sets it
    out: str = MISSING  # folder of all its runs
    data: str = "data"  # folder that {data} stands for in overrides
    seeds: list[int] = field(default_factory=lambda: [0])  # each run is trained once a seed
    parallel: int = 1  # seeds trained at once, each in a process with its part of the cores
    table: int | None = None  # 1 to 5, a table of the paper: short for experiment=SCALE/tableN
    figure: int | None = None  # 1 or 3, a figure of the paper: short for experiment=SCALE/figureN
    scale: str = "demo"  # of table= or figure=: demo (drawn landscapes) | real (small real sets) | paper
    plan: bool = False  # print each run with its state and hours, and stop without training
    slurm: bool = False  # print one line of sbatch for each run that has not ended, and stop without training
    page: str | None = None  # folder of OUT for the results and the report; none: OUT itself
    drawn: bool = False  # draw the landscapes of the demo into data=, where they are missing
    title: str = ""  # above the table
    hardware: str = ""  # that the runs' hours are of, for plan=true
    test: str = MISSING  # labelled data set every row is evaluated on
    frequent: list[str] = field(default_factory=list)  # classes of a second mean, e.g. without rare ones
    common: dict[str, list[str]] = field(default_factory=dict)  # script -> overrides of its runs
    runs: dict[str, "ExperimentStep"] = field(default_factory=dict)  # run -> its script and overrides
    rows: dict[str, str] = field(default_factory=dict)  # row title -> run
    # the same, for runs that only tell why a row gains
    controls: dict[str, str] = field(default_factory=dict)
    # title -> [run, run]: mIoU of the first less that of the second, paired over the seeds
    differences: dict[str, list[str]] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)  # row title -> mIoU of the paper, percent
    # also parameters, GMAC and images a second of each row's network
    cost: bool = False
    # row title -> x of a curve of mIoU over rows, such as the percentage of the unlabelled tiles
    curve: dict[str, float] = field(default_factory=dict)
    curve_label: str = ""  # of that x
    samples: dict[str, str] = field(default_factory=dict)  # of figure 1: title -> labelled data set


@dataclass
class ExperimentStep:
    """One training run of an experiment; {data}, {out}, {seed} and {run:NAME} are filled in."""

    script: str = MISSING  # supervised | kd | semi
    overrides: list[str] = field(default_factory=list)
    hours: float | None = None  # that it takes on the experiment's hardware


@dataclass
class DemoRun:
    """launch/demo.py: sizes of the procedural world; the training is configs/experiment/demo.yaml."""

    out: str = "runs/demo"  # folder of its data, runs and report
    seeds: list[int] = field(default_factory=lambda: [0, 1])  # each run is trained once a seed
    scene: int = 1536  # side of an orthomosaic, pixels
    tile: int = 256  # side of a tile, pixels
    block: int = 768  # side of a spatial block of the split, pixels
    intermediate_scenes: int = 3  # orthomosaics of the intermediate domain
    target_scenes: int = 6  # orthomosaics of the target domain
    labelled: int = 10  # target tiles that keep their labels


@dataclass
class LandscapesRun:
    """launch/landscapes.py: procedural orthomosaics with exact label rasters, to try the system on."""

    out: str = MISSING  # folder for images/DOMAIN_N.tif and labels/DOMAIN_N.tif
    # target, coast, autumn (drones, 6 classes), intermediate, arid, winter, infrared or coarse (satellites, 17 classes)
    domain: str = "target"
    scenes: int = 4  # orthomosaics
    size: int = 1536  # side of an orthomosaic, pixels
    first: int = 0  # number of the first orthomosaic, from which its ground is drawn

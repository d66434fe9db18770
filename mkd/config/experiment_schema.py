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
    title: str = ""  # above the table
    test: str = MISSING  # labelled data set every row is evaluated on
    frequent: list[str] = field(default_factory=list)  # classes of a second mean, e.g. without rare ones
    common: dict[str, list[str]] = field(default_factory=dict)  # script -> overrides of its runs
    runs: dict[str, "ExperimentStep"] = field(default_factory=dict)  # run -> its script and overrides
    rows: dict[str, str] = field(default_factory=dict)  # row title -> run
    # the same, for runs that only tell why a row gains
    controls: dict[str, str] = field(default_factory=dict)
    # title -> [run, run]: mIoU of the first less that of the second, paired over the seeds
    differences: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class ExperimentStep:
    """One training run of an experiment; {data}, {out}, {seed} and {run:NAME} are filled in."""

    script: str = MISSING  # supervised | kd | semi
    overrides: list[str] = field(default_factory=list)


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

"""The keys of the commands that choose data: which tiles to label next, and the intermediate domain."""

from dataclasses import dataclass

from omegaconf import MISSING

from mkd.config.constraints import at_least, dataset, model_folder, on_disk
from mkd.image_header import MAX_PIXELS


@dataclass
class SelectTilesRun:
    """launch/select_tiles.py: the tiles of a data set to label next, as a folder that a GIS opens."""

    data: str = MISSING  # data set; tiles that have a label already are left out
    out: str = MISSING  # folder to write, not there yet: tiles.csv, contact_sheet.png and gis/
    n: int = 50  # tiles to choose
    # data set of the tiles that were labelled so far: tiles that touch them are left out
    labelled: str | None = None
    # model folder: then the tiles that it is least sure of; none: tiles that stand for all, by ImageNet features
    model: str | None = None
    # results.json of launch/evaluate.py for this model: its worst classes count more; none: all classes count alike
    evaluation: str | None = None
    seed: int = 0  # of k-means
    batch: int = 8  # tiles in a forward pass
    max_pixels: int = MAX_PIXELS  # of a tile; an index that says more is refused
    device: str | None = None  # none: cuda when there is one, else cpu

    def check(self) -> None:
        """Check ranges and paths; raise ValueError with the key, the value and what is allowed."""
        dataset("data", self.data)
        if self.labelled is not None:
            dataset("labelled", self.labelled)
        on_disk("out", self.out)
        for key in ("n", "batch", "max_pixels"):
            at_least(key, getattr(self, key), 1)
        at_least("seed", self.seed, 0)
        if self.model is not None:
            model_folder("model", self.model)
        elif self.evaluation is not None:
            raise ValueError(f"evaluation={self.evaluation} is of a model: give model= too, or leave it out")


@dataclass
class DomainsRun:
    """launch/domains.py: which data set to train on between a source and a target, ranked before the training."""

    candidates: list[str] = MISSING  # labelled data sets: [A,B,...]
    target: str = (
        MISSING  # labelled data set, as small as it is: one half fits the probe, the other scores it
    )
    out: str = (
        MISSING  # folder for domains.json, .csv, .html and the probes' runs, which a second start reuses
    )
    source: str | None = (
        None  # model folder that the probes start from; none: the bundled ImageNet weights of lite0
    )
    probe_steps: int = 200  # optimizer steps on each candidate
    tiles: int = (
        256  # most tiles of a data set that distances and figure are made of; all sets give equally many
    )
    batch: int = 8  # tiles of a step
    seed: int = 0  # of probes, halves, samples and intervals
    max_pixels: int = MAX_PIXELS  # of a tile; an index that says more is refused
    device: str | None = None  # none: cuda when there is one, else cpu

    def check(self) -> None:
        """Check ranges and paths; raise ValueError with the key, the value and what is allowed."""
        if not self.candidates:
            raise ValueError("candidates=[]; give labelled data sets, such as candidates=[data/hw,data/gtav]")
        for path in self.candidates:
            dataset("candidates", path)
        if len(set(self.candidates)) < len(self.candidates):
            raise ValueError(
                f"candidates=[{','.join(self.candidates)}]: one of them comes twice; name each once"
            )
        dataset("target", self.target)
        on_disk("out", self.out)
        if self.source is not None:
            model_folder("source", self.source)
        for key, low in {"probe_steps": 1, "tiles": 2, "batch": 1, "max_pixels": 1}.items():
            at_least(key, getattr(self, key), low)
        at_least("seed", self.seed, 0)

"""The keys of launch/evaluate.py."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from mkd.config.constraints import at_least, dataset, model_folder
from mkd.image_header import MAX_PIXELS


@dataclass
class EvaluateRun:
    """launch/evaluate.py: model and labelled data set -> results.json."""

    # model folder, or [A,B] of them: then each is compared with the first
    model: list[str] = MISSING
    data: str = MISSING  # labelled data set
    out: str = MISSING  # results.json to write
    # first fit the temperature of the model's confidence to data=, a validation set, and write it into model.yaml
    fit_temperature: bool = False
    batch: int = 8  # tiles in a forward pass
    max_pixels: int = MAX_PIXELS  # of a tile; an index that says more is refused
    device: str | None = None  # none: cuda when there is one, else cpu
    report: str | None = None  # also write this report.html

    def check(self) -> None:
        """Check ranges and paths; raise ValueError with the key, the value and what is allowed."""
        dataset("data", self.data)
        if not self.model:
            raise ValueError("model=[]; give a model folder, or several to compare")
        for path in self.model:
            model_folder("model", path)
        if len({Path(path).resolve() for path in self.model}) < len(self.model):
            raise ValueError(f"model=[{','.join(self.model)}]: one of them comes twice; name each once")
        if self.fit_temperature and len(self.model) > 1:
            raise ValueError(
                f"fit_temperature=true is for one model, and model= names {len(self.model)}: fit each by itself"
            )
        at_least("batch", self.batch, 1)
        at_least("max_pixels", self.max_pixels, 1)

"""Content of a report as plain data; every part is optional, and the page lists the missing ones.

Shapes: C classes, H W pixels. IoU, mIoU and accuracy are fractions in [0, 1] here;
the page prints percentages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.labels import Colour

Bytes = NDArray[np.uint8]
DETAILS = ("interval", "boundary_f1", "calibration", "costly_confusions")


@dataclass(frozen=True)
class Evaluation:
    """One model on one test set, as `results.json` holds it.

    `iou` is by class name in class order, None where the class is absent from the test set; `confusion` is
    (C, C) counts of pixels, rows truth, columns prediction. `details` are the further keys of `results.json`
    (`DETAILS`), none where an earlier version wrote it.
    """

    name: str
    miou: float
    iou: Mapping[str, float | None]
    pixel_accuracy: float
    confusion: NDArray[np.int64]
    samples: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_results(cls, name: str, results: Mapping[str, Any]) -> "Evaluation":
        """Build an evaluation from the content of a `results.json`.

        Args:
            name: what the page calls this evaluation, such as "+ KD + SSL, seed 0".
            results: keys miou, iou, pixel_accuracy, confusion, samples and, where known, provenance.

        Returns:
            The evaluation.

        Raises:
            ValueError: a key is missing, or the confusion matrix does not fit the classes.
        """
        needed = ("miou", "iou", "pixel_accuracy", "confusion", "samples")
        if missing := [key for key in needed if key not in results]:
            raise ValueError(f"the results of {name!r} lack {', '.join(missing)}: write them with evaluate")
        confusion = np.asarray(results["confusion"], np.int64)
        if confusion.shape != (len(results["iou"]),) * 2:
            raise ValueError(
                f"the results of {name!r} have {len(results['iou'])} classes and a confusion matrix of "
                f"{' x '.join(map(str, confusion.shape))}: both must have the same classes"
            )
        return cls(
            name=name,
            miou=float(results["miou"]),
            iou=dict(results["iou"]),
            pixel_accuracy=float(results["pixel_accuracy"]),
            confusion=confusion,
            samples=int(results["samples"]),
            provenance=dict(results.get("provenance", {})),
            details={key: results[key] for key in DETAILS if key in results},
        )


@dataclass(frozen=True)
class Row:
    """One line of the results table: mean and standard deviation of mIoU over seeds, IoU by class name.

    `paper` is the mIoU of the paper, None where there is none; `cost` is column name to text of what the network
    costs; `folder` is that of the row's runs, in the experiment's. `interval` and `gain_interval` are the ends of the
    95 % intervals of mIoU, and of its difference from the first row's, over samples of the test set.
    """

    name: str
    miou_mean: float
    miou_std: float | None = None
    seeds: Sequence[int] = ()
    iou: Mapping[str, float | None] = field(default_factory=dict)
    paper: float | None = None
    cost: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    interval: Sequence[float | None] | None = None
    gain_interval: Sequence[float] | None = None

    @classmethod
    def from_evaluations(
        cls, name: str, evaluations: Sequence[Evaluation], seeds: Sequence[int] = ()
    ) -> "Row":
        """Average evaluations of one method that differ in their seed only.

        std = sqrt( sum_k (m_k - mean)^2 / (n - 1) ) over n seeds, None for one. A class's IoU is the mean
        over the seeds in which it is present.

        Args:
            name: the method, as the table calls it.
            evaluations: one a seed, at least one.
            seeds: their seeds, in the same order; empty when unknown.

        Returns:
            The line of the table.

        Raises:
            ValueError: no evaluation, or another number of seeds than evaluations.
        """
        if not evaluations or (seeds and len(seeds) != len(evaluations)):
            raise ValueError(
                f"row {name!r} has {len(evaluations)} evaluations and {len(seeds)} seeds: give one each a run"
            )
        mious = [evaluation.miou for evaluation in evaluations]
        iou: dict[str, float | None] = {}
        for label in evaluations[0].iou:
            present = [v for e in evaluations if (v := e.iou.get(label)) is not None]
            iou[label] = fmean(present) if present else None
        return cls(name, fmean(mious), stdev(mious) if len(mious) > 1 else None, tuple(seeds), iou)


@dataclass(frozen=True)
class RunMetrics:
    """A run's `metrics.jsonl`; runs of one name are drawn together, told apart by their seed."""

    name: str
    metrics: Path
    seed: int | None = None


@dataclass(frozen=True)
class Panel:
    """A test tile.

    `image` is (H, W, 3) uint8; `truth` is (H, W) class ids with 255 = no label, or None; `predictions` are
    (H, W) class ids by method, drawn from left to right.
    """

    name: str
    image: Bytes
    truth: Bytes | None
    predictions: Mapping[str, Bytes]


@dataclass(frozen=True)
class MapView:
    """A map at page size.

    `image` is (H, W, 3) uint8 or None; `classes` (H, W) ids and `confidence` (H, W) uint8 = 255 p, where 255
    means no data in both.
    """

    image: Bytes | None
    classes: Bytes
    confidence: Bytes
    caption: str = ""


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page: title, an SVG element or a data URI, words for those who cannot see it."""

    title: str
    picture: str
    alt: str


@dataclass(frozen=True)
class Report:
    """A whole page.

    `facts` are the key figures under the title (label to text); `panels` are tiles spread over the test set,
    `worst` those with the fewest right pixels; `configs` are resolved YAML texts by run;
    `notes` are sentences that a reader must know to judge the figures; `created` is a date as text.
    """

    title: str
    summary: str = ""
    classes: Sequence[str] = ()
    palette: Sequence[Colour] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    evaluations: Sequence[Evaluation] = ()
    runs: Sequence[RunMetrics] = ()
    panels: Sequence[Panel] = ()
    worst: Sequence[Panel] = ()
    map: MapView | None = None
    figures: Sequence[PageFigure] = ()
    configs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    notes: Sequence[str] = ()
    created: str = ""

"""Training curves out of `metrics.jsonl`: losses by name, validation mIoU, kept share of pseudo-labels."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mkd.report.content import RunMetrics
from mkd.report.drawing.figures import COLOURS, INK, MUTED, inline_svg, new_figure

Series = tuple[NDArray[np.float64], NDArray[np.float64]]  # steps, values
TERM_COLOURS = {"sup": COLOURS[0], "kd": COLOURS[1], "ewc": COLOURS[2]}  # the same in every card
TOTAL = "#a9b4bf"  # broad and pale, so that a term that equals the total stays visible on it
MAX_POINTS = 300


@dataclass(frozen=True)
class PhaseCurves:
    """The curves of one phase of one run: name of a number to its steps and values."""

    name: str
    seed: int | None
    series: dict[str, Series]

    def named(self, prefix: str) -> dict[str, Series]:
        """Return the curves whose name starts with `prefix`."""
        return {name: line for name, line in self.series.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class CurveCard:
    """One picture of the page: title, figure, and what is missing or was left out."""

    title: str
    figure: Markup
    remarks: list[str] = field(default_factory=list)


def read_phases(run: RunMetrics) -> tuple[list[PhaseCurves], int]:
    """Read a run's curves.

    A step that was written twice (a run that resumed from a checkpoint) counts as written last.

    Args:
        run: its `metrics` holds one JSON object a line, with "phase", "step" and named numbers.

    Returns:
        The phases in their order, and how many lines could not be read (a killed run may end in half a line).

    Raises:
        ValueError: the file does not exist.
    """
    if not run.metrics.is_file():
        raise ValueError(f"no curves of {run.name!r} at {run.metrics}: give the run's metrics.jsonl")
    phases: dict[str, dict[str, dict[float, float]]] = {}
    unread = 0
    for text in run.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(text)
            curves = phases.setdefault(str(record["phase"]), {})
            step = float(record["step"])
        except (ValueError, KeyError, TypeError):
            unread += bool(text.strip())
            continue
        for name, value in record.items():
            if isinstance(value, (int, float)) and name not in ("phase", "step", "epoch"):
                curves.setdefault(name, {})[step] = float(value)
    return [PhaseCurves(name, run.seed, _sorted(curves)) for name, curves in phases.items()], unread


def draw_curves(runs: Sequence[RunMetrics]) -> list[CurveCard]:
    """Draw a card for each phase of each run name; runs of one name (several seeds) share their cards.

    Args:
        runs: any number of runs.

    Returns:
        Cards in the order of the runs and their phases.

    Raises:
        ValueError: a run's file does not exist.
    """
    groups: dict[tuple[str, str], list[PhaseCurves]] = {}
    unread: dict[str, int] = {}
    for run in runs:
        phases, bad = read_phases(run)
        unread[run.name] = unread.get(run.name, 0) + bad
        for phase in phases:
            groups.setdefault((run.name, phase.name), []).append(phase)
    cards = [_card(name, phases) for (name, _), phases in groups.items()]
    for name in dict.fromkeys(run.name for run in runs):
        mine = [card for card, key in zip(cards, groups, strict=True) if key[0] == name]
        if unread[name] and mine:
            mine[0].remarks.append(f"{unread[name]} unreadable line(s) of metrics.jsonl were left out.")
        if not mine:
            cards.append(CurveCard(name, Markup(), ["This run has written no metrics yet."]))
    return cards


def thin(line: Series, limit: int = MAX_POINTS) -> Series:
    """Replace neighbouring points by their mean until at most `limit` points are left."""
    group = math.ceil(len(line[0]) / limit)
    starts = np.arange(0, len(line[0]), max(group, 1))
    counts = np.diff(np.append(starts, len(line[0])))
    return np.add.reduceat(line[0], starts) / counts, np.add.reduceat(line[1], starts) / counts


def smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the centred moving mean over `width` neighbours, over fewer at both ends."""
    kernel = np.ones((min(width, len(values)) - 1) // 2 * 2 + 1)
    count = np.convolve(np.ones(len(values)), kernel, "same")
    mean: NDArray[np.float64] = np.convolve(values, kernel, "same") / count
    return mean


def _sorted(curves: dict[str, dict[float, float]]) -> dict[str, Series]:
    pairs = {name: np.array(sorted(points.items())) for name, points in curves.items()}
    return {name: (array[:, 0], array[:, 1]) for name, array in pairs.items()}


def _card(name: str, phases: list[PhaseCurves]) -> CurveCard:
    parts = [part for part in ("loss", "val_miou", "kept") if any(p.named(part) for p in phases)]
    title = f"{name}: {phases[0].name}" + (f", {len(phases)} seeds" if len(phases) > 1 else "")
    remarks = [] if "val_miou" in parts else ["No validation was run."]
    if not parts:
        return CurveCard(title, Markup(), ["No losses were logged.", *remarks])
    figure, axes = new_figure([{"loss": 1.9, "val_miou": 1.3, "kept": 1.1}[part] for part in parts])
    told: list[str] = []
    for part, plot in zip(parts, axes, strict=True):
        match part:
            case "loss":
                _draw_terms(plot, phases, "loss", scale=1.0)
                _use_log_if_wide(plot, phases)
                plot.set_ylabel("loss")
            case "val_miou":
                told.append(_draw_validation(plot, phases))
            case _:
                _draw_terms(plot, phases, "kept", scale=100.0)
                plot.set_ylim(0, 100)
                plot.set_ylabel("kept, %")
    axes[-1].set_xlabel("step")
    figure.align_ylabels(axes)
    return CurveCard(title, inline_svg(figure, f"Training curves of {title}. {' '.join(told)}"), remarks)


def _draw_terms(plot: Axes, phases: list[PhaseCurves], prefix: str, scale: float) -> None:
    names = {name: name.removeprefix(prefix).strip("_/") for phase in phases for name in phase.named(prefix)}
    order, others = ["", *TERM_COLOURS], cycle(COLOURS[3:])
    ranks = {name: order.index(term) if term in order else len(order) for name, term in names.items()}
    for name, term in sorted(names.items(), key=lambda item: (ranks[item[0]], item[0])):
        colour, width = (TERM_COLOURS.get(term) or next(others), 1.4) if term else (TOTAL, 2.6)
        for index, phase in enumerate(phase for phase in phases if name in phase.series):
            steps, values = thin(phase.series[name])
            if len(phases) == 1 and len(steps) > 20 and term:
                plot.plot(steps, scale * values, color=colour, linewidth=0.6, alpha=0.3)
            mean = smooth(scale * values, max(1, len(values) // 20))
            label = "_nolegend_" if index else term or "total"
            plot.plot(steps, mean, color=colour, linewidth=width, label=label, solid_capstyle="round")
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1}
    plot.legend(**place, ncols=4, frameon=False, handlelength=1.2, fontsize=8.5, labelcolor=INK)


def _use_log_if_wide(plot: Axes, phases: list[PhaseCurves]) -> None:
    """Terms whose typical sizes differ a hundredfold can only be read together on a logarithmic axis."""
    lines = [values for phase in phases for _, values in phase.named("loss").values()]
    typical = [float(np.nanmedian(values)) for values in lines]
    if min(typical) > 0 and max(typical) > 100 * min(typical) and all((v > 0).all() for v in lines):
        plot.set_yscale("log")
        plot.yaxis.set_major_formatter("{x:g}")


def _draw_validation(plot: Axes, phases: list[PhaseCurves]) -> str:
    best: list[float] = []
    for phase in (phase for phase in phases if "val_miou" in phase.series):
        steps, values = phase.series["val_miou"]
        plot.plot(steps, 100 * values, color=COLOURS[0], linewidth=1.3, marker="o", markersize=2.6)
        top = int(np.nanargmax(values))
        plot.plot(steps[top], 100 * values[top], "o", color=INK, markersize=4.5)
        best.append(100 * float(values[top]))
    text = "best " + ", ".join(f"{value:.1f}" for value in best)
    plot.set_ylabel("val mIoU, %")
    plot.set_title(text, loc="right", fontsize=8.5, color=MUTED, pad=3)
    return f"Validation mIoU in percent: {text}."

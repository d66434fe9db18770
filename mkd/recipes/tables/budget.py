"""What more would buy: doubling what a table's curve is over, and doubling the steps, from the runs at hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mkd.config.schema import Experiment
from mkd.metrics.learning_curve import LEAST, LearningCurve, learning_curve
from mkd.recipes.tables.run_list import run_folder
from mkd.report.content import RunMetrics
from mkd.report.drawing.curves import Series, read_phases
from mkd.report.drawing.table_figures import common_steps

PLATEAU = 0.005  # mIoU: less than half a point is not worth twice the work
SHOWN = 0.0005  # mIoU: what is printed as more than 0


def budgets(config: Experiment, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for results.json what doubling would buy, of what a table's `curve` is over and of the last row's steps.

    Args:
        config: the experiment, whose runs have all ended.
        rows: of its results.
    """
    found = []
    if config.curve:
        label, unit = (
            config.curve_label.removesuffix(", %"),
            " %" if config.curve_label.endswith(", %") else "",
        )
        found.append(_told(size_curve(config, rows), label, config, unit))
    title, run = list(config.rows.items())[-1]
    curves = validation_series(config, run)
    if curves:
        steps = [step for step in common_steps(curves) if step > 0]
        at = [dict(zip(s.tolist(), values.tolist(), strict=True)) for s, values in curves]
        curve = _fitted(steps, np.array([[known[step] for step in steps] for known in at]))
        what = (
            f"steps of the last stage of '{title}' (validation mIoU within one schedule of the learning rate)"
        )
        found.append(_told(curve, what, config))
    return found


def size_curve(config: Experiment, rows: Sequence[dict[str, Any]]) -> LearningCurve | None:
    """Return the law through the rows of `curve`, without one of size 0; None where there are fewer than three."""
    seeds = {row["name"]: list(row["seeds"].values()) for row in rows}
    known = [(x, seeds[title]) for title, x in config.curve.items() if x > 0]
    return _fitted([x for x, _ in known], np.array([values for _, values in known]).T)


def validation_series(config: Experiment, run: str) -> list[Series]:
    """Return steps and validation mIoU of a run's last stage for each seed; empty where one was not validated."""
    found = []
    for seed in config.seeds:
        phases, _ = read_phases(RunMetrics(run, run_folder(config, run, seed) / "metrics.jsonl", seed))
        if not phases or "val_miou" not in phases[-1].series:
            return []
        found.append(phases[-1].series["val_miou"])
    return found


def _fitted(sizes: Sequence[float], scores: Any) -> LearningCurve | None:
    return learning_curve(sizes, scores) if len(set(sizes)) >= LEAST else None


def _told(curve: LearningCurve | None, what: str, config: Experiment, unit: str = "") -> dict[str, Any]:
    """Return numbers and one sentence; shares."""
    if curve is None:
        text = f"What doubling the {what} would buy is not told: fewer than {LEAST} sizes above 0 were run"
        return {"of": what, "gain": None, "interval": None, "text": text}
    largest = float(curve.sizes[-1]) / 2
    return {
        "of": what,
        "largest": largest,
        "gain": curve.gain,
        "interval": curve.interval,
        "text": in_words(curve, f"the {what} beyond {largest:g}{unit}", len(config.seeds)),
    }


def in_words(curve: LearningCurve, what: str, seeds: int) -> str:
    """Return the sentence: what doubling buys, that it stands on a plateau, or that the runs do not tell.

    Args:
        curve: of the runs.
        what: is doubled.
        seeds: that the runs have.
    """
    gain = _points(curve.gain)
    law = f"power law by least squares, {seeds} seed(s)"
    if curve.interval is None:
        return (
            f"Doubling {what} would add {gain} mIoU points by the fitted curve, without an interval ({law})"
        )
    low, high = curve.interval
    span = f"{gain} mIoU points ({_points(low)} to {_points(high)}; {law})"
    if high < PLATEAU:
        return f"A plateau: doubling {what} would add {span}, less than half a point"
    if low > SHOWN:
        return f"Doubling {what} would add {span}"
    return f"Whether doubling {what} adds anything is not shown: {span}"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # no -0.0

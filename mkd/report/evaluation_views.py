"""Intervals, boundaries, calibration and costly confusions of an evaluation as ready text and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup

from mkd.report.content import DETAILS, Evaluation
from mkd.report.drawing.figures import COLOURS, MUTED, STYLE, inline_svg, new_figure
from mkd.report.tables import percent, span


def evaluation_views(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return what the page shows of each evaluation that has all details."""
    return [_view(e) for e in evaluations if set(DETAILS) <= set(e.details)]


def _view(evaluation: Evaluation) -> dict[str, Any]:
    interval, boundary = evaluation.details["interval"], evaluation.details["boundary_f1"]
    calibration = evaluation.details["calibration"]
    return {
        "name": evaluation.name,
        "rows": [
            (name, percent(value), span(interval["iou"][name]), percent(boundary["classes"][name]))
            for name, value in evaluation.iou.items()
        ],
        "mean": (percent(evaluation.miou), span(interval["miou"]), percent(boundary["mean"])),
        "blocks": f"{interval['number']:,} {interval['blocks']}s",
        "tolerance": boundary["tolerance"],
        "ece": f"{100 * calibration['ece']:.1f}",
        # Both are missing from what an earlier version wrote.
        "temperature": f"{calibration.get('temperature', 1.0):.3g}",
        "unscaled": f"{100 * calibration.get('ece_unscaled', calibration['ece']):.1f}",
        "figure": reliability_figure(calibration["bins"], f"reliability of {evaluation.name}"),
        "costly": [
            f"{pair['truth']} taken for {pair['predicted']}: {100 * pair['miou']:.1f} points, {pair['pixels']:,} pixels"
            for pair in evaluation.details["costly_confusions"]
        ],
    }


def reliability_figure(bins: Sequence[Mapping[str, float]], label: str) -> Markup:
    """Draw the share of right pixels over the confidence; on the dashed line both are equal.

    Args:
        bins: with low, high, accuracy and pixels, as in results.json.
        label: for a screen reader.
    """
    figure, (axes,) = new_figure([2.6], width=3.6)
    total = sum(each["pixels"] for each in bins)
    with matplotlib.rc_context(STYLE):
        for each in bins:
            # A bin with few pixels is pale: its height says little.
            strength = 0.25 + 0.75 * min(1.0, 10 * each["pixels"] / total)
            width = each["high"] - each["low"]
            axes.bar(each["low"], each["accuracy"], width, align="edge", color=COLOURS[0], alpha=strength)
        axes.plot([0, 1], [0, 1], linestyle="--", color=MUTED, linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of right pixels")
    return inline_svg(figure, label)

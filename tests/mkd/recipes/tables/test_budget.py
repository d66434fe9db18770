"""What doubling would buy, told from runs whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mkd.config.schemas.experiment_schema import Experiment
from mkd.metrics.learning_curve import learning_curve
from mkd.recipes.tables.budget import budgets, in_words, size_curve


@pytest.fixture
def grown(tmp_path):
    """Rows of 0, 10, 50 and 100 %, whose mIoU rises by a power law; the last run was validated at four steps."""
    config = Experiment(
        name="grown",
        out=str(tmp_path),
        test="t",
        seeds=[0, 1],
        rows={"none": "a", "10 %": "b", "50 %": "c", "100 %": "d"},
        curve={"none": 0, "10 %": 10, "50 %": 50, "100 %": 100},
        curve_label="share of the unlabelled tiles, %",
    )
    rows = [
        {"name": name, "seeds": {str(s): (0.5 if x == 0 else law(x)) + 0.001 * s for s in config.seeds}}
        for name, x in config.curve.items()
    ]
    for seed in config.seeds:
        folder = tmp_path / "d" / f"seed{seed}"
        folder.mkdir(parents=True)
        lines = [{"phase": "semi", "step": n, "val_miou": 0.7 - 0.0001 * seed} for n in (0, 50, 100, 200)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return config, rows


def law(x):
    return 0.8 - 0.1 * (x / 100) ** -0.5


def test_what_doubling_buys(grown):
    """The unlabelled tiles still buy what the law says, row "none" apart; the steps stand on a plateau."""
    tiles, steps = budgets(*grown)
    true = law(200) - law(100)
    assert tiles["gain"] == pytest.approx(true, rel=0.05)
    assert tiles["largest"] == pytest.approx(100)
    assert tiles["text"].startswith(
        f"Doubling the share of the unlabelled tiles beyond 100 % would add {100 * true:+.1f} mIoU points"
    )
    assert steps["gain"] == pytest.approx(0, abs=1e-6)
    assert steps["text"].startswith("A plateau: doubling the steps of the last stage of '100 %'")


def test_two_sizes_tell_nothing(grown):
    """Beside size 0 two are left: no law, no figure, one sentence; the rest is as before."""
    config, rows = grown
    config = replace(config, curve={"none": 0, "10 %": 10, "50 %": 50})
    assert size_curve(config, rows) is None
    tiles, _ = budgets(config, rows)
    assert tiles["gain"] is None
    assert "fewer than 3 sizes above 0" in tiles["text"]


def test_without_curve_and_validation_nothing_is_told(grown, tmp_path):
    """A table without `curve` whose last run was never validated has no budget."""
    config, rows = grown
    for path in tmp_path.glob("d/*/metrics.jsonl"):
        path.write_text('{"phase": "semi", "step": 1, "loss": 1.0}\n')
    assert budgets(replace(config, curve={}), rows) == []


@pytest.mark.parametrize(
    ("spread", "top", "words"),
    [(0.0, 0.1, "Doubling x would add"), (0.0, 0.0001, "A plateau:"), (0.05, 0.02, "is not shown")],
)
def test_the_three_sentences(spread, top, words):
    """A gain, a plateau, and seeds that disagree."""
    sizes = np.array([10.0, 50.0, 100.0])
    wild = np.array([[0, 0, 1], [0, 0, -1], [0, 1, 0]]) * spread
    curve = learning_curve(sizes, 0.8 - top * (sizes / 100) ** -0.5 + wild)
    assert words in in_words(curve, "x", 3)
    alone = learning_curve(sizes, (0.8 - top * (sizes / 100) ** -0.5)[None])
    assert "without an interval" in in_words(alone, "x", 1)

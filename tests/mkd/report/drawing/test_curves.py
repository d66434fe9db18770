"""Curves read from metrics.jsonl: what was written last counts, and what is missing is said."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.report.content import RunMetrics
from mkd.report.drawing.curves import draw_curves, read_phases, smooth, thin

values_lists = st.lists(st.floats(-100, 100), min_size=1, max_size=70)


def written(path, records, tail=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return path


def texts(card):
    """Give every text of a figure, as a reader sees it."""
    nodes = ElementTree.fromstring(str(card.figure)).iter("{http://www.w3.org/2000/svg}text")
    return {"".join(node.itertext()).strip() for node in nodes}


def training(steps, phase="student", **terms):
    return [{"phase": phase, "step": s, "epoch": s / 9, "lr": 0.1, **terms, "loss": 1 / s} for s in steps]


def test_a_resumed_run_counts_what_it_wrote_last(tmp_path):
    """After a kill, steps are written again: the later value stands, in order of steps."""
    records = [
        {"phase": "a", "step": s, "loss": v} for s, v in [(1, 9.0), (2, 8.0), (3, 7.0), (2, 5.0), (3, 4.0)]
    ]
    phases, unread = read_phases(RunMetrics("r", written(tmp_path / "m.jsonl", records)))
    steps, values = phases[0].series["loss"]
    assert (steps.tolist(), values.tolist(), unread) == ([1, 2, 3], [9, 5, 4], 0)


def test_phases_keep_their_order_and_their_numbers(tmp_path):
    """Each phase has its own curves; null, text and nested values are no curves."""
    records = [
        *training([1, 2], phase="teacher"),
        {"phase": "student", "step": 1, "loss": 2.0, "note": "x", "val_iou": {"road": 0.5}, "loss_kd": None},
        {"phase": "student", "step": 1, "val_miou": 0.25},
    ]
    phases, _ = read_phases(RunMetrics("r", written(tmp_path / "m.jsonl", records), seed=3))
    assert [(phase.name, phase.seed, sorted(phase.series)) for phase in phases] == [
        ("teacher", 3, ["loss", "lr"]),
        ("student", 3, ["loss", "val_miou"]),
    ]


def test_half_a_line_is_left_out_and_said(tmp_path):
    """A killed run may end in half a line: the rest is read, and the card says what was left out."""
    path = written(tmp_path / "m.jsonl", training(range(1, 9)), tail='\n[1]\n{"phase": "stu')
    phases, unread = read_phases(RunMetrics("r", path))
    assert len(phases[0].series["loss"][0]) == 8
    assert unread == 2
    assert (
        "2 unreadable line(s) of metrics.jsonl were left out."
        in draw_curves([RunMetrics("r", path)])[0].remarks
    )


def test_missing_parts_are_said(tmp_path):
    """No validation, no losses, nothing at all and no file: three remarks and one sentence."""
    plain = draw_curves([RunMetrics("r", written(tmp_path / "a.jsonl", training([1, 2])))])
    assert [card.remarks for card in plain] == [["No validation was run."]]
    rates = written(tmp_path / "b.jsonl", [{"phase": "p", "step": 1, "lr": 0.1}])
    assert draw_curves([RunMetrics("r", rates)])[0].remarks == [
        "No losses were logged.",
        "No validation was run.",
    ]
    nothing = draw_curves([RunMetrics("r", written(tmp_path / "c.jsonl", []))])
    assert [(card.title, card.remarks) for card in nothing] == [
        ("r", ["This run has written no metrics yet."])
    ]
    with pytest.raises(ValueError, match="no curves of 'r' at .*none.jsonl: give the run's metrics.jsonl"):
        draw_curves([RunMetrics("r", tmp_path / "none.jsonl")])


def test_a_card_shows_each_term_by_name(tmp_path):
    """Losses, validation and kept shares are drawn and named; seeds of one name share one card."""
    records = training(range(1, 40), loss_sup=0.5, loss_kd=0.25, kept_tiles=0.75)
    records += [
        {"phase": "student", "step": 20, "val_miou": 0.5},
        {"phase": "student", "step": 39, "val_miou": 0.4},
    ]
    path = written(tmp_path / "m.jsonl", records)
    (card,) = draw_curves([RunMetrics("stage 2", path, 0), RunMetrics("stage 2", path, 1)])
    named = {"total", "sup", "kd", "tiles", "loss", "val mIoU, %", "kept, %", "step", "best 50.0, 50.0"}
    assert named <= texts(card)
    assert card.title == "stage 2: student, 2 seeds"
    assert card.remarks == []
    assert "best 50.0, 50.0" in ElementTree.fromstring(str(card.figure)).attrib["aria-label"]


def test_terms_of_very_different_size_get_a_logarithmic_axis(tmp_path):
    """A term a thousand times smaller is read on powers of ten; similar terms keep a linear axis."""
    small = written(tmp_path / "a.jsonl", training(range(1, 9), loss_ewc=1e-4))
    alike = written(tmp_path / "b.jsonl", training(range(1, 9), loss_kd=0.5))
    powers = {"0.001", "0.01", "0.1"}
    assert powers <= texts(draw_curves([RunMetrics("r", small)])[0])
    assert not powers <= texts(draw_curves([RunMetrics("r", alike)])[0])


def test_equal_runs_give_equal_bytes(tmp_path):
    """A figure has no date and no chance in it."""
    path = written(tmp_path / "m.jsonl", training(range(1, 30), loss_sup=0.5))
    assert draw_curves([RunMetrics("r", path)])[0].figure == draw_curves([RunMetrics("r", path)])[0].figure


@given(values_lists, st.integers(1, 40))
def test_thin_averages_neighbours(values, limit):
    """Groups of ceil(n / limit) neighbours become their mean; no more than `limit` are left."""
    steps = np.arange(len(values), dtype=float)
    group = -(-len(values) // limit)
    chunks = [slice(i, i + group) for i in range(0, len(values), group)]
    found = thin((steps, np.array(values)), limit)
    np.testing.assert_allclose(found[0], [np.mean(steps[c]) for c in chunks])
    np.testing.assert_allclose(found[1], [np.mean(values[c]) for c in chunks], atol=1e-9)
    assert len(found[0]) <= limit


@given(values_lists, st.integers(1, 100))
def test_smooth_is_a_centred_mean(values, width):
    """Each point is the mean of its neighbours up to half the width on both sides, fewer at the ends."""
    half = (min(width, len(values)) - 1) // 2
    slow = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    np.testing.assert_allclose(smooth(np.array(values), width), slow, atol=1e-9)

"""Tables print what the numbers say: gains against the first row, absent classes as absent, shares by row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.report.content import Evaluation, Row
from mkd.report.tables import confusion_lines, iou_bars, legend, result_lines, worst_confusions

ROWS = [
    Row("base", 0.6107, 0.012, (0, 1), {"road": 0.3917, "water": None, "field": 0.8}),
    Row("worse", 0.55, None, (0,), {"road": 0.3, "water": None, "field": 0.81}),
    Row("ours", 0.7705, 0.004, (0, 1), {"road": 0.653, "water": None}),
]
CLASSES = ("road", "water", "field")


def evaluation(confusion):
    names = [f"c{i}" for i in range(len(confusion))]
    return Evaluation("m", 0.5, dict.fromkeys(names, 0.5), 0.9, np.array(confusion, np.int64), 1)


def test_results_as_printed():
    """Percent with one digit, gains signed against the first row, the best of each column marked."""
    lines = result_lines(ROWS, CLASSES)
    assert [(line.miou.text, line.miou.best) for line in lines] == [
        ("61.1", False),
        ("55.0", False),
        ("77.0", True),
    ]
    assert [line.spread for line in lines] == ["± 1.2", "", "± 0.4"]
    assert [line.gain for line in lines] == ["", "−6.1", "+16.0"]
    assert [line.seeds for line in lines] == ["0, 1", "0", "0, 1"]
    assert [[cell.text for cell in line.iou] for line in lines] == [
        ["39.2", "absent", "80.0"],
        ["30.0", "absent", "81.0"],
        ["65.3", "absent", "–"],
    ]
    assert [[cell.best for cell in line.iou] for line in lines] == [
        [False, False, False],
        [False, False, True],
        [True, False, False],
    ]


def test_a_single_row_is_not_called_best():
    """Nothing is marked where there is nothing to compare."""
    (line,) = result_lines(ROWS[:1], CLASSES)
    assert not line.miou.best
    assert not any(cell.best for cell in line.iou)


def test_bars_show_absence_not_zero():
    """An absent class has no bar and says so; the mean comes first; a true zero is a zero."""
    bars = iou_bars([*ROWS, Row("zero", 0.0, iou={"road": 0.0}), Row("untold", 0.9)], CLASSES)
    assert list(bars) == ["mIoU", "road", "water", "field"]
    assert [(b.length, b.text) for b in bars["water"]] == [(None, "absent")] * 4
    assert [(b.name, b.length) for b in bars["road"]][-2:] == [("ours", 65.3), ("zero", 0.0)]
    assert bars["road"][-1].text == "0.0"
    assert len({b.colour for b in bars["mIoU"]}) == 4


def test_confusion_by_hand():
    """Shares are of the true class, counts stand in the title, an absent class has no cells."""
    lines = confusion_lines(evaluation([[750, 250, 0], [0, 0, 0], [1, 0, 1999]]))
    assert [[cell.text for cell in line.cells] for line in lines] == [["75", "25", ""], [], ["0", "", "100"]]
    assert [line.pixels for line in lines] == ["1,000", "0", "2,000"]
    assert lines[0].cells[1].title == "truth c0, predicted c1: 250 pixels, 25.00 %"
    assert [cell.diagonal for cell in lines[2].cells] == [False, False, True]


@given(st.lists(st.lists(st.integers(0, 10**9), min_size=4, max_size=4), min_size=4, max_size=4))
def test_confusion_takes_any_counts(confusion):
    """Every class has a line, cells unless it is absent, and the darker the cell the larger the share."""
    for line, counts in zip(confusion_lines(evaluation(confusion)), confusion, strict=True):
        assert len(line.cells) == (4 if sum(counts) else 0)
        assert all(cell.dark == (n > 0.75 * sum(counts)) for cell, n in zip(line.cells, counts, strict=False))


def test_the_largest_errors_are_told():
    """Off-diagonal shares in falling order, at most three, none under two percent."""
    found = worst_confusions(evaluation([[80, 20, 0], [30, 70, 0], [1, 0, 99]]))
    assert found == ["30 % of c1 is taken for c0", "20 % of c0 is taken for c1"]
    assert worst_confusions(evaluation([[1, 0], [0, 0]])) == []


def test_legend_pairs_names_and_colours():
    """One colour a class, or it is refused."""
    assert legend(("a", "b"), ((0, 0, 0), (255, 0, 1))) == [("a", "#000000"), ("b", "#ff0001")]
    with pytest.raises(ValueError, match="zip"):
        legend(("a",), ())

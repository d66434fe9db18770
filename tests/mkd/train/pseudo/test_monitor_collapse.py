"""What makes a collapse of the pseudo-labels, what is logged of it, and when a run goes back."""

import pytest

from mkd.teacher.api import TeacherStats
from mkd.train.pseudo.monitor import ROLLBACKS, ROWS, Collapsed, PseudoLabelMonitor
from tests.helpers.processes.threads import on_threads
from tests.helpers.shards import CLASSES
from tests.helpers.training.runs import CPU
from tests.mkd.train.pseudo.answers import EMPTY, HEALTHY, TAKEN, answer, monitor_with, rows


@pytest.mark.parametrize("bad", [TAKEN, EMPTY, answer((1, 1), size=2000)])
def test_a_collapse_is_logged_once(bad, caplog):
    """One class, or almost nothing kept, in ROWS rows in a row: one warning; again only after a recovery."""
    monitor = monitor_with()
    rows(monitor, *[bad] * (ROWS - 1), HEALTHY, *[bad] * (ROWS - 1))
    assert caplog.messages == []
    rows(monitor, *[bad] * 10)
    assert len(caplog.messages) == 1
    rows(monitor, HEALTHY, *[bad] * ROWS)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("warning: the pseudo-labels have collapsed: in 5 rows")


def test_a_warning_names_class_and_shares(caplog):
    """The sentence has the class, its share and the labelled set's, or the kept share and the floor."""
    monitor = monitor_with()
    rows(monitor, *[TAKEN] * ROWS, HEALTHY, *[EMPTY] * ROWS)
    assert "'field' has 100.0% of the kept pixels and 30.0% of the labelled ones" in caplog.messages[0]
    assert "0.00% of the pixels were kept (less than 0.1%)" in caplog.messages[1]


@pytest.mark.parametrize(
    ("histogram", "classes", "collapsed"),
    [
        ((79, 21, 0), [(0, 96), (1, 4)], True),
        ((80, 20, 0), [(0, 96), (1, 4)], False),  # the labelled set is like this
        ((79, 21, 0), [(0, 95), (1, 5)], False),  # not more than 0.95
        ((80, 20, 0), [(1, 96), (0, 4)], True),  # another class than the labelled set's
    ],
)
def test_where_a_class_has_taken_over(histogram, classes, collapsed, caplog):
    """More than 0.95 of the kept pixels, of a class with less than 0.8 of the labelled ones."""
    monitor = monitor_with(histogram)
    rows(monitor, *[answer(*classes)] * ROWS)
    assert bool(caplog.messages) is collapsed


def test_the_floor_itself_is_enough(caplog):
    """A kept share of exactly 0.001 is no collapse; that it is little is said once, with what helps."""
    monitor = monitor_with()
    rows(monitor, *[answer((0, 1), (1, 1), size=2000)] * 3 * ROWS)
    assert caplog.messages == [
        "warning: 0.1% of the pixels get a pseudo-label, so little is learned from them; lower semi.confidence, or "
        "train the start longer, in a new run folder"
    ]


@pytest.mark.parametrize(("kept", "said"), [(9, True), (10, False)])
def test_few_pseudo_labels_are_said(kept, said, caplog):
    """Below a tenth of the pixels, in ROWS rows in a row."""
    monitor = monitor_with()
    few = answer((0, kept // 2), (1, kept - kept // 2))
    rows(monitor, *[few] * (ROWS - 1))
    assert caplog.messages == []
    rows(monitor, few)
    assert bool(caplog.messages) is said


def test_a_control_is_no_collapse(caplog):
    """With semi.weight=0 or a confidence of 1 nothing is kept on purpose."""
    monitor = PseudoLabelMonitor(CLASSES, (30, 50, 20), TeacherStats(), CPU, control=True)
    rows(monitor, *[EMPTY] * 3 * ROWS)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("bad", "advice"), [(EMPTY, "lower semi.confidence"), (TAKEN, "raise semi.confidence")]
)
def test_the_advice_fits_the_collapse(bad, advice, caplog):
    """Next to nothing kept is no reason for a higher threshold."""
    rows(monitor_with(), *[bad] * ROWS)
    assert advice in caplog.messages[0]


def test_rollback_needs_a_good_checkpoint(caplog):
    """With one the run is to go back, without one it is warned and goes on."""
    monitor = monitor_with(good=lambda: False)
    rows(monitor, *[TAKEN] * ROWS)
    assert "no good checkpoint" in caplog.messages[0]
    monitor = monitor_with(good=lambda: True)
    with pytest.raises(Collapsed, match="'field'"):
        rows(monitor, *[TAKEN] * ROWS)


def test_too_many_rollbacks_end_the_run():
    """After the third rollback the next collapse is a sentence for the user."""
    monitor = monitor_with(good=lambda: True)
    monitor.load_state_dict({**monitor.state_dict(), "rollbacks": ROLLBACKS})
    with pytest.raises(ValueError, match="after 3 rollbacks; raise semi.confidence"):
        rows(monitor, *[TAKEN] * ROWS)


def test_what_is_kept_to_go_back_to():
    """A state is good while no row was bad; without rollback none is kept."""
    monitor = monitor_with(good=lambda: True)
    assert monitor.is_healthy
    rows(monitor, TAKEN)
    assert not monitor.is_healthy
    rows(monitor, HEALTHY)
    assert monitor.is_healthy
    assert not monitor_with().is_healthy


def test_the_weight_is_halved_by_rollbacks():
    """w_u is taken times 1, 1/2, 1/4, 1/8."""
    monitor = monitor_with()
    for rollbacks, factor in enumerate((1.0, 0.5, 0.25, 0.125)):
        monitor.load_state_dict({**monitor.state_dict(), "rollbacks": rollbacks})
        assert monitor.weight_factor == factor


@pytest.mark.parametrize("kill", range(1, 8))
def test_goes_on_from_a_checkpoint(kill, caplog):
    """Killed after any row and started again, the collapse is logged at the same row."""
    answers = [HEALTHY, EMPTY, HEALTHY, *[TAKEN] * 3, *[EMPTY] * 4]
    monitor = monitor_with()
    rows(monitor, *answers[:kill])
    again = monitor_with()
    again.load_state_dict(monitor.state_dict())
    rows(again, *answers[kill : 2 + ROWS])
    assert caplog.messages == []
    rows(again, *answers[max(kill, 2 + ROWS) :])
    assert len(caplog.messages) == 1


def test_ranks_decide_as_one(caplog):
    """A collapse that only one rank sees is none; of all ranks together it is one, and the first rank's disk counts."""

    def rank_of(world):
        good = world.is_main
        monitor = monitor_with(good=lambda: good, world=world)
        for _ in range(ROWS):
            rows(monitor, TAKEN if world.is_main else HEALTHY)
        bad_rows = monitor.bad_rows
        for _ in range(ROWS - 1):
            rows(monitor, TAKEN)
        with pytest.raises(Collapsed):
            rows(monitor, TAKEN)
        return bad_rows

    assert on_threads(2, rank_of) == [0, 0]
    assert caplog.messages == []

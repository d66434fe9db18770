"""table= and figure= stand for a file of configs/experiment and a folder of the page."""

import pytest

from mkd.config.load import load, parse
from mkd.config.schema import Experiment


def parsed(*words):
    return parse(Experiment, "experiment", list(words))


def test_a_table_is_a_file_and_a_page():
    """table=N scale=S is experiment=S/tableN with the page in OUT/tableN; what is typed beside it counts."""
    found = parsed("table=3", "scale=demo", "out=x", "seeds=[0,1]")
    named = parsed("experiment=demo/table3", "out=x", "seeds=[0,1]")
    assert (found.name, found.page, found.seeds, found.out) == ("demo/table3", "table3", [0, 1], "x")
    assert (found.rows, found.runs, found.test) == (named.rows, named.runs, named.test)
    assert parsed("table=3", "page=mine").page == "mine"


def test_the_scale_is_demo_unless_it_is_said():
    """Without scale= a table is the one that runs at once."""
    assert parsed("table=2").name == "demo/table2"
    assert parsed("figure=1").figure == 1


def test_an_experiment_by_its_name_keeps_its_folder():
    """experiment=NAME writes into OUT itself, as before there were tables by number."""
    assert parsed("experiment=real/table2", "out=x").page is None
    assert parsed("table=2", "scale=real", "out=x").page == "table2"


@pytest.mark.parametrize("page", ["..", "a/b", "stage1"])
def test_a_page_is_a_folder_of_its_own(tmp_path, page):
    """The results never come into a run's folder, nor beside OUT."""
    with pytest.raises(ValueError, match=f"page={page}: give a name for a folder of OUT"):
        load(Experiment, "experiment", ["table=3", f"out={tmp_path}", f"page={page}"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["table=9"], r"table=9 scale=demo is not there; choose one of demo/figure1, .*demo/table1, "),
        (["table=2", "scale=huge"], r"table=2 scale=huge is not there; choose one of"),
        (["table=1", "scale=real", "out=x"], r"table=1 scale=real is not there; choose one of .*real/table2"),
        (["table=2", "figure=1"], r"table=2, figure=1: give one of table=, figure= and experiment="),
        (["table=2", "experiment=demo"], r"table=2, experiment=demo: give one of"),
        (["scale=demo", "experiment=demo"], r"scale=demo is for table= and figure=; give one of them"),
        (["experiment=demo/base"], r"experiment=demo/base is not there; choose one of"),
    ],
)
def test_what_is_not_there_is_refused(words, sentence):
    """One sentence with what was typed and what there is; what tables share is no table."""
    with pytest.raises(ValueError, match=sentence):
        parsed(*words)

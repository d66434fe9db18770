"""Values of a command: texts as the shell gives them, other types by their grammar, quotes of old commands."""

import os

import pytest

from mkd.benchmarks.settings import ScalingRun
from mkd.config.comparison import difference
from mkd.config.load import from_yaml, load, parse, to_yaml
from mkd.config.schema import EvaluateRun, Experiment, KdRun, PredictRun, SemiRun, SupervisedRun, TeacherServe

NAMES = [
    *("s3://b/date=2021-05-01/x", "洱海", "télé", "R&D (copy)", "map #2.tif", "a,b", "007", "1e5", "0x1"),
    *(
        "$HOME",
        "${HOME}",
        "${a",
        "{x}",
        " lead",
        "trail ",
        "it's",
        'say "hi"',
        '"a" and "b"',
        "[a",
        "a]",
        "~",
    ),
    *("a\\b", "x: y", "- a", "*x", "&y", "%z", "@q", "`k`", "!t", "|", "true", "yes", "???", "a\tb"),
    *("./null", "./none", "nullable", "é", "=", "a=b=c"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kind", "script", "key", "others"),
    [
        (KdRun, "kd", "data.labelled", ["out=x"]),  # composed with choices
        (KdRun, "kd", "data.val", ["out=x", "data.labelled=d"]),  # may be null
        (EvaluateRun, "evaluate", "report", ["model=m", "data=d", "out=o"]),
        (TeacherServe, "teacher", "run", []),
    ],
)
def test_a_text_is_what_was_typed(kind, script, key, others, name):
    """Any name arrives sign for sign in every command, is written to YAML, read again and compared as that."""
    config = parse(kind, script, [*others, f"{key}={name}"])
    found = config
    for part in key.split("."):
        found = getattr(found, part)
    assert found == name
    assert from_yaml(kind, to_yaml(config)) == config
    assert difference(to_yaml(config), config) == ""


def test_each_name_in_a_list_is_what_was_typed():
    """A list of texts is cut at its commas; quotes hold a comma, and one value needs no brackets."""
    for typed, found in {
        "[a b.tif,洱海.tif]": ["a b.tif", "洱海.tif"],
        "['a,b.tif',c #2.tif]": ["a,b.tif", "c #2.tif"],
        "[s3://b/date=1/x, it's.tif]": ["s3://b/date=1/x", "it's.tif"],
        "a,b.tif": ["a,b.tif"],
        "[]": [],
    }.items():
        assert parse(PredictRun, "predict_map", ["model=m", "output=o", f"input={typed}"]).input == found
    semi = ["out=x", "data.labelled=d", "semi.start=s"]
    for typed in ("[n1:5000,[::1]:5001]", "['n1:5000','[::1]:5001']"):
        found = parse(SemiRun, "semi", [*semi, f"teacher.endpoints={typed}"]).teacher.endpoints
        assert found == ["n1:5000", "[::1]:5001"]


@pytest.mark.parametrize("typed", ['"a b"', "'a b'"])
def test_quotes_of_old_commands(typed):
    """Quotes about the whole value are not a part of it, as when they were needed."""
    assert parse(SemiRun, "semi", ["out=x", "data.labelled=d", f"semi.start={typed}"]).semi.start == "a b"
    assert parse(SemiRun, "semi", ["out=x", "data.labelled='d'", "semi.start=s", "steps='7'"]).steps == 7


def test_null_and_none():
    """null is no value where there may be none; a key that needs one, and the word none, say what to write."""
    base = ["out=x", "data.labelled=d"]
    for typed in ("null", "NULL"):
        assert parse(KdRun, "kd", [*base, "data.val=v", f"data.val={typed}"]).data.val is None
    assert parse(KdRun, "kd", [*base, "steps=3", "steps=null"]).steps is None
    with pytest.raises(ValueError, match=r"data.labelled=null: null means no value, .*\./null"):
        parse(KdRun, "kd", ["out=x", "data.labelled=null"])
    with pytest.raises(ValueError, match=r"data.val=none: for no value write data.val=null; .*\./none"):
        parse(KdRun, "kd", [*base, "data.val=none"])
    with pytest.raises(ValueError, match="data.val= is empty"):
        parse(KdRun, "kd", [*base, "data.val="])
    with pytest.raises(ValueError, match="not UTF-8"):
        parse(KdRun, "kd", [*base, "data.val=" + os.fsdecode(b"t\xe9l\xe9")])


def test_numbers_lists_and_mappings():
    """They have their types; what cannot be read is one sentence with the argument."""
    found = parse(ScalingRun, "scaling", ["achieved={h100: 300, h200: 2.5}", "gpus=[8, 64]", "ranks=1"])
    assert (found.achieved, found.gpus, found.ranks) == ({"h100": 300.0, "h200": 2.5}, [8, 64], [1])
    for wrong in ("ranks=[1,x]", "ranks=[1", "gpus=[1,,2]", "crop=null", "achieved={h100"):
        with pytest.raises(ValueError, match=r"\w") as caught:
            parse(ScalingRun, "scaling", [wrong])
        assert wrong.split("=")[0] in str(caught.value)
        assert "\n" not in str(caught.value)


def test_declined_weights_mean_a_random_start(tmp_path):
    """model.pretrained=null without student_init starts from random weights; imagenet by name is refused."""
    (tmp_path / "index.json").touch()
    base = [f"out={tmp_path}/run", f"data.labelled={tmp_path}", "model=lite0"]
    assert load(SupervisedRun, "supervised", base).student_init == "imagenet"
    assert load(SupervisedRun, "supervised", [*base, "model.pretrained=null"]).student_init == "random"
    for asked in (["model.pretrained=null", "student_init=imagenet"], ["model=resnet101_ibn_a"]):
        with pytest.raises(ValueError, match="needs model.pretrained"):
            load(SupervisedRun, "supervised", [*base, *asked])


def test_an_experiment_of_ones_own(tmp_path):
    """A YAML file is taken by its path, named after the file; what it lacks or has too much is one sentence."""
    path = tmp_path / "mine #1.yaml"
    path.write_text(
        "test: '{data}/t'\nruns: {base: {script: supervised, overrides: [steps=1]}}\nrows: {Base: base}\n"
    )
    found = parse(Experiment, "experiment", [f"experiment={path}", f"out={tmp_path}/x y", "seeds=[1,2]"])
    assert (found.name, found.out, found.seeds) == ("mine #1", f"{tmp_path}/x y", [1, 2])
    assert found.runs["base"].overrides == ["steps=1"]
    for text, word in (("rws: {}", "rws"), ("[", "mine"), ("defaults: []", "defaults"), ("", "give keys")):
        path.write_text(text)
        with pytest.raises(ValueError, match=word):
            parse(Experiment, "experiment", [f"experiment={path}", "out=x"])
    with pytest.raises(ValueError, match="no such file"):
        parse(Experiment, "experiment", ["experiment=gone.yaml", "out=x"])
    with pytest.raises(ValueError, match=r"give experiment=.*demo"):
        parse(Experiment, "experiment", ["out=x"])


@pytest.mark.parametrize("typed", ["+model=lite0", "++model=lite0", "~model"])
def test_prefixes_have_a_sentence(typed):
    """Hydra's prefixes are refused in words of this program."""
    with pytest.raises(ValueError, match="keys are neither added nor removed; write it without"):
        parse(SupervisedRun, "supervised", [typed])

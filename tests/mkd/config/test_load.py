"""From command line to schema object: every mistake stops before data is opened and names key and fix."""

import re
from dataclasses import asdict

import pytest

from mkd.benchmarks.settings import CostRun
from mkd.config.load import from_yaml, load, main, to_yaml
from mkd.config.schema import EvaluateRun, Experiment, KdRun, SemiRun, SupervisedRun


@pytest.fixture
def base(tmp_path):
    """Overrides of a good run on a data set that would fail when opened: its index is empty."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "index.json").touch()
    return [f"out={tmp_path / 'run'}", f"data.labelled={data}"]


def refusal(kind, name, argv):
    """Return the sentence that refuses these arguments."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        load(kind, name, argv)
    text = str(caught.value)
    assert "\n" not in text
    assert "index.json cannot be read" not in text
    return text


def test_values_arrive_with_their_types(base):
    """Overrides land where they belong, as the schema's types; the rest keeps its default."""
    run = load(KdRun, "kd", [*base, "optim.lr=1", "steps=7", "kd.teacher_tunes=head", "data.scale=[1,2]"])
    assert (run.optim.lr, type(run.optim.lr)) == (1.0, float)
    assert (run.steps, run.kd.teacher_tunes, list(run.data.scale)) == (7, "head", [1.0, 2.0])
    assert (run.model.backbone, run.optim.momentum) == ("hrnet_w48", 0.9)


def test_a_model_choice_can_be_adjusted(base):
    """model=NAME takes a file of configs/model, and single values on top of it."""
    run = load(SupervisedRun, "supervised", [*base, "model=lite0", "model.aspp_channels=32"])
    assert (run.model.backbone, run.model.aspp_channels) == ("tf_efficientnet_lite0", 32)
    assert run.model.decoder == "fpn"


def test_the_number_of_classes_is_a_value(tmp_path):
    """classes=6 sets a number, although class files lie in configs/datasets."""
    assert load(CostRun, "cost", ["model=hrnet_w48_psa", "size=1024", "classes=6"]).classes == 6


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("optim.lrr=1", "optim.lr"),
        ("optm.lr=1", "optim.lr"),
        ("epohs=3", "epochs"),
        ("data.labeled=x", "data.labelled"),
        ("kd.temprature=3", "kd.temperature"),
    ],
)
def test_typo_names_the_nearest_key(base, typo, meant):
    """An unknown key is named together with the one that was probably meant."""
    text = refusal(KdRun, "kd", [*base, typo])
    assert text.startswith(f"unknown key '{typo.split('=')[0]}'")
    assert re.search(rf"did you mean .*\b{re.escape(meant)}\b", text)


@pytest.mark.parametrize("argument", ["foo=1", "+foo=1", "+optim.foo=1", "++foo=1", "~foo"])
def test_unknown_key_is_never_taken(base, argument):
    """A key that the schema does not have is refused, with Hydra's prefixes too."""
    assert "foo" in refusal(SupervisedRun, "supervised", [*base, argument])


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        ("optim.lr=fast", "Float"),
        ("steps=1.5", "Integer"),
        ("data.crop=big", "Integer"),
        ("data.aerial=maybe", "bool"),
        ("data.scale=3", "int is not"),
    ],
)
def test_wrong_type_names_key_value_and_type(base, argument, kind):
    """A value of another type is refused with what was typed and what is wanted."""
    text = refusal(SupervisedRun, "supervised", [*base, argument])
    assert text.startswith(f"{argument}: ")
    assert kind in text


@pytest.mark.parametrize("argument", ["data.scale=[1]", "data.scale=[0.5,1,2]"])
def test_wrong_length_is_refused(base, argument):
    """A range has two ends."""
    assert "data.scale" in refusal(SupervisedRun, "supervised", [*base, argument])


def test_wrong_type_where_hydra_does_not_compose(tmp_path):
    """Entry scripts without choices say as much: the value typed, not a placeholder."""
    text = refusal(EvaluateRun, "evaluate", ["model=m", "data=d", "out=o", "batch=many"])
    assert text.startswith("batch=many: ")
    assert "$" not in text


@pytest.mark.parametrize(
    ("kind", "name", "keys"),
    [
        (SupervisedRun, "supervised", ["data.labelled", "out"]),
        (KdRun, "kd", ["data.labelled", "out"]),
        (SemiRun, "semi", ["data.labelled", "out", "semi.start"]),
        (EvaluateRun, "evaluate", ["data", "model", "out"]),
    ],
)
def test_missing_values_are_listed(kind, name, keys):
    """All missing values are named at once, in the form to type."""
    assert refusal(kind, name, []) == "missing value: give " + ", ".join(f"{k}=..." for k in keys)


@pytest.mark.parametrize("argument", ["optim.lr", "--help", "lr 3"])
def test_an_argument_without_equals_sign(base, argument):
    """What is not KEY=VALUE is refused with an example."""
    assert refusal(SupervisedRun, "supervised", [*base, argument]) == (
        f"argument '{argument}' is not KEY=VALUE; write for example out=runs/first"
    )


def test_unknown_choice_lists_the_choices(base):
    """model=NAME without such a file lists the files there are; so does experiment=."""
    text = refusal(SupervisedRun, "supervised", [*base, "model=resnet9"])
    assert "resnet9" in text
    assert all(name in text for name in ("lite0", "hrnet_w48_psa", "resnet101"))
    text = refusal(Experiment, "experiment", ["out=x", "experiment=paper"])
    assert "paper" in text
    assert "demo" in text


def test_semi_takes_no_network(base):
    """The semi-supervised stage has the architecture of semi.start, so model= is refused by name."""
    assert "model" in refusal(SemiRun, "semi", [*base, "semi.start=x", "model=lite0"])


def test_broken_brackets_are_one_sentence(base):
    """A value that cannot be parsed is refused with the value, without a traceback."""
    assert "[1" in refusal(SupervisedRun, "supervised", [*base, "data.scale=[1"])


def test_yaml_round_trip(base):
    """What to_yaml writes, from_yaml reads to the same config, and writing it again gives the same text."""
    argv = [*base, "model=lite0", "optim.lr=3e-4", "steps=5", "kd.tiles=labelled", "optim.clip=1"]
    run = load(KdRun, "kd", argv)
    text = to_yaml(run)
    again = from_yaml(KdRun, text)
    assert asdict(again) == asdict(run)
    assert to_yaml(again) == text


def test_yaml_holds_every_key(base):
    """The written config is resolved: defaults are in it, nothing is left to look up."""
    text = to_yaml(load(SupervisedRun, "supervised", base))
    for part in ("lr: 0.001", "min_kept: 0.0625", "backbone: hrnet_w48", "steps: null", "seed: 0"):
        assert part in text
    assert "${" not in text
    assert "???" not in text


def test_loading_leaves_nothing_behind(base):
    """Two loads in one process do not see each other's overrides or choices."""
    load(KdRun, "kd", [*base, "model=lite0", "optim.lr=9"])
    assert load(KdRun, "kd", base).optim.lr == 1e-3
    assert load(CostRun, "cost", ["model=lite0"]).model.backbone == "tf_efficientnet_lite0"
    assert load(CostRun, "cost", []).model.backbone == "hrnet_w48"


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ValueError("the tile is bad"), 2, "kd: the tile is bad\n"),
        (OSError(28, "No space left on device"), 2, "kd: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "kd: stopped; run the same command again"),
    ],
)
def test_an_entry_script_ends_with_one_sentence(base, capsys, error, status, sentence):
    """A user's mistake, a full disk and Ctrl-C end in one line on stderr and a status, not in a traceback."""

    def work(config):
        raise error

    with pytest.raises(SystemExit) as end:
        main(KdRun, "kd", work, [*base, "model=lite0"])
    out, err = capsys.readouterr()
    assert end.value.code == status
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    assert out == ""


def test_an_entry_script_hides_no_mistake_of_ours(base):
    """An error that is not the user's keeps its traceback."""

    def work(config):
        raise KeyError("ours")

    with pytest.raises(KeyError):
        main(KdRun, "kd", work, [*base, "model=lite0"])


@pytest.mark.parametrize(
    "argument",
    ["optim.lr=" + "x" * 5000, "steps=[" + "'a'," * 900 + "'b']", "k" * 5000 + "=1", "model=" + "m" * 5000],
)
def test_a_message_repeats_a_long_value_in_part_only(base, argument):
    """A pasted file is no reason for a message of 5,000 characters; nor may its signs act on a terminal."""
    assert 20 < len(refusal(SupervisedRun, "supervised", [*base, argument])) < 1200
    assert "\x1b" not in refusal(SupervisedRun, "supervised", [*base, "steps=\x1b[31m1"])

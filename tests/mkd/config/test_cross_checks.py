"""Paths, ranges, choices and pairs: checked before data is opened, with the key and the fix."""

import pytest

from mkd.benchmarks.settings import CostRun
from mkd.config.load import load
from mkd.config.schema import EvaluateRun, Experiment, KdRun, PredictRun, SemiRun, SupervisedRun, TeacherLabel


@pytest.fixture
def folders(tmp_path):
    """A data set, a model folder and a raster by name; all are empty files, so that opening one would fail."""
    for file in ("data/index.json", "model/model.yaml", "model/model.safetensors", "scene.tif"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "empty").mkdir()
    return {name: str(tmp_path / name) for name in ("data", "model", "scene.tif", "empty", "gone", "run")}


KINDS = {"supervised": SupervisedRun, "kd": KdRun, "semi": SemiRun}


def arguments(name, f):
    common = [f"out={f['run']}", f"data.labelled={f['data']}"]
    if name == "semi":
        return [*common, f"semi.start={f['model']}", f"data.unlabelled={f['data']}"]
    return [*common, "model=lite0"]


def refusal(kind, name, argv):
    with pytest.raises(ValueError, match=r"\w") as caught:
        load(kind, name, argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(name, f, *overrides):
    filled = [o.format(**{k.split(".")[0]: v for k, v in f.items()}) for o in overrides]
    return refusal(KINDS[name], name, [*arguments(name, f), *filled])


@pytest.mark.parametrize("name", KINDS)
def test_each_stage_makes_these_checks(folders, name):
    """Baseline, distillation and the semi-supervised stage alike."""
    assert refused(name, folders, "data.crop=16").startswith("data.crop=16;")
    assert refused(name, folders, "data.val={gone}").startswith("data.val=")


@pytest.mark.parametrize("name", KINDS)
def test_good_runs_pass(folders, name):
    """The base that the other tests spoil is itself accepted."""
    assert load(KINDS[name], name, arguments(name, folders)).data.labelled == folders["data"]


@pytest.mark.parametrize("key", ["data.labelled", "data.unlabelled", "data.val"])
def test_a_url_is_left_to_the_reader(folders, key):
    """A data set behind a URL is no folder that could be looked for; no server is asked before the run starts."""
    found = load(SemiRun, "semi", [*arguments("semi", folders), f"{key}=s3://bucket/tiles"])
    assert getattr(found.data, key.removeprefix("data.")) == "s3://bucket/tiles"


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("data.labelled={gone}", "shards pack|tile"),
        ("data.labelled={empty}", "not a data set"),
        ("data.val={gone}", "shards pack|tile"),
        ("data.unlabelled={gone}", "shards pack|tile"),
        ("data.batch=0", "at least 1"),
        ("data.crop=16", "at least 32"),
        ("data.workers=-1", "at least 0"),
        ("data.max_bad=1.5", "[0, 1]"),
        ("data.max_bad=-0.1", "[0, 1]"),
        ("data.cache_gib=0", "> 0"),
        ("data.scale=[2,1]", "low <= high"),
        ("data.scale=[0,1]", "0 < low"),
        ("optim.name=adam", "sgd, adamw"),
        ("optim.lr=0", "> 0"),
        ("optim.lr=nan", "finite"),
        ("epochs=0", "> 0"),
        ("steps=0", "at least 1"),
        ("log_every=0", "at least 1"),
        ("save_every=0", "at least 1"),
        ("val_every=0", "at least 1"),
        ("data.micro=0", "at least 1"),
        ("keep=0", "at least 1"),
        ("keep_every=0", "multiple of save_every=200"),
        ("keep_every=300", "multiple of save_every=200"),
        ("engine=zero3", "auto, plain, ddp, zero1, zero2"),
        ("ohem.threshold=1.5", "[0, 1]"),
        ("ohem.min_kept=-0.1", "[0, 1]"),
        ("optim.momentum=1", "[0, 1)"),
        ("optim.weight_decay=-1", ">= 0"),
        ("optim.clip=-1", "> 0"),
        ("optim.head_factor=-1", "> 0"),
        ("seed=-1", "at least 0"),
    ],
)
def test_every_run(folders, override, fix):
    """A path that is not there and a value out of range stop a run, naming key, value and what is allowed."""
    text = refused("semi", folders, override)
    assert text.startswith(override.split("=")[0] + "=")
    assert fix in text


@pytest.mark.parametrize(
    ("overrides", "key", "fix"),
    [
        (["student_init=imagenet", "model.pretrained=null"], "student_init=imagenet", "model.pretrained"),
        (["student_init={gone}"], "student_init=", "model folder"),
        (["student_init=imagnet"], "student_init=imagnet", "imagenet"),
        (["model.psa=full"], "model.psa=full", "none, paper, published"),
        (["model.output_stride=4"], "model.output_stride=4", "8, 16, 32"),
        (["model.pretrained=gone.safetensors"], "model.pretrained=gone.safetensors", "no such file"),
        (["model.pretrained=gone/weights.pth"], "model.pretrained", ".safetensors"),
        (["model=hrnet_w48", "model.pretrained=bundled"], "model.pretrained", "tf_efficientnet_lite0"),
    ],
)
def test_supervised(folders, overrides, key, fix):
    """The baseline's start and network are checked together."""
    text = refused("supervised", folders, *overrides)
    assert key in text
    assert fix in text


@pytest.mark.parametrize(
    ("overrides", "key", "fix"),
    [
        (["model.pretrained=null"], "kd.source=null", "give model.pretrained"),
        (
            ["kd.source={model}", "model.pretrained=null", "kd.student_init=imagenet"],
            "kd.student_init=imagenet",
            "needs model.pretrained",
        ),
        (["kd.tiles=all"], "kd.tiles=all", "give data.unlabelled or kd.tiles=labelled"),
        (["kd.tiles=every"], "kd.tiles=every", "labelled, all"),
        (["kd.source={gone}"], "kd.source=", "model folder"),
        (["kd.source={empty}"], "kd.source=", "no model.yaml"),
        (["kd.source_data={gone}"], "kd.source_data=", "no such folder"),
        (["kd.source_data={data}"], "kd.source_data=", "kd.source"),
        (["kd.teacher_tunes=all"], "kd.teacher_tunes=all", "null, classifier, head"),
        (["kd.student_init=zero"], "kd.student_init=zero", "random, imagenet, teacher"),
        (["kd.anchor=source"], "kd.anchor=source", "teacher, init"),
        (["kd.temperature=0"], "kd.temperature=0", "> 0"),
        (["kd.teacher_epochs=0"], "kd.teacher_epochs=0", "> 0"),
        (["kd.teacher_lr=0"], "kd.teacher_lr=0", "> 0"),
        (["kd.fisher_tiles=0"], "kd.fisher_tiles=0", "at least 1"),
        (["kd.weight=-1"], "kd.weight=-1", ">= 0"),
        (["kd.ewc_weight=-1"], "kd.ewc_weight=-1", ">= 0"),
    ],
)
def test_distillation(folders, overrides, key, fix):
    """A stage without a source of knowledge, without the tiles it asks for, or with a value out of range stops."""
    text = refused("kd", folders, *overrides)
    assert key in text
    assert fix in text


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("data.unlabelled=null", "unlabelled tiles"),
        ("semi.start={gone}", "model folder"),
        ("semi.confidence=1.1", "[0, 1]"),
        ("semi.drop_start=1", "[0, 1)"),
        ("semi.drop_end=-0.1", "[0, 1)"),
        ("semi.tile_entropy=2", "[0, 1]"),
        ("semi.ema_decay=1", "[0, 1)"),
        ("semi.weight=-1", ">= 0"),
        ("semi.result=both", "student, teacher"),
        ("semi.on_collapse=stop", "warn, rollback"),
        ("teacher=local", "did you mean teacher.kind"),
        ("teacher.kind=remote", "local, service, offline"),
        ("teacher.kind=offline", "data.pseudo="),
        ("data.pseudo={data}", "teacher.kind=offline"),
        ("data.pseudo={gone}", "shards pack|tile"),
        ("teacher.kind=service", "teacher.endpoints=[HOST:PORT,...]"),
        ("teacher.endpoints=[here:1]", "teacher.kind=service"),
        ("teacher.depth=-1", "at least 0"),
        ("teacher.sync_every=0", "at least 1"),
        ("teacher.max_age=-1", "at least 0"),
        ("teacher.patience=0", "> 0"),
        ("teacher.fallback=remote", "none, local"),
        ("teacher.tls_ca={gone}", "PEM"),
    ],
)
def test_semi_supervised(folders, override, fix):
    """The semi-supervised stage needs unlabelled tiles, a start, and filters in their range."""
    text = refused("semi", folders, override)
    assert override.split("=")[0] in text
    assert fix in text


def test_offline_labels_stand_in_for_unlabelled_tiles(folders):
    """teacher.kind=offline takes data.pseudo alone; beside data.unlabelled it is refused, and for other stages too."""
    offline = ["teacher.kind=offline", "data.pseudo={data}"]
    given = [o.format(data=folders["data"]) for o in offline]
    config = load(SemiRun, "semi", [*arguments("semi", folders), *given, "data.unlabelled=null"])
    assert config.data.pseudo == folders["data"]
    assert "alone" in refused("semi", folders, *offline)
    assert "launch/semi.py" in refused("supervised", folders, "data.pseudo={data}")


@pytest.mark.parametrize(
    "endpoint", ["here", "here:", "here:0", "here:65536", "here:8o", "grpc://here:1", "::1:8"]
)
def test_endpoints(folders, endpoint):
    """Each of the endpoints is HOST:PORT; the one that is not is named."""
    text = refused("semi", folders, "teacher.kind=service", f"teacher.endpoints=[good:1,{endpoint}]")
    assert f"'{endpoint}' is not HOST:PORT" in text
    twice = refused("semi", folders, "teacher.kind=service", "teacher.endpoints=[good:1,other:1,good:1]")
    assert "names good:1 more than once" in twice
    given = [*arguments("semi", folders), "teacher.kind=service", "teacher.endpoints=[good:1,10.0.0.2:65535]"]
    assert load(SemiRun, "semi", given).teacher.endpoints == ["good:1", "10.0.0.2:65535"]


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("data={gone}", "shards pack|tile"),
        ("model={gone}", "model folder"),
        ("confidence=2", "[0, 1]"),
        ("tile_entropy=-1", "[0, 1]"),
        ("batch=0", "at least 1"),
        ("max_bad=2", "[0, 1]"),
    ],
)
def test_labelling(folders, override, fix):
    """launch/teacher.py label names the key and the fix."""
    ask = [f"data={folders['data']}", f"model={folders['model']}", "out=new"]
    assert load(TeacherLabel, "teacher label", ask).batch == 8
    filled = override.format(gone=folders["gone"])
    text = refusal(TeacherLabel, "teacher label", [*ask, filled])
    assert text.startswith(filled)
    assert fix in text


def test_other_scripts(folders):
    """evaluate, predict_map and throughput name the missing model, data set, raster and an impossible size."""
    f = folders
    ask = [f"model={f['model']}", f"data={f['data']}", "out=r.json"]
    assert load(EvaluateRun, "evaluate", ask).batch == 8
    for bad, fix in ((f"model={f['gone']}", "model folder"), (f"data={f['gone']}", "shards pack|tile")):
        text = refusal(EvaluateRun, "evaluate", [*ask, bad])
        assert text.startswith(bad)
        assert fix in text
    ask = [f"model={f['model']}", f"input={f['scene.tif']}", "output=map.tif"]
    assert load(PredictRun, "predict_map", ask).tile is None
    assert "GeoTIFF" in refusal(PredictRun, "predict_map", [*ask, f"input={f['gone']}"])
    assert refusal(PredictRun, "predict_map", [*ask, "tta=all"]).endswith("choose one of none, flips, d4")
    assert refusal(CostRun, "cost", ["size=8"]).startswith("size=8;")
    assert refusal(CostRun, "cost", ["classes=0"]).startswith("classes=0;")


@pytest.mark.parametrize(("override", "key"), [("seeds=[]", "seeds"), ("parallel=0", "parallel")])
def test_experiment(override, key):
    """A table without seeds or processes is refused by its key."""
    assert refusal(Experiment, "experiment", ["experiment=demo", "out=x", override]).startswith(f"{key}=")

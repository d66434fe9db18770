"""One scene shared by real ranks, by rows: the map of one process, also after a kill."""

import os
import re
import signal

import numpy as np
import pytest

from mkd.config.load import load
from mkd.config.schema import ModelConfig, PredictRun
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.model_folder import ModelCard, save_model
from mkd.models.build import build
from mkd.recipes import factories
from mkd.recipes.mapping.predict_map import predict
from tests.helpers.shards import CLASSES, PALETTE
from tests.helpers.training.runs import finish, once, rank_processes, torchrun

PLACE = (0.5, 0.0, 400000.0, 0.0, -0.5, 5600000.0)
HEIGHT, WIDTH = 368, 80
ROWS, ACROSS = 22, 4  # windows of 32 pixels that overlap by 16

pytestmark = pytest.mark.usefixtures("one_thread")  # bits are compared


@pytest.fixture
def given(tmp_path):
    """What to type for one scene with a hole: model, input and a grid of windows."""
    plan = factories.architecture(ModelConfig("tf_efficientnet_lite0", "fpn", decoder_channels=16))
    card = ModelCard(plan, tuple(CLASSES), tuple(PALETTE), crop=32)
    save_model(tmp_path / "model", build(plan, len(CLASSES), None, seed=0).state_dict(), card)
    pixels = np.random.default_rng(0).integers(1, 255, (HEIGHT, WIDTH, 3), np.uint8)
    pixels[70:140, :60] = 0
    more = {"crs": "EPSG:32632", "transform": PLACE, "nodata": 0}
    with RasterWriter(tmp_path / "s.tif", HEIGHT, WIDTH, 3, "uint8", **more) as writer:
        writer.write(Window(0, 0, HEIGHT, WIDTH), pixels)
    return [f"model={tmp_path}/model", f"input={tmp_path}/s.tif", "device=cpu", "overlap=16", "batch=2"]


def here(given, output, *more):
    """Make a map in this process; return what is said of it."""
    return predict(load(PredictRun, "predict_map", [*given, f"output={output}", *more]))


def stored(path):
    with RasterReader(path) as reader:
        return reader.read(Window(0, 0, HEIGHT, WIDTH))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_two_ranks_make_the_map_of_one(given, tmp_path):
    """Rows of one scene on two ranks: the same pixels, areas and sentence; both predict; nothing else is left."""
    (tmp_path / "one").mkdir()
    said = here(given, tmp_path / "one" / "map.tif", f"areas={tmp_path}/one/areas.csv")
    asked = [*given, f"output={tmp_path}/two/map.tif", f"areas={tmp_path}/two/areas.csv"]
    status, output = finish(torchrun("predict_map", *asked), 200)
    assert status == 0, output
    np.testing.assert_array_equal(stored(tmp_path / "two" / "map.tif"), stored(tmp_path / "one" / "map.tif"))
    assert (tmp_path / "two" / "areas.csv").read_text() == (tmp_path / "one" / "areas.csv").read_text()
    assert said.replace("/one/", "/two/") in output
    assert names(tmp_path / "two") == ["areas.csv", "map.qml", "map.tif", "map.tif.aux.xml"]
    done = {rank: re.search(rf"map, rank {rank}: (\d+) of \1 windows \(100 %\)", output) for rank in (0, 1)}
    # Rank 1 also predicts the row of windows above its own, which reaches into its first band.
    assert [int(found[1]) for found in done.values()] == [ROWS // 2 * ACROSS, (ROWS // 2 + 1) * ACROSS]
    assert "there already" in here(given, tmp_path / "two" / "map.tif")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_job_goes_on_with_any_number_of_ranks(given, tmp_path, capfd, ranks):
    """Finished rows of killed ranks are kept, one process makes the others, and their folder goes."""
    here(given, tmp_path / "whole.tif")
    folder = tmp_path / ".tmp-map.tif.rows"
    job = torchrun("predict_map", *given, f"output={tmp_path}/map.tif", ranks=ranks)

    def ready():
        return folder.is_dir() and len(list(folder.glob("[0-9a-f]*.npz"))) >= 4

    once(job, ready)
    for process in rank_processes(job).values():
        os.kill(process, signal.SIGKILL)
    assert finish(job, 200)[0] != 0
    assert not (tmp_path / "map.tif").exists()
    kept = len(list(folder.glob("[0-9a-f]*.npz")))
    assert 4 <= kept < ROWS
    capfd.readouterr()
    here(given, tmp_path / "map.tif")
    total = int(re.search(r"map: (\d+) of \1 windows", capfd.readouterr().err)[1])
    assert total <= (ROWS - kept + 2) * ACROSS  # and a row above each stretch
    np.testing.assert_array_equal(stored(tmp_path / "map.tif"), stored(tmp_path / "whole.tif"))
    assert not [name for name in names(tmp_path) if name.startswith(".tmp")]


def test_rows_of_another_map_are_not_taken(given, tmp_path):
    """What is left of a map with another window is removed; this map is the one of an empty folder."""
    here(given, tmp_path / "whole.tif")
    folder = tmp_path / ".tmp-map.tif.rows"
    folder.mkdir()
    (folder / f"{'0' * 32}-{0:09d}.npz").write_bytes(b"of another map")
    here(given, tmp_path / "map.tif")
    np.testing.assert_array_equal(stored(tmp_path / "map.tif"), stored(tmp_path / "whole.tif"))
    assert not folder.exists()


def test_each_of_several_scenes_goes_on_by_rows(given, tmp_path, capfd, monkeypatch):
    """A command that ends between the rows of its first scene and its map predicts only the second scene later."""
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "b.tif"):
        (tmp_path / "in" / name).write_bytes((tmp_path / "s.tif").read_bytes())
    here(given, tmp_path / "whole.tif")
    asked = [*(word for word in given if not word.startswith("input=")), f"input={tmp_path}/in"]

    def full(*args):
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("mkd.recipes.mapping.map_rows.write_map", full)
        with pytest.raises(OSError, match="the disk is full"):
            here(asked, tmp_path / "maps")
    assert names(tmp_path / "maps") == [".tmp-a.tif.rows"]
    capfd.readouterr()
    assert "2 maps in" in here(asked, tmp_path / "maps")
    said = capfd.readouterr().err
    assert "a.tif: " not in said
    assert f"b.tif: {ROWS * ACROSS} of {ROWS * ACROSS} windows" in said
    for name in ("a.tif", "b.tif"):
        np.testing.assert_array_equal(stored(tmp_path / "maps" / name), stored(tmp_path / "whole.tif"))
    assert not [name for name in names(tmp_path / "maps") if name.startswith(".tmp")]


def test_scenes_are_shared_by_files_where_there_are_enough(given, tmp_path):
    """Two scenes on two ranks: each is made by one, whole."""
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "b.tif"):
        (tmp_path / "in" / name).write_bytes((tmp_path / "s.tif").read_bytes())
    here(given, tmp_path / "whole.tif")
    asked = [word for word in given if not word.startswith("input=")]
    job = torchrun("predict_map", *asked, f"input={tmp_path}/in", f"output={tmp_path}/maps")
    status, output = finish(job, 200)
    assert status == 0, output
    assert "1 maps in" in output
    assert "rank 1" not in output
    for name in ("a.tif", "b.tif"):
        np.testing.assert_array_equal(stored(tmp_path / "maps" / name), stored(tmp_path / "whole.tif"))

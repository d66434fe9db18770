"""Rasters that launch/predict_map.py takes, the maps that it makes of them, and what it does not make again."""

import http.server
import os
import threading
from functools import partial

import numpy as np
import pytest
from PIL import Image

from mkd.config.load import load
from mkd.config.schema import ModelConfig, PredictRun
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.model_folder import ModelCard, save_model
from mkd.models.build import build
from mkd.recipes import factories
from mkd.recipes.mapping.predict_map import predict
from mkd.storage.folder import Folder
from tests.helpers.shards import CLASSES, PALETTE

PLACE = (0.5, 0.0, 400000.0, 0.0, -0.5, 5600000.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network of random weights, as a model folder."""
    folder = tmp_path_factory.mktemp("model")
    plan = factories.architecture(ModelConfig("tf_efficientnet_lite0", "fpn", decoder_channels=16))
    network = build(plan, len(CLASSES), None, seed=0)
    save_model(folder, network.state_dict(), ModelCard(plan, tuple(CLASSES), tuple(PALETTE), crop=32))
    return folder


def scene(path, seed=0, size=(32, 40), bands=3):
    """Write a raster of random colours; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(1, 255, (*size, bands), np.uint8)
    with RasterWriter(path, *size, bands, "uint8", crs="EPSG:32632", transform=PLACE) as writer:
        writer.write(Window(0, 0, *size), pixels)
    return path


def map_of(model, source, output, *more):
    """Run the command on these texts, as typed."""
    argv = [f"model={model}", f"input={source}", f"output={output}", "device=cpu", *more]
    return predict(load(PredictRun, "predict_map", argv))


def names(folder):
    """List what lies in a folder, hidden files too."""
    return sorted(os.listdir(folder))


def maps(*files):
    """Return what maps leave in a folder: each with its files of class names."""
    return sorted(
        [*files, *(f"{file}.aux.xml" for file in files), *(file.replace(".tif", ".qml") for file in files)]
    )


@pytest.mark.parametrize(
    "name", ["map #2", "洱海", "R&D (copy)", "a,b", "007", "1e5", "{x}", "$HOME", " x ", "it's [1]"]
)
def test_names_are_taken_as_typed(model, tmp_path, name):
    """Input and output may have any name."""
    scene(tmp_path / f"{name}.tif")
    map_of(model, tmp_path / f"{name}.tif", tmp_path / f"map of {name}.tif")
    assert names(tmp_path) == sorted([f"{name}.tif", *maps(f"map of {name}.tif")])


@pytest.mark.parametrize("form", ["folder", "pattern", "list"])
def test_several_rasters(model, tmp_path, form, capsys):
    """A folder, a pattern and a list give a map of each raster; what is no raster stays out of a folder's."""
    for seed, name in enumerate(("a.tif", "b.TIF")):
        scene(tmp_path / "in" / name, seed)
    (tmp_path / "in" / "notes.txt").touch()
    source = {
        "folder": tmp_path / "in",
        "pattern": f"{tmp_path}/in/*.[tT]*[fF]",
        "list": f"[{tmp_path}/in/a.tif,{tmp_path}/in/b.TIF]",
    }[form]
    said = map_of(model, source, tmp_path / "maps")
    assert names(tmp_path / "maps") == maps("a.tif", "b.tif")
    assert said == f"2 maps in {tmp_path}/maps"
    assert capsys.readouterr().out.count(" 40 x 32 pixels; ") == 2
    assert (tmp_path / "maps" / "a.tif").read_bytes() != (tmp_path / "maps" / "b.tif").read_bytes()


def test_a_folder_as_output(model, tmp_path):
    """One raster and a folder, there or with a slash at its end: the map has the raster's name in it."""
    scene(tmp_path / "s.tif")
    (tmp_path / "maps").mkdir()
    map_of(model, tmp_path / "s.tif", tmp_path / "maps")
    map_of(model, tmp_path / "s.tif", f"{tmp_path}/new/")
    assert names(tmp_path / "maps") == names(tmp_path / "new") == maps("s.tif")


def vrt(path, source):
    """Write a VRT of three bands of one source."""
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><SimpleSource><SourceFilename relativeToVRT="1">{source}'
        f"</SourceFilename><SourceBand>{n}</SourceBand></SimpleSource></VRTRasterBand>"
        for n in (1, 2, 3)
    )
    path.write_text(f'<VRTDataset rasterXSize="40" rasterYSize="32">{bands}</VRTDataset>')
    return path


@pytest.mark.parametrize("nested", [False, True])
def test_a_virtual_raster(model, tmp_path, nested):
    """A VRT, also of a VRT, is mapped as the raster that it names, and again when that changes."""
    scene(tmp_path / "in" / "s.tif")
    vrt(tmp_path / "in" / ("inner.vrt" if nested else "all.vrt"), "s.tif")
    if nested:
        vrt(tmp_path / "in" / "all.vrt", "inner.vrt")
    first = map_of(model, tmp_path / "in" / "all.vrt", tmp_path / "map.tif")
    assert "there already" in map_of(model, tmp_path / "in" / "all.vrt", tmp_path / "map.tif")
    scene(tmp_path / "in" / "s.tif", seed=5)
    assert map_of(model, tmp_path / "in" / "all.vrt", tmp_path / "map.tif") != first


@pytest.mark.parametrize("change", ["none", "raster", "moved raster", "window", "tta", "damage"])
def test_what_is_there_is_not_made_again(model, tmp_path, change):
    """A whole map of the same model, raster, window and views is kept; after any change it is made again."""
    first, other = scene(tmp_path / "s.tif"), scene(tmp_path / "other.tif", seed=9)
    map_of(model, first, tmp_path / "map.tif")
    before = (tmp_path / "map.tif").stat().st_mtime_ns
    match change:
        case "raster":
            scene(first, seed=3)
        case "moved raster":  # as large, and older than the map
            os.replace(other, first)
        case "damage":
            (tmp_path / "map.tif").write_bytes(b"II*")
    more = {"window": ["tile=16"], "tta": ["tta=flips"]}
    said = map_of(model, first, tmp_path / "map.tif", *more.get(change, []))
    assert ("there already" in said) == (change == "none")
    assert ((tmp_path / "map.tif").stat().st_mtime_ns == before) == (change == "none")


def test_a_link_that_is_turned_is_another_raster(model, tmp_path):
    """A link to another raster of equal size and older than the map is mapped again."""
    for seed, name in enumerate("ab"):
        size, pixels = (32, 40), np.random.default_rng(seed).integers(1, 255, (32, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")  # without compression
    link = tmp_path / "now.tif"
    link.symlink_to("a.tif")
    map_of(model, link, tmp_path / "map.tif")
    assert "there already" in map_of(model, link, tmp_path / "map.tif")
    link.unlink()
    link.symlink_to("b.tif")
    assert "there already" not in map_of(model, link, tmp_path / "map.tif")
    map_of(model, tmp_path / "b.tif", tmp_path / "b map.tif")
    with RasterReader(tmp_path / "map.tif") as ours, RasterReader(tmp_path / "b map.tif") as theirs:
        assert np.array_equal(ours.read(Window(0, 0, *size)), theirs.read(Window(0, 0, *size)))


def test_a_changed_source_of_a_vrt_at_a_url(model, tmp_path):
    """A VRT at a URL is mapped again when the raster beside it, which it names, was written again."""
    place = Folder(f"memory://{tmp_path}")
    place.write("all.vrt", vrt(tmp_path / "all.vrt", "s.tif").read_bytes())
    place.write("s.tif", scene(tmp_path / "s.tif").read_bytes())
    map_of(model, place.url_of("all.vrt"), tmp_path / "map.tif")
    assert "there already" in map_of(model, place.url_of("all.vrt"), tmp_path / "map.tif")
    place.write("s.tif", scene(tmp_path / "s.tif", seed=7).read_bytes())
    assert "there already" not in map_of(model, place.url_of("all.vrt"), tmp_path / "map.tif")


def test_a_vrt_of_turned_or_paged_pictures_is_refused(model, tmp_path):
    """A VRT takes the first picture as it is stored, where a viewer turns it, or shows another page."""
    pictures = [Image.fromarray(np.full((32, 40, 3), level, np.uint8)) for level in (9, 99)]
    exif = Image.Exif()
    exif[0x0112] = 3
    pictures[0].save(tmp_path / "turned.jpg", exif=exif)
    pictures[0].save(tmp_path / "paged.tif", save_all=True, append_images=pictures[1:])
    for name, said in (("turned.jpg", "has orientation 3 in its EXIF data"), ("paged.tif", "holds several")):
        refused(
            model, vrt(tmp_path / "v.vrt", name), tmp_path / "maps" / "x.tif", "v.vrt takes pixels of", said
        )


def test_the_same_raster_gives_the_same_bytes(model, tmp_path, monkeypatch):
    """A copy elsewhere, of another time, has the same map to the last byte, when the map is made at the same time."""
    monkeypatch.setattr("mkd.recipes.mapping.predict_map.time.strftime", lambda form: "2026:11:28 08:00:00")
    for folder in ("one", "two"):
        scene(tmp_path / folder / "s.tif")
        map_of(model, tmp_path / folder / "s.tif", tmp_path / folder / "map.tif")
    maps = [(tmp_path / folder / "map.tif").read_bytes() for folder in ("one", "two")]
    assert maps[0] == maps[1]


def test_a_killed_command_goes_on(model, tmp_path):
    """The maps that are whole are kept, the others are made, and half-written ones are removed."""
    for seed, name in enumerate("abc"):
        scene(tmp_path / "in" / f"{name}.tif", seed)
    map_of(model, tmp_path / "in" / "a.tif", f"{tmp_path}/maps/")
    kept = (tmp_path / "maps" / "a.tif").stat().st_mtime_ns
    for left, age in ((".tmp-b.tif", 0), (".tmp-old.tif", 7200), (".tmp-living.tif", 0)):
        (tmp_path / "maps" / left).write_bytes(b"half")
        os.utime(tmp_path / "maps" / left, (os.path.getmtime(tmp_path) - age,) * 2)
    map_of(model, tmp_path / "in", tmp_path / "maps")
    assert names(tmp_path / "maps") == [".tmp-living.tif", *maps("a.tif", "b.tif", "c.tif")]
    assert (tmp_path / "maps" / "a.tif").stat().st_mtime_ns == kept


def serve(folder):
    """Serve a folder by HTTP, without ranges of files, as Python's own server does."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize("kind", ["file", "http", "memory", "s3"])
def test_urls(model, tmp_path, kind, request):
    """A raster behind a URL has the map of the file, and is not mapped twice."""
    local = scene(tmp_path / "in" / "s.tif")
    map_of(model, local, tmp_path / "local.tif")
    server = serve(tmp_path / "in") if kind == "http" else None
    url = {
        "file": lambda: f"file://{local}",
        "http": lambda: f"http://127.0.0.1:{server.server_address[1]}/s.tif?key=1",
        "memory": lambda: f"memory://{tmp_path}/s.tif",
        "s3": lambda: f"{request.getfixturevalue('s3')}/s.tif",
    }[kind]()
    if kind in ("memory", "s3"):
        Folder(url.rpartition("/")[0]).write("s.tif", local.read_bytes())
    try:
        map_of(model, url, f"{tmp_path}/maps/")
        assert "there already" in map_of(model, url, f"{tmp_path}/maps/")
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()
    whole = Window(0, 0, 32, 40)
    with RasterReader(tmp_path / "maps" / "s.tif") as ours, RasterReader(tmp_path / "local.tif") as theirs:
        assert np.array_equal(ours.read(whole), theirs.read(whole))


def test_a_folder_of_a_bucket(model, tmp_path, s3):
    """A folder behind a URL, and a pattern there, mean the rasters in it."""
    for seed, name in enumerate(("a.tif", "b.tif", "notes.txt")):
        Folder(s3).write(name, scene(tmp_path / "in.tif", seed).read_bytes())
    assert map_of(model, s3, tmp_path / "maps").startswith("2 maps")
    assert map_of(model, f"{s3}/*.tif", tmp_path / "more").startswith("2 maps")
    assert names(tmp_path / "maps") == names(tmp_path / "more") == maps("a.tif", "b.tif")


def refused(model, source, output, *parts, more=()):
    """Check that a command is refused with these words before the model is used."""
    with pytest.raises((ValueError, OSError)) as caught:
        map_of(model, source, output, *more)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_mistakes_are_found_before_the_first_window(model, tmp_path):
    """Inputs and outputs that do not do, the last of several too, are one sentence; nothing is written."""
    good, one_band = scene(tmp_path / "in" / "a.tif"), scene(tmp_path / "in" / "z.tif", bands=1)
    same = scene(tmp_path / "more" / "a.tif")
    (tmp_path / "empty").mkdir()
    maps = tmp_path / "maps"
    refused(model, tmp_path / "in", maps, str(one_band), "1 band")
    refused(model, f"[{good},{same}]", maps, str(good), str(same), "two folders")
    refused(model, f"[{good},{good}]", maps, "more than once")
    refused(model, tmp_path / "more", tmp_path / "more", "is the folder of the input")
    refused(model, good, good, "is the input")
    refused(model, tmp_path / "more", good, "is a file")
    refused(model, tmp_path / "empty", maps, "no raster there")
    refused(model, f"{tmp_path}/none*.tif", maps, "no raster there")
    refused(model, tmp_path / "none.tif", maps, "no such file")
    refused(model, good, "s3://bkt/map.tif", "on a disk")
    Image.fromarray(np.full((32, 40, 3), 9, np.uint8)).save(tmp_path / "nowhere.tif")
    area = [f"polygons={maps}/p.gpkg", "min_area=4"]
    refused(model, tmp_path / "nowhere.tif", maps / "x.tif", "min_area=4", "no CRS", more=area)
    (tmp_path / "p.gpkg").mkdir()
    refused(model, good, maps / "x.tif", "it is a folder", more=[f"polygons={tmp_path}/p.gpkg"])
    refused(model, good, "/proc/none/map.tif", "/proc/none/map.tif: cannot be written")
    refused(model, good, f"{good}/map.tif", "cannot be written")
    assert not [path for path in maps.rglob("*") if path.is_file()]

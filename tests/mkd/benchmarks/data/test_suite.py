"""The benchmark of data: what it makes, how it counts, and every part of it run on a few small tiles."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mkd.benchmarks.contenders import median_ratio, medians, run_interleaved
from mkd.benchmarks.data import peers
from mkd.benchmarks.data.ours import resident_bytes
from mkd.benchmarks.data.peers import loading_rate
from mkd.benchmarks.data.runner import run_ours
from mkd.benchmarks.data.suite import LOWER_BOUNDS, UPPER_BOUNDS, measure_data, table
from mkd.benchmarks.data.tiles import make_tiles, tile_facts
from mkd.benchmarks.settings import DataSpeedRun
from mkd.config.load import load

PEERS = Path(__file__).parents[4] / ".venv-peers" / "bin" / "python"
SMALL = ["tiles=80", "size=64", "batch=4", "rounds=1"]


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def run(tmp_path, *overrides):
    """Run the benchmark and return what it wrote."""
    file = tmp_path / "found.json"
    measure_data(load(DataSpeedRun, "data", [f"out={tmp_path}/out", f"json={file}", *SMALL, *overrides]))
    return json.loads(file.read_text())


def test_tiles_are_all_different_and_the_same_each_time(tmp_path):
    """From landscapes and from pictures alike; existing tiles are used again, unless the settings differ."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    for images, number in ((None, 20), (str(pictures), 6)):
        made = digests(make_tiles(tmp_path / "a", number, 64, images))
        assert len(set(made.values())) == number
        assert digests(make_tiles(tmp_path / "b", number, 64, images)) == made
    with Image.open(tmp_path / "a" / "images" / "000003.jpg") as tile:
        assert (tile.size, tile.mode) == ((64, 64), "RGB")
    (tmp_path / "a" / "images" / "000000.jpg").write_bytes(b"mark")
    again = make_tiles(tmp_path / "a", 6, 64, str(pictures))
    assert (again / "000000.jpg").read_bytes() == b"mark"
    assert tile_facts(make_tiles(tmp_path / "a", 7, 64, str(pictures)))["tiles"] == 7
    assert (again / "000000.jpg").read_bytes() != b"mark"
    with pytest.raises(ValueError, match="no JPEG or PNG of 65 x 65 pixels"):
        make_tiles(tmp_path / "c", 1, 65, str(pictures))


def test_the_clock_runs_from_a_tenth_to_nineteen_twentieths(monkeypatch):
    """Batches before and after cost nothing; those between count with the time they took."""
    now = [0.0]
    monkeypatch.setattr(peers.time, "perf_counter", lambda: now[0])
    seen = []

    def batches():
        for number in range(1, 41):
            now[0] += 100.0 if number <= 4 or number > 38 else 0.5
            seen.append(number)
            yield np.zeros((8, 3, 2, 2), np.uint8)

    found = loading_rate(batches(), tiles=320, batch=8)
    assert found == {"rate": 16.0, "shape": [8, 3, 2, 2], "kind": "uint8"}
    assert seen[-1] == 38
    with pytest.raises(SystemExit, match="ended before batch 41"):
        loading_rate(batches(), tiles=352, batch=8)


def test_contenders_are_interleaved(capsys):
    """Every round runs all, each round starts with the next; the ratio is of runs of one round."""
    order = []

    def contender(name, figures):
        def once():
            order.append(name)
            return figures[order.count(name) - 1]

        return once

    ways = {"a": contender("a", [1.0, 8.0, 30.0]), "b": contender("b", [2.0, 2.0, 10.0])}
    found = run_interleaved(ways, 3, "s")
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1.0, 8.0, 30.0], "b": [2.0, 2.0, 10.0]}
    assert median_ratio(found["a"], found["b"]) == 3.0  # of 0.5, 4 and 3; the ratio of the medians would be 4
    assert medians(found) == {"a": 8.0, "b": 2.0}
    assert capsys.readouterr().out.count("round 2") == 2


def test_the_table_names_what_is_met_missed_and_not_measured():
    """A ratio at its bound is met; figures that should be low are read the other way round."""
    lines = table(
        {"pack_vs_tar": 0.7, "s3_vs_local": 0.79, "plan_mib": 200.5, "rss_growth": 1.0}
    ).splitlines()
    ends = {line.split()[0]: line.split()[-1] for line in lines}
    assert set(ends) == set(LOWER_BOUNDS) | set(UPPER_BOUNDS)
    assert [ends[key] for key in ("pack_vs_tar", "s3_vs_local", "plan_mib", "rss_growth")] == [
        "met",
        "MISSED",
        "MISSED",
        "met",
    ]
    assert ends["loader_vs_litdata"] == "measured"


def test_memory_counts_the_children():
    """Resident memory is that of this process and of those it started."""
    before = resident_bytes()
    hold = "import sys; held = bytearray(64 << 20); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold], **pipes) as child:
        child.stdout.readline()
        assert resident_bytes() - before > 64 << 20
        child.stdin.close()


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["peers=nowhere/python"], ["peers=nowhere/python", "make peers"]),
        (["peers=null", "tiles=39"], ["tiles=39", "at least 40"]),
        (["peers=null", "parts=[packing]"], ["parts=packing", "plan, pack"]),
        (["peers=null", "images=nowhere"], ["images=nowhere", "no such folder"]),
    ],
)
def test_mistakes_are_one_sentence(overrides, parts):
    with pytest.raises(ValueError, match="=") as error:
        load(DataSpeedRun, "data", [*SMALL, *overrides])
    assert all(part in str(error.value) for part in parts)
    assert "\n" not in str(error.value)


def test_a_contender_that_fails_ends_the_benchmark():
    with pytest.raises(ValueError, match="No such file or directory: '/nowhere'") as error:
        run_ours("copy", {"data": "/nowhere", "url": "/nowhere/else"})
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_packing_and_loading(tmp_path, capsys):
    """Every figure is there and positive, and the ratios are of the figures beside them."""
    found = run(tmp_path, "peers=null", "parts=[pack,loader]")
    wanted = {*LOWER_BOUNDS, *UPPER_BOUNDS, "loader_vs_webdataset_uint8"}
    plan = {"plan_seconds", "plan_mib", "resume_seconds"}
    assert wanted - set(found) == {"loader_vs_litdata", "loader_vs_mosaic", "s3_vs_local"} | plan
    assert all(found[key] > 0 for key in wanted & set(found))
    rates, seconds = found["tiles_per_second"], found["pack_seconds"]
    assert found["loader_vs_webdataset"] == pytest.approx(rates["ours"] / rates["webdataset torchrgb"])
    assert found["loader_vs_decode"] == pytest.approx(rates["ours"] / rates["bare decode"])
    assert found["pack_vs_tar"] == pytest.approx(seconds["tar + sha256sum"][0] / seconds["pack"][0])
    assert set(found["decoders"]) == {"torchvision", "simplejpeg", "Pillow"}
    runs = found["loader_runs"]
    assert [runs[name][0]["kind"] for name in ("ours", "webdataset torchrgb")] == [
        "torch.uint8",
        "torch.float32",
    ]
    assert all(runs[name][0]["shape"] == [4, 3, 64, 64] for name in runs if name != "bare decode")
    text = capsys.readouterr().out
    assert all(key in text for key in (*LOWER_BOUNDS, *UPPER_BOUNDS, *rates, *seconds))
    assert "litdata and mosaicml-streaming are not measured" in text


@pytest.mark.slow
def test_the_plan_and_resuming(tmp_path):
    """A sampler of 1e9 tiles, and an epoch of many tiles entered late; both have figures."""
    found = run(tmp_path, "peers=null", "parts=[plan]")
    assert all(found[key] > 0 for key in ("plan_seconds", "plan_mib", "resume_seconds"))
    assert found["resume_tiles"] == 17 * 80


@pytest.mark.slow
def test_from_s3(tmp_path):
    """The server starts, is filled, read and stopped; nothing of it stays."""
    found = run(tmp_path, "peers=null", "parts=[s3]")
    rates = found["s3_tiles_per_second"]
    assert found["s3_vs_local"] == pytest.approx(rates["from S3"] / rates["from disk"])
    assert not (tmp_path / "out" / "s3").exists()


@pytest.mark.slow
@pytest.mark.skipif(not PEERS.exists(), reason="make peers")
def test_the_peers(tmp_path):
    """litdata and mosaicml-streaming give uint8 batches of the same shape as ours."""
    found = run(tmp_path, f"peers={PEERS}", "parts=[loader]")
    assert found["loader_vs_litdata"] > 0
    assert found["loader_vs_mosaic"] > 0
    runs = found["loader_runs"]
    for name in ("ours", "litdata", "mosaicml-streaming"):
        assert (runs[name][0]["kind"], runs[name][0]["shape"]) == ("torch.uint8", [4, 3, 64, 64])

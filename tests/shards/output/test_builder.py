"""Builds: any number of workers and parts gives the same bytes, and they go on where they stopped."""

import json
import subprocess
import sys

import pytest

from mkd.dataset.index import read_index
from mkd.dataset.shard_record import read_record
from mkd.storage.folder import Folder as Place
from shards.commands.verify import verify
from shards.output.merge import make_index
from tests.helpers.processes.jobs import command, content, run


@pytest.fixture
def whole(folder, tmp_path):
    """Build the folder undisturbed."""
    run(folder, tmp_path / "whole")
    return content(tmp_path / "whole")


def test_any_number_of_workers_gives_the_same_bytes(folder, tmp_path, whole):
    """Two processes, by the command line, make what one makes in process: shards, records, index, all."""
    done = subprocess.run(
        command(folder, tmp_path / "two", "--workers", "2"), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert content(tmp_path / "two") == whole


def test_parts_in_processes_of_their_own_give_the_same_bytes(folder, tmp_path, whole):
    """Three parts side by side and `shards index` make what one build makes; before, the rest is missing."""
    out = tmp_path / "parts"
    first = run(folder, out, part="2/3")
    assert first == {"folder": str(out), "done_before": False}
    assert any("part 2/3: 2 of 5 shards stand" in line for line in folder.messages)
    with pytest.raises(ValueError, match=r"lacks 3 of 5 shards .*toy-000000.tar, toy-000002.tar"):
        make_index(out)
    others = [
        subprocess.Popen(command(folder, out, "--part", part, "--workers", "1")) for part in ("1/3", "3/3")
    ]
    assert [other.wait(120) for other in others] == [0, 0]
    assert not (out / "index.json").exists()
    merged = subprocess.run(
        [sys.executable, "-m", "shards", "index", str(out)], capture_output=True, text=True, timeout=120
    )
    assert (merged.returncode, merged.stderr) == (0, "")
    assert content(out) == whole
    assert run(folder, out)["done_before"] is True


def test_parts_of_another_build_are_not_merged(folder, tmp_path):
    """A part made of other inputs is missing to this build; more parts than shards are no harm."""
    out = tmp_path / "out"
    run(folder, out, part="1/2")
    folder.image("images/t4.jpg", seed=77)
    run(folder, out, part="2/2")
    with pytest.raises(ValueError, match=r"lacks 1 of 5 shards .*\(toy-000004.tar\)"):
        make_index(out)
    for number in range(1, 8):
        run(folder, out, part=f"{number}/7")
    assert make_index(out).samples == 5
    assert verify(out) == []


@pytest.mark.parametrize("damage", ["no index", "no tar", "no record", "flipped byte", "cut record", "draft"])
def test_a_build_goes_on_and_leaves_finished_shards_alone(folder, tmp_path, whole, damage):
    """Only what does not stand is made again; whole shards keep their place and time on the disk."""
    out = tmp_path / "whole"
    (out / "index.json").unlink()
    tar, record = out / "toy-000002.tar", out / "toy-000002.json"
    if damage == "no tar":
        tar.unlink()
    elif damage in ("no record", "draft"):
        record.unlink()
    elif damage == "flipped byte":
        tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    elif damage == "cut record":
        record.write_bytes(record.read_bytes()[:-20])
    if damage == "draft":
        (out / ".tmp-toy-000002.tar").write_bytes(b"half")
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("*.tar")}
    run(folder, out)
    stood = 5 if damage == "no index" else 4
    assert f"{stood} of 5 shards stood already" in folder.messages
    after = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("*.tar")}
    assert sum(before.get(name) == place for name, place in after.items()) == stood
    assert content(out) == whole


def test_a_finished_data_set_with_a_damaged_shard_is_mended_without_its_index(folder, tmp_path, whole):
    """What to remove is said; the same command then makes the one shard again."""
    out = tmp_path / "whole"
    (out / "toy-000003.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged .*remove its index.json to mend it by the same command"):
        run(folder, out)
    (out / "index.json").unlink()
    run(folder, out)
    assert "4 of 5 shards stood already" in folder.messages
    assert content(out) == whole


def test_other_options_or_fewer_inputs_leave_nothing_of_the_first_build(folder, tmp_path):
    """Shards and records that the second build does not have are removed with its index."""
    run(folder, tmp_path / "out")
    (tmp_path / "out/index.json").unlink()
    run(folder, tmp_path / "out", image_slice="0:2", name="few", replace=True)
    assert sorted(content(tmp_path / "out")) == [
        "build.json",
        *(f"few-00000{n}.{end}" for n in (0, 1) for end in ("json", "tar")),
        "index.json",
    ]


def test_from_s3_to_s3_and_to_memory(folder, tmp_path, s3, whole):
    """URLs give the bytes that folders give, in one process, in several, and in parts; a build goes on there too."""
    source = Place(f"{s3}/set")
    for path in folder.root.rglob("*.*"):
        source.write(path.relative_to(folder.root).as_posix(), path.read_bytes())
    folder.root = source.url
    for out in (f"{s3}/one", "memory://packed"):
        run(folder, out, workers=1)
        assert remote(out) == shards_of(whole)
    assert verify(f"{s3}/one") == []
    part = command(folder, f"{s3}/parts", "--part", "1/2", "--workers", "2")
    subprocess.run(part, check=True, timeout=120)
    run(folder, f"{s3}/parts", part="2/2")
    make_index(f"{s3}/parts")
    assert remote(f"{s3}/parts") == shards_of(whole)
    Place(f"{s3}/one").remove("index.json")
    Place(f"{s3}/one").remove("toy-000001.tar")
    run(folder, f"{s3}/one")
    assert "4 of 5 shards stood already" in folder.messages
    assert remote(f"{s3}/one") == shards_of(whole)
    assert run(folder, f"{s3}/one")["done_before"] is True


def test_several_workers_on_memory_are_said_to_be_one(folder):
    """A file system of one process cannot be shared; this is said."""
    run(folder, "memory://alone", workers=2)
    assert "note: memory:// belongs to one process: --workers 1" in folder.messages


def test_a_full_disk_keeps_what_is_finished(folder, small_disk):
    """The error names the shard; with room again, the build goes on."""
    for number in range(12):
        folder.image(f"images/big{number}.png", seed=number, size=(500, 500))
    folder.describe(layout={"images": "images/big*.png", "masks": None})
    failed = subprocess.run(command(folder, small_disk / "out"), capture_output=True, text=True, timeout=120)
    assert failed.returncode == 2
    assert "cannot be written (No space left on device)" in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert not (small_disk / "out/index.json").exists()
    stood = len(list((small_disk / "out").glob("*.json"))) - 1
    assert stood > 3
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    run(folder, small_disk / "out")
    assert any(
        line.endswith("of 12 shards stood already") and int(line.split()[0]) >= stood
        for line in folder.messages
    )
    assert verify(small_disk / "out") == []


def remote(out):
    """Read shards and histogram of a data set behind a URL."""
    place, index = Place(out), read_index(out)
    tars = {shard.file: place.read(shard.file) for shard in index.shards}
    assert all(read_record(place, file).info.file == file for file in tars)
    return tars, index.histogram, index.samples


def shards_of(files):
    """Give the same of files that were read."""
    index = json.loads(files["index.json"])
    tars = {name: data for name, data in files.items() if name.endswith(".tar")}
    return tars, tuple(index["histogram"]), index["samples"]


@pytest.mark.parametrize("text", ["[]", "3", '{"format": "mkd-build", "version": 1}', "{"])
def test_a_damaged_description_is_one_sentence(tmp_path, text):
    """Whatever stands in build.json."""
    (tmp_path / "build.json").write_text(text)
    with pytest.raises(ValueError, match=r"build.json .*remove it and build again"):
        make_index(tmp_path)

"""What a build may remove: its own files; foreign ones, and other builds, stay as they are."""

import json

import pytest

from mkd.storage.folder import Folder
from shards.commands.split import split
from shards.commands.verify import verify
from shards.output.dataset_writer import DatasetWriter
from shards.reading.shard_reader import read_tiles
from shards.splitting.assignment import SplitOptions
from tests.helpers.processes.jobs import content, pack_into, run
from tests.helpers.shards import CLASSES, PALETTE, pictures, write_dataset

FOREIGN = (
    "backup-202401.tar",
    "annotations-000123.json",
    "train-000000.tar",
    "toy-000000.tar",
    "toy-notes.json",
)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("command", ["pack", "split"])
def test_foreign_files_are_neither_removed_nor_built_over(folder, tmp_path, command, name):
    """Names that any shard may have, even those of this set's shards where nothing says that they are its own."""
    out = tmp_path / "out" / ("labelled" if command == "split" else "")
    out.mkdir(parents=True)
    (out / name).write_text("dear")
    write_dataset(tmp_path / "all", pictures(6))
    words = rf"holds other files \({name}\), which .* choose an empty folder"
    if command == "pack":
        with pytest.raises(ValueError, match=words):
            run(folder, out)
    else:
        with pytest.raises(ValueError, match=words):
            split(tmp_path / "all", tmp_path / "out", SplitOptions(labelled=2))
    assert (out / name).read_text() == "dear"


def test_foreign_files_beside_a_build_stop_it(folder, tmp_path):
    """What somebody puts beside finished shards is not taken for one of them."""
    out = tmp_path / "out"
    run(folder, out, part="1/2")
    (out / "toy-2024-01.tar").write_text("dear")
    with pytest.raises(ValueError, match="holds other files .*toy-2024-01.tar"):
        run(folder, out, part="2/2")
    (out / "toy-2024-01.tar").rename(tmp_path / "elsewhere.tar")
    run(folder, out)
    assert verify(out) == []


def test_an_unfinished_build_of_something_else_is_refused_unless_it_may_go(folder, tmp_path):
    """Other options and another source are named; --replace drops what was there, and only that."""
    run(folder, tmp_path / "out", part="1/2")
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match=r"unfinished build .*\(slice None there, 0:2 here\).* --replace"):
        run(folder, tmp_path / "out", image_slice="0:2")
    folder.root.rename(tmp_path / "moved")
    folder.root = tmp_path / "moved"
    folder.image("images/t1.png", seed=9)
    with pytest.raises(ValueError, match=r"unfinished build .*\(source .*/set there, .*/moved here\)"):
        run(folder, tmp_path / "out")
    assert content(tmp_path / "out") == before
    run(folder, tmp_path / "out", replace=True, name="other")
    assert {name.partition("-")[0] for name in content(tmp_path / "out")} == {
        "build.json", "index.json", "other"
    }  # fmt: skip
    assert verify(tmp_path / "out") == []


def test_inputs_that_were_mended_or_moved_go_on(folder, tmp_path):
    """A build that failed goes on after inputs were corrected; inputs of the same times elsewhere are the same."""
    run(folder, tmp_path / "out", part="1/2")
    folder.root.rename(tmp_path / "moved")
    folder.root = tmp_path / "moved"
    run(folder, tmp_path / "out", part="2/2")
    folder.image("images/t4.jpg", seed=77)
    folder.messages.clear()
    run(folder, tmp_path / "out")
    assert folder.messages[0] == "4 of 5 shards stood already"
    assert verify(tmp_path / "out") == []


def test_split_leaves_a_half_built_pack_alone(folder, tmp_path):
    """A folder that another command builds in is not its own."""
    write_dataset(tmp_path / "all", pictures(6))
    run(folder, tmp_path / "out/labelled", part="1/2")
    before = content(tmp_path / "out/labelled")
    with pytest.raises(ValueError, match=r"holds other files \(build.json, toy-000000.json"):
        split(tmp_path / "all", tmp_path / "out", SplitOptions(labelled=2))
    assert content(tmp_path / "out/labelled") == before


@pytest.mark.parametrize("below", ["", "sub"])
def test_a_file_in_the_place_of_a_folder_is_one_sentence(folder, tmp_path, below):
    """Also where the folder would lie below it."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file, or lies below one: choose"):
        pack_into(folder.root, folder.classfile, tmp_path / "file" / below)


def test_a_failed_start_writes_nothing(folder, tmp_path):
    """A number of workers that cannot be leaves no trace of a build."""
    with pytest.raises(ValueError, match="--workers 0: at least one"):
        run(folder, tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()


def test_a_lock_that_was_lost_stops_the_merge(folder, tmp_path, monkeypatch):
    """After an outage another job may build there: this one looks at its lock before it removes anything."""
    place, checked = Folder(f"memory://{tmp_path.name}"), []

    def taken_over(*_):
        place.write(".lock", json.dumps({"token": "another", "beat": 0, "host": "b", "process": 1}))
        place.write("toy-000009.tar", "of the successor")
        checked.append(True)

    monkeypatch.setattr("shards.output.merge._check_budget", taken_over)
    with pytest.raises(ValueError, match="another one took its lock"):
        run(folder, place.url)
    assert checked
    assert place.exists("toy-000009.tar")
    assert not place.exists("index.json")


def test_split_looks_at_its_lock_before_the_end(tmp_path, monkeypatch):
    """It writes no index over a successor's shards, and removes none of them."""
    place = Folder(f"memory://{tmp_path.name}")
    tile = next(read_tiles(write_dataset(tmp_path / "all", pictures(1))))
    with pytest.raises(ValueError, match="another one took its lock"):
        write_and_lose(place, tile)
    assert set(place.sizes()) == {".lock", "tiny-000000.tar", "tiny-000000.json"}


def write_and_lose(place, tile):
    """Write a data set, whose lock another job takes before the end."""
    with DatasetWriter(place, "tiny", CLASSES, PALETTE) as writer:
        writer.add(tile)
        place.write(".lock", json.dumps({"token": "another", "beat": 0, "host": "b", "process": 1}))
        writer.finish({})

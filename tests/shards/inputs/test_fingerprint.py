"""Finding input files, and telling whether they changed."""

import os

import pytest

from mkd.storage.folder import Folder
from shards.inputs.fingerprint import FileTree, identity, unit_fingerprint

FILES = ["a.png", "x/b.png", "x/y/c.png", "x/y/d.jpg", "x/.hidden.png", ".git/e.png", "z/b.png"]
FOUND = {
    "*.png": ["a.png"],
    "x/*.png": ["x/b.png"],
    "*/b.png": ["x/b.png", "z/b.png"],
    "**/*.png": ["a.png", "x/b.png", "x/y/c.png", "z/b.png"],
    "x/**/*.*": ["x/b.png", "x/y/c.png", "x/y/d.jpg"],
    "*/y/*": ["x/y/c.png", "x/y/d.jpg"],
    "nowhere/*.png": [],
    "x/y": [],
}


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    """Give a folder with files, on the disk or behind a URL."""
    made = Folder(tmp_path if request.param == "local" else f"memory://{tmp_path.name}")
    for number, name in enumerate(FILES):
        made.write(name, b"x" * number)
    return made


@pytest.mark.parametrize("pattern", FOUND)
def test_patterns_find_what_they_say(place, pattern):
    """A star stays within a folder, two go into all; hidden files are left out; a folder is no file."""
    assert FileTree(place).matching(pattern) == FOUND[pattern]


def test_stamps_tell_size_and_change(place):
    """Missing files are left out; a file written anew has another mark."""
    before = FileTree(place).stamps(["x/y/d.jpg", "a.png", "x/none.png", "none/a.png"])
    assert {name: told.size for name, told in before.items()} == {"x/y/d.jpg": 3, "a.png": 0}
    place.write("x/y/d.jpg", b"yyy")
    after = FileTree(place).stamps(["x/y/d.jpg", "a.png"])
    assert after["a.png"] == before["a.png"]
    assert after["x/y/d.jpg"] != before["x/y/d.jpg"]
    assert identity({}, before) == identity({}, after)
    assert unit_fingerprint({}, before) != unit_fingerprint({}, after)


def test_arguments_and_names_count(place):
    """Another option, another name or another size is another data set."""
    told = FileTree(place).stamps(["a.png", "x/b.png"])
    other = {**told, "x/b.png": told["x/b.png"]._replace(size=9)}
    fewer = {"a.png": told["a.png"]}
    assert len({identity(*given) for given in (({}, told), ({"n": 1}, told), ({}, other), ({}, fewer))}) == 4


def test_a_link_to_nowhere_is_no_file(tmp_path):
    """It is not listed, and does not stop the listing."""
    (tmp_path / "a.png").write_bytes(b"")
    os.symlink(tmp_path / "gone", tmp_path / "b.png")
    assert FileTree(Folder(tmp_path)).matching("*.png") == ["a.png"]

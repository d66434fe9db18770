"""A file that is drained holds what was written, however it was written, and leaves the page cache."""

import os
import random
from pathlib import Path

import pytest

from mkd.storage.direct_io import BUFFER_BYTES, DirectFile
from mkd.storage.folder import Folder


@pytest.mark.parametrize("place", ["disk", "memory"])
@pytest.mark.parametrize(
    "sizes",
    [[], [0], [1], [BUFFER_BYTES], [BUFFER_BYTES, BUFFER_BYTES], [2 * BUFFER_BYTES + 5], [1] * 9, None],
)
def test_it_holds_what_was_written(tmp_path, place, sizes):
    """Pieces of any size, whole blocks or not, on a disk and on a file system that lies in memory."""
    path = (tmp_path if place == "disk" else Path("/dev/shm")) / f"drained-{os.getpid()}"
    rng = random.Random(0)
    sizes = (
        [rng.choice((0, 1, 500, 4096, 70_000, BUFFER_BYTES - 1)) for _ in range(40)]
        if sizes is None
        else sizes
    )
    pieces = [rng.randbytes(size) for size in sizes]
    path.write_bytes(b"old" * 1000)
    try:
        with DirectFile(path) as file:
            for piece in pieces:
                assert file.write(piece) == len(piece)
        assert path.read_bytes() == b"".join(pieces)
    finally:
        path.unlink()
    assert file.closed


def test_a_full_disk_is_an_error_and_leaves_nothing_open():
    """Whether it shows at a later write or at the end; the file is closed all the same."""
    before = len(os.listdir("/proc/self/fd"))
    for pieces in ([b"x"], [bytes(BUFFER_BYTES)], [bytes(BUFFER_BYTES)] * 3):
        file = DirectFile(Path("/dev/full"))
        with pytest.raises(OSError, match="No space left"), file:
            file.writelines(pieces)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_finished_file_leaves_nothing_in_memory(tmp_path):
    """Its bytes must come from the disk: a read that may not wait finds few of them."""
    name, size = tmp_path / "a", 8 << 20
    with DirectFile(name) as file:
        for _ in range(8):
            file.write(bytes(size // 8))
        file.write(b"x")
    with open(name, "rb", buffering=0) as file:
        try:
            found = os.preadv(file.fileno(), [bytearray(size)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            found = 0
        except OSError as error:
            pytest.skip(f"this file system cannot tell ({error})")
    assert found < size // 2


def test_a_folder_writes_whole_files(tmp_path):
    """What stood there before stays until the new content is on the disk, however large it is."""
    folder = Folder(tmp_path)
    folder.write("a", b"old")
    with folder.writing("a", large=True) as file:
        file.write(b"new" * 3_000_000)
        assert folder.read("a") == b"old"
    assert folder.read("a") == b"new" * 3_000_000
    assert folder.sizes() == {"a": 9_000_000}


def test_files_use_the_same_memory_one_after_the_other(tmp_path):
    """A build of a million shards holds as much as one of two."""
    for number in range(3):
        with DirectFile(tmp_path / "a") as file:
            file.write(bytes(9 << 20))
        if number == 0:
            first = Path("/proc/self/maps").read_text().count("\n")
    assert Path("/proc/self/maps").read_text().count("\n") <= first
    with DirectFile(tmp_path / "b") as one, DirectFile(tmp_path / "c") as other:
        for letter in b"xyz":
            one.write(bytes([letter]) * (3 << 20))
            other.write(bytes([letter + 1]) * (3 << 20))
    for name, letters in (("b", b"xyz"), ("c", b"yz{")):
        assert (tmp_path / name).read_bytes() == b"".join(bytes([letter]) * (3 << 20) for letter in letters)

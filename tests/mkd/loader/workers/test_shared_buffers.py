"""Buffers come back by themselves, never while somebody looks at them, and memory does not pile up."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mkd.loader.workers.shared_buffers import SPARE_BUFFERS, BufferLayout, MappedBuffers, SharedBufferPool

LAYOUT = BufferLayout(slots=4, height=64, width=100)


@pytest.fixture
def buffers():
    buffers = SharedBufferPool(LAYOUT)
    yield buffers
    buffers.close()


def resident(buffers):
    """Return the bytes of memory that the file takes."""
    return os.fstat(buffers.file).st_blocks * 512


def test_slots_share_no_byte():
    """Images and labels of all slots lie side by side and fill the buffer up to its last page."""
    buffer = np.zeros(LAYOUT.bytes, np.uint8)
    for slot in range(LAYOUT.slots):
        for part in LAYOUT.slot(buffer, slot):
            part += 1
    used = 4 * LAYOUT.slots * LAYOUT.area
    assert (buffer[:used] == 1).all()
    assert (buffer[used:] == 0).all()
    assert 0 <= LAYOUT.bytes - used < 65536
    assert [len(part) for part in LAYOUT.slot(buffer, 0)] == [3 * 6400, 6400]


VIEWS = {
    "array": lambda array: array,
    "slice": lambda array: array[5:].reshape(-1, 1)[3:],
    "tensor": lambda array: torch.from_numpy(array)[7:],
    "strided tensor": lambda array: torch.from_numpy(array).as_strided((2, 2), (5, 1), 9)[1],
    "numpy of tensor": lambda array: torch.from_numpy(array)[1:].numpy()[2:],
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_buffer_is_not_taken_while_anything_looks_at_it(buffers, view):
    """Whatever is made of a handed-out buffer keeps it; when the last is gone it is taken again."""
    number = buffers.acquire()
    kept = VIEWS[view](buffers.lend(number))
    gc.collect()
    assert buffers.acquire() != number
    del kept
    gc.collect()
    assert buffers.acquire() == number


def test_memory_is_shared_with_other_processes(buffers):
    """What another process writes into a buffer is here, and buffers do not overlap."""
    numbers = [buffers.acquire() for _ in range(3)]
    code = (
        "import sys; from mkd.loader.workers.shared_buffers import MappedBuffers, BufferLayout\n"
        f"mapped = MappedBuffers({buffers.file}, BufferLayout(4, 64, 100))\n"
        "for n in (0, 1, 2): mapped.array(n)[:] = n + 1"
    )
    subprocess.run([sys.executable, "-c", code], pass_fds=(buffers.file,), check=True, timeout=60)
    for number in numbers:
        assert (buffers.lend(number) == number + 1).all()


def test_memory_of_many_kept_buffers_goes_back(buffers):
    """Fifty buffers held at once take fifty buffers' memory; later the pool shrinks, and goes on with the same ones."""
    held = []
    for n in range(50):
        held.append(buffers.lend(buffers.acquire()))
        held[-1][:] = n
    assert [int(array[17]) for array in held] == list(range(50))
    assert resident(buffers) == 50 * LAYOUT.bytes
    held.clear()
    for _ in range(200):
        array = buffers.lend(buffers.acquire())
        array[:] = 1
    assert resident(buffers) <= (SPARE_BUFFERS + 2) * LAYOUT.bytes
    assert os.fstat(buffers.file).st_size == 50 * LAYOUT.bytes


def test_a_closed_pool_leaves_what_was_handed_out():
    """A batch that is kept beyond its stream stays as it is, though the file is gone."""
    buffers = SharedBufferPool(LAYOUT)
    array = buffers.lend(buffers.acquire())
    array[:] = 9
    buffers.close()
    del buffers
    gc.collect()
    assert (array == 9).all()


def test_a_buffer_mapped_twice_is_the_same_memory(buffers):
    """Two maps of a number see each other's bytes."""
    number = buffers.acquire()
    other = MappedBuffers(buffers.file, LAYOUT)
    other.array(number)[3] = 77
    assert buffers.lend(number)[3] == 77


def test_another_system_is_told_what_to_do(monkeypatch):
    """Without anonymous files there are no decoding processes, and the sentence says what works."""
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ValueError, match=r"use data\.workers=0"):
        SharedBufferPool(LAYOUT)

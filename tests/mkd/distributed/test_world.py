"""Where a process stands: one rank, its device, and a clear word when that cannot be."""

import pytest
import torch

from mkd.distributed.world import World, find_world


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No torchrun around this test."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.mark.parametrize("ranks", [None, "1"])
def test_one_process(monkeypatch, ranks):
    """Started plainly or by torchrun with one process, this is rank 0 of 1."""
    if ranks is not None:
        monkeypatch.setenv("WORLD_SIZE", ranks)
    world = find_world("cpu")
    assert world == World(0, 1, torch.device("cpu"))
    assert world.is_main


def test_half_an_environment_is_said(monkeypatch):
    """WORLD_SIZE without the rest of what torchrun sets is one sentence with the way to start."""
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"WORLD_SIZE=4, but LOCAL_RANK, .*MASTER_PORT is not set.*torchrun"):
        find_world("cpu")


def on_this_node(monkeypatch, ranks, gpus):
    """Set torchrun's environment of the last of a node's ranks, and the number of GPUs."""
    place = {"WORLD_SIZE": ranks, "RANK": ranks - 1, "LOCAL_RANK": ranks - 1, "LOCAL_WORLD_SIZE": ranks}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(("device", "gpus"), [(None, 2), ("cuda", 1), ("cuda:0", 8)])
def test_more_ranks_than_gpus_are_refused(monkeypatch, device, gpus):
    """Two ranks never share a GPU, by count or by name."""
    on_this_node(monkeypatch, 3, gpus)
    with pytest.raises(ValueError, match=rf"3 ranks on this node.*of {gpus} GPUs.*--nproc-per-node {gpus}"):
        find_world(device)


def test_device_is_found(monkeypatch):
    """Without a wish the first GPU is taken when there is one, else the CPU; a wish is granted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_world(None).device == torch.device("cuda")
    assert find_world("cuda:1").device == torch.device("cuda:1")
    assert find_world("cpu").device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_world(None).device == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_an_absent_gpu_is_said(monkeypatch, device):
    """A GPU that is asked for and not there is one sentence with the fix."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"device={device}.*use device=cpu"):
        find_world(device)


@pytest.mark.parametrize("device", ["gpu", "cpux"])
def test_an_unknown_device_names_the_key(device):
    """A device that torch does not know is a user's mistake: ValueError with the key."""
    with pytest.raises(ValueError, match=f"device={device}"):
        find_world(device)


def test_only_rank_0_is_first():
    """Later ranks do not write files."""
    assert not World(1, 2, torch.device("cpu")).is_main


def test_one_rank_a_node_has_a_numbered_gpu(monkeypatch):
    """Several nodes with one GPU each: torch and NCCL want the device with its number."""
    on_this_node(monkeypatch, 1, 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)

    class Set(Exception):
        pass

    def set_device(device):
        raise Set(str(torch.device(device)))

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    with pytest.raises(Set, match="^cuda:0$"):
        find_world(None)

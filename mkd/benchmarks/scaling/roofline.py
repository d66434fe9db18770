"""Volumes of a training step, and a roofline: what named GPU machines reach at most. Nothing here is measured."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mkd.benchmarks.settings import ScalingRun
from mkd.distributed.sync_batchnorm import ENOUGH_TILES
from mkd.metrics.cost import gmac, parameters

PASSES = 3.5  # forward 1, backward 2; 0.5 for a local teacher's forward pass over the unlabelled half
PER_NODE = 8  # GPUs


@dataclass(frozen=True)
class Machine:
    """Published peaks of a kind of server: bf16 with float32 sums, memory, links inside and between nodes, one way."""

    server: str
    peak_tflops: float
    memory_tb_s: float
    inside_gb_s: float
    outside_gb_s: float  # of a whole node
    tiles: int  # of a GPU in a forward pass


MACHINES = {
    "rtx4090": Machine("RTX 4090, PCIe 4, 100 Gb/s Ethernet", 165.2, 1.008, 31.5, 12.5, 8),
    "h100": Machine("H100 SXM, 8 x 400 Gb/s InfiniBand", 989.4, 3.35, 450.0, 400.0, 16),
    "h200": Machine("H200 SXM, 8 x 400 Gb/s InfiniBand", 989.4, 4.8, 450.0, 400.0, 32),
}
SOURCES = {
    "server": "source",
    "peak_tflops": "NVIDIA: Ada white paper, data sheets",
    "memory_tb_s": "the same",
    "inside_gb_s": "PCIe 4.0 x16 (PCI-SIG); NVLink 4 (NVIDIA)",
    "outside_gb_s": "line rate",
    "tiles": "assumed to fit",
}


def ring_bytes(size: float, ranks: int) -> float:
    r"""Return what a rank sends to all-reduce ``size`` bytes: :math:`2 (R-1)/R \cdot n`.

    Source: Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations.
    """
    return 2 * (ranks - 1) / ranks * size


def volumes(model: nn.Module) -> dict[str, int]:
    """Return the network's parameters, its BatchNorm layers, and the float32 bytes of what a step sends.

    Published are weights and running statistics; BatchNorm gathers mean, variance and count, and adds up two sums.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    weights, channels = parameters(model), sum(m.num_features for m in norms)
    return {
        "parameters": weights,
        "gradients": 4 * weights,
        "published": 4 * (weights + sum(b.numel() for b in model.buffers())),
        "batchnorm layers": len(norms),
        "batchnorm forward": 4 * (2 * channels + len(norms)),
        "batchnorm backward": 8 * channels,
    }


def sent_bytes(volume: dict[str, int], ranks: int, tiles: int, size: int) -> float:
    """Return what a rank with so many tiles of ``size`` x ``size`` pixels in a forward pass sends in a step.

    These are gradients, statistics where they are synchronised, and one tile (three colours and a label) for CutMix.
    """
    sent = ring_bytes(volume["gradients"], ranks) + (4 * size**2 if ranks > 1 else 0)
    if tiles < ENOUGH_TILES:
        sent += (ranks - 1) * volume["batchnorm forward"] + ring_bytes(volume["batchnorm backward"], ranks)
    return sent


def convolution_bytes(model: nn.Module, size: int) -> int:
    """Return the bytes that the convolutions of one image's forward pass read and write at least, in bf16."""
    moved: list[int] = []

    def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        moved.append(2 * (inputs[0].numel() + output.numel()))

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    gmac(model, size)  # runs on the meta device
    for hook in hooks:
        hook.remove()
    return sum(moved)


def bounds(config: ScalingRun, model: nn.Module) -> list[dict[str, Any]]:
    """Return the least milliseconds of a semi-supervised step, and what takes them, by machine and number of GPUs.

    Nodes are filled one by one and the tiles of a GPU stay the same (weak scaling). The longest part hides the others.

    Source: Williams, Waterman and Patterson 2009, Roofline.
    """
    rows, volume = [], volumes(model)
    gflop, gbyte = 2 * gmac(model, config.size), convolution_bytes(model, config.size) / 1e9
    for key, m in MACHINES.items():
        images = PASSES * m.tiles
        ms = {"arithmetic": images * gflop / config.achieved.get(key, m.peak_tflops)}
        ms["memory"] = images * gbyte / m.memory_tb_s
        for n in config.gpus:
            # A ring enters and leaves a node once, so that the node's whole rate serves one stream.
            rate = m.inside_gb_s if n <= PER_NODE else min(m.inside_gb_s, m.outside_gb_s)
            ms["communication"] = sent_bytes(volume, n, m.tiles, config.size) / rate / 1e6
            binds = max(ms, key=ms.__getitem__)
            most = 1e3 * n * m.tiles / ms[binds]
            rows.append({"machine": key, "GPUs": n, **ms, "binds": binds, "tiles/s, at most": most})
    return rows

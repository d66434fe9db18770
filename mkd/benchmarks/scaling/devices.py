"""Machines that a prediction is made for. Every figure here is an assumption: none was measured on such a machine."""

from dataclasses import dataclass

from mkd.benchmarks.scaling.cost_model import Fabric, Link
from mkd.benchmarks.scaling.roofline import Rates
from mkd.distributed.sync_batchnorm import ENOUGH_TILES

CONV = 0.5  # share of the peak that convolutions attain
MEMORY = 0.7  # share of the memory's bandwidth that the other operations attain
LAUNCH_S = 6e-6
BACKWARD = 2.0  # forward passes that a backward pass is worth
HIDDEN = 0.9
JITTER = 0.02
START_S = 10e-6
DECODE = 800.0  # tiles/s of one core
SERVICE = 0.9  # rate of a teacher service over that of its bare forward pass
REJECTED = 0.1  # tiles that the tile filter rejects, mean over a run
PACK = 0.5e9  # bytes/s: weights from the GPU, into a file, hashed
STREAM = 1e9  # bytes/s of weights to one teacher

NET_RING_S, NET_TREE_S = 2.7e-6, 5.0e-6


@dataclass(frozen=True)
class Machine:
    """A kind of GPU server.

    Attributes:
        name: for tables.
        peak: dense bf16 with float32 accumulation, FLOP/s.
        memory: bandwidth, bytes/s.
        tiles: of 512 x 512 pixels in a training forward pass of hrnet_w48_psa.
        cores: of the processor for each GPU.
        fabric: 8 GPUs a node.
    """

    name: str
    peak: float
    memory: float
    tiles: int
    cores: int
    fabric: Fabric

    @property
    def rates(self) -> Rates:
        """What is attained of the peaks."""
        return Rates(CONV * self.peak, MEMORY * self.memory, LAUNCH_S)

    @property
    def synchronises(self) -> bool:
        """Whether the tiles of a forward pass are so few that BatchNorm is synchronised."""
        return self.tiles < ENOUGH_TILES

    @property
    def hidden(self) -> float:
        """Share of an overlapped all-reduce that costs nothing; BatchNorm's exchanges would queue behind it."""
        return 0.0 if self.synchronises else HIDDEN


_NVLINK = Link(0.47e-6, 0.52e-6, 360e9)
_NDR = Link(NET_RING_S, NET_TREE_S, 360e9)
_HOPPER = Fabric(8, _NVLINK, _NDR, START_S)
_ADA = Fabric(8, Link(1.0e-6, 1.0e-6, 10e9), Link(NET_RING_S, NET_TREE_S, 11e9), START_S)
MACHINES = {
    "rtx4090": Machine("RTX 4090, PCIe 4, 100 Gb/s Ethernet", 165.2e12, 1.008e12, 8, 8, _ADA),
    "h100": Machine("H100 SXM, NVLink, 8 x 400 Gb/s InfiniBand", 989.4e12, 3.35e12, 16, 12, _HOPPER),
    "h200": Machine("H200 SXM, NVLink, 8 x 400 Gb/s InfiniBand", 989.4e12, 4.8e12, 32, 12, _HOPPER),
}

# What is assumed, how it is shown for each machine (or once for all), and where it comes from.
_NCCL = "NCCL's tuning model, src/graph/tuning.cc (protocol LL)"
_GUESS = "assumed"


def assumptions() -> list[tuple[str, list[str], str]]:
    """Return one row for each figure: what it is, its value for each of `MACHINES`, its source."""
    machines = list(MACHINES.values())

    def each(name: str, unit: float, attribute: str, source: str) -> tuple[str, list[str], str]:
        return name, [f"{_find(m, attribute) / unit:g}" for m in machines], source

    def same(name: str, value: float, source: str) -> tuple[str, list[str], str]:
        return name, [f"{value:g}"] * len(machines), source

    return [
        each("peak, dense bf16, float32 sums, TFLOP/s", 1e12, "peak", "NVIDIA's data sheets"),
        each("memory bandwidth, TB/s", 1e12, "memory", "NVIDIA's data sheets"),
        same("share of the peak in convolutions", CONV, _GUESS),
        same("share of the memory bandwidth elsewhere", MEMORY, _GUESS),
        same("least time of an operation, us", 1e6 * LAUNCH_S, "assumed: PyTorch without compile"),
        same("backward pass, in forward passes", BACKWARD, "count of multiply-accumulates"),
        each(
            "tiles of a forward pass",
            1,
            "tiles",
            "assumed: activations, counted in bf16, fit into 24/80/141 GB",
        ),
        each("GPUs of a node", 1, "fabric.per_node", _GUESS),
        each(
            "between GPUs of a node, GB/s one way",
            1e9,
            "fabric.inside.bytes_per_s",
            "NVLink: 450 by data sheet x 0.8; 4090: 13 a pair without P2P (reports of p2pBandwidthLatencyTest), shared",
        ),
        each(
            "between nodes, GB/s one way, of a node",
            1e9,
            "fabric.outside.bytes_per_s",
            "line rate x 0.9: 1 x 100 Gb/s, 8 x 400 Gb/s",
        ),
        each("ring hop inside a node, us", 1e-6, "fabric.inside.ring_s", _NCCL),
        each("tree level inside a node, us", 1e-6, "fabric.inside.tree_s", _NCCL),
        each("ring hop between nodes, us", 1e-6, "fabric.outside.ring_s", _NCCL),
        each("tree level between nodes, us", 1e-6, "fabric.outside.tree_s", _NCCL),
        same(
            "start of a collective, us", 1e6 * START_S, "assumed: NCCL's 4 to 7, and the launch from PyTorch"
        ),
        each(
            "overlapped all-reduce that costs nothing",
            1,
            "hidden",
            "assumed; where BatchNorm is synchronised its exchanges queue behind the buckets",
        ),
        same("spread of a rank's step", JITTER, _GUESS),
        same("tiles/s decoded by a core", DECODE, "measured on another processor (docs/performance.md)"),
        each("processor cores of a GPU", 1, "cores", _GUESS),
        same("service over bare forward pass", SERVICE, "what launch/throughput.py teacher asks for"),
        same("tiles rejected by the tile filter", REJECTED, "mean of semi.drop_start and drop_end"),
        same("weights packed for teachers, GB/s", PACK / 1e9, _GUESS),
        same("weights to one teacher, GB/s", STREAM / 1e9, _GUESS),
    ]


def _find(machine: Machine, attribute: str) -> float:
    """Return a figure by its dotted name."""
    found: object = machine
    for name in attribute.split("."):
        found = getattr(found, name)
    assert isinstance(found, (int, float))
    return found

"""A model of a training step on many ranks: volumes, collectives, overlap, waits. Formulas only; no torch, no figures.

The figures that go in stand in `mkd.benchmarks.scaling.devices`, or are measured by `mkd.benchmarks.scaling.rank`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # bytes of DistributedDataParallel's buckets
SHORT, LARGE = 1024, 2**24  # bytes of a short all-reduce, and of one whose rate is measured


@dataclass(frozen=True)
class Link:
    """A kind of connection.

    Attributes:
        ring_s: latency of one hop of a ring, seconds.
        tree_s: latency of one level of a tree, seconds.
        bytes_per_s: in one direction: of one rank inside a node, of a whole node between nodes.
    """

    ring_s: float
    tree_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Fabric:
    """How ranks are connected.

    Attributes:
        per_node: ranks of a node.
        inside: between ranks of a node.
        outside: between nodes.
        start_s: what each collective call costs whatever its size, seconds.
    """

    per_node: int
    inside: Link
    outside: Link
    start_s: float


@dataclass(frozen=True)
class Job:
    """One rank's step.

    Attributes:
        forward_s: of the trained network, seconds; also what is computed beside it (a teacher in this process).
        backward_s: seconds.
        grad_bytes: of all gradients.
        reads: tiles that a rank reads for a step.
        batchnorm_layers: whose statistics are synchronised; 0 where they are not.
        batchnorm_bytes: per rank and step, forward: mean, variance and count of all these layers.
        sums: other short all-reduces of a step: losses, counts, selections.
        exchange_bytes: of pseudo-labelled tiles that a rank sends to others, at most.
        hidden: share of an overlapped all-reduce that costs the computing rank nothing, in [0,1].
        jitter: spread of a rank's step, share of its computing time.
        data_tiles_per_s: tiles that the cores of one rank decode; infinite where that never binds.
    """

    forward_s: float
    backward_s: float
    grad_bytes: float
    reads: float
    batchnorm_layers: int = 0
    batchnorm_bytes: float = 0.0
    sums: float = 0.0
    exchange_bytes: float = 0.0
    hidden: float = 1.0
    jitter: float = 0.0
    data_tiles_per_s: float = math.inf


@dataclass(frozen=True)
class Split:
    """Where the time of a step goes, seconds; the parts follow one another.

    Attributes:
        compute: forward and backward.
        all_reduce: of gradients, as far as it is not hidden behind the backward pass.
        batchnorm: synchronised statistics; nothing hides them.
        sums: other short all-reduces.
        exchange: of pseudo-labelled tiles.
        stragglers: waiting for the slowest rank.
        data: waiting for tiles.
        teacher: waiting for pseudo-labels.
    """

    compute: float
    all_reduce: float = 0.0
    batchnorm: float = 0.0
    sums: float = 0.0
    exchange: float = 0.0
    stragglers: float = 0.0
    data: float = 0.0
    teacher: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return math.fsum(asdict(self).values())


def sent_bytes(size: float, ranks: int) -> float:
    r"""Return what one rank sends to all-reduce ``size`` bytes, and as much comes in: :math:`2 (R-1)/R \cdot n`.

    Source: Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations.
    """
    return 2 * (ranks - 1) / ranks * size


def all_reduce_s(fabric: Fabric, size: float, ranks: int) -> float:
    r"""Return the seconds of one all-reduce, first inside the nodes, then between them.

    .. math:: t = t_0 + \frac{2 (g-1)}{g} \frac{n}{B_i} + \frac{2 (N-1)}{N} \frac{n}{B_o} + \min(t_{ring}, t_{tree})

    with g ranks a node, N nodes, :math:`t_{ring} = 2 (R-N) a_i + 2 (N-1) a_o` and
    :math:`t_{tree} = 2 (g-1) a_i' + 2 \lceil\log_2 N\rceil a_o'`; 0 for one rank.

    Args:
        fabric: connections.
        size: bytes.
        ranks: >= 1; filled node by node.

    Source: latencies as NCCL's own tuning model adds them up (src/graph/tuning.cc).
    """
    if ranks == 1:
        return 0.0
    here, nodes = _nodes(fabric, ranks)
    ring = 2 * (ranks - nodes) * fabric.inside.ring_s + 2 * (nodes - 1) * fabric.outside.ring_s
    tree = 2 * (here - 1) * fabric.inside.tree_s + 2 * math.ceil(math.log2(nodes)) * fabric.outside.tree_s
    moved = sent_bytes(size, here) / fabric.inside.bytes_per_s
    return fabric.start_s + moved + sent_bytes(size, nodes) / fabric.outside.bytes_per_s + min(ring, tree)


def all_gather_s(fabric: Fabric, size: float, ranks: int) -> float:
    r"""Return the seconds of one all-gather of ``size`` bytes from each rank, by a ring: NCCL has no tree for it.

    .. math:: t = t_0 + (R-N) a_i + (N-1) a_o + (R-1) n / B_i + (R-g) n / B_o
    """
    if ranks == 1:
        return 0.0
    here, nodes = _nodes(fabric, ranks)
    hops = (ranks - nodes) * fabric.inside.ring_s + (nodes - 1) * fabric.outside.ring_s
    moved = (ranks - 1) / fabric.inside.bytes_per_s + (ranks - here) / fabric.outside.bytes_per_s
    return fabric.start_s + hops + size * moved


def _nodes(fabric: Fabric, ranks: int) -> tuple[int, int]:
    return min(ranks, fabric.per_node), math.ceil(ranks / fabric.per_node)


def buckets(size: float) -> list[float]:
    """Return the bytes of DistributedDataParallel's buckets in the order of the backward pass; their sum is `size`."""
    first = min(float(FIRST_BUCKET), size)
    whole, rest = divmod(size - first, BUCKET)
    return [b for b in (first, *[float(BUCKET)] * int(whole), rest) if b > 0]


def exposed_s(times: Sequence[float], sizes: Sequence[float], backward_s: float) -> float:
    """Return the seconds that all-reduces last beyond the backward pass.

    Gradients become ready in proportion to their bytes; a bucket starts when it is full and the one before is done.
    So the last bucket is never hidden.

    Args:
        times: seconds of each bucket's all-reduce, in order.
        sizes: bytes of each bucket.
        backward_s: of the backward pass without them.
    """
    done, full, whole = 0.0, 0.0, math.fsum(sizes)
    for seconds, size in zip(times, sizes, strict=True):
        full += size
        done = max(done, backward_s * full / whole) + seconds
    return max(0.0, done - backward_s)


def predict(job: Job, fabric: Fabric, ranks: int) -> Split:
    r"""Return the split of a step on ``ranks`` ranks with the same tiles for each (weak scaling), labels aside.

    An overlapped all-reduce still takes ``1 - hidden`` of its time from the computing rank. The slowest of R ranks
    needs about :math:`\sqrt{2 \ln R}` spreads more than the mean. Reading goes on beside all else, so it is waited
    for only where it is slower than the rest.
    """
    sizes = buckets(job.grad_bytes)
    times = [all_reduce_s(fabric, size, ranks) for size in sizes]
    late = exposed_s(times, sizes, job.backward_s) if ranks > 1 else 0.0
    compute = job.forward_s + job.backward_s
    statistics = job.batchnorm_bytes / max(1, job.batchnorm_layers)
    layer = all_gather_s(fabric, statistics, ranks) + all_reduce_s(fabric, statistics, ranks)
    split = Split(
        compute=compute,
        all_reduce=late + (1 - job.hidden) * (math.fsum(times) - late),
        batchnorm=job.batchnorm_layers * layer,
        sums=job.sums * all_reduce_s(fabric, SHORT, ranks),
        exchange=exchange_s(fabric, job.exchange_bytes, ranks),
        stragglers=job.jitter * compute * math.sqrt(2 * math.log(ranks)),
    )
    return replace(split, data=max(0.0, job.reads / job.data_tiles_per_s - split.total))


def exchange_s(fabric: Fabric, size: float, ranks: int) -> float:
    """Return the seconds in which each rank sends ``size`` bytes to any others; between nodes it shares the link."""
    if ranks == 1 or size == 0:
        return 0.0
    here, nodes = _nodes(fabric, ranks)
    outside = here * size / fabric.outside.bytes_per_s if nodes > 1 else 0.0
    hop = fabric.outside.ring_s if nodes > 1 else fabric.inside.ring_s
    return fabric.start_s + hop + max(size / fabric.inside.bytes_per_s, outside)


def efficiency(alone: Split, together: Split) -> float:
    """Return the tiles/s of each rank of a job over those of a rank alone, in (0,1]."""
    return alone.total / together.total

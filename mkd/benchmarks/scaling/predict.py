"""Predictions: on GPUs that were not measured, and on this machine's gloo ranks beside what was measured there."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mkd.benchmarks.scaling import devices as devices
from mkd.benchmarks.scaling.cost_model import LARGE, Fabric, Job, Link, Split, efficiency, predict
from mkd.benchmarks.scaling.devices import Machine
from mkd.benchmarks.scaling.roofline import forward_work
from mkd.benchmarks.teacher.simulate import Cluster, wait_share
from mkd.config.schema import TeacherConfig
from mkd.metrics.cost import parameters

PIXEL_BYTES = 4  # of a pseudo-labelled tile on its way to another rank: colours and label
HEAD_BYTES = 64  # that go with it, about: which tile, the state of its generator
TRIED = 2  # splits of a node into students and teachers that are played through
WORKS = ("kd", "semi", "semi, services")


@dataclass(frozen=True)
class Network:
    """What the model must know of a network.

    Attributes:
        weights: number of parameters.
        statistics: numbers beside them that are published as well.
        layers: of BatchNorm.
        channels: of all these layers together.
    """

    weights: int
    statistics: int
    layers: int
    channels: int

    def batchnorm_bytes(self, number: int) -> float:
        """Return the bytes of mean, variance and count of all layers, ``number`` bytes each."""
        return float(number * (2 * self.channels + self.layers))


def network_facts(model: nn.Module) -> Network:
    """Count."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    statistics = sum(b.numel() for b in model.buffers())
    return Network(parameters(model), statistics, len(norms), sum(m.num_features for m in norms))


@dataclass(frozen=True)
class Gpu:
    """One kind of machine with one network, ready to be asked about any number of GPUs.

    Attributes:
        machine: the figures assumed.
        network: counted.
        size: edge of a tile, pixels.
        flop: of a forward pass of `Machine.tiles`.
        full_s: of such a pass, seconds.
        half_s: of half as many.
        sums: short all-reduces of a step, counted in a run here.
    """

    machine: Machine
    network: Network
    size: int
    flop: float
    full_s: float
    half_s: float
    sums: float

    def row(self, work: str, gpus: int) -> dict[str, Any]:
        """Return the prediction for one of `WORKS` on this many GPUs, students and teachers together."""
        alone = self._step("kd" if work == "kd" else "semi", 1, self.machine.fabric)
        teachers = 0
        if work == "semi, services":
            teachers, split = self._with_services(gpus)
        else:
            split = self._step(work, gpus, self.machine.fabric)
        students = gpus - teachers
        row = {
            "work": work,
            "gpus": gpus,
            "teachers": teachers,
            "tiles_per_s": students * self.machine.tiles / split.total,
            "efficiency": efficiency(alone, split) * students / gpus,
            "step_s": split.total,
            "split": asdict(split),
        }
        return row | (self._publishing(teachers, split) if teachers else {})

    def job(self, work: str) -> Job:
        """Return one rank's step."""
        m, accepted = self.machine, 1 - devices.REJECTED
        labels = {"kd": self.full_s, "semi": self.half_s / accepted, "semi, services": 0.0}[work]
        semi = work != "kd"
        return Job(
            forward_s=self.full_s + labels,
            backward_s=devices.BACKWARD * self.full_s,
            grad_bytes=4.0 * self.network.weights,
            reads=m.tiles / 2 * (1 + 1 / accepted) if semi else m.tiles,
            batchnorm_layers=self.network.layers if m.synchronises else 0,
            batchnorm_bytes=self.network.batchnorm_bytes(4) if m.synchronises else 0.0,
            sums=self.sums,
            exchange_bytes=tile_bytes(m.tiles // 2 + 1, self.size) if semi else 0.0,
            hidden=m.hidden,
            jitter=devices.JITTER,
            data_tiles_per_s=devices.DECODE * m.cores,
        )

    def _step(self, work: str, ranks: int, fabric: Fabric) -> Split:
        return predict(self.job(work), fabric, ranks)

    def _with_services(self, gpus: int) -> tuple[int, Split]:
        """Return how many GPUs should be teachers, the same number on each node, and a student's step then."""
        here = min(gpus, self.machine.fabric.per_node)
        nodes = math.ceil(gpus / here)
        times = self._service_times()
        steps = {
            n: self._step("semi, services", nodes * (here - n), self._fabric(here - n))
            for n in range(1, here)
        }
        # No wait can make a split better than both sides allow; so only the most promising are played through.
        bounds = {n: min((here - n) / s.total, n / statistics.fmean(times)) for n, s in steps.items()}
        options = []
        for n in sorted(bounds, key=bounds.__getitem__)[-TRIED:]:
            cluster = Cluster(here - n, n, steps[n].total, TeacherConfig().depth, self._travel_s())
            wait = max(0.0, wait_share(times, cluster))
            split = replace(steps[n], teacher=steps[n].total * wait / (1 - wait))
            options.append(((here - n) / split.total, nodes * n, split))
        _, teachers, split = max(options, key=lambda option: option[0])
        return teachers, split

    def _fabric(self, students: int) -> Fabric:
        return replace(self.machine.fabric, per_node=students)

    def _service_times(self) -> list[float]:
        mean = self.half_s / devices.SERVICE / (1 - devices.REJECTED)
        return [mean * (1 + devices.JITTER * spread) for spread in (-1, 0, 1)]

    def _travel_s(self) -> float:
        return self.machine.tiles / 2 * 4 * self.size**2 / devices.STREAM  # pixels there, labels back

    def _publishing(self, teachers: int, split: Split) -> dict[str, float]:
        """Return how long a version of the weights is under way, and how seldom that demands to publish."""
        size = 4.0 * (self.network.weights + self.network.statistics)
        rate = min(self.machine.fabric.outside.bytes_per_s, teachers * devices.STREAM)
        seconds = size / devices.PACK + teachers * size / rate
        every = math.ceil(seconds / (TeacherConfig().max_age * split.total))
        return {"publish_bytes": teachers * size, "publish_s": seconds, "sync_every": max(1, every)}


def gpu(machine: Machine, model: nn.Module, size: int, sums: float, achieved: float | None) -> Gpu:
    """Count a network's work on the machine.

    Args:
        machine: of `MACHINES`.
        model: on the meta device.
        size: edge of a tile, pixels.
        sums: short all-reduces of a step.
        achieved: measured FLOP/s of a training step, in place of the roofline; None assumes.
    """
    works = [forward_work(model, tiles, size) for tiles in (machine.tiles, machine.tiles // 2)]
    full, half = (w.seconds(machine.rates) if achieved is None else w.flop / achieved for w in works)
    return Gpu(machine, network_facts(model), size, works[0].flop, full, half, sums)


def tile_bytes(tiles: int, size: int) -> float:
    """Return the bytes of pseudo-labelled tiles on their way to another rank."""
    return float(tiles * (PIXEL_BYTES * size**2 + HEAD_BYTES))


def gloo_split(
    alone: Mapping[str, float],
    link: Mapping[str, float],
    network: Network,
    ranks: int,
    cores: int,
    sums: float,
    exchanged: float,
) -> Split:
    """Return the predicted step of gloo ranks of this machine.

    Cores that are shared make everything longer: computing, and moving bytes, which the cores do as well. Where none
    is spare, nothing of the all-reduce is hidden.

    Args:
        alone: measured seconds of one rank's step by part, everything done by that rank.
        link: measured seconds of collective calls between two ranks: ``small``, ``large``.
        network: counted.
        ranks: of the prediction.
        cores: that they share.
        sums: short all-reduces of a step.
        exchanged: bytes of tiles that a rank sends to others, at most.
    """
    share = max(1.0, ranks / cores)
    hop = link["small"] / 2  # there and back
    rate = LARGE / max(link["large"] - link["small"], 1e-9)
    wire = Link(share * hop, share * hop, rate / share)
    total = math.fsum(alone.values())
    job = Job(
        forward_s=share * (total - alone["backward"]),
        backward_s=share * alone["backward"],
        grad_bytes=4.0 * network.weights,
        reads=0,
        batchnorm_layers=network.layers,
        batchnorm_bytes=network.batchnorm_bytes(8),
        sums=sums,
        exchange_bytes=exchanged,
        hidden=1.0 if ranks < cores else 0.0,
    )
    return predict(job, Fabric(ranks, wire, wire, 0.0), ranks)

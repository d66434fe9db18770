"""launch/throughput.py cost and speed: a network's size, and its rate beside the device's matmul rate."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mkd.benchmarks.reporting import write_json
from mkd.benchmarks.settings import CostRun, SpeedRun
from mkd.config.load import parse
from mkd.distributed.engine import Engine
from mkd.distributed.world import find_world
from mkd.inference.speed import seconds_a_call
from mkd.labels import Colour
from mkd.losses.ohem import ohem_cross_entropy
from mkd.metrics.cost import cost, gmac
from mkd.model_folder import ModelCard, save_model
from mkd.models.build import build
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories


def build_named(name: str, classes: int, device: str = "cpu") -> SegmentationNetwork:
    """Return a network of configs/model with random weights."""
    with torch.device(device):
        return build(factories.architecture(parse(CostRun, "cost", [f"model={name}"]).model), classes)


def write_random_model(
    folder: str | Path, name: str, classes: Sequence[str], palette: Sequence[Colour]
) -> tuple[SegmentationNetwork, ModelCard]:
    """Write a model folder with random weights for these classes; return what is in it."""
    model = build_named(name, len(classes))
    card = ModelCard(model.architecture, tuple(classes), tuple(palette))
    save_model(folder, model.state_dict(), card)
    return model, card


def measure_cost(config: CostRun) -> None:
    """Print and write parameters and GMAC at the given input size."""
    with torch.device("meta"):
        model = build(factories.architecture(config.model), config.classes)
    found = cost(model, config.size)
    print(
        f"{config.model.backbone}{'' if config.model.psa == 'none' else ' + PSA'}, {config.classes} classes, "
        f"{config.size} x {config.size}: {found.parameters / 1e6:.2f} M parameters, {found.gmac:.1f} GMAC"
    )
    write_json(config.json, asdict(found))


def measure_speed(config: SpeedRun) -> None:
    """Print and write inference FPS and training step time, with TFLOP/s beside the measured matmul rate."""
    # One network, one batch of noise on the device, and the engine that training uses.
    world = find_world(config.device)
    model = build(factories.architecture(config.model), config.classes)
    flop = 2e9 * gmac(model, config.size)  # an image's forward pass; a multiply-accumulate is 2
    engine = Engine(world, model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))
    images = torch.rand(config.batch, 3, config.size, config.size, device=world.device)
    labels = torch.randint(config.classes, (config.batch, config.size, config.size), device=world.device)

    def infer(count: int) -> Callable[[], None]:
        @torch.inference_mode()
        def once() -> None:
            with engine.autocast():
                model(images[:count])

        return once

    def train() -> None:
        with engine.autocast():
            loss = ohem_cross_entropy(model(images), labels, 0.7, labels.numel() // 16)
        engine.backward(loss)
        engine.update()

    # Inference, then training steps, then the rate that the device reaches at best.
    model.eval()
    one, many = (seconds_a_call(infer(n), world.device, config.seconds) for n in (1, config.batch))
    model.train()
    step = seconds_a_call(train, world.device, config.seconds)
    rate = _matmul_rate(world.device, config.seconds)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "size": config.size,
        "batch": config.batch,
        "fps_batch1": 1 / one,
        "fps": config.batch / many,
        "inference_tflops": flop * config.batch / many / 1e12,
        "train_step_seconds": step,
        "train_tflops": 3 * flop * config.batch / step / 1e12,  # backward counts twice a forward pass
        "matmul_tflops": rate / 1e12,
    }
    print("\n".join(f"{k:>20}  {v if isinstance(v, (str, int)) else f'{v:.3f}'}" for k, v in found.items()))
    write_json(config.json, found)


def _matmul_rate(device: torch.device, at_least: float) -> float:
    """Return the device's rate in FLOP/s for large square matrix products, bf16 on a GPU, float32 on a CPU."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a = torch.rand(size, size, device=device, dtype=dtype)

    def product() -> None:
        torch.mm(a, a)

    return 2 * size**3 / seconds_a_call(product, device, at_least)

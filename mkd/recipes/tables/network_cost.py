"""What the network of a run costs: parameters, multiply-accumulates, images a second on this machine."""

import json
from pathlib import Path
from typing import Any

from mkd.atomic import write_text
from mkd.distributed.world import find_world
from mkd.inference.speed import inference_speed
from mkd.metrics.cost import gmac, parameters
from mkd.model_folder import load_model

SIZES = (512, 1024)  # of table 1: what the networks are trained at, and what the paper's counts are of
FILE = "cost.json"  # in a run folder


def network_cost(run: Path) -> dict[str, Any]:
    """Return what the network of an ended run costs; measured once, and kept in its folder.

    Returns:
        "parameters"; "gmac" by side of the image; "speed" as `mkd.inference.speed.inference_speed` has it, at the
        first size and one image at a time.
    """
    if (run / FILE).is_file():
        kept: dict[str, Any] = json.loads((run / FILE).read_text(encoding="utf-8"))
        return kept
    model, card = load_model(run / "model")
    bands = card.architecture.scale.bands
    found = {
        "parameters": parameters(model),
        "gmac": {str(size): gmac(model, size, bands) for size in SIZES},
        "speed": inference_speed(model, SIZES[0], 1, find_world(None).device),
    }
    write_text(run / FILE, json.dumps(found, indent=1) + "\n")
    return found

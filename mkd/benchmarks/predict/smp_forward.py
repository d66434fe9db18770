"""segmentation_models_pytorch's DeepLabV3+ as its guide has it: a script of its own, for an interpreter of its own.

`python -I smp_forward.py {...}` prints one line of JSON. It imports nothing of this project.
"""

import importlib
import json
import sys
import time
from typing import Any

ENCODER = "resnet101"
FEWEST = 3  # forward passes that count


def forward_rate(classes: int, tile: int, batch: int, seconds: float, device: str) -> dict[str, Any]:
    """Measure forward passes of windows of noise, in float32 and with random weights.

    Returns:
        Windows a second, the encoder, and versions.
    """
    torch, smp = (importlib.import_module(name) for name in ("torch", "segmentation_models_pytorch"))
    network = smp.DeepLabV3Plus(encoder_name=ENCODER, encoder_weights=None, classes=classes)
    network = network.to(device).eval()
    images = torch.rand(batch, 3, tile, tile, device=device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    with torch.inference_mode():
        network(images)
        wait()
        began, passes = time.perf_counter(), 0
        while passes < FEWEST or time.perf_counter() - began < seconds:
            network(images)
            wait()
            passes += 1
        took = time.perf_counter() - began
    versions = {"segmentation_models_pytorch": smp.__version__, "torch": torch.__version__}
    return {"windows_per_s": passes * batch / took, "encoder": ENCODER, "versions": versions}


if __name__ == "__main__":
    print(json.dumps(forward_rate(**json.loads(sys.argv[1]))))

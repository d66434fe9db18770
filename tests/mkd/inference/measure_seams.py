"""How much a map depends on where its windows begin, and what tta= gains: python FILE MODEL [SIDE].

The scene is a landscape of the demo's target domain that no data set holds (seed 1000). It is mapped whole and without
its first k rows and columns; the two maps are compared a window away from the border.
"""

import sys

import numpy as np
import torch

from mkd import load
from mkd.inference.windowed import probabilities
from mkd.loader.batch import to_unit
from mkd.synth.landscape import render

SHIFTS = (13, 32, 37)  # pixels


def main(folder: str, side: int = 640) -> None:
    """Print a line for each window and tta."""
    model, scene = load(folder, device="cpu"), render("target", side, side, 1000)
    crop = model.card.crop
    assert crop is not None, "the model's card has no crop"
    image = torch.from_numpy(scene.image).permute(2, 0, 1)[None]

    @torch.inference_mode()
    def found(shift: int, window: int | None, tta: str) -> np.ndarray:
        part = to_unit(image[:, :, shift:, shift:])
        return probabilities(model.network, part, window, tta)[0].argmax(0).numpy()

    for window, tta in ((crop, "none"), (crop, "flips"), (crop, "d4"), (2 * crop, "none"), (None, "none")):
        whole = found(0, window, tta)
        right = float((whole == scene.label).mean())
        line = f"window {window or 'whole scene'}, tta={tta}: {100 * right:.1f} % right; same at a shift of"
        for shift in SHIFTS:
            inner = slice(crop, side - shift - crop)
            same = found(shift, window, tta)[inner, inner] == whole[shift:, shift:][inner, inner]
            line += f"  {shift}: {100 * float(same.mean()):.1f} %"
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *(int(side) for side in sys.argv[2:]))

r"""A whole run of UniMatch's loop, the peer of launch/semi.py: the same keys, start, network, optimizer and validation.

::

    python -m mkd.benchmarks.step.unimatch_run out=OUT semi.start=MODEL data.labelled=L data.unlabelled=U \
        data.val=V steps=2400

Every `val_every` steps the student and the moving average of its weights are judged on `data.val`; `OUT/model` is the
best of all, which is kinder to it than its public code, where the student alone is judged.
"""

import copy
import json
import random
import sys
import time
from pathlib import Path

import torch
from torch import nn

from mkd.benchmarks.step.plain import update_average, updates
from mkd.benchmarks.step.plain_views import write_files
from mkd.benchmarks.step.unimatch import unimatch_batches, unimatch_loss
from mkd.config.load import main
from mkd.config.schema import SemiRun
from mkd.distributed.world import find_world
from mkd.inference.evaluator import confusion
from mkd.loader.loader import TileSet
from mkd.model_folder import load_model, save_model

DECAY = 0.996  # of the moving average, as in the paper's own later version


def train(run: SemiRun) -> str:
    """Train for `steps` steps; return the best validation mIoU, its step and the seconds of all steps.

    Raises:
        ValueError: no `steps` or no `data.val`; a data set of other tiles than 8-bit RGB.
    """
    if run.steps is None or run.data.val is None or run.data.unlabelled is None:
        raise ValueError("UniMatch's loop needs steps=, data.val= and data.unlabelled=; give them")
    random.seed(run.seed)
    torch.manual_seed(run.seed)
    world, out = find_world(run.device), Path(run.out)
    student, card = load_model(run.semi.start)
    student = student.to(world.device).train()
    average = copy.deepcopy(student).eval().requires_grad_(False)
    labelled = write_files(run.data.labelled, out / "labelled")
    unlabelled = write_files(run.data.unlabelled, out / "unlabelled", labelled=False)
    batches = unimatch_batches(run, labelled, unlabelled, world.device)
    spent = [0.0]  # seconds of all steps, without reading tiles

    def loss() -> torch.Tensor:
        batch = next(batches)
        spent[0] -= time.monotonic()
        return unimatch_loss(run, student, *batch)

    tiles, best, journal = TileSet(run.data.val, labelled=True), (-1.0, 0, ""), out / "validations.jsonl"

    def score(model: nn.Module) -> float:
        copied = copy.deepcopy(model)
        return confusion(copied, tiles, run.data.batch, world, window=run.data.crop).miou()

    for step in updates(run, student, loss):
        spent[0] += time.monotonic()
        update_average(average, student, min(1 - 1 / (step + 1), DECAY))
        done = step + 1
        if done % run.val_every == 0 or done == run.steps:
            found = {"student": score(student), "average": score(average)}
            for name, model in (("student", student), ("average", average)):
                if found[name] > best[0]:
                    best = found[name], done, name
                    save_model(out / "model", model.state_dict(), card)
            with open(journal, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": done, "seconds": spent[0], **found}) + "\n")
            print(f"step {done}/{run.steps}  {spent[0]:.0f} s  validation mIoU {found}", flush=True)
        if done == run.steps:
            break
    return f"best validation mIoU {best[0]:.4f} at step {best[1]} ({best[2]}); {spent[0]:.0f} s of steps"


if __name__ == "__main__":
    main(SemiRun, "semi", train, ["semi=unimatch", *sys.argv[1:]])

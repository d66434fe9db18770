"""Whether two ended or stopped runs of launch scripts are the same, to the bit or to rounding."""

import torch
from safetensors.torch import load_file

from mkd.train.run.checkpoint import Checkpoints
from tests.helpers.training.runs import rows


def saved(run, phase):
    """Read the latest checkpoint of a run's phase."""
    return Checkpoints(run / "checkpoints" / phase).load()


def near(run, other, phase):
    """Weights and averages are equal to 1e-5, although they have moved by more; momentum is, as a whole, to 5 %.

    Momentum holds gradients, in which 50 layers of BatchNorm over few values multiply what ranks round otherwise: 1.3 %
    seen, more in single layers. A wrong share of a rank is tens of percent; small networks hold to 1e-5.
    """
    mine, theirs = saved(run, phase), saved(other, phase)
    assert mine["step"] == theirs["step"]
    assert mine["step_state"].keys() == theirs["step_state"].keys()
    pairs = [(mine["model"], theirs["model"])]
    if "ema" in mine["step_state"]:
        pairs.append((mine["step_state"]["ema"], theirs["step_state"]["ema"]))
    momenta = [
        torch.cat([each["momentum_buffer"].flatten() for each in state["optimizer"]["state"].values()])
        for state in (mine, theirs)
    ]
    assert (momenta[0] - momenta[1]).norm() <= 5e-2 * momenta[1].norm()
    start = load_file(other.parent / "supervised" / "model" / "model.safetensors")
    if other.name != "supervised":
        assert max((theirs["model"][n] - t).abs().max() for n, t in start.items() if t.dim() == 4) > 1e-4
    for one, two in pairs:
        for name, t in one.items():
            # running statistics are activations, in which all layers before have rounded otherwise
            close = 1e-4 if "running" in str(name) else 1e-5
            torch.testing.assert_close(
                t, two[name], rtol=close, atol=close, msg=lambda m, n=name: f"{n}: {m}"
            )


def same(run, other, phase):
    """Model folder and metrics are the same to the bit, and so are the last weights."""
    for name in ("model.safetensors", "model.yaml"):
        assert (run / "model" / name).read_bytes() == (other / "model" / name).read_bytes(), name
    assert rows(run) == rows(other)
    mine, theirs = saved(run, phase), saved(other, phase)
    assert all(torch.equal(t, theirs["model"][n]) for n, t in mine["model"].items())

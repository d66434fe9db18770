"""A Slurm of two nodes, a folder to submit from, tiny data and a model to start from."""

import os
from pathlib import Path

import pytest

from tests.helpers.processes.slurm import Slurm, missing
from tests.helpers.shards import CLASSES, PALETTE, write_dataset

ROOT = Path(__file__).resolve().parents[2]
PARTS = (".venv", "configs", "launch", "mkd", "shards", "slurm")
WAIT = 900  # seconds that a job may take on a machine that has other work


class Lab:
    """What a user of the scripts has: a Slurm, the project's folder as the place to submit from, and logs there.

    Attributes:
        slurm: the cluster.
        folder: links to the project's parts, so that logs and runs do not go into the project itself.
    """

    def __init__(self, slurm, folder):
        """Link the parts that exist; without .venv the jobs take the interpreter of the tests."""
        self.slurm, self.folder = slurm, folder
        for name in PARTS:
            if (ROOT / name).exists():
                (folder / name).symlink_to(ROOT / name)

    def submit(self, script, *arguments, options=(), **variables):
        """Submit slurm/SCRIPT.sbatch unedited; return the number of the job."""
        given = {"NPROC": "1", **{name: str(value) for name, value in variables.items()}}
        words = ("sbatch", "--parsable", *options, f"slurm/{script}.sbatch", *map(str, arguments))
        return self.slurm.run(*words, cwd=self.folder, **given)

    def log(self, job, name="kd"):
        """Read the log of a job, of its last start and those before."""
        path = self.folder / f"{name}-{job}.log"
        return path.read_text() if path.is_file() else ""

    def completed(self, job, name="kd"):
        """Wait for a job that must end well; return its log."""
        states = self.slurm.wait(job, seconds=WAIT)
        assert states == {"COMPLETED"}, f"{states}\n{self.log(job, name)}"
        return self.log(job, name)

    def restarts(self, job):
        """Return how often a job was put back into the queue."""
        return int(self.slurm.jobs(job)[0]["Restarts"])

    def until_file(self, job, path, name="kd"):
        """Wait until a run has written a file; the job must not have ended before."""
        self.slurm.until(lambda: self._stands(job, path, name), WAIT, f"{path} did not come")

    def _stands(self, job, path, name):
        state = self.slurm.jobs(job)[0]["JobState"]
        assert state in ("PENDING", "CONFIGURING", "RUNNING"), f"{state}\n{self.log(job, name)}"
        return path.is_file()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Start Slurm once; skipped, with the reason, where there can be none."""
    if reason := missing():
        pytest.skip(reason)
    slurm = Slurm()
    try:
        slurm.start()
        yield Lab(slurm, tmp_path_factory.mktemp("submit"))
    finally:
        slurm.stop()


@pytest.fixture
def lab(cluster):
    """Give the cluster, and leave it without jobs and with both nodes up."""
    yield cluster
    cluster.slurm.cancel_all()


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """Return --key=value pairs of tiny labelled and unlabelled tiles, and a model folder of their classes."""
    from mkd.config.load import parse
    from mkd.config.schema import KdRun
    from mkd.model_folder import ModelCard, save_model
    from mkd.models.build import build
    from mkd.recipes import factories
    from tests.helpers.training.runs import coloured

    root = tmp_path_factory.mktemp("sets")
    labelled = write_dataset(root / "labelled", coloured(6, seed=0))
    unlabelled = write_dataset(root / "unlabelled", coloured(12, seed=1), labelled=False)
    plan = factories.architecture(
        parse(KdRun, "kd", ["model=lite0", "out=x", f"data.labelled={labelled}"]).model
    )
    model = build(plan, len(CLASSES), None, seed=0)
    save_model(root / "model", model.state_dict(), ModelCard(plan, CLASSES, PALETTE, {}))
    return {"labelled": labelled, "unlabelled": unlabelled, "model": str(root / "model")}


@pytest.fixture(scope="session")
def quick(sets):
    """Return the words that make a stage tiny: {"kd": [...], "semi": [...]}."""
    tiny = ("data.crop=32", "data.batch=2", "data.workers=0", "device=cpu", "log_every=5", "save_every=1000")
    common = [f"data.labelled={sets['labelled']}", *tiny]
    kd = [
        "model=lite0",
        "model.pretrained=null",
        f"kd.source={sets['model']}",
        f"kd.source_data={sets['labelled']}",
    ]
    return {
        "kd": [*common, *kd, "kd.teacher_epochs=1", "kd.fisher_tiles=2", "kd.ewc_weight=0.01"],
        "semi": [*common, f"data.unlabelled={sets['unlabelled']}", "semi.confidence=0.35"],
    }


@pytest.fixture(scope="session")
def weights():
    """A function RUN -> bytes of the weights of its model."""
    return lambda run: (Path(run) / "model" / "model.safetensors").read_bytes()


def pytest_report_header():
    """Say first whether the tests with a Slurm run."""
    return f"slurm: {missing() or 'here, two nodes are started'} (pid {os.getpid()})"

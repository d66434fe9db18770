"""slurm/pipeline.sh on the demo's landscapes, small: images to an evaluated model, without a hand on it."""

import json
import re

import pytest

from mkd.synth.landscape import render, write_orthomosaic
from tests.slurm.conftest import ROOT

pytestmark = pytest.mark.slow

STAGE = "model=lite0 steps=4 kd.teacher_epochs=1 kd.fisher_tiles=2"
TINY = ("data.crop=32", "data.batch=2", "data.workers=0", "device=cpu", "optim.name=adamw")


def _build(folder, domain):
    """Draw two orthomosaics; return the words that cut them into tiles."""
    for n in range(2):
        write_orthomosaic(render(domain, 256, 256, n), folder, f"{domain}_{n}")
    source, labels = folder / "images" / f"{domain}_*.tif", "../labels/{stem}.tif"
    classes = ROOT / "configs" / "datasets" / f"demo_{domain}.yaml"
    return f"tile --source {source} --labels {labels} --classes {classes} --size 64 --shard-size 8"


def test_the_pipeline_goes_from_images_to_results_and_knows_what_it_has_done(lab, tmp_path):
    """All jobs end well, in their order; started again, it finds everything done and changes no model."""
    variables = {
        "INTERMEDIATE": _build(tmp_path / "scenes", "intermediate"),
        "TARGET": _build(tmp_path / "scenes", "target"),
        "SPLIT": "--by block --block 128",
        "LABELLED": "4",
        "PARTS": "2",
        "NODES": "2",
        "NPROC": "1",
        "DATA": str(tmp_path / "data"),
        "OUT": str(tmp_path / "runs"),
        "STAGE1": STAGE,
        "STAGE2": STAGE,
        "SSL": "steps=4 semi.confidence=0.2",
    }
    first = _run(lab, variables)
    assert json.loads((tmp_path / "runs" / "results.json").read_text())["miou"] >= 0
    assert (tmp_path / "runs" / "report.html").is_file()
    before = (tmp_path / "runs" / "ssl" / "model" / "model.safetensors").read_bytes()
    again = _run(lab, variables)
    assert set(again.values()).isdisjoint(first.values())
    assert (tmp_path / "runs" / "ssl" / "model" / "model.safetensors").read_bytes() == before


def _run(lab, variables):
    """Start the pipeline and wait for all of its jobs; return {name: number}."""
    told = lab.slurm.run("bash", "slurm/pipeline.sh", *TINY, cwd=lab.folder, **variables)
    jobs = dict(re.findall(r"^(\S+): job (\d+)", told, flags=re.M))
    expected = ["intermediate-parts", "intermediate-index", "intermediate-split"]
    expected += ["target-parts", "target-index", "target-split", "stage1", "stage2", "ssl", "evaluate"]
    assert sorted(jobs) == sorted(expected), told
    states = lab.slurm.wait(*jobs.values(), seconds=900)
    logs = "\n".join(path.read_text() for path in sorted(lab.folder.glob("*.log")))
    assert states == {"COMPLETED"}, f"{states}\n{logs}"
    return jobs

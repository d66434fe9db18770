"""What a training run does not import: packages that load for seconds and that it has no use for."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.training.runs import QUICK, RANDOM

ROOT = Path(__file__).parents[3]
# Of engines, services, maps, vectors, figures, probes and export.
UNUSED = {
    *("deepspeed", "pyarrow", "rasterio", "pyogrio", "pyproj", "shapely"),
    *("matplotlib", "sklearn", "onnx", "onnxruntime", "webdataset"),
}


@pytest.mark.slow
def test_a_run_imports_nothing_that_it_does_not_use(sets, tmp_path):
    """One step on one process with the plain engine, from data sets of JPEG and PNG tiles."""
    words = [f"out={tmp_path / 'run'}", f"data.labelled={sets['labelled']}", *QUICK, *RANDOM, "steps=1"]
    code = f"""import runpy, sys
sys.argv = {["supervised.py", *words]}
runpy.run_path("launch/supervised.py", run_name="__main__")
print("imported:", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    imported = set(done.stdout.splitlines()[-1].removeprefix("imported: ").split())
    assert {"torch", "timm", "mkd"} <= imported
    assert imported & UNUSED == set()
    assert (tmp_path / "run" / "model" / "model.yaml").is_file()

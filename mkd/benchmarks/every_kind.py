"""launch/throughput.py all: every other kind, one after the other; with --quick at sizes for function alone."""

import json
import time
from pathlib import Path

from mkd.benchmarks.kinds import KINDS, measure
from mkd.benchmarks.reporting import write_json
from mkd.benchmarks.settings import AllRuns
from mkd.config.load import load

WITH_PEERS, WITH_FOLDER = ("data", "predict"), ("data", "predict", "step", "scaling")
QUICK = {  # keys of each kind under quick=true
    "cost": ["model=lite0", "size=128"],
    "speed": ["model=lite0", "size=64", "batch=2", "seconds=0.2"],
    "step": ["model=lite0", "crop=64", "batch=2", "rounds=1", "seconds=0.5"],
    "predict": ["model=lite0", "scene=256", "tile=128", "overlap=32", "rounds=1"],
    "data": ["tiles=80", "size=64", "batch=4", "rounds=1"],
    "teacher": ["models=[lite0]", "size=64", "rounds=1", "seconds=0.5"],
    "scaling": ["crop=64", "batch=1", "ranks=[1,2]", "steps=2", "predict=lite0"],
}


def measure_all(config: AllRuns) -> None:
    """Run every kind and write all figures.

    Raises:
        ValueError: a kind that cannot run here; nothing of those after it is measured.
    """
    out, figures = Path(config.out), {}
    out.mkdir(parents=True, exist_ok=True)
    for kind in (kind for kind in KINDS if kind != "all"):
        schema, file = KINDS[kind][0], out / f"{kind}.json"
        given = [f"json={file}", *(QUICK[kind] if config.quick else [])]
        given += [f"out={out / kind}"] if kind in WITH_FOLDER else []
        given += [f"peers={config.peers or 'null'}"] if kind in WITH_PEERS else []
        print(f"\n{kind}: {' '.join(given)}", flush=True)
        began = time.monotonic()
        measure(kind, load(schema, kind, given))
        print(f"{kind}: {time.monotonic() - began:.0f} s", flush=True)
        figures[kind] = json.loads(file.read_text())
    if config.quick:
        print("\nquick=true: every kind works; at these sizes no figure says how fast anything is")
    write_json(config.json, figures)

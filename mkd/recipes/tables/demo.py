"""launch/demo.py: the main job from nothing: scenes -> shards -> KD -> KD -> SSL -> map -> report."""

import json
import os
import time
from pathlib import Path
from typing import Any

from mkd.atomic import write_text
from mkd.cli.peak_memory import PeakMemory
from mkd.config.load import load
from mkd.config.schema import DemoRun, Experiment, PredictRun
from mkd.dataset.index import read_index
from mkd.recipes.mapping.predict_map import predict
from mkd.recipes.reports import experiment_report, table_panels
from mkd.recipes.tables.drawn_sets import draw_sets
from mkd.recipes.tables.experiment import check_alone, experiment
from mkd.recipes.tables.run_list import run_folder
from mkd.report.terminal_table import show
from mkd.synth.landscape import render, write_orthomosaic

UNSEEN = "target_unseen"


def demo(config: DemoRun) -> None:
    """Run the demo; a second start resumes where the first ended.

    Writes ``results.json``, ``map.tif`` and ``report.html`` into ``config.out``.
    """
    check_alone("demo")
    out, began, cores = Path(config.out), time.monotonic(), os.cpu_count() or 1
    print(
        f"mkd demo: draws landscapes, packs shards, distils ImageNet -> intermediate -> target with "
        f"{config.labelled} labelled tiles, adds unlabelled tiles, maps an unseen orthomosaic; "
        f"about 8 minutes on 2 CPU cores ({cores} here).",
        flush=True,
    )
    with PeakMemory() as memory:
        _data(config, out)
        overrides = [
            "experiment=demo",
            f"out={out / 'runs'}",
            f"data={out / 'data'}",
            f"seeds={config.seeds}".replace(" ", ""),
            f"parallel={min(cores, len(config.seeds))}",
        ]
        table = load(Experiment, "experiment", overrides)
        results = experiment(table)
        best = run_folder(table, list(table.rows.values())[-1], config.seeds[0]) / "model"
        scene = out / "scenes" / "images" / f"{UNSEEN}.tif"
        print(predict(PredictRun(model=str(best), input=[str(scene)], output=str(out / "map.tif"))))
    results |= {"seconds": round(time.monotonic() - began, 1), "peak_gib": round(memory.gib or 0.0, 2)}
    results |= _earlier_figures(out / "results.json", results)
    experiment_report(
        table, results, out / "report.html", scene, out / "map.tif", "make demo", shown=table_panels(table)
    )
    write_text(out / "results.json", json.dumps(results, indent=1) + "\n")
    show(results)
    print(f"{results['seconds']:.0f} s, peak {results['peak_gib']} GiB; report: {out / 'report.html'}")


def _data(config: DemoRun, out: Path) -> None:
    """Draw the data sets, and the scene that the map is of."""
    data, scenes = out / "data", out / "scenes"
    draw_sets(config, data, scenes)
    unseen = scenes / "images" / f"{UNSEEN}.tif"
    if not unseen.is_file():
        write_orthomosaic(render("target", config.scene, config.scene, 1000), scenes, UNSEEN)
    counts = {
        name: read_index(data / "target" / name).samples for name in ("labelled", "unlabelled", "val", "test")
    }
    print("target tiles: " + ", ".join(f"{n} {name}" for name, n in counts.items()), flush=True)


def _earlier_figures(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Return time and memory of the earlier start that trained, when this one trained nothing."""
    if not path.is_file():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    return {k: before[k] for k in ("seconds", "peak_gib")} if before["rows"] == results["rows"] else {}

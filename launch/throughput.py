"""Benchmarks.

python launch/throughput.py cost model=hrnet_w48_psa size=1024 classes=6 json=F   parameters and GMAC
python launch/throughput.py speed model=hrnet_w48_psa size=512 batch=8 json=F     FPS, training step, TFLOP/s
python launch/throughput.py data images=DIR json=F       loading and packing beside other libraries (needs `make peers`)
python launch/throughput.py teacher json=F               the teacher service, and how many a cluster needs
python launch/throughput.py scaling json=F               steps on gloo ranks here, and an upper bound for GPUs
"""

import sys
from importlib import import_module
from typing import Any

from mkd.benchmarks.settings import CostRun, DataSpeedRun, ScalingRun, SpeedRun, TeacherSpeedRun
from mkd.config.load import main

KINDS: dict[str, tuple[Any, str, str]] = {  # schema, module and function
    "cost": (CostRun, "mkd.benchmarks.network", "measure_cost"),
    "speed": (SpeedRun, "mkd.benchmarks.network", "measure_speed"),
    "data": (DataSpeedRun, "mkd.benchmarks.data.suite", "measure_data"),
    "teacher": (TeacherSpeedRun, "mkd.benchmarks.teacher.suite", "measure_teacher"),
    "scaling": (ScalingRun, "mkd.benchmarks.scaling.suite", "measure_scaling"),
}


def work(config: Any) -> None:
    """Measure; torch is imported after the config has been checked."""
    from mkd.benchmarks.reporting import place_json

    _, module, function = KINDS[sys.argv[1]]
    place_json(config, sys.argv[1])
    getattr(import_module(module), function)(config)


if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["--help" | "-h"]:
            print(__doc__)
        case [word] if word in KINDS:
            main(KINDS[word][0], word, work, sys.argv[2:])
        case other:
            words = "cost, speed, data, teacher or scaling"
            sys.exit(f"throughput: the first word is {other or 'missing'}; choose {words}")

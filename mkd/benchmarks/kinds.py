"""The kinds of launch/throughput.py: keys, and the function that measures; torch is imported where one is called."""

from importlib import import_module
from typing import Any

from mkd.benchmarks.settings import (
    AllRuns,
    CostRun,
    DataSpeedRun,
    PredictSpeedRun,
    ScalingRun,
    SpeedRun,
    StepSpeedRun,
    TeacherSpeedRun,
)

KINDS: dict[str, tuple[Any, str, str]] = {  # schema, module and function
    "cost": (CostRun, "mkd.benchmarks.network", "measure_cost"),
    "speed": (SpeedRun, "mkd.benchmarks.network", "measure_speed"),
    "step": (StepSpeedRun, "mkd.benchmarks.step.suite", "measure_step"),
    "predict": (PredictSpeedRun, "mkd.benchmarks.predict.suite", "measure_predict"),
    "data": (DataSpeedRun, "mkd.benchmarks.data.suite", "measure_data"),
    "teacher": (TeacherSpeedRun, "mkd.benchmarks.teacher.suite", "measure_teacher"),
    "scaling": (ScalingRun, "mkd.benchmarks.scaling.suite", "measure_scaling"),
    "all": (AllRuns, "mkd.benchmarks.every_kind", "measure_all"),
}
FLAGS = {"--quick": "quick=true", "--fit": "fit=true", "--profile": "profile=trace.json"}


def measure(kind: str, config: Any) -> None:
    """Measure one kind, by its checked config."""
    from mkd.benchmarks.reporting import place_json

    _, module, function = KINDS[kind]
    place_json(config, kind)
    getattr(import_module(module), function)(config)

"""Peak memory of a function in a fresh process, where nothing else has left memory behind.

python -m mkd.benchmarks.peak MODULE FUNCTION JSON
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from mkd.benchmarks.data.runner import run_captured


def peak_mib(function: Callable[..., None], given: Mapping[str, Any]) -> float:
    """Run a function in a process of its own and return its peak memory, MiB.

    That is memory reserved on the GPU where the function has used one, else resident memory of the process, in which
    Python and torch are some hundred MiB; decoding processes do not count.

    Args:
        function: of a module.
        given: its arguments, as JSON has them.
    """
    where = (function.__module__, function.__name__, json.dumps(given))
    printed = run_captured([sys.executable, "-m", "mkd.benchmarks.peak", *where])
    return float(printed.splitlines()[-1])


def main(module: str, function: str, given: str) -> None:
    """Run the function, then print the peak."""
    getattr(import_module(module), function)(**json.loads(given))
    reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    print(reserved / 2**20 if reserved else resident_peak_mib())


def resident_peak_mib() -> float:
    """Return the largest resident memory of this process so far, MiB; unlike getrusage's not that of its parent.

    Raises:
        ValueError: a system without /proc.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.is_file() else "")
    if found is None:
        raise ValueError("/proc/self/status tells no VmHWM here; leave memory out of parts=")
    return int(found.group(1)) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])

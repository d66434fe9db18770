"""How the benchmark of data runs its contenders: fresh processes, by turns, round after round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PEERS = Path(__file__).with_name("peers.py")
LIMIT = 3600  # seconds after which a contender counts as hung

Contenders = Mapping[str, Callable[[], float]]


def by_turns(contenders: Contenders, rounds: int, unit: str) -> dict[str, list[float]]:
    """Run all contenders in each round, starting with another one each time, so that slow minutes meet all.

    Args:
        contenders: name -> a run, which returns its figure.
        rounds: >= 1.
        unit: of the figures, for the line that is printed after each run.

    Returns:
        Name -> its figures, one a round.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            figures[name].append(contenders[name]())
            print(f"  round {number + 1}  {name:<24} {figures[name][-1]:10.2f} {unit}", flush=True)
    return figures


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def ours(what: str, given: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a function of `mkd.benchmarks.data.ours` in a fresh process."""
    return _run([sys.executable, "-m", "mkd.benchmarks.data.ours"], what, given, environment or {})


def peer(python: str, what: str, scratch: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Run a function of `peers.py` in a fresh process of an interpreter, its passing files in `scratch`."""
    scratch.mkdir(parents=True, exist_ok=True)
    return _run([python, "-I", str(PEERS)], what, given, {"TMPDIR": str(scratch.resolve())})


def _run(command: list[str], what: str, given: Mapping[str, Any], extra: Mapping[str, str]) -> dict[str, Any]:
    printed = quietly([*command, what, json.dumps(given)], {**os.environ, **extra})
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def medians(figures: Mapping[str, list[float]]) -> dict[str, float]:
    """Return each contender's median over the rounds."""
    return {name: statistics.median(each) for name, each in figures.items()}


def quietly(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return what it printed.

    Raises:
        ValueError: it did not end well; its last words.
    """
    ran = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT
    )
    if ran.returncode:
        last = (ran.stderr.strip() or f"status {ran.returncode}").splitlines()[-1]
        raise ValueError(f"'{' '.join(command[:4])} ..' did not end well: {last}")
    return ran.stdout

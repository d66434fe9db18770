"""How the benchmark of data runs its contenders: each in a fresh process that prints a line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PEERS_SCRIPT = Path(__file__).with_name("peers.py")
TIME_LIMIT = 3600  # seconds after which a contender counts as hung


def run_ours(
    what: str, given: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a function of `mkd.benchmarks.data.ours` in a fresh process."""
    return _run([sys.executable, "-m", "mkd.benchmarks.data.ours"], what, given, environment or {})


def run_peer(python: str, what: str, scratch: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Run a function of `peers.py` in a fresh process of an interpreter; temporary files go to ``scratch``."""
    scratch.mkdir(parents=True, exist_ok=True)
    return _run([python, "-I", str(PEERS_SCRIPT)], what, given, {"TMPDIR": str(scratch.resolve())})


def _run(command: list[str], what: str, given: Mapping[str, Any], extra: Mapping[str, str]) -> dict[str, Any]:
    printed = run_captured([*command, what, json.dumps(given)], {**os.environ, **extra})
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def run_captured(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        ValueError: it failed; the message ends with the last line of its errors.
    """
    ran = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIME_LIMIT
    )
    if ran.returncode:
        last = (ran.stderr.strip() or f"status {ran.returncode}").splitlines()[-1]
        raise ValueError(f"'{' '.join(command[:4])} ..' did not end well: {last}")
    return ran.stdout

"""How the benchmarks hand out what they found: Markdown tables and a JSON file."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mkd.atomic import check_writable, write_text
from mkd.config.constraints import output_file


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows of equal keys as a Markdown table with those keys as its head.

    Args:
        rows: at least one; fractions are printed with four digits, None as a dash.
    """
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(v) for v in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def place_json(config: Any, name: str) -> None:
    """Put the path of a file in json=, where a folder is given, and refuse one that cannot be written."""
    if config.json is not None:
        config.json = output_file("json", config.json, f"{name}.json")
        check_writable(config.json)


def write_json(path: str | None, found: Mapping[str, object]) -> None:
    """Write what was found to a file; None writes nothing."""
    if path is not None:
        write_text(path, json.dumps(found, indent=1) + "\n")


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Return what figures depend on beside the settings."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case _:
            return str(value)

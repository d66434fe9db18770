"""How the benchmarks hand out what they found: Markdown tables and a JSON file."""

import json
from collections.abc import Mapping, Sequence

from mkd.atomic import write_text


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows of equal keys as a Markdown table with those keys as its head.

    Args:
        rows: at least one; fractions are printed with four digits, None as a dash.
    """
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(v) for v in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json(path: str | None, found: Mapping[str, object]) -> None:
    """Write what was found to a file; None writes nothing."""
    if path is not None:
        write_text(path, json.dumps(found, indent=1) + "\n")


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

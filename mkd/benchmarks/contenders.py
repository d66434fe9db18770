"""Contenders measured in interleaved rounds, and their figures beside what is required of them."""

import statistics
from collections.abc import Callable, Mapping

Contenders = Mapping[str, Callable[[], float]]


def run_interleaved(contenders: Contenders, rounds: int, unit: str) -> dict[str, list[float]]:
    """Run every contender once in each round, each round starting with the next one.

    Slow minutes of the machine then meet all of them, not the last one alone.

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
        first = number % len(names)
        for name in names[first:] + names[:first]:
            figures[name].append(contenders[name]())
            print(f"  round {number + 1}  {name:<24} {figures[name][-1]:10.2f} {unit}", flush=True)
    return figures


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def medians(figures: Mapping[str, list[float]]) -> dict[str, float]:
    """Return each contender's median over the rounds."""
    return {name: statistics.median(each) for name, each in figures.items()}


def requirement_lines(
    found: Mapping[str, float], lower: Mapping[str, float], upper: Mapping[str, float]
) -> list[str]:
    """Return one line for each bound: figure, bound, and whether it is met; a figure may be missing.

    Args:
        found: figures by name; may hold others too.
        lower: name -> the least that is required.
        upper: name -> the most that is allowed.
    """
    lines = []
    for sign, bounds in ((">=", lower), ("<=", upper)):
        for name, bound in bounds.items():
            if name not in found:
                lines.append(f"{name:<28}    not measured")
                continue
            met = found[name] >= bound if bounds is lower else found[name] <= bound
            lines.append(f"{name:<28} {found[name]:10.3f}   {sign} {bound:<6g} {'met' if met else 'MISSED'}")
    return lines

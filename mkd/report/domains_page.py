"""domains.html: the ranking of candidate domains, what it means, and where their tiles lie; one file, no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mkd.atomic import write_text
from mkd.report.drawing.figures import COLOURS as OKABE_ITO
from mkd.report.drawing.figures import INK, STYLE, inline_svg, new_figure
from mkd.report.templates import render_template

COLOURS = (*OKABE_ITO[:-1], "#8a6d3b")  # of candidates: the target is black
NARROW = 24  # characters of a name of which three stand side by side
FORMS = ("*", "o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class DomainsPage:
    """What the page shows.

    Attributes:
        target: name of the target.
        sentence: the conclusion.
        control: what the source alone reaches.
        headings: of the table.
        rows: of the table, best candidate first, as texts.
        domains: names, the target first, then the candidates in the order of `plane`.
        plane: (D N,2) points of N tiles of each domain; None: too few tiles for a figure.
        halves: how the target's tiles were parted.
        command: what repeats it.
    """

    target: str
    sentence: str
    control: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    domains: Sequence[str]
    plane: NDArray[np.float64] | None
    halves: str
    command: str


def write_domains_page(path: str | Path, page: DomainsPage) -> None:
    """Write the page whole or not at all."""
    figure = None if page.plane is None else domains_figure(page.domains, page.plane)
    write_text(path, render_template("domains.jinja", {"page": page, "figure": figure}))


def domains_figure(domains: Sequence[str], plane: NDArray[np.float64]) -> Markup:
    """Draw the tiles of each domain as points of a plane; the target's are black stars, drawn last.

    Args:
        domains: D names, the target first.
        plane: (D N,2), N points of each domain, domain after domain.
    """
    columns = 3 if max(map(len, domains)) <= NARROW else 1
    figure, (axes,) = new_figure([4.0 + 0.2 * -(-len(domains) // columns)], width=6.4)
    each = len(plane) // len(domains)
    with matplotlib.rc_context(STYLE):
        for number in reversed(range(len(domains))):
            part = plane[number * each : (number + 1) * each]
            colour = COLOURS[(number - 1) % len(COLOURS)] if number else INK
            form = FORMS[number % len(FORMS)]
            axes.scatter(
                part[:, 0],
                part[:, 1],
                s=42 if number == 0 else 20,
                c=colour,
                marker=form,
                linewidths=0.4,
                edgecolors="white",
                label=domains[number],
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        handles, labels = axes.get_legend_handles_labels()
        # Below: beside the plane, names that are paths would leave it no room.
        figure.legend(
            handles[::-1],
            labels[::-1],
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            labelcolor=INK,
        )
    return inline_svg(figure, f"tiles of {', '.join(domains)} as points of a plane")

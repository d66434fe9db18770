"""The page of domains: what it shows, and that its figure draws each domain once."""

import numpy as np

from mkd.report.domains_page import DomainsPage, domains_figure, write_domains_page


def page(plane):
    return DomainsPage(
        target="eh & co",
        sentence="<hw> lies between.",
        control="Control: ImageNet.",
        headings=("candidate", "probe"),
        rows=(("hw", "41.0"), ("gtav", "30.5")),
        domains=("eh & co", "hw", "gtav"),
        plane=plane,
        halves="4 tiles fit",
        command="python launch/domains.py target=eh",
    )


def test_the_page(tmp_path):
    """Sentence, rows in their order, command; names are text; without points the figure's lack is said."""
    path = tmp_path / "domains.html"
    write_domains_page(path, page(np.random.default_rng(0).normal(size=(9, 2))))
    text = path.read_text()
    for part in (
        "&lt;hw&gt; lies between.",
        "Control: ImageNet.",
        "4 tiles fit",
        "target=eh",
        "<svg",
        "eh &amp; co",
    ):
        assert part in text
    assert text.index("41.0") < text.index("30.5")
    assert "<hw>" not in text
    write_domains_page(path, page(None))
    assert "Too few tiles for a figure." in path.read_text()
    assert "<svg" not in path.read_text()


def test_the_figure_has_a_point_a_tile():
    """Three domains of four tiles: twelve marks and three in the legend; equal points give equal bytes."""
    plane = np.random.default_rng(0).normal(size=(12, 2))
    svg = str(domains_figure(("a", "b", "c"), plane))
    assert svg.count("<use") == 12 + 3
    assert svg == str(domains_figure(("a", "b", "c"), plane))

"""The preview page in a real browser: what it shows, and that its controls work."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mkd.report.content import MapView
from mkd.report.preview import ClassCover, write_preview

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAN = float("nan")
COVER = [
    ClassCover("field", (255, 0, 0), 7500, 0.75, 0.5),
    ClassCover("<wood> & more", (0, 0, 255), 2500, 0.25, NAN),
]


def page(path, script="", cover=COVER):
    """A scene of green beside a map that is all of class 0; a script may work the controls."""
    view = MapView(
        np.full((200, 200, 3), (0, 255, 0), np.uint8),
        np.zeros((200, 200), np.uint8),
        np.full((200, 200), 254, np.uint8),
    )
    write_preview(path, view, cover, "map.tif", "200 x 200 pixels")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("</html>", f"<script>{script}</script></html>"), encoding="utf-8")
    return text


def in_browser(path, *options):
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,800", *options]
    return subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout


def colours(path, shot):
    """Return the colours left and right of the middle of the stage, which is the page's only strong green or red."""
    in_browser(path, f"--screenshot={shot}")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    strong = (pixels.max(axis=2) - pixels.min(axis=2)) > 150
    rows = np.flatnonzero(strong.sum(axis=1) > 150)
    row = pixels[rows[len(rows) // 2]]
    columns = np.flatnonzero(strong[rows[len(rows) // 2]])
    return row[columns[0] + 20].tolist(), row[columns[0] + 170].tolist()


def test_the_page_needs_no_network_and_escapes_names(tmp_path):
    """No address in the page leads elsewhere; names from files are text."""
    text = page(tmp_path / "p.html")
    assert "http" not in text.replace("http-equiv", "")
    assert "&lt;wood&gt; &amp; more" in text
    assert "0.75" in text
    assert "75.0 %" in text


def test_without_areas_pixels_are_shown(tmp_path):
    """A map without CRS: the column counts pixels."""
    text = page(tmp_path / "p.html", cover=[ClassCover("field", (255, 0, 0), 1234, NAN, 0.5)])
    assert "<th>pixels</th>" in text
    assert "1,234" in text


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine (Debian: apt install chromium)")
def test_the_slider_cuts_the_map_in_a_browser(tmp_path):
    """At its start the left half shows the scene, the right one the map; moved to 100 only the scene is seen."""
    page(tmp_path / "p.html")
    left, right = colours(tmp_path / "p.html", tmp_path / "a.png")
    assert left[1] > 200
    assert left[0] < 60
    assert right[0] > 180
    assert right[1] < 90
    page(tmp_path / "q.html", 'cut.value = 100; cut.dispatchEvent(new Event("input"));')
    left, right = colours(tmp_path / "q.html", tmp_path / "b.png")
    assert right[1] > 200
    assert right[0] < 60


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine (Debian: apt install chromium)")
def test_the_confidence_takes_the_place_of_the_classes(tmp_path):
    """The box hides the classes and shows the confidence and its key."""
    page(tmp_path / "p.html", "show.click();")
    found = in_browser(tmp_path / "p.html", "--dump-dom")
    assert 'id="map" src="' in found
    tag = found[found.index('<img class="over" id="map"') :]
    assert "hidden" in tag[: tag.index(">")]
    tag = found[found.index('<img class="over" id="confidence"') :]
    assert "hidden" not in tag[: tag.index(">")].split("base64")[-1][-60:]
    assert '<div id="key">' in found

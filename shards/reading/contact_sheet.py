"""The picture that `shards sample` draws: cards with a tile each in a grid, a title above, a legend below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mkd.geo.palette import rgb_from_ids
from mkd.labels import IGNORE, Colour

BOX, GAP, PAD, SEAM = 256, 24, 36, 4  # pixels: edge of a tile, between cards, around all, within a card
CAPTION, HEADER, ROW = 46, 84, 34
PAPER, INK, PALE, EMPTY = (250, 250, 247), (33, 37, 41), (116, 122, 128), (233, 233, 228)
SHAPE = 1.5  # width / height that the grid comes near


class Card(NamedTuple):
    """One tile: title, line below, image (H, W, 3) uint8, label (H, W) uint8 or None; an image beside it."""

    title: str
    line: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    beside: NDArray[np.uint8] | None = None


class Sheet(NamedTuple):
    """What is drawn around the tiles: title, line below, classes with colours and shares, labels or none."""

    title: str
    line: str
    classes: Sequence[str]
    palette: Sequence[Colour]
    shares: Sequence[str]
    labelled: bool


def draw_contact_sheet(sheet: Sheet, cards: Sequence[Card]) -> Image.Image:
    """Draw the picture.

    Args:
        sheet: what is drawn around the tiles.
        cards: at least one.

    Returns:
        An RGB picture; its size follows from the number of cards.
    """
    pairs = sheet.labelled or any(card.beside is not None for card in cards)
    width = 2 * BOX + SEAM if pairs else BOX
    columns = _columns(len(cards), width + GAP, BOX + CAPTION + GAP)
    rows = -(-len(cards) // columns)
    across = max(columns * (width + GAP) - GAP, 2 * BOX)
    legend = _legend(sheet, across) if sheet.labelled else []
    top = PAD + HEADER + rows * (BOX + CAPTION + GAP)
    page = Image.new("RGB", (across + 2 * PAD, top + len(legend) * ROW + PAD - GAP // 2), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((PAD, PAD - 6), sheet.title, INK, _font(30))
    pen.text((PAD, PAD + 36), _ellipsize(sheet.line, across, 17), PALE, _font(17))
    for number, card in enumerate(cards):
        row, column = divmod(number, columns)
        place = (PAD + column * (width + GAP), PAD + HEADER + row * (BOX + CAPTION + GAP))
        _draw_card(page, pen, card, place, sheet, width)
    for number, line in enumerate(legend):
        _draw_legend(pen, line, top + number * ROW)
    return page


def _columns(number: int, width: int, height: int) -> int:
    """Choose how many cards stand side by side: near to SHAPE, with few places left empty."""

    def badness(columns: int) -> float:
        rows = -(-number // columns)
        return abs(math.log(columns * width / (rows * height) / SHAPE)) + (columns * rows - number) / number

    return min(range(1, number + 1), key=badness)


def _draw_card(
    page: Image.Image, pen: ImageDraw.ImageDraw, card: Card, place: tuple[int, int], sheet: Sheet, width: int
) -> None:
    left, top = place
    pen.rectangle((left, top, left + width - 1, top + BOX - 1), EMPTY)
    photo, spot = _fit(card.image, left, top)
    page.paste(photo, spot)
    if card.beside is not None:
        page.paste(*_fit(card.beside, left + BOX + SEAM, top))
    if card.label is not None:
        ids = np.asarray(Image.fromarray(card.label).resize(photo.size, Image.Resampling.NEAREST))
        page.paste(_overlay(photo, ids, sheet.palette), (spot[0] + BOX + SEAM, spot[1]))
    elif sheet.labelled:
        middle = (left + BOX + SEAM + BOX // 2, top + BOX // 2)
        pen.text(middle, "no label", PALE, _font(16), anchor="mm")
    pen.text((left, top + BOX + 6), _ellipsize(card.title, width, 15), INK, _font(15))
    pen.text((left, top + BOX + 25), _ellipsize(card.line, width, 13), PALE, _font(13))


def _fit(image: NDArray[np.uint8], left: int, top: int) -> tuple[Image.Image, tuple[int, int]]:
    """Scale an image into a box; also return where its corner goes."""
    height, wide = image.shape[:2]
    scale = BOX / max(height, wide)
    size = (max(round(wide * scale), 1), max(round(height * scale), 1))
    spot = (left + (BOX - size[0]) // 2, top + (BOX - size[1]) // 2)
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), spot


def _overlay(photo: Image.Image, ids: NDArray[np.uint8], palette: Sequence[Colour]) -> Image.Image:
    """Lay class colours over the grey photo, with a dark line between classes; ignored pixels are hatched."""
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]
    mixed = 0.4 * grey + 0.6 * rgb_from_ids(ids, palette)
    row, column = np.indices(ids.shape)
    hatch = ((row + column) // 4 % 2 == 0)[..., None]
    mixed = np.where((ids == IGNORE)[..., None], grey * np.where(hatch, 0.35, 0.6), mixed)
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    mixed[edge] *= 0.35
    return Image.fromarray(mixed.astype(np.uint8))


def _legend(sheet: Sheet, across: int) -> list[list[tuple[int, str, str, Colour | None]]]:
    """Break the legend into lines: (x, name, share, colour; None = hatched) of each class."""
    lines: list[list[tuple[int, str, str, Colour | None]]] = [[]]
    entries: list[tuple[str, str, Colour | None]] = [
        *zip(sheet.classes, sheet.shares, sheet.palette, strict=True), ("ignored", "", None)
    ]  # fmt: skip
    x = PAD
    for name, share, colour in entries:
        name = _ellipsize(name, across // 2, 16)
        step = 30 + round(_font(16).getlength(f"{name}  ") + _font(14).getlength(share)) + 28
        if lines[-1] and x + step - 28 > PAD + across:
            lines.append([])
            x = PAD
        lines[-1].append((x, name, share, colour))
        x += step
    return lines


def _draw_legend(
    pen: ImageDraw.ImageDraw, line: Sequence[tuple[int, str, str, Colour | None]], top: int
) -> None:
    for x, name, share, colour in line:
        box = (x, top + 2, x + 20, top + 22)
        pen.rectangle(box, colour or (90, 90, 90))
        if colour is None:
            for step in (6, 13, 20, 27, 34):
                ends = (max(step - 20, 0), min(step, 20))
                pen.line((x + ends[1], top + 2 + ends[0], x + ends[0], top + 2 + ends[1]), (150, 150, 150), 2)
        pen.rectangle(box, None, PALE)
        pen.text((x + 30, top + 12), name, INK, _font(16), anchor="lm")
        pen.text((x + 30 + _font(16).getlength(f"{name}  "), top + 12), share, PALE, _font(14), anchor="lm")


def _ellipsize(text: str, width: int, size: int) -> str:
    """Cut a text in the middle to so many pixels: both ends of a key tell tiles apart."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(_cut_middle(text, keep)) > width:
        keep -= 1
    return _cut_middle(text, keep)


def _cut_middle(text: str, keep: int) -> str:
    return f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

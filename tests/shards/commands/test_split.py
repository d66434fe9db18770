"""Splits on disk: tiles go where they should unchanged, and the leak check reads what was written."""

from itertools import product

import numpy as np
import pytest
import rasterio.crs

import shards.commands.split
import shards.splitting.blocks
from mkd.dataset.index import read_index
from shards.__main__ import main
from shards.commands.split import split
from shards.commands.verify import verify
from shards.inputs.encode import encode_png, encode_tile
from shards.output.dataset_writer import DatasetWriter
from shards.reading.shard_reader import read_tiles
from shards.splitting.assignment import SplitOptions
from shards.splitting.leaks import Leaks
from tests.helpers.shards import read_dataset, whole_windows

CLASSES, PALETTE = ("field", "road", "rare"), ((0, 1, 0), (1, 0, 0), (0, 0, 1))


CRS = rasterio.crs.CRS.from_epsg(32633).to_wkt()


def make(folder, sources="ab", windows=True, labelled=lambda number: True, placed=True):
    """Write a data set of 8 x 8 tiles: 64 x 64 rasters, or single images; the third class is in one tile.

    Each source lies on ground of its own, or without `placed` nobody knows where.
    """
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, "toy", CLASSES, PALETTE, 50) as writer:
        for source in sources:
            for number, window in enumerate(whole_windows(64, 64, 8, 8) if windows else [None]):
                place = "" if window is None else f"_{window.row:03d}_{window.col:03d}"
                row, col = (0, 0) if window is None else (window.row, window.col)
                corner = [0.1, 0, 500000 + 0.1 * col + 100 * ord(source), 0, -0.1, 5000000 - 0.1 * row]
                ids = rng.integers(0, 2, (8, 8), np.uint8)
                ids[0, 0] = 2 if (source, number) == ("a", 0) else 255
                image = encode_png(rng.integers(0, 256, (8, 8, 3), np.uint8))
                meta = {
                    "source": source,
                    "window": window and list(window),
                    "size": [8, 8],
                    "crs": CRS if placed else None,
                    "transform": corner if placed else None,
                }
                writer.add(encode_tile(source + place, image, "png", ids if labelled(number) else None, meta))
        writer.finish({"command": "test"})
    return folder


def tiles_of(folder):
    """Give image, label and json of each tile, as stored."""
    return {tile.key: (tile.image, tile.label, tile.meta) for tile in read_tiles(folder)}


def test_a_block_split_moves_tiles_unchanged_and_leaks_nothing(tmp_path, messages):
    """Parts hold the source's tiles byte for byte, no block is in two parts, and the report is stored."""
    source = make(tmp_path / "all")
    report = split(source, tmp_path / "out", SplitOptions(by="block", block=16, seed=3))
    before = tiles_of(source)
    blocks = {}
    for part in ("train", "val", "test"):
        assert verify(report[part]) == []
        for key, tile in tiles_of(report[part]).items():
            assert tile == before[key]
            row, col, *_ = tile[2]["window"]
            blocks.setdefault((tile[2]["source"], row // 16, col // 16), set()).add(part)
        provenance = read_index(report[part]).provenance
        assert provenance["test_tiles_touching_training"] == 0 == report["touching"]
        assert (provenance["part"], provenance["by"], provenance["block"], provenance["seed"]) == (
            part,
            "block",
            16,
            3,
        )
        assert provenance["source_index_sha256"] == read_index(source).sha256()
        assert provenance["dropped"] == report["dropped"]
    assert all(len(parts) == 1 for parts in blocks.values())
    assert "test tiles touching a training tile: 0" in messages


def test_the_leak_check_counts_what_was_written(tmp_path, messages, monkeypatch):
    """If planning forgot to leave out touching tiles, the number would not be 0: it is not assumed."""
    source = make(tmp_path / "all")
    monkeypatch.setattr(shards.splitting.blocks, "touching", lambda tiles, others: set())
    report = split(source, tmp_path / "out", SplitOptions(by="block", block=16, seed=3))
    train, test = ([sample.meta for sample in read_dataset(report[part])] for part in ("train", "test"))
    slow = sum(
        any(
            one["source"] == other["source"]
            and abs(one["window"][0] - other["window"][0]) <= 8
            and abs(one["window"][1] - other["window"][1]) <= 8
            for other in train
        )
        for one in test
    )
    assert report["touching"] == slow > 0
    assert f"test tiles touching a training tile: {slow}" in messages


def test_a_split_by_source_keeps_sources_whole(tmp_path, messages):
    """No source is in two parts, with windows or, as single images, without."""
    for name, windows in (("rasters", True), ("images", False)):
        source = make(tmp_path / name, sources="abcdefghij", windows=windows, placed=windows)
        messages.clear()
        options = SplitOptions(by="source", fractions=(0.5, 0.2, 0.3))
        report = split(source, tmp_path / f"{name}_out", options)
        found = [{s.meta["source"] for s in read_dataset(report[part])} for part in ("train", "val", "test")]
        assert [len(sources) for sources in found] == [5, 2, 3]
        assert len(set.union(*found)) == 10
        assert report["touching"] == (0 if windows else None), "contact of images without a place is unknown"
        assert any("each image counts as a source of its own" in line for line in messages) is (not windows)


def test_a_part_of_share_zero_is_not_made(tmp_path):
    """With fractions 0.5, 0, 0.5 there is no validation set."""
    source = make(tmp_path / "all")
    report = split(source, tmp_path / "out", SplitOptions(by="source", fractions=(0.5, 0, 0.5)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test", "train"]
    assert "val" not in report


def test_few_shots_of_a_split_set(tmp_path, messages):
    """N tiles keep their labels, the others lose them, nested for one seed; absent classes are named."""
    source = make(tmp_path / "all", labelled=lambda number: number % 2 == 0)
    before, kept = tiles_of(source), []
    for number in (3, 10):
        out = tmp_path / f"n{number}"
        report = split(source, out, SplitOptions(labelled=number, seed=1))
        assert sorted(path.name for path in out.iterdir()) == ["labelled", "unlabelled"]
        shots, rest = tiles_of(report["labelled"]), tiles_of(report["unlabelled"])
        kept.append(set(shots))
        assert len(shots) == number
        assert set(shots) | set(rest) == set(before)
        assert not set(shots) & set(rest)
        assert all(tile == before[key] and tile[1] is not None for key, tile in shots.items())
        for key, (image, label, meta) in rest.items():
            assert label is None
            assert image == before[key][0]
            assert meta == {**before[key][2], "labelled": False}
        assert verify(report["labelled"]) == verify(report["unlabelled"]) == []
    assert kept[0] < kept[1]
    assert report["touching"] is None
    assert report["absent"] == ["rare"]
    assert "classes absent among the 10 labelled tiles: rare" in messages


def test_few_shots_beside_a_block_split(tmp_path):
    """With --by and --labelled the shots come from the training part."""
    source = make(tmp_path / "all")
    report = split(source, tmp_path / "out", SplitOptions(by="block", block=16, labelled=4))
    train = tiles_of(report["train"])
    shots, rest = tiles_of(report["labelled"]), tiles_of(report["unlabelled"])
    assert len(shots) == 4
    assert set(shots) | set(rest) == set(train)


def test_splitting_again_does_nothing_and_an_interrupted_split_is_made_again(tmp_path):
    """The same split is known; when one part is gone, all are made again, byte for byte."""
    source = make(tmp_path / "all")

    def run(**options):
        return split(source, tmp_path / "out", SplitOptions(by="block", block=16, **options))

    first = run()
    before = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.*"))}
    assert run() == {**first, "done_before": True}
    (tmp_path / "out/val/index.json").unlink()
    assert run() == first
    assert {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.*"))} == before
    with pytest.raises(ValueError, match="made of other inputs"):
        run(seed=9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give --by block or --by source, or --labelled N"),
        ({"by": "tile"}, "allowed are block and source"),
        ({"by": "block", "block": 64}, "2 blocks or sources cannot fill 3 parts"),
        ({"by": "block", "block": 0}, "--block 0"),
        ({"by": "block", "block": 4}, "0 blocks or sources cannot fill"),
        ({"by": "source", "fractions": (0.5, 0.5)}, "--fractions 0.5,0.5: give three shares"),
        ({"by": "source", "fractions": (0.5, 0.2, 0.2)}, "with sum 1"),
        (
            {"by": "source", "fractions": (float("nan"), 0.5, 0.5)},
            "--fractions nan,0.5,0.5: give three shares",
        ),
        ({"by": "source", "fractions": (0, 0.5, 0.5)}, "train above 0"),
        ({"labelled": 129}, "--labelled 129: .* are 128"),
        ({"unlabelled": 129}, "--unlabelled 129: .* are 128, choose 1..128"),
        ({"labelled": 100, "unlabelled": 29}, "--unlabelled 29: .* without those of --labelled are 28"),
        ({"unlabelled": 0}, "--unlabelled 0: .* choose 1..128"),
    ],
)
def test_what_cannot_be_split_is_told(tmp_path, options, words):
    """Each impossible request is one sentence, and nothing is written."""
    source = make(tmp_path / "all")
    with pytest.raises(ValueError, match=words):
        split(source, tmp_path / "out", SplitOptions(**options))
    assert not (tmp_path / "out").exists()


def test_blocks_need_windows(tmp_path):
    """Single images have no place in a raster, so blocks make no sense for them."""
    source = make(tmp_path / "all", windows=False, placed=False)
    with pytest.raises(ValueError, match=r"2 tiles have no window .* such as a: use --by source"):
        split(source, tmp_path / "out", SplitOptions(by="block"))


def cut_dates(tmp_path, dates=2, corner=500000.0):
    """Write a data set of several dates of one placed raster."""
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path, "dates", CLASSES, PALETTE, 50) as writer:
        for day, window in product(range(dates), whole_windows(64, 64, 8, 8)):
            place = [0.1, 0, corner + 0.1 * window.col, 0, -0.1, 5e6 - 0.1 * window.row]
            meta = {
                "source": f"day{day}",
                "window": list(window),
                "size": [8, 8],
                "crs": CRS,
                "transform": place,
            }
            image = encode_png(rng.integers(0, 256, (8, 8, 3), np.uint8))
            writer.add(encode_tile(f"day{day}_{window.row}_{window.col}", image, "png", None, meta))
        writer.finish({"command": "test"})
    return tmp_path


def test_dates_of_one_place_leak_nothing_by_block_and_are_said(tmp_path, messages):
    """Two dates of one place: each block of ground is in one part, whichever the date, and the note names both."""
    report = split(cut_dates(tmp_path / "all"), tmp_path / "out", SplitOptions(by="block", block=16, seed=1))
    ground = {
        part: {tuple(np.round(sample.meta["transform"], 4)) for sample in read_dataset(report[part])}
        for part in ("train", "val", "test")
    }
    assert not ground["train"] & ground["test"]
    assert not ground["val"] & (ground["train"] | ground["test"])
    assert report["touching"] == 0
    assert report["near_duplicates"] is None, "places tell all: pictures are not compared"
    assert any("2 sources share ground with another, in one place: day0, day1" in line for line in messages)


def test_an_older_split_that_leaks_is_told(tmp_path, messages, monkeypatch):
    """A split that is there is counted again: what an older version wrote as 0 is not repeated."""
    source, options = cut_dates(tmp_path / "all"), SplitOptions(by="block", block=16, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(shards.splitting.blocks, "touching", lambda tiles, others: set())
        patch.setattr(shards.commands.split, "find_leaks", lambda tiles, others: Leaks([], []))
        assert split(source, tmp_path / "out", options)["touching"] == 0
    for part in ("train", "val", "test"):  # the plan is this version's; the tiles on disk are not
        assert (tmp_path / "out" / part / "index.json").exists()
    again = split(source, tmp_path / "out", options)
    assert again["done_before"]
    assert again["touching"] > 0
    assert any("an older version made this split" in line for line in messages)


def test_verify_compares_with_other_data_sets(tmp_path, capsys):
    """--against finds tiles on the same ground and the same pictures, exits with 1, and names sources that share."""
    here, same = cut_dates(tmp_path / "here"), cut_dates(tmp_path / "same", dates=1)
    away = cut_dates(tmp_path / "away", corner=600000.0)
    assert main(["verify", str(here), "--against", str(same), "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert f"128 tiles touch tiles of {same}" in said
    assert f"64 tiles look like tiles of {same}" in said
    assert "note: 2 sources share ground with another, in one place: day0, day1" in said
    assert main(["verify", str(same), "--against", str(away), "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert "touching a tile of" in said
    assert "touch tiles" not in said
    assert "64 tiles look like" in said, "a copy that claims another place"
    assert main(["verify", str(same), "--against", "nowhere"]) == 2

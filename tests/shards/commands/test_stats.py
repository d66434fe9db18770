"""Statistics against plain numpy over all pixels."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mkd.geo.raster import encode_tiff
from shards.commands.stats import _band_statistics, statistics_table, stats
from shards.inputs.encode import encode_tile
from shards.output.dataset_writer import DatasetWriter
from tests.helpers.shards import CLASSES, PALETTE, overwrite, pictures, write_dataset


def test_stats_equal_plain_numpy(tmp_path):
    """Mean, std, range, and pixels and tiles of each class are those of all arrays put together."""
    pairs = pictures(11, [(8, 8), (5, 13)] * 5 + [(1, 1)])
    found = stats(write_dataset(tmp_path / "data", pairs), workers=2)
    pixels = np.concatenate([image.reshape(-1, 3) for image, _ in pairs]) / 255
    for band, entry in enumerate(found["bands"]):
        numbers = (
            pixels[:, band].mean(),
            pixels[:, band].std(),
            pixels[:, band].min(),
            pixels[:, band].max(),
        )
        assert [entry[key] for key in ("mean", "std", "min", "max")] == pytest.approx(numbers, rel=1e-12)
    # A label without a labelled pixel is no label.
    labels = [ids for _, ids in pairs if (ids != 255).any()]
    flat = np.concatenate([ids.ravel() for ids in labels])
    for number, entry in enumerate(found["classes"]):
        assert entry["name"] == CLASSES[number]
        assert entry["pixels"] == (flat == number).sum()
        assert entry["share"] == pytest.approx((flat == number).sum() / (flat != 255).sum())
        assert entry["tiles"] == sum((ids == number).any() for ids in labels)
    assert found["ignored_pixels"] == (flat == 255).sum()
    assert (found["tiles"], found["labelled"], found["dtype"]) == (11, len(labels), "uint8")


def test_sixteen_bits_and_many_bands(tmp_path):
    """Five bands of 16 bits are counted in their full range, relative to 65535."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 65536, (9, 7, 5)).astype(np.uint16) for _ in range(3)]
    with DatasetWriter(tmp_path / "data", "deep", CLASSES, PALETTE, 2) as writer:
        for number, image in enumerate(images):
            meta = {"source": "s", "window": None, "size": [9, 7], "crs": None, "transform": None}
            writer.add(
                encode_tile(f"t{number}", encode_tiff(image), "tif", None, meta, bands=5, dtype="uint16")
            )
        writer.finish({})
    found = stats(tmp_path / "data")
    pixels = np.concatenate([image.reshape(-1, 5) for image in images]) / 65535
    assert [entry["mean"] for entry in found["bands"]] == pytest.approx(pixels.mean(0), rel=1e-12)
    assert [entry["std"] for entry in found["bands"]] == pytest.approx(pixels.std(0), rel=1e-12)
    assert found["labelled"] == 0
    assert all(entry["share"] == 0 for entry in found["classes"])


@settings(max_examples=30)
@given(st.lists(st.integers(0, 10**13), min_size=256, max_size=256).filter(any))
def test_sums_are_exact_for_a_trillion_pixels(counts):
    """Counts far beyond 2**53 in their squares give the mean and spread of exact arithmetic."""
    found = _band_statistics(np.array(counts))
    weights = [count / sum(counts) for count in counts]
    mean = sum(weight * value for value, weight in enumerate(weights))
    spread = sum(weight * (value - mean) ** 2 for value, weight in enumerate(weights)) ** 0.5
    assert found["mean"] == pytest.approx(mean / 255, rel=1e-9, abs=1e-12)
    assert found["std"] == pytest.approx(spread / 255, rel=1e-9, abs=1e-9)


def test_the_table_has_bands_and_classes(tmp_path):
    """What a person reads: four digits a band, pixels and share a class; no classes without labels."""
    for labelled in (True, False):
        found = stats(write_dataset(tmp_path / str(labelled), pictures(3), labelled=labelled))
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(statistics_table(found))
        text = console.export_text()
        assert f"{found['bands'][2]['std']:.4f}" in text
        assert ("water" in text) is labelled


def test_a_damaged_shard_stops_the_count(tmp_path):
    """A changed image is named: numbers over the rest would pass for those of all."""
    data = write_dataset(tmp_path / "data", pictures(3))
    overwrite(data, 512, b"no picture")
    with pytest.raises(ValueError, match=r"tiny-000000.tar, tile0000: its 'png' has changed, CRC-32"):
        stats(data)

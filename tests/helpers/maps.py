"""A map by what the product makes maps of, for any network and without a model folder."""

from pathlib import Path

import torch

from mkd.geo.class_map import Legend
from mkd.geo.raster import RasterReader
from mkd.inference.band_match import bands_for
from mkd.inference.band_predictor import BandPredictor, PredictionGrid, WindowNetwork
from mkd.inference.map_writer import check_map, write_map
from mkd.inference.window_progress import window_progress
from mkd.pixel_scale import PLAIN


def predict_map(
    model,
    class_palette,
    input,
    output,
    tile=512,
    overlap=128,
    batch=4,
    bands=None,
    scale=PLAIN,
    tta="none",
    temperature=1.0,
):
    """Write the map of a raster on the CPU, its bands of rows straight into the file; return its summary."""
    grid = PredictionGrid(tile, overlap, batch)
    check_map(class_palette, input, Path(output), grid)
    given = (model, len(class_palette), scale, torch.device("cpu"))
    network = WindowNetwork(*given, tta=tta, temperature=temperature)
    legend = Legend(tuple(f"class {n}" for n in range(len(class_palette))), tuple(class_palette))
    with RasterReader(input) as reader:
        predictor = BandPredictor(network, reader, bands_for(reader, bands, scale), grid)
        with window_progress(predictor.windows_of(0, predictor.count), "map") as advance:
            return write_map(Path(output), legend, reader, predictor.bands(0, predictor.count, advance))

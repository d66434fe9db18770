"""launch/predict_map.py: model folder + GeoTIFF -> land-cover map."""

from mkd.config.schema import PredictRun
from mkd.distributed.world import find_world
from mkd.inference.map_writer import predict_map
from mkd.inference.windowed import default_overlap
from mkd.recipes import factories

UNKNOWN_CROP = 512  # pixels: the window of models that are older than the crop in their card


def predict(config: PredictRun) -> str:
    """Write the map; return one line about it."""
    world = find_world(config.device)
    model, card = factories.load_checked("model", config.model)
    tile = config.tile if config.tile is not None else card.crop or UNKNOWN_CROP
    done = predict_map(
        model,
        card.palette,
        config.input,
        config.output,
        tile=tile,
        overlap=default_overlap(tile) if config.overlap is None else config.overlap,
        batch=config.batch,
        bands=config.bands,
        scale=card.architecture.scale,
        device=world.device,
        autocast=world.device.type == "cuda",
    )
    shares = {
        c: n / max(1, sum(done.class_pixels)) for c, n in zip(card.classes, done.class_pixels, strict=True)
    }
    covers = ", ".join(f"{c} {100 * s:.1f} %" for c, s in shares.items())
    sure = "no data" if done.mean_confidence is None else f"mean confidence {done.mean_confidence:.2f}"
    return f"{config.output}: {done.height} x {done.width} pixels; {covers}; {sure}"

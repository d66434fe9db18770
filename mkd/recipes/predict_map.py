"""launch/predict_map.py: model folder + GeoTIFF -> land-cover map."""

import time

from mkd.config.schema import PredictRun
from mkd.distributed.world import find_world
from mkd.geo.class_map import Legend
from mkd.inference.map_writer import predict_map
from mkd.inference.windowed import default_overlap
from mkd.recipes import factories
from mkd.recipes.map_products import check_products, write_products
from mkd.recipes.run_folder import commit

UNKNOWN_CROP = 512  # pixels: the window of models that are older than the crop in their card


def predict(config: PredictRun) -> str:
    """Write the map and what is made of it; return a line about each."""
    check_products(config)
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
        names=card.classes,
        tags=_tags(config),
        device=world.device,
        autocast=world.device.type == "cuda",
        trust_vrt=config.trust_vrt,
    )
    shares = {
        c: n / max(1, sum(done.class_pixels)) for c, n in zip(card.classes, done.class_pixels, strict=True)
    }
    covers = ", ".join(f"{c} {100 * s:.1f} %" for c, s in shares.items())
    sure = "no data" if done.mean_confidence is None else f"mean confidence {done.mean_confidence:.2f}"
    line = f"{config.output}: {done.height} x {done.width} pixels; {covers}; {sure}"
    return "\n".join([line, *write_products(config, Legend(card.classes, card.palette), done)])


def _tags(config: PredictRun) -> dict[str, str]:
    """Return what the map says of its origin."""
    return {
        "MODEL": config.model,
        "TIFFTAG_SOFTWARE": f"mkd {commit() or 'of unknown commit'}",
        "TIFFTAG_DATETIME": time.strftime("%Y:%m:%d %H:%M:%S"),
    }

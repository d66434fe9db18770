"""launch/export.py: model folder -> ONNX file and STAC item."""

from pathlib import Path

from mkd.atomic import check_writable
from mkd.config.constraints import on_disk
from mkd.config.schema import ExportRun
from mkd.inference.export.onnx_export import ExportOptions, export_onnx
from mkd.inference.export.stac_item import write_stac_item
from mkd.inference.windowed import UNKNOWN_CROP
from mkd.recipes import factories


def export(config: ExportRun) -> str:
    """Write the ONNX file, and the STAC item where one is asked for; return a line about each.

    Raises:
        ValueError: a key out of range, a URL, or a folder that does not exist.
        OSError: a place that cannot be written.
    """
    for key, ending in (("output", ".onnx"), ("stac", ".json")):
        value = getattr(config, key)
        if value is not None and not value.lower().endswith(ending):
            raise ValueError(f"{key}={value}: the name must end in {ending}")
        if value is not None:
            on_disk(key, value)
            if not Path(value).absolute().parent.is_dir():
                raise ValueError(f"the folder of {key}={value} does not exist: create it, or name another")
            check_writable(value)
    for key, low, high in (("tile", 32, 8192), ("overlap", 0, 90), ("resolution", 1e-3, 1e6)):
        value = getattr(config, key)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{key}={value}: it must be from {low:g} to {high:g}")
    network, card = factories.load_checked("model", config.model)
    tile = config.tile or card.crop or UNKNOWN_CROP
    scale = card.architecture.scale
    if config.uint8 and scale.dtype != "uint8":
        raise ValueError(f"uint8=true: the model takes {scale}; leave it out, the input is then float32")
    ends = (scale.low, scale.high) if scale.dtype != "uint8" else (None, None)
    options = ExportOptions(
        tile, scale.bands, config.uint8, config.overlap, config.resolution, *ends, card.temperature
    )
    export_onnx(network, card.classes, config.output, options)
    values = "uint8, 0 to 255" if options.uint8 else "float32, 0 to 1"
    if options.low is not None:
        ranges = ", ".join(f"{bottom:g} to {top:g}" for bottom, top in options.ranges())
        values += f" in place of {ranges}"
    lines = [
        f"{config.output}: image (B, {options.bands}, {tile}, {tile}) {values} -> probabilities of "
        f"{len(card.classes)} classes"
        + ("" if card.temperature == 1 else f" at temperature {card.temperature:.3g}")
    ]
    if config.resolution is None:
        lines.append(
            "the ground size of a pixel is not known: a GIS asks for it; resolution=CENTIMETRES stores it"
        )
    if config.stac is not None:
        architecture = f"{card.architecture.decoder} on {card.architecture.backbone}"
        name = Path(config.output).stem
        write_stac_item(config.stac, Path(config.output), name, card.classes, architecture, options)
        lines.append(f"STAC item: {config.stac}")
    return "\n".join(lines)

"""The arguments of `python -m shards`: each command's options with defaults and meanings."""

from __future__ import annotations

import argparse

from mkd.image_header import MAX_PIXELS
from shards.process_pool import available_cores


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="mkd-shards", description="Imagery to WebDataset shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_pack(commands.add_parser("pack", help="a folder of images, with or without masks -> a data set"))
    _add_tile(commands.add_parser("tile", help="GeoTIFF orthomosaics, with or without labels -> a data set"))
    _add_adopt(commands.add_parser("adopt", help="WebDataset shards of others, where they lie -> a data set"))
    index = commands.add_parser("index", help="merge the parts of a build (--part) into a data set")
    index.add_argument("out", metavar="OUT", help="folder of the build")
    _add_split(commands.add_parser("split", help="a data set -> train, val, test by place; few-shot subsets"))
    info = commands.add_parser("info", help="show what data sets hold")
    info.add_argument("data", nargs="+", metavar="DATASET")
    verify = commands.add_parser("verify", help="read everything again and compare")
    verify.add_argument("data", nargs="+", metavar="DATASET")
    verify.add_argument(
        "--against", nargs="+", default=[], metavar="DATASET", help="data sets that must be of other ground"
    )
    _add_workers(verify)
    _add_max_pixels(verify)
    _add_sample(
        commands.add_parser("sample", help="some tiles as a picture, or as a folder to label in a GIS")
    )
    stats = commands.add_parser("stats", help="mean and spread of each band, pixels and tiles of each class")
    stats.add_argument("data", metavar="DATASET")
    stats.add_argument("--json", metavar="FILE", help="path or URL; write the numbers there too")
    _add_workers(stats)
    _add_max_pixels(stats)
    return parser


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", metavar="DIR", help="folder or URL, laid out as the class file says")
    parser.add_argument(
        "--unlabelled",
        nargs="+",
        metavar="'DIR/*.jpg'",
        help="in place of --source and --classes: images without labels, which need no class file",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--split", metavar="NAME", help="one of the class file's splits")
    chosen.add_argument("--keys", metavar="FILE", help="list of images, one name a line")
    parser.add_argument(
        "--slice", dest="image_slice", metavar="A:B", help="slice of the images in file-name order"
    )
    _add_check(parser)
    _add_bands(parser)
    _add_common(parser)


def _add_adopt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "urls", nargs="+", metavar="'URL'", help="tars, with braces: 's3://bucket/tiles-{000000..000168}.tar'"
    )
    for option, default, text in (
        ("image", "jpg,jpeg,png,tif,tiff", "members that are images; the first one of a tile is taken"),
        ("label", "label.png,seg.png,mask.png", "members that are labels, PNGs as the class file says"),
    ):
        parser.add_argument(
            f"--{option}-ext",
            type=_extensions,
            default=_extensions(default),
            metavar="EXT,EXT",
            help=f"{text} ({default})",
        )
    parser.add_argument("--labelled-only", action="store_true", help="leave out tiles without a label")
    _add_check(parser)
    _add_common(parser, cuts=False)
    parser.set_defaults(shard_size=256)


def _add_tile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", required=True, nargs="+", metavar="TIF", help="rasters, or patterns with *"
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="FILE",
        help="rasters, one each in the same order, or a pattern such as '{stem}_label.tif'; or one vector file",
    )
    _add_vector_labels(parser)
    parser.add_argument("--size", type=int, default=512, help="edge of a tile, pixels (512)")
    parser.add_argument("--stride", type=int, help="distance between tiles, pixels (the size)")
    parser.add_argument("--min-valid", type=float, default=0.5, help="least share of pixels with data (0.5)")
    _add_bands(parser)
    parser.add_argument(
        "--format",
        choices=("png", "jpeg", "tif"),
        help="of the images (png; tif for 16 bits or more than 3 bands)",
    )
    parser.add_argument("--quality", type=int, metavar="Q", help="of JPEG images, 1..100 (90)")
    parser.add_argument("--trust-vrt", action="store_true", help="let rasters name other files, URLs too")
    _add_common(parser)


def _add_vector_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", help="of a vector file (the only one)")
    parser.add_argument("--field", help="of the layer that names the class (class)")
    parser.add_argument(
        "--outside", metavar="CLASS", help="class of the ground outside every polygon, or ignore (ignore)"
    )
    parser.add_argument(
        "--extent", metavar="FILE", help="vector file: ground that was looked at, all else is ignored (all)"
    )
    parser.add_argument("--buffer", type=float, metavar="M", help="metres by which points and lines grow")
    parser.add_argument(
        "--warp-labels", action="store_true", help="bring label rasters onto the image's grid, nearest pixel"
    )


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check",
        choices=("ends", "decode"),
        default="ends",
        help="images: header and end marker, or everything decoded (ends); masks are always decoded",
    )


def _add_bands(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bands", type=_bands, metavar="1,2,3", help="bands to keep, counted from 1: data (all but alpha)"
    )


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, metavar="DATASET")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for train, val, test, labelled, ..."
    )
    parser.add_argument("--by", choices=("block", "source"), help="omit it for few-shot subsets alone")
    parser.add_argument("--block", type=int, default=2048, help="edge of a block, pixels (2048)")
    parser.add_argument("--fractions", type=_fractions, default=(0.7, 0.1, 0.2), metavar="0.7,0.1,0.2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labelled", type=int, metavar="N", help="training tiles that keep their labels")
    parser.add_argument(
        "--stratify", action="store_true", help="draw these tiles so that each class is among them"
    )
    parser.add_argument(
        "--unlabelled", type=int, metavar="N", help="other training tiles that are kept, without labels (all)"
    )
    parser.add_argument("--shard-size", type=int, default=256, help="tiles a shard (256)")
    _add_workers(parser)
    _add_max_pixels(parser)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATASET")
    parser.add_argument("--n", dest="number", type=int, default=12, help="how many tiles (12)")
    parser.add_argument(
        "--out",
        required=True,
        metavar="OUT",
        help="picture (.png), or a new folder to label the tiles in a GIS",
    )
    parser.add_argument("--seed", type=int, default=0)
    _add_max_pixels(parser)


def _add_common(parser: argparse.ArgumentParser, cuts: bool = True) -> None:
    parser.add_argument(
        "--classes", metavar="FILE.yaml", help="one of configs/datasets/, or yours; needed with labels only"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder or URL of the new data set")
    parser.add_argument("--name", help="name of the data set (the class file's)")
    if cuts:
        parser.add_argument("--shard-size", type=int, default=256, help="tiles a shard (256)")
    parser.add_argument(
        "--replace", action="store_true", help="drop an unfinished build of something else that lies in --out"
    )
    parser.add_argument("--part", metavar="I/N", help="build part I of N only; merge with `index`")
    parser.add_argument(
        "--max-bad-labelled", type=float, default=0.0, metavar="SHARE", help="bad labelled tiles allowed (0)"
    )
    parser.add_argument(
        "--max-bad", type=float, default=0.001, metavar="SHARE", help="bad unlabelled tiles allowed (0.001)"
    )
    _add_workers(parser)
    _add_max_pixels(parser)


def _add_max_pixels(parser: argparse.ArgumentParser) -> None:
    text = "most pixels of an image that is decoded whole (100,000,000)"
    parser.add_argument("--max-pixels", type=_pixels, default=MAX_PIXELS, metavar="N", help=text)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, default=available_cores(), metavar="N", help="processes (all cores)"
    )


def _pixels(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels, such as {MAX_PIXELS}")
    return int(text)


def _extensions(text: str) -> tuple[str, ...]:
    found = tuple(part.strip().lstrip(".").lower() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of extensions such as jpg,png")
    return found


def _bands(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of bands such as 1,2,3") from None


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 0.7,0.1,0.2") from None

"""Command line: `python -m shards pack|tile|split|info|verify`, in the order in which a person works."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from shards.info import info
from shards.pack import pack
from shards.split import split
from shards.verify import verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command line without the program's name; None = that of the process.

    Returns:
        Exit code: 0 done, 1 `verify` found problems, 2 bad input or a place that cannot be written (one
        sentence on stderr).
    """
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except ValueError as error:
        print(f"mkd-shards: {error}", file=sys.stderr)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""  # a sentence of ours names the file itself
        print(f"mkd-shards: {error.strerror or error}{where}", file=sys.stderr)
    except KeyboardInterrupt:
        print("mkd-shards: interrupted; what was written so far is removed", file=sys.stderr)
        return 130
    return 2


def _run(given: argparse.Namespace) -> int:
    options = {key: value for key, value in vars(given).items() if key not in ("command", "data")}
    match given.command:
        case "pack":
            pack(**options)
        case "tile":
            from shards.tile import tile  # the only command that needs rasterio

            tile(**options)
        case "split":
            split(**options)
        case "info":
            table = info(given.data)
            width = None if sys.stdout.isatty() else 24 + 34 * len(given.data)
            Console(width=width).print(table)
        case "verify":
            return max(_verify(folder) for folder in given.data)
    return 0


def _verify(folder: str) -> int:
    problems = verify(folder)
    for problem in problems:
        print(problem)
    print(f"{folder}: {f'{len(problems)} problems' if problems else 'all well'}")
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mkd-shards", description="Imagery to WebDataset shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_pack(commands.add_parser("pack", help="a folder of images, with or without masks -> a data set"))
    _add_tile(commands.add_parser("tile", help="GeoTIFF orthomosaics, with or without labels -> a data set"))
    _add_split(commands.add_parser("split", help="a data set -> train, val, test by place; few-shot subsets"))
    for name, text in (("info", "show what data sets hold"), ("verify", "read everything again and compare")):
        commands.add_parser(name, help=text).add_argument("data", nargs="+", metavar="DATASET")
    return parser


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", required=True, metavar="DIR", help="folder laid out as the class file says"
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--split", metavar="NAME", help="one of the class file's splits")
    chosen.add_argument("--keys", metavar="FILE", help="list of images, one name a line")
    parser.add_argument("--slice", dest="part", metavar="A:B", help="slice of the images in file-name order")
    _add_common(parser)


def _add_tile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", required=True, nargs="+", metavar="TIF", help="rasters, or patterns with *"
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="TIF",
        help="one each, in the same order, or a pattern such as '{stem}_label.tif'",
    )
    parser.add_argument("--size", type=int, default=512, help="edge of a tile, pixels (512)")
    parser.add_argument("--stride", type=int, help="distance between tiles, pixels (the size)")
    parser.add_argument("--min-valid", type=float, default=0.5, help="least share of pixels with data (0.5)")
    _add_common(parser)


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
    parser.add_argument("--shard-size", type=int, default=256, help="tiles a shard (256)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--classes", required=True, metavar="FILE.yaml", help="one of configs/datasets/, or yours"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the new data set")
    parser.add_argument("--name", help="name of the data set (the class file's)")
    parser.add_argument("--shard-size", type=int, default=256, help="tiles a shard (256)")


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 0.7,0.1,0.2") from None


if __name__ == "__main__":
    sys.exit(main())

"""Command line: `python -m shards pack|tile|adopt|index|split|info|verify|sample|stats`, in the order of work."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

# Commands are imported late: each worker process imports this file.
from mkd.cli.arguments import encoding_fault
from shards.command_line import build_parser
from shards.process_pool import warm_up_workers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command line without the program's name; None = that of the process.

    Returns:
        Exit code: 0 done, 1 `verify` found problems, 2 bad input or a place that cannot be written (one
        sentence on stderr).
    """
    words = _join_slice(sys.argv[1:] if arguments is None else arguments)
    if fault := encoding_fault(words):
        print(f"mkd-shards: {fault}", file=sys.stderr)
        return 2
    args = build_parser().parse_args(words)
    if arguments is None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads that would wait for work by spinning
        if getattr(args, "workers", 1) > 1:
            warm_up_workers(f"shards.commands.{args.command}")
    from mkd.cli.log_lines import route_log_lines, say_on_stdout

    try:
        with route_log_lines(say_on_stdout, "shards"):
            return _run(args)
    except ValueError as error:
        print(f"mkd-shards: {error}", file=sys.stderr)
    except OSError as error:
        text = str(error)  # a sentence of ours names the file itself
        if error.filename:
            text = f"{error.filename}: {error.strerror}; mend this, or give another path, and start again"
        print(f"mkd-shards: {text}", file=sys.stderr)
    except KeyboardInterrupt:
        print(
            "mkd-shards: interrupted; finished shards are kept, the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    return 2


def _join_slice(arguments: Sequence[str]) -> list[str]:
    """Write `--slice -3:` as `--slice=-3:`, which argparse would else take for an option."""
    words = list(arguments)
    for place in range(len(words) - 1, 0, -1):
        if words[place - 1] == "--slice" and words[place].startswith("-") and ":" in words[place]:
            words[place - 1 : place + 1] = [f"--slice={words[place]}"]
    return words


def _run(args: argparse.Namespace) -> int:
    """Run a command that writes a data set or a picture, or pass on to those that print.

    Returns:
        The exit code.
    """
    from shards.output.build_options import BuildOptions

    match args.command:
        case "pack":
            from shards.commands.pack import pack, pack_inputs
            from shards.inputs.image_list import ImageSelection

            selection = _fill(ImageSelection, args)
            source, classes = pack_inputs(args.source, args.classes, args.unlabelled, args.split)
            pack(source, classes, _fill(BuildOptions, args), selection, args.check, args.bands)
        case "tile":
            from shards.commands.tile import tile
            from shards.inputs.labels.label_options import LabelOptions
            from shards.inputs.scenes.tiling import TilingOptions

            tiling, labels = _fill(TilingOptions, args), _fill(LabelOptions, args)
            tile(args.source, args.classes, _fill(BuildOptions, args), args.labels, tiling, labels)
        case "adopt":
            from shards.commands.adopt import MemberNames, adopt

            adopt(args.urls, args.classes, _fill(BuildOptions, args), _fill(MemberNames, args), args.check)
        case "index":
            from shards.output.merge import make_index

            make_index(args.out)
        case "split":
            from shards.commands.split import split
            from shards.splitting.assignment import SplitOptions

            options = _fill(SplitOptions, args)
            split(args.source, args.out, options, args.shard_size, args.workers, args.max_pixels)
        case "sample":
            from shards.commands.sample import sample

            sample(args.data, args.out, args.number, args.seed, args.max_pixels)
        case _:
            return _print_results(args)
    return 0


def _fill(options: Any, args: argparse.Namespace) -> Any:
    """Make a dataclass of options from the arguments with its fields' names."""
    return options(**{field.name: getattr(args, field.name) for field in dataclasses.fields(options)})


def _print_results(args: argparse.Namespace) -> int:
    """Run a command that prints what a data set holds; return the exit code."""
    match args.command:
        case "info":
            from shards.commands.info import info

            _print(info(args.data), 24 + 34 * len(args.data))
        case "verify":
            return max([_verify(folder, args.against, args.workers, args.max_pixels) for folder in args.data])
        case "stats":
            from mkd.storage.folder import split_url
            from shards.commands.stats import statistics_table, stats

            place = split_url(args.json) if args.json else None  # a wrong one stops before the work
            found = stats(args.data, args.workers, args.max_pixels)
            _print(statistics_table(found), 100)
            if place is not None:
                place[0].write(place[1], json.dumps(found, indent=1) + "\n")
    return 0


def _print(table: Any, width: int) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else width).print(table)


def _verify(folder: str, against: Sequence[str], workers: int, max_pixels: int) -> int:
    from shards.commands.verify import compare_ground, shared_ground, verify
    from shards.progress import pluralize

    note = ""
    try:
        problems = verify(folder, workers, max_pixels)
        if not problems:  # else tiles may not be readable
            problems, note = compare_ground(folder, against, workers, max_pixels), shared_ground(folder)
    except ValueError as error:  # the other data sets are looked at all the same
        print(f"mkd-shards: {error}", file=sys.stderr)
        return 2
    if note:
        print(f"note: {note}")
    for problem in problems:
        print(problem)
    print(f"{folder}: {pluralize(len(problems), 'problem') if problems else 'all well'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

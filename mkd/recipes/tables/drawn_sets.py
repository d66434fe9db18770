"""Drawn landscapes as data sets: the demo's, and the shares of them that the tables train on."""

import json
from pathlib import Path
from typing import Any

from mkd.atomic import write_text
from mkd.cli.log_lines import route_log_lines, say_on_stdout
from mkd.config.load import CONFIGS
from mkd.config.schema import DemoRun
from mkd.dataset.index import read_index
from mkd.synth.landscape import draw_scenes
from shards.commands.split import split
from shards.commands.tile import tile
from shards.inputs.scenes.tiling import TilingOptions
from shards.output.build_options import BuildOptions
from shards.splitting.assignment import SplitOptions

UNLABELLED_SHARES = (10, 50)  # percent, of table 3
LABELLED_SHARES = (16, 8, 4, 2)  # 1/16 and so on, of table 4


def draw_sets(config: DemoRun, data: Path, scenes: Path) -> None:
    """Render orthomosaics, cut them into tiles, split them by spatial block and keep few labels.

    Args:
        config: sizes.
        data: folder for data sets, intermediate/ and target/; a domain that is there stays as it is.
        scenes: folder for the orthomosaics.
    """
    for domain, count in (("intermediate", config.intermediate_scenes), ("target", config.target_scenes)):
        if (data / domain / "split.json").is_file():
            continue
        print(f"{domain}: drawing {count} orthomosaics of {config.scene} x {config.scene} pixels", flush=True)
        images, labels = draw_scenes(scenes, domain, count, config.scene)
        classes = CONFIGS / "datasets" / f"demo_{domain}.yaml"
        whole, few = data / domain / "all", config.labelled if domain == "target" else None
        with route_log_lines(say_on_stdout, "shards"):
            tile(images, classes, BuildOptions(whole), labels, TilingOptions(size=config.tile))
            options = SplitOptions(by="block", block=config.block, labelled=few)
            parts: dict[str, Any] = split(whole, data / domain, options)
        write_text(data / domain / "split.json", json.dumps({"touching": parts["touching"]}) + "\n")


def draw_table_sets(data: Path, sizes: DemoRun | None = None) -> None:
    """Draw the demo's sets, and write the shares of them that tables 3 and 4 train on; what is there stays.

    Writes below ``data``: target/ and intermediate/; unlabelled_10/unlabelled and unlabelled_50/unlabelled, shares of
    target/unlabelled in percent; label_16/labelled and label_16/unlabelled, with labels for 1/16 of target/train, and
    so on for 8, 4 and 2.

    Args:
        data: folder for the sets.
        sizes: of what is drawn; None: those of the demo.
    """
    draw_sets(sizes or DemoRun(), data, data / "scenes")
    unlabelled, train = data / "target" / "unlabelled", data / "target" / "train"
    with route_log_lines(say_on_stdout, "shards"):
        for percent in UNLABELLED_SHARES:
            count = round(read_index(unlabelled).samples * percent / 100)
            split(unlabelled, data / f"unlabelled_{percent}", SplitOptions(unlabelled=count))
        for part in LABELLED_SHARES:
            count = round(read_index(train).samples / part)
            split(train, data / f"label_{part}", SplitOptions(labelled=count))

"""The table of what data sets hold."""

import io

from rich.console import Console

from mkd.dataset.index import read_index
from shards.commands.info import info
from tests.helpers.processes.jobs import pack_into
from tests.helpers.shards import pictures, write_dataset


def shown(folders):
    """Print the table as text."""
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(info(folders))
    return console.export_text().splitlines()


def test_info_shows_counts_and_shares(folder, tmp_path):
    """The table has tiles, bytes, kinds, pixels and shares of the labelled pixels, a column for each."""
    (folder.root / "images/t1.png").write_bytes(b"broken")
    pack_into(folder.root, folder.classfile, tmp_path / "data", max_bad_labelled=0.5)
    other = write_dataset(tmp_path / "other", pictures(3, (30, 20)), labelled=False)
    lines, index = shown([tmp_path / "data", other]), read_index(tmp_path / "data")
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:4]]
        for cells in map(split, lines)
        if len(cells) > 3
    }
    assert rows["tiles"] == ["4", "3"]
    assert rows["labelled"] == ["4", "0"]
    assert rows["largest tile"] == ["12 x 16", "30 x 20"]
    assert rows["bands"] == ["3 of uint8", "3 of uint8"]
    assert rows["quarantined"] == ["1", "0"]
    assert rows["bytes"] == [f"{read_index(data).bytes:,}" for data in (tmp_path / "data", other)]
    share = index.histogram[1] / sum(index.histogram)
    assert rows["road"] == [f"{index.histogram[1]:,}  {share:7.2%}", "no labels"]
    assert rows["ignored pixels"] == [f"{index.ignored_pixels:,}", "0"]


def split(line):
    """Split a line of the table into its cells."""
    return line.replace("┃", "│").split("│")


def test_info_of_a_url(s3):
    """A data set on S3 is described like any other."""
    write_dataset(s3, pictures(2))
    assert any("tiny" in line for line in shown([s3]))

"""Shards as users of webdataset.ShardWriter write them."""

import webdataset as wds

from tests.helpers.training.runs import coloured

TILES, IN_A_SHARD = 10, 4
URLS = "tiles-{000000..000002}.tar"


def samples(kind="jpg", label="seg.png"):
    """Make samples as users of webdataset.ShardWriter have them: metadata beside image and mask."""
    for number, (image, ids) in enumerate(coloured(TILES)):
        yield {
            "__key__": f"north/t{number:03d}",
            kind: image,
            label: ids,
            "json": {"number": number},
            "txt": "a field",
        }


def write(folder, given=None):
    """Write shards by webdataset.ShardWriter."""
    folder.mkdir(exist_ok=True)
    with wds.ShardWriter(f"{folder}/tiles-%06d.tar", maxcount=IN_A_SHARD, verbose=0) as writer:
        for sample in samples() if given is None else given:
            writer.write(sample)
    return folder

"""From shards to views: entered at any step, the same on any rank, and blind to what it must not see."""

from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest
import torch

from mkd.distributed.world import World
from mkd.loader.bad_tiles import BadTileBudget
from mkd.loader.loader import TileSet
from mkd.train.batches import StepBatch
from tests.helpers.plain import members_of, smooth, write_plain
from tests.helpers.processes.ranks import run_ranks
from tests.helpers.shards import pictures, write_dataset
from tests.helpers.training.runs import coloured, feed_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """5 labelled and 3 unlabelled tiles, and the latter once more with labels."""
    root = tmp_path_factory.mktemp("views")
    other = coloured(3, (16, 16), seed=1)
    return {
        "labelled": write_dataset(root / "labelled", coloured(5, (16, 16))),
        "unlabelled": write_dataset(root / "unlabelled", other, labelled=False),
        "with labels": write_dataset(root / "with", other),
    }


def same(one, other):
    pairs = [(getattr(one, k), getattr(other, k)) for k in ("images", "labels", "weak", "inside")]
    equal = all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)
    draws = [[g.random() for g in (v.generators or [])] for v in (one, other)]
    return equal and draws[0] == draws[1]


@pytest.mark.parametrize("unlabelled", [None, "unlabelled"])
def test_entered_at_a_step_it_is_the_same_stream(folders, unlabelled):
    """feed(5, 9) gives the views that feed(0, 9) gives from step 5 on, the strong view's draws included."""
    feed = feed_of(folders["labelled"], unlabelled and folders[unlabelled])
    whole, rest = list(feed(0, 9)), list(feed(5, 9))
    assert len(whole) == 9
    assert len(rest) == 4
    assert all(same(a, b) for a, b in zip(whole[5:], rest, strict=True))
    assert not same(*list(feed(0, 2)))


def joined(ranks):
    """Put the views of all ranks of a step together."""
    return [torch.cat([getattr(v, k) for v in ranks]) for k in ("images", "labels", "weak", "inside")]


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (3, 2), (6, 0)])
def test_views_do_not_depend_on_the_ranks(folders, ranks, workers):
    """For equal global batch any number of ranks sees, together, bit for bit what one rank sees alone."""
    sets = folders["labelled"], folders["unlabelled"]
    alone = list(feed_of(*sets, batch=6)(2, 6))
    worlds = [World(rank, ranks, torch.device("cpu")) for rank in range(ranks)]
    parts = [list(feed_of(*sets, batch=6, world=w, workers=workers)(2, 6)) for w in worlds]
    for whole, *of_ranks in zip(alone, *parts, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(joined(of_ranks), joined([whole]), strict=True))
        drawn = [g.random() for views in of_ranks for g in views.generators]
        assert drawn == [g.random() for g in whole.generators]


def test_three_ranks_over_two_shards_with_seven_tiles_do_not_hang(tmp_path):
    """Three real gloo processes: each has a batch at every step of three epochs, and together the plan's tiles."""
    tiles = [members_of(*pair, jpeg=True) for pair in smooth(7, 16)]
    folder = write_plain(tmp_path / "set", tiles, (16, 16), [5, 2])
    found = run_ranks("tests.helpers.training.steps:read_stream", 3, tmp_path / "ranks", "7", folder)
    alone = list(feed_of(folder, folder, batch=3)(0, 7))
    assert [len(steps) for steps in found] == [7, 7, 7]
    for whole, *of_ranks in zip(alone, *found, strict=True):
        together = [torch.cat(parts) for parts in zip(*of_ranks, strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(together, joined([whole]), strict=True))


def test_views_are_those_of_pixels_in_any_memory_layout(folders):
    """Tiles come channels last; the views are bit for bit those of tiles whose channels lie one after the other."""
    feed = feed_of(folders["labelled"], batch=5)
    views = next(feed(0, 1))
    pairs = coloured(5, (16, 16))
    order = [n for _, n in feed.sampler(feed.labelled, 0).step(0)]
    images = torch.stack([torch.from_numpy(pairs[n][0]).movedim(-1, 0).contiguous() for n in order])
    labels = torch.stack([torch.from_numpy(pairs[n][1]) for n in order])
    draws = [np.random.default_rng([0, 0, 0, n]) for n in order]
    expected, expected_labels = feed.geometry(images, labels, draws)
    assert torch.equal(views.images, expected.float() / 255)
    assert torch.equal(views.labels, expected_labels)
    assert views.images.is_contiguous()


def test_losses_of_each_stream_are_counted_apart(tmp_path):
    """A bad unlabelled tile is within its budget; as a labelled tile it ends the run."""
    good, bad = ([members_of(*pair) for pair in smooth(4, 16)] for _ in range(2))
    bad[1]["png"] = b"x"
    good, bad = (write_plain(tmp_path / n, t, (16, 16), [4]) for n, t in (("good", good), ("bad", bad)))
    path = tmp_path / "quarantine.jsonl"
    losses = (BadTileBudget(good, True, 4, path=path), BadTileBudget(bad, False, 4, 0.25, path))
    assert len(list(feed_of(good, bad, bad_tiles=losses)(0, 4))) == 4
    assert [line.count('"labelled": false') for line in path.read_text().splitlines()] == [1, 1]
    with pytest.raises(ValueError, match="tile0001.* 0 may be"):
        list(feed_of(bad, good, bad_tiles=losses[:1] + losses[:1])(0, 2))


def test_kinds_and_ranges(folders):
    """Images float in [0,1], labels and weak views uint8, and one generator for each unlabelled tile."""
    views = next(feed_of(folders["labelled"], folders["unlabelled"], crop=8, batch=3)(0, 1))
    assert (views.images.dtype, views.images.shape) == (torch.float32, (3, 3, 8, 8))
    assert 0 <= views.images.min() < views.images.max() <= 1
    assert (views.labels.dtype, views.labels.shape) == (torch.uint8, (3, 8, 8))
    assert (views.weak.dtype, views.weak.shape) == (torch.uint8, (3, 3, 8, 8))
    assert (views.inside.dtype, views.inside.shape) == (torch.bool, (3, 8, 8))
    assert len(views.generators) == 3


def candidates_of(folder, labelled, crop=8, **more):
    """Give the first three candidate batches of a data set, read with or without its labels."""
    feed = replace(feed_of(folder, folder, crop=crop, batch=3, **more), unlabelled=TileSet(folder, labelled))
    return feed, list(islice(feed.candidates(0), 3))


def test_candidates_are_the_unlabelled_stream_without_end(folders):
    """Candidate batches are the weak views of the steps, entered anywhere, and go on after them."""
    feed = feed_of(folders["labelled"], folders["unlabelled"])
    steps, entered = list(feed(0, 6)), feed.candidates(3)
    for views, batch in zip(steps[3:], entered, strict=False):
        assert torch.equal(views.weak, batch.weak)
        assert torch.equal(views.inside, batch.inside)
        assert [g.random() for g in views.generators] == [g.random() for g in batch.generators]
        assert batch.labels is None
    assert len(next(entered).ids) == 2


def test_stored_labels_move_with_their_tile(folders):
    """Labels of a labelled candidate are those of the same geometry; views and inside are as without labels."""
    feed, with_labels = candidates_of(folders["with labels"], True)
    _, without = candidates_of(folders["with labels"], False)
    for batch, plain in zip(with_labels, without, strict=True):
        assert torch.equal(batch.weak, plain.weak)
        assert torch.equal(batch.inside, plain.inside)
        draws = [np.random.default_rng([0, 1, epoch, n]) for epoch, n in batch.ids]
        images, labels, _ = zip(*(feed.unlabelled[pair] for pair in batch.ids), strict=True)
        _, expected = feed.geometry(torch.stack(images), torch.stack(labels), draws)
        assert torch.equal(batch.labels, expected)
        assert ((batch.labels == 255) & batch.inside).any()  # filtered pixels are inside all the same


def test_a_filtered_label_is_inside_its_tile(tmp_path):
    """A tile with no label left, in the middle of a larger crop: 255 everywhere, inside its own square."""
    folder = write_dataset(
        tmp_path / "set", [(np.zeros((8, 8, 3), np.uint8), np.where(np.eye(8), 1, 255).astype(np.uint8))] * 3
    )
    _, (batch, *_) = candidates_of(folder, True, crop=16, scale=(1.0, 1.0))
    assert batch.inside.sum() == 3 * 64
    assert (batch.labels != 255).sum() == 3 * 8
    assert set(batch.labels.unique().tolist()) == {1, 255}


def test_without_unlabelled_tiles_there_are_no_weak_views(folders):
    """A supervised stream holds labelled tiles only."""
    views = next(feed_of(folders["labelled"])(0, 1))
    assert (views.weak, views.inside, views.generators) == (None, None, None)


def test_labels_of_unlabelled_tiles_are_never_read(folders):
    """The unlabelled stream is the same whether its data set has labels or not."""
    streams = [feed_of(folders["labelled"], folders[k])(0, 4) for k in ("unlabelled", "with labels")]
    assert all(same(a, b) for a, b in zip(*streams, strict=True))


def test_the_seed_changes_order_and_views(folders):
    """Another seed trains on other views; the same seed on the same."""
    one, again, other = (next(feed_of(folders["labelled"], seed=s)(0, 1)) for s in (0, 0, 1))
    assert same(one, again)
    assert not same(one, other)


def test_a_tile_in_both_streams_gets_two_views(folders):
    """A data set used as labelled and as unlabelled does not show the same crops in both."""
    for views in feed_of(folders["labelled"], folders["labelled"], batch=5, scale=(1.0, 1.0))(0, 3):
        plain = (views.images * 255).round().to(torch.uint8)
        assert not any(torch.equal(a, b) for a in plain for b in views.weak)


def test_inside_marks_the_tile(tmp_path):
    """A crop twice the tile shows it in the middle: inside is its square, beyond it images are mirrored."""
    white = [(np.full((8, 8, 3), 200, np.uint8), np.zeros((8, 8), np.uint8))]
    folder = write_dataset(tmp_path / "white", white)
    views = next(feed_of(folder, folder, crop=16, batch=1, scale=(1.0, 1.0))(0, 1))
    middle = torch.zeros(16, 16, dtype=torch.bool)
    middle[4:12, 4:12] = True
    assert torch.equal(views.inside[0], middle)
    assert torch.equal(views.labels[0] != 255, middle)
    assert views.weak.float().std() == 0  # mirrored, not black


def test_streams_have_epochs_of_their_own(tmp_path):
    """Each set is passed through at its own pace: 4 labelled and 2 unlabelled tiles, each once an epoch."""
    sets = [write_dataset(tmp_path / str(n), pictures(n, (8, 8), seed=n)) for n in (4, 2)]
    feed = feed_of(*sets, crop=8, batch=1, scale=(1.0, 1.0))
    looks = [(v.images.mean().item(), v.weak.float().mean().item()) for v in feed(0, 4)]
    assert len({round(a, 4) for a, _ in looks}) == 4
    assert len({v for _, v in looks[:2]}) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_micro_batches_are_the_views_cut_in_order(folders, count):
    """Joined again they are the whole part of the rank, in every field that it has, and of equal size."""
    views = next(feed_of(folders["labelled"], folders["unlabelled"], batch=6)(0, 1))
    views.strong, views.pseudo = views.weak.float() / 255, views.labels.flip(0)
    views.pixel_count = torch.tensor(90)
    parts = views.split(count)
    assert [len(p.images) for p in parts] == [6 // count] * count
    names = [f.name for f in fields(StepBatch)]
    for name in names:
        together = [getattr(p, name) for p in parts]
        whole = getattr(views, name)
        if name == "pixel_count":
            assert sum(together) == pytest.approx(90)
        elif name == "generators":
            assert [g is h for g, h in zip(sum(together, []), whole, strict=True)] == [True] * 6
        else:
            assert torch.equal(torch.cat(together), whole), name


def test_micro_batches_of_labelled_tiles_alone(folders):
    """Fields that are not there stay away, and a number that does not divide the tiles is our mistake."""
    views = next(feed_of(folders["labelled"], batch=4)(0, 1))
    assert all((p.weak, p.inside, p.generators, p.strong, p.pseudo) == (None,) * 5 for p in views.split(2))
    with pytest.raises(AssertionError):
        views.split(3)


def test_a_crop_does_not_depend_on_the_sizes_of_other_tiles(tmp_path):
    """Tiles of several sizes in a batch give the crops that each gives in a batch of its own."""
    sizes = [(16, 16), (24, 12), (16, 16), (9, 40)]
    pairs = [pair for n, size in enumerate(sizes) for pair in coloured(1, size, seed=n)]
    folder = write_dataset(tmp_path / "mixed", pairs)
    together = next(feed_of(folder, folder, crop=8, batch=4)(0, 1))
    alone = list(feed_of(folder, folder, crop=8, batch=1)(0, 4))
    for name in ("images", "labels", "weak", "inside"):
        singles = {getattr(views, name).numpy().tobytes() for views in alone}
        assert {tile.numpy().tobytes() for tile in getattr(together, name).split(1)} == singles

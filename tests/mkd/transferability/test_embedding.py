"""t-SNE keeps two separate domains apart, and gives the same plane for the same seed."""

import numpy as np

from mkd.transferability.embedding import embed_tsne


def test_two_domains_stay_apart():
    """Each tile's nearest neighbour is of its own domain."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(24, 8))
    features[12:] += 20
    found = embed_tsne(features, 0)
    apart = np.linalg.norm(found[:, None] - found, axis=2) + np.diag([np.inf] * 24)
    assert ((apart.argmin(axis=1) < 12) == (np.arange(24) < 12)).all()
    assert np.array_equal(found, embed_tsne(features, 0))


def test_four_tiles():
    """The fewest tiles that it takes."""
    assert embed_tsne(np.eye(4), 0).shape == (4, 2)

"""Tiles of several domains as points of a plane."""

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

PERPLEXITY = 30.0  # of t-SNE, as its authors use; fewer tiles take a third of their number


def embed_tsne(features: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return t-SNE of (N,F) features, N >= 4, in two dimensions, started from their principal components.

    Source: van der Maaten and Hinton 2008.
    """
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    found: NDArray[np.float64] = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        features
    )
    return found.astype(np.float64)

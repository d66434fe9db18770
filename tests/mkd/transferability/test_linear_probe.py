"""The linear probe against a slow gradient descent, and halves that share no source."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.transferability.linear_probe import fit_linear, halves


def case(seed, classes, count=60):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    features = rng.normal(size=(count, 3)) * [1, 10, 0.1] + (2 * rng.normal(size=(classes, 3)))[labels] + 5
    return features, labels


def slow(features, labels, classes):
    """Probabilities of the penalised logistic regression by plain gradient descent on standardised features."""
    x = (features - features.mean(0)) / features.std(0)
    truth = np.eye(classes)[labels]
    weight, bias = np.zeros((classes, x.shape[1])), np.zeros(classes)
    for _ in range(20_000):
        z = x @ weight.T + bias
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        weight -= 0.01 * ((p - truth).T @ x + weight)
        bias -= 0.01 * (p - truth).sum(0)
    return p


@pytest.mark.parametrize("classes", [3, 4])
def test_as_gradient_descent(classes):
    """The same probabilities, on features as they come."""
    features, labels = case(classes, classes)
    weight, bias = fit_linear(features, labels, classes)
    z = features @ weight.T + bias
    p = np.exp(z - z.max(1, keepdims=True))
    assert np.allclose(p / p.sum(1, keepdims=True), slow(features, labels, classes), atol=2e-3)


def test_two_classes_and_absent_ones():
    """Of two classes both rows are there; a class without a label is never predicted."""
    features, labels = case(0, 2)
    features += 4 * labels[:, None]
    weight, bias = fit_linear(features, labels * 2 + 1, 5)  # classes 1 and 3 of 5
    found = (features @ weight.T + bias).argmax(1)
    assert set(found.tolist()) == {1, 3}
    assert (found == labels * 2 + 1).mean() > 0.9
    with pytest.raises(ValueError, match="two classes or more"):
        fit_linear(features, np.ones(60, int), 5)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=30), st.integers(0, 100))
def test_halves(numbers, seed):
    """All tiles once; whole sources where there are four; of single tiles the halves differ by one at most."""
    first, second, by = halves([f"s{n}" for n in numbers], seed)
    assert sorted(first + second) == list(range(len(numbers)))
    assert by == ("source" if len(set(numbers)) >= 4 else "tile")
    assert first
    assert second
    if by == "source":
        assert not {numbers[n] for n in first} & {numbers[n] for n in second}
        largest = max(numbers.count(n) for n in numbers)
        assert abs(len(first) - len(second)) <= largest
    else:
        assert abs(len(first) - len(second)) <= 1
    assert halves([f"s{n}" for n in numbers], seed) == (first, second, by)

"""The same task over many items: same results in one process and in several, errors as they are."""

import os

import pytest

from shards.workers import each


def square(number):
    """Give a number's square and the process."""
    if number == 7:
        raise ValueError("seven is too many")
    return number * number, os.getpid()


def die(number):
    """End the process at once."""
    os._exit(number)


def test_one_process_keeps_the_order():
    """With one worker it happens here, one after the other, when asked for."""
    results = each(square, range(9), 1)
    assert [next(results) for _ in range(7)] == [(n * n, os.getpid()) for n in range(7)]
    with pytest.raises(ValueError, match="seven is too many"):
        next(results)


def test_several_processes_give_all_results_and_errors():
    """Many items through few processes, each once; an error comes as it is."""
    results = list(each(square, range(8, 40), 2))
    assert sorted(n for n, _ in results) == [n * n for n in range(8, 40)]
    assert os.getpid() not in {pid for _, pid in results}
    with pytest.raises(ValueError, match="seven is too many"):
        list(each(square, range(20), 2))


def test_a_worker_that_dies_is_one_sentence():
    """No hang and no traceback of pools."""
    with pytest.raises(ValueError, match="a worker process was killed, .*fewer --workers"):
        list(each(die, [1, 1, 1], 2))


def test_no_worker_is_refused_at_once():
    """Before anything is asked for."""
    with pytest.raises(ValueError, match="--workers 0: at least one"):
        each(square, [1], 0)

"""A task mapped over many items, in this process or in a pool of processes with a bounded queue."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_QUEUED_PER_WORKER = 2  # items that wait for each worker, so that none idles while results are taken

_worker_task: Callable[[Any], Any] | None = None  # set once in each worker
_start_method = "spawn"  # a forked child may hang on locks of threads that it does not have


def available_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def warm_up_workers(module: str) -> None:
    """Start a fork server that imports a module while this process does; workers are forked from it.

    Workers then have the environment and the folder of this moment: it is for programs, not for libraries.

    Args:
        module: dotted name; its import is what makes a worker slow to start.
    """
    global _start_method
    _start_method = "forkserver"
    forkserver.set_forkserver_preload([module])
    # Started later, inside the block below, the tracker would unblock SIGINT again.
    resource_tracker.ensure_running()
    with _sigint_blocked():
        forkserver.ensure_running()


def map_in_processes(task: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Run a task on each item and yield the results as they come.

    Args:
        task: picklable when there are several workers; sent to each of them once.
        items: picklable then, too.
        workers: processes, >= 1; with 1 everything happens in this process, in order.

    Returns:
        An iterator over the results, in any order with several workers.

    Raises:
        ValueError: fewer than one worker, or one that was killed; and whatever the task raises.
    """
    if workers < 1:
        raise ValueError(f"--workers {workers}: at least one process is needed")
    if min(workers, len(items)) <= 1:
        return map(task, items)
    return _map_in_pool(task, items, min(workers, len(items)))


def _map_in_pool(task: Callable[[T], R], items: Sequence[T], count: int) -> Iterator[R]:
    context = get_context(_start_method)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_initialize_worker, initargs=(task,))
    try:
        yield from _bounded_results(pool, items, _QUEUED_PER_WORKER * count)
    except BrokenProcessPool:
        raise ValueError(
            "a worker process was killed, maybe for want of memory: choose fewer --workers and start again, "
            "what is finished is kept"
        ) from None
    finally:
        # Wait for the workers: what they hold open is closed before the caller goes on.
        pool.shutdown(wait=True, cancel_futures=True)


def _bounded_results(pool: ProcessPoolExecutor, items: Sequence[T], limit: int) -> Iterator[Any]:
    """Yield results while at most `limit` items wait or run, so that a million items need no memory."""
    waiting: set[Future[Any]] = set()
    rest = iter(items)
    while True:
        # Fill the queue.
        for item in rest:
            waiting.add(_submit(pool, item))
            if len(waiting) >= limit:
                break
        if not waiting:
            return
        # Wait for the first results; the caller takes them before more items are queued.
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _submit(pool: ProcessPoolExecutor, item: Any) -> Future[Any]:
    with _sigint_blocked():
        return pool.submit(_run_task, item)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT: a process started here inherits the block, before it can ignore the signal itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _initialize_worker(task: Callable[[Any], Any]) -> None:
    """Set up a worker: it leaves Ctrl-C to the parent, and ends when the parent ends."""
    global _worker_task
    _worker_task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Wait, in a thread of its own, for the parent's end; a worker would else wait for items for ever."""
    parent = parent_process()
    assert parent is not None, "workers have a parent"
    wait_for([parent.sentinel])
    os._exit(1)


def _run_task(item: Any) -> Any:
    assert _worker_task is not None, "the task is sent before the items"
    return _worker_task(item)

"""What a service says about itself: numbers beside a plain count."""

import numpy as np
import pytest

from mkd.teacher.server import metrics
from mkd.teacher.server.metrics import ServiceMetrics, describe


def test_latency_is_a_percentile_of_the_answers():
    """p50 and p99 are values that occurred, by nearest rank."""
    gauge, latencies = ServiceMetrics(), np.random.default_rng(0).permutation(np.arange(1, 201)) / 1e3
    for latency in latencies:
        gauge.answer(2, float(latency))
    found = gauge.read()
    expected = np.percentile(latencies, [50, 99], method="inverted_cdf") * 1e3
    assert [found["latency_ms_p50"], found["latency_ms_p99"]] == pytest.approx(list(expected))


def test_the_rate_counts_recent_tiles(monkeypatch):
    """Tiles of the last minute over the time since the start, at most that minute, however many answers there were."""
    now = [100.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    gauge = ServiceMetrics()
    gauge.answer(5, 0.1)
    now[0] = 110.0
    assert gauge.read()["tiles_per_s"] == pytest.approx(0.5)
    now[0] = 165.0
    assert gauge.read()["tiles_per_s"] == 0
    for _ in range(3 * ServiceMetrics.WINDOW):  # more than are kept: 100 answers of 2 tiles a second
        now[0] += 0.01
        gauge.answer(2, 0.1)
    assert gauge.read()["tiles_per_s"] == pytest.approx(200, rel=1e-3)


def test_nothing_yet():
    """A service that never answered has zeros."""
    found = ServiceMetrics().read()
    assert (found["tiles_per_s"], found["latency_ms_p50"], found["latency_ms_p99"]) == (0, 0, 0)


def test_for_people():
    """All that a person looks for is in the text."""
    found = {
        **ServiceMetrics().read(), "session": "job.0", "version": 7, "updates": 14, "queue": 3, "clients": 2,
        "device": "cpu",
        "stopping": True, "refused": {"token": 4},
    }  # fmt: skip
    text = describe("host:1", found)
    for part in (
        "host:1",
        "cpu",
        "version 7",
        "14 updates",
        "job.0",
        "2 streams",
        "3 requests",
        "4 token",
        "stopping",
    ):
        assert part in text
    assert "nothing" in describe("host:1", {**found, "refused": {}})

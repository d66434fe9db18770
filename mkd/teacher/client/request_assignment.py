"""Which endpoint holds which request: given to the one that will have it done first, again when that one falls."""

import time
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from mkd.teacher.api import TeacherStats
from mkd.teacher.client.endpoint import Endpoint
from mkd.teacher.client.request import PendingRequest


class RequestAssignment:
    """Requests and endpoints; it starts no thread and has no lock, the dispatcher's guards it.

    Args:
        endpoints: in the order of preference among equals.
        stats: counts retries.

    Attributes:
        endpoints: see the argument.
        unassigned: requests that no endpoint holds.
        oldest: oldest version that an answer may have now.
        newest: newest version that an answer may have now.
    """

    def __init__(self, endpoints: Sequence[Endpoint], stats: TeacherStats) -> None:
        """Hold no request."""
        self.endpoints, self._stats = endpoints, stats
        self.unassigned: list[PendingRequest] = []
        self.oldest = self.newest = 0

    @property
    def has_backlog(self) -> bool:
        """Whether requests wait for an endpoint that can serve them."""
        return bool(self.unassigned)

    def queue(self, request: PendingRequest, pause: float) -> None:
        """Ask a request again, with the versions that may answer now, after a pause in seconds."""
        request.labels, request.not_before = None, time.monotonic() + pause
        request.ask = replace(request.ask, min_version=max(request.ask.min_version, self.oldest))
        if request not in self.unassigned:
            self.unassigned.append(request)

    def retry(self, requests: list[PendingRequest], pause: float) -> None:
        """Ask those again that nobody else answers, after a pause in seconds."""
        for request in requests:
            if not (request.done or request.labels is not None or self._holders(request)):
                self._stats.retries += 1
                self.queue(request, pause)

    def assign(self) -> None:
        """Give each request that is due to the endpoint that will have it done first."""
        now = time.monotonic()
        for request in [r for r in self.unassigned if r.not_before <= now]:
            if request.labels is not None:  # another teacher had it still
                self.unassigned.remove(request)
                continue
            endpoint = self.choose(request, now)
            if endpoint is not None:
                self.unassigned.remove(request)
                endpoint.hold(request, now)

    def choose(self, request: PendingRequest, now: float) -> Endpoint | None:
        """Return the best endpoint that can answer; one that is degraded only where there is no other."""
        able = [k for k in self.endpoints if self.serves(k, request) and request.ask.id not in k.requests]
        good = [k for k in able if not k.degraded] or able
        return self._cheapest(good, request, now) if good else None

    def hedge(self, request: PendingRequest) -> None:
        """Ask an idle teacher too where an answer is long overdue; the first one counts."""
        now, best, holders = time.monotonic(), self._best(), self._holders(request)
        if not holders or not all(k.overdue(best, now) for k in holders):
            return
        idle = [k for k in self.endpoints if not k.requests and not k.degraded and self.serves(k, request)]
        if idle:
            self._stats.retries += 1
            self._cheapest(idle, request, now).hold(request, now)

    def is_servable(self, request: PendingRequest) -> bool:
        """Return whether an endpoint that is not degraded serves a request."""
        return any(self.serves(k, request) and not k.degraded for k in self.endpoints)

    def serves(self, endpoint: Endpoint, request: PendingRequest) -> bool:
        """Return whether an endpoint can answer a request now."""
        return endpoint.serves(request, self.newest)

    def reasons(self, request: PendingRequest) -> str:
        """Return why each endpoint does not serve a request, for people."""
        return "; ".join(f"{k.name}: {k.reason_for(request, self.newest)}" for k in self.endpoints)

    def check_size(self, images: Tensor) -> None:
        """Check that some teacher takes a batch, once all have said what they take.

        Raises:
            ValueError: none does.
        """
        known = [k for k in self.endpoints if k.state == "up" or k.max_batch]
        if len(known) == len(self.endpoints) and not any(k.fits(images) for k in known):
            raise ValueError(
                f"{len(images)} tiles of {images.shape[2]} x {images.shape[3]} pixels in a batch, but "
                + "; ".join(f"teacher {k.name} takes {k.sizes()}" for k in known)
                + "; start one with more"
            )

    def drop(self, request: PendingRequest) -> None:
        """Let go of a request that this process answers itself."""
        request.done = True
        for endpoint in self.endpoints:
            endpoint.requests.pop(request.ask.id, None)
        if request in self.unassigned:
            self.unassigned.remove(request)

    def clear(self) -> None:
        """Let go of all requests; answers that still come are not looked at."""
        for endpoint in self.endpoints:
            for request in endpoint.requests.values():
                request.done = True
            endpoint.requests.clear()
        self.unassigned.clear()

    def next_due(self, longest: float) -> float:
        """Return the seconds until a request that waits for its time may be asked, at most so many."""
        now = time.monotonic()
        return min([longest, *(max(1e-3, r.not_before - now) for r in self.unassigned)])

    def _holders(self, request: PendingRequest) -> list[Endpoint]:
        return [k for k in self.endpoints if request.ask.id in k.requests]

    def _cheapest(self, endpoints: list[Endpoint], request: PendingRequest, now: float) -> Endpoint:
        best, tiles = self._best(), len(request.images)
        return min(endpoints, key=lambda k: k.cost(tiles, best, now))

    def _best(self) -> float:
        """Return the seconds a tile of the fastest; 1 where nothing is known yet."""
        known = (k.latency.seconds for k in self.endpoints if k.latency.seconds is not None)
        return min(known, default=1.0)

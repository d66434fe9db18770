"""Where a student's requests wait: given to the endpoint that will have them done first, and again when it falls."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from mkd.teacher.api import TeachersGone, TeacherStats
from mkd.teacher.client.connection import Link
from mkd.teacher.client.flight_client import Access
from mkd.teacher.client.publisher import Packet
from mkd.teacher.client.request import PendingRequest
from mkd.teacher.protocol import Reply, WeightsVersion


class Desk:
    """Requests and endpoints under one lock.

    Args:
        endpoints: HOST:PORT of each teacher.
        access: how to reach them.
        patience: seconds to wait for a teacher.
        fallback: whether the student can answer itself afterwards.
        tally: counts retries.
        say: where lines for people go.
        stop: whether the run has been asked to stop; ends a wait.

    Attributes:
        changed: the lock, notified at each change.
        closed: no more work.
        patience: see the argument.
        packet: the weights that this rank brings the teachers, or None.
        oldest: oldest version that an answer may have now.
        newest: newest version that an answer may have now.

    Raises:
        ValueError: an endpoint refuses this student.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        access: Access,
        patience: float,
        fallback: bool,
        tally: TeacherStats,
        say: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """Greet each endpoint once."""
        self.changed, self.closed = threading.Condition(), False
        self.packet: Packet | None = None
        self.oldest, self.newest, self.patience = 0, 0, patience
        self._fallback, self._tally, self._say, self._stop = fallback, tally, say, stop
        self._timeout = access.timeout
        self._failure: Exception | None = None
        self._homeless: list[PendingRequest] = []
        self._served, self._spoke, self._alone = time.monotonic(), 0.0, False
        self._links: list[Link] = []
        self._links = [Link(endpoint, access, self, say) for endpoint in endpoints]
        with self.changed:
            self.changed.wait_for(lambda: all(k.state != "new" for k in self._links), access.timeout + 1)
            refused = [k for k in self._links if k.state == "refused"]
        if refused:
            self.close()
            raise ValueError(f"teacher {refused[0].endpoint} refuses this student: {refused[0].reason}")

    def submit(self, request: PendingRequest) -> None:
        """Ask for labels; returns at once."""
        with self.changed:
            self._homeless.append(request)
            self.assign()
            if request in self._homeless:  # newer weights are wanted than the last greeting told of
                for link in self._links:
                    link.hurry()

    def wait(self, request: PendingRequest, young: Callable[[Reply], bool]) -> bool:
        """Wait for an answer that is young enough; return False when this process must answer itself.

        Raises:
            TeachersGone: no teacher served for ``patience`` seconds and there is no fallback, or the run is to stop.
            ValueError: no teacher takes batches of this size.
            RuntimeError: the weights could not be packed, see `fail`.
        """
        began = time.monotonic()
        with self.changed:
            while True:
                self._check()
                if request.reply is not None and request.labels is not None:
                    if young(request.reply):
                        self._served, self._alone, request.done = time.monotonic(), False, True
                        return True
                    self._tally.stale += 1
                    self._queue(request, 0.0)
                if self._stop():
                    raise TeachersGone("asked to stop while waiting for a teacher")
                self._check_size(request.images)
                if self._deserted(request, began):
                    self._drop(request)
                    return False
                self.assign()
                self._hedge(request)
                self.changed.wait(self._pause())

    def _deserted(self, request: PendingRequest, began: float) -> bool:
        """Return whether the wait is to end without an answer, or raise; says that it waits."""
        if any(k.serves(request) and not k.ailing for k in self._links):
            return False
        if self._alone:
            return True
        now = time.monotonic()
        waited = now - max(began, self._served)
        names = "; ".join(f"{k.endpoint}: {k.excuse(request)}" for k in self._links)
        if waited >= self.patience:
            if not self._fallback:
                raise TeachersGone(
                    f"no teacher for {waited:.0f} s ({names}); start one (launch/teacher.py) and run the same "
                    "command again, or set teacher.fallback=local"
                )
            self._alone = True
            self._say(
                f"no teacher for {waited:.0f} s ({names}): going on with the local one until one is back"
            )
        elif waited > 2 and now - self._spoke > 10:
            self._spoke = now
            self._say(f"waiting for a teacher ({names}), for {waited:.0f} s yet")
        return self._alone

    def again(self, requests: list[PendingRequest], pause: float) -> None:
        """Ask those anew that nobody else answers, after a pause in seconds; the lock is held."""
        for request in requests:
            if not (request.done or request.labels is not None or self._holders(request)):
                self._tally.retries += 1
                self._queue(request, pause)
        self.assign()

    def _holders(self, request: PendingRequest) -> list[Link]:
        return [k for k in self._links if request.ask.id in k.requests]

    def _hedge(self, request: PendingRequest) -> None:
        """Ask an idle teacher too where an answer is long overdue; the first one counts."""
        holders = self._holders(request)
        if not holders or not all(k.overdue(_best(self._links)) for k in holders):
            return
        idle = [k for k in self._links if not k.requests and not k.ailing and k.serves(request)]
        if idle:
            self._tally.retries += 1
            self._cheapest(idle, request).give(request)

    def _queue(self, request: PendingRequest, pause: float) -> None:
        request.labels, request.later = None, time.monotonic() + pause
        request.ask = replace(request.ask, min_version=max(request.ask.min_version, self.oldest))
        if request not in self._homeless:
            self._homeless.append(request)

    def _drop(self, request: PendingRequest) -> None:
        request.done = True
        for link in self._links:
            link.requests.pop(request.ask.id, None)
        if request in self._homeless:
            self._homeless.remove(request)

    @property
    def hungry(self) -> bool:
        """Whether requests wait for an endpoint that can serve them."""
        return bool(self._homeless)

    def assign(self) -> None:
        """Give each request that is due to the endpoint that will have it done first (the lock is held)."""
        now = time.monotonic()
        for request in [r for r in self._homeless if r.later <= now]:
            if request.labels is not None:  # another teacher had it still
                self._homeless.remove(request)
                continue
            link = self._choose(request)
            if link is not None:
                self._homeless.remove(request)
                link.give(request)

    def _choose(self, request: PendingRequest) -> Link | None:
        """Return the best endpoint that can answer; one that is ailing only where there is no other."""
        able = [k for k in self._links if k.serves(request) and request.ask.id not in k.requests]
        good = [k for k in able if not k.ailing] or able
        return self._cheapest(good, request) if good else None

    def _cheapest(self, links: list[Link], request: PendingRequest) -> Link:
        best = _best(links)
        return min(links, key=lambda k: k.cost(len(request.images), best))

    def _check_size(self, images: Tensor) -> None:
        """Refuse a batch that no teacher takes, once all have said what they take."""
        known = [k for k in self._links if k.state == "up" or k.max_batch]
        if len(known) == len(self._links) and not any(k.fits(images) for k in known):
            raise ValueError(
                f"{len(images)} tiles of {images.shape[2]} x {images.shape[3]} pixels in a batch, but "
                + "; ".join(f"teacher {k.endpoint} takes {k.sizes()}" for k in known)
                + "; start one with more"
            )

    def _pause(self) -> float:
        """Return how long to wait for a change."""
        now = time.monotonic()
        return min(0.25, min((max(1e-3, r.later - now) for r in self._homeless), default=0.25))

    def bring(self, packet: Packet) -> None:
        """Let every endpoint have new weights."""
        with self.changed:
            self.packet = packet
        for link in self._links:
            link.wake.set()

    def wait_for(self, header: WeightsVersion) -> None:
        """Wait until every endpoint that is up, and is not about to stop, has these weights, or the run is to stop.

        Raises:
            RuntimeError: the weights could not be packed, see `fail`.
        """
        with self.changed:
            while self._failure is None and not self._have(header) and not self._stop():
                self.changed.wait(0.25)
            self._check()

    def _have(self, header: WeightsVersion) -> bool:
        up = [k for k in self._links if k.state == "up" and not k.stopping]
        return all(k.header is not None and k.header.covers(header) for k in up)

    def fail(self, error: Exception) -> None:
        """Let whoever waits know that no more weights will come."""
        with self.changed:
            self._failure = error
            self.changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError("the weights for the teachers could not be packed") from self._failure

    def forget(self) -> None:
        """Let go of all requests, and of weights that have been overtaken by a return to earlier ones."""
        with self.changed:
            for link in self._links:
                link.forget()
            self._homeless.clear()
            self.packet = None

    def close(self) -> None:
        """Hang up; waits for all frozen teachers together as long as for one."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for link in self._links:
            link.hang_up()
        until = time.monotonic() + self._timeout
        for link in self._links:
            link.join(until)


def _best(links: Sequence[Link]) -> float:
    """Return the seconds a tile of the fastest; 1 where nothing is known yet."""
    return min((k.pace.seconds for k in links if k.pace.seconds is not None), default=1.0)

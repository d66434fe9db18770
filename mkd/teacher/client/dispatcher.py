"""The student's requests and the teachers that answer them: one lock, one queue of events, one thread for it."""

import logging
import queue
import threading
import time
from collections.abc import Callable

from mkd.teacher.api import TeacherStats, WaitStopped
from mkd.teacher.client.client_config import ClientConfig
from mkd.teacher.client.connection.connection import Connection
from mkd.teacher.client.connection.events import Close, Events, ThreadDied
from mkd.teacher.client.connection.heartbeat import Hurry
from mkd.teacher.client.endpoint import Endpoint
from mkd.teacher.client.event_handler import EventHandler
from mkd.teacher.client.flight_client import Access
from mkd.teacher.client.patience import Patience
from mkd.teacher.client.publisher import Packet
from mkd.teacher.client.request import PendingRequest
from mkd.teacher.client.request_assignment import RequestAssignment
from mkd.teacher.protocol import Reply, WeightsVersion

LONGEST_WAIT = 0.25  # seconds between two looks at the patience, at overdue answers and at a request to stop

log = logging.getLogger(__name__)


class Dispatcher:
    """Owns all state of requests: who holds which, answers, retries, and the versions that may answer.

    Three kinds of threads meet here. The student's training thread calls the methods: it submits and assigns under the
    lock, and waits on it for answers. The threads of the connections put events into one queue and never take the lock.
    The dispatcher's own thread takes the events, changes the state under the lock and notifies the training thread, so
    that lost requests are asked again while the student trains. Nobody holds the lock while waiting for a teacher.

    Args:
        config: endpoints, patience and fallback.
        access: how to reach the endpoints.
        stats: counts retries and stale answers.
        stop: whether the run has been asked to stop; ends a wait.

    Raises:
        ValueError: an endpoint refuses this student.
    """

    def __init__(
        self, config: ClientConfig, access: Access, stats: TeacherStats, stop: Callable[[], bool]
    ) -> None:
        """Say hello to each endpoint once."""
        self._stats, self._stop, self._timeout = stats, stop, access.timeout
        self._patience = Patience(config.patience, config.fallback)
        self._changed = threading.Condition()  # notified at each change of what is below
        self._closed = False
        self._failure: tuple[str, Exception] | None = None
        self._events: Events = queue.SimpleQueue()
        first = config.rank % len(config.endpoints)  # of equals the first in the list is asked
        names = [*config.endpoints[first:], *config.endpoints[:first]]
        self.endpoints = [
            Endpoint(name, Connection(n, name, access, config.patience, self._events))
            for n, name in enumerate(names)
        ]
        self._assignment = RequestAssignment(self.endpoints, stats)
        self._handler = EventHandler(self._assignment, config.patience, access.timeout)
        self._thread = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)
        self._thread.start()
        with self._changed:  # waits for the first hellos
            self._changed.wait_for(self._all_tried, self._timeout + 1)
            refused = [k for k in self.endpoints if k.state == "refused"]
        if refused:
            self.close()
            raise ValueError(f"teacher {refused[0].name} refuses this student: {refused[0].reason}")

    def _all_tried(self) -> bool:
        return self._failure is not None or all(k.state != "new" for k in self.endpoints)

    # The training thread.

    def submit(self, request: PendingRequest) -> None:
        """Ask for labels; returns at once."""
        with self._changed:
            self._assignment.unassigned.append(request)
            self._assignment.assign()
            if request in self._assignment.unassigned:  # newer weights are wanted than the last hello told of
                for endpoint in self.endpoints:
                    if endpoint.state == "up":
                        endpoint.connection.hurry(Hurry.OFTEN)

    def wait(self, request: PendingRequest) -> bool:
        """Wait for an answer that is young enough; return False when this process must answer itself.

        Raises:
            TeachersGone: no teacher answered for ``patience`` seconds and there is no fallback.
            WaitStopped: the run is to stop.
            ValueError: no teacher takes batches of this size.
            RuntimeError: the weights could not be packed, or a thread has died.
        """
        began, work = time.monotonic(), self._assignment
        with self._changed:
            while True:
                self._check_failure()
                if request.reply is not None and request.labels is not None:
                    if self.may_answer(request.reply, request.ask.session):
                        self._patience.restart()
                        request.done = True
                        return True
                    self._stats.stale += 1
                    work.queue(request, 0.0)
                if self._stop():
                    raise WaitStopped("asked to stop while waiting for a teacher")
                work.check_size(request.images)
                if not work.is_servable(request) and self._patience.ended(
                    began, lambda: work.reasons(request)
                ):
                    work.drop(request)
                    return False
                work.assign()
                work.hedge(request)
                # Lets go of the lock until the dispatcher's thread has taken an event.
                self._changed.wait(work.next_due(LONGEST_WAIT))

    def set_versions(self, oldest: int, newest: int) -> None:
        """Set the versions that may answer from now on."""
        with self._changed:
            self._assignment.oldest, self._assignment.newest = oldest, newest

    def may_answer(self, reply: Reply, session: str) -> bool:
        """Return whether an answer is of a session's weights, and neither too old nor from the future."""
        a = self._assignment
        return reply.session == session and a.oldest <= reply.version <= a.newest

    def wait_for(self, header: WeightsVersion) -> None:
        """Wait until every endpoint that is up, and is not about to stop, has these weights, or the run is to stop.

        Raises:
            RuntimeError: the weights could not be packed, or a thread has died.
        """
        with self._changed:
            while self._failure is None and not self._have(header) and not self._stop():
                self._changed.wait(LONGEST_WAIT)
            self._check_failure()

    def _have(self, header: WeightsVersion) -> bool:
        up = [k for k in self.endpoints if k.state == "up" and not k.stopping]
        return all(k.header is not None and k.header.covers(header) for k in up)

    def forget(self) -> None:
        """Let go of all requests, and of weights that have been overtaken by a return to earlier ones."""
        with self._changed:
            self._assignment.clear()
        self.publish(None)

    def close(self) -> None:
        """Disconnect; waits for all frozen teachers together as long as for one."""
        with self._changed:
            self._closed = True
            channels = [k.channel for k in self.endpoints]
        until = time.monotonic() + self._timeout
        self._events.put(Close())
        for endpoint, channel in zip(self.endpoints, channels, strict=True):
            endpoint.connection.close(channel)
        self._thread.join(self._timeout)
        for endpoint in self.endpoints:
            endpoint.connection.join(until)

    # The publisher's thread.

    def publish(self, packet: Packet | None) -> None:
        """Let every endpoint have new weights; None forgets earlier ones."""
        for endpoint in self.endpoints:
            endpoint.connection.publish(packet)

    def fail(self, text: str, error: Exception) -> None:
        """Let whoever waits know that an error has ended what it waits for."""
        log.error("%s (%s: %s)", text, type(error).__name__, error)
        with self._changed:
            self._failure = self._failure or (text, error)
            self._changed.notify_all()

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise RuntimeError(self._failure[0]) from self._failure[1]

    # The dispatcher's thread.

    def _dispatch(self) -> None:
        """Take events until closed."""
        try:
            while not isinstance(event := self._events.get(), Close):
                if isinstance(event, ThreadDied):
                    self.fail(f"the thread '{event.name}' of the teachers' side has died", event.error)
                    continue
                with self._changed:
                    if not self._closed:
                        self._handler.take(event)
                        self._changed.notify_all()
        except Exception as error:
            self.fail("the thread 'dispatcher' of the teachers' side has died", error)

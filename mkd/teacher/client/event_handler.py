"""What each event of a connection changes: endpoints come up and go, requests are answered or asked again."""

import time

from mkd.teacher.client.connection.events import Answer, Connected, ConnectionEvent, Disconnected, Skipped
from mkd.teacher.client.connection.heartbeat import HELLO_EVERY, Hurry
from mkd.teacher.client.endpoint import Endpoint
from mkd.teacher.client.request_assignment import RequestAssignment


class EventHandler:
    """Changes endpoints and requests by events; it starts no thread and has no lock, the dispatcher's guards it.

    Args:
        assignment: of requests to endpoints.
        patience: seconds that a teacher may leave a request without an answer.
        timeout: seconds after which a silent call is given up.
    """

    def __init__(self, assignment: RequestAssignment, patience: float, timeout: float) -> None:
        """Take no event yet."""
        self._assignment, self._patience, self._timeout = assignment, patience, timeout

    def take(self, event: ConnectionEvent) -> None:
        """Change the state by one event, unless it is of a generation that has ended."""
        endpoint = self._assignment.endpoints[event.number]
        if event.generation <= endpoint.ended:
            return
        match event:
            case Connected():
                self._connected(endpoint, event)
            case Disconnected():
                self._end(endpoint, event)
            case Answer():
                self._answered(endpoint, event)
            case Skipped():
                endpoint.requests.pop(event.id, None)
        self._assignment.assign()

    def _connected(self, endpoint: Endpoint, event: Connected) -> None:
        """Take a hello; with requests left over, the next one comes soon, because it may tell of newer weights."""
        now = time.monotonic()
        fault = endpoint.lost_answer(event, self._patience, self._timeout, now)
        if fault is not None:
            self._end(endpoint, Disconnected(event.number, event.generation, fault))
            return
        endpoint.connect(event, now)
        self._assignment.assign()
        if self._assignment.has_backlog:
            endpoint.connection.hurry(Hurry.SOON)

    def _end(self, endpoint: Endpoint, event: Disconnected) -> None:
        """Give up one generation; what was asked there is asked elsewhere.

        After one that failed in use the next one begins at once, unless it was a short one.
        """
        channel, lasted = endpoint.channel, time.monotonic() - endpoint.since
        requests = endpoint.disconnect(event.generation, event.reason, event.refused)
        if channel is not None:
            endpoint.connection.end(channel, at_once=event.in_use and lasted > HELLO_EVERY)
        self._assignment.retry(requests, 0.0)

    def _answered(self, endpoint: Endpoint, event: Answer) -> None:
        """Take an answer to where it is waited for, or ask again where there are no labels."""
        request = endpoint.answer(event)
        if request is None:
            return
        if event.labels is None:
            self._assignment.retry([request], 1.0 if endpoint.degraded else 0.0)
            endpoint.connection.hurry(Hurry.NOW)
        elif not request.done and request.labels is None:  # else another teacher was first
            request.labels, request.reply, request.kept = event.labels, event.reply, event.kept

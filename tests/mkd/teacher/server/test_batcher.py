"""The thread that labels: shared batches give each request its own answer, weights change between batches only."""

import contextlib
import copy
import threading
from dataclasses import replace

import pytest
import torch

from mkd.semi.entropy import TileLimit, filter_pseudo_labels
from mkd.teacher import protocol
from mkd.teacher.local import LocalTeacher
from mkd.teacher.server.batcher import QueuedRequest
from tests.helpers.teacher.services import batcher_of, same, until, weak_views
from tests.helpers.training.nets import perturb, tiny_net

HEADER = protocol.WeightsVersion("job.0", 3, 3)


def job_of(number, batch=4, size=(6, 5), stream=None, limit=1.0, min_version=0, session="job.0"):
    ask = protocol.Request(number, 0.4, limit, session, min_version)
    return QueuedRequest(ask, weak_views(number, batch, size), stream or object())


@contextlib.contextmanager
def running(batcher, *jobs):
    """Queue jobs, then start; stop at the end."""
    for job in jobs:
        batcher.put(job)
    batcher.start()
    try:
        yield batcher
    finally:
        batcher.stopping.set()
        batcher.join(20)
        assert not batcher.is_alive()


def answers(*jobs):
    for job in jobs:
        assert job.done.wait(20)
    return [job.labels for job in jobs]


def expected(model, number, **more):
    job = job_of(number, **more)
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(job.images.float() / 255)
    return filter_pseudo_labels(logits, job.ask.confidence, job.ask.limit, HEADER.updates)


class Watched(torch.nn.Module):
    """A network that records its batches and can be held inside one."""

    def __init__(self, net):
        super().__init__()
        self.net, self.sizes, self.sums = net, [], []
        self.inside, self.hold = threading.Event(), threading.Event()
        self.hold.set()

    def weight_sum(self):
        return sum(float(t.double().sum()) for t in self.net.state_dict().values())

    def forward(self, images):
        self.sizes.append(tuple(images.shape))
        before = self.weight_sum()
        self.inside.set()
        assert self.hold.wait(20)
        result = self.net(images)
        self.sums.append((before, self.weight_sum()))
        return result


def test_requests_share_a_batch_and_keep_their_answers():
    """Three clients' requests are one forward pass; each gets its own labels, filtered by its own limit."""
    net = Watched(tiny_net())
    jobs = [job_of(n, batch=n + 1, limit=limit) for n, limit in enumerate((1.0, 0.0, 1.0))]
    batcher = batcher_of(net, HEADER, wait_s=10.0)
    batcher.streams = 3
    with running(batcher, *jobs):
        found = answers(*jobs)
    assert net.sizes == [(6, 3, 6, 5)]
    for n, (answer, limit) in enumerate(zip(found, (1.0, 0.0, 1.0), strict=True)):
        other = expected(net.net, n, batch=n + 1, limit=limit)
        torch.testing.assert_close(answer.score, other.score)
        assert torch.equal(answer.accepted, other.accepted)
        assert torch.equal(answer.labels, other.labels)
        assert answer.version == HEADER.updates
    assert not found[1].accepted.any()


def test_requests_with_other_views_share_a_batch():
    """A request that asks for the mean over flips gets it, beside one that does not."""
    net, jobs = tiny_net(), [job_of(n) for n in range(3)]
    jobs[1] = replace(jobs[1], ask=replace(jobs[1].ask, views="flips"))
    (batcher := batcher_of(net, HEADER, wait_s=10.0)).streams = 3
    with running(batcher, *jobs):
        found = answers(*jobs)
    local = LocalTeacher(net, 0.0, jobs[0].ask.confidence, TileLimit(absolute=1.0), views="flips")
    others = [expected(net, 0), local.label(job_of(1).images, 0.0), expected(net, 2)]
    for answer, other in zip(found, others, strict=True):
        torch.testing.assert_close(answer.score, other.score)
        assert torch.equal(answer.labels, other.labels)
    assert not torch.equal(found[1].score, expected(net, 1).score)


def test_a_batch_has_a_limit():
    """No forward pass has more than max_batch tiles, and the order stays."""
    net = Watched(tiny_net())
    jobs = [job_of(n, batch=3) for n in range(7)]
    with running(batcher_of(net, HEADER, max_batch=8), *jobs):
        found = answers(*jobs)
    assert [s[0] for s in net.sizes] == [6, 6, 6, 3]
    for n, answer in enumerate(found):
        torch.testing.assert_close(answer.score, expected(net.net, n, batch=3).score)


def test_tiles_of_different_sizes_do_not_mix():
    """A request of another tile size starts the next batch."""
    net = Watched(tiny_net())
    jobs = [job_of(0), job_of(1, size=(8, 8)), job_of(2, size=(8, 8)), job_of(3)]
    with running(batcher_of(net, HEADER), *jobs):
        found = answers(*jobs)
    assert net.sizes == [(4, 3, 6, 5), (8, 3, 8, 8), (4, 3, 6, 5)]
    assert [tuple(a.labels.shape) for a in found] == [(4, 6, 5), (4, 8, 8), (4, 8, 8), (4, 6, 5)]


def test_no_wait_once_every_stream_is_there():
    """With a wait of an hour, a batch still starts when each open stream has a request in it."""
    job = job_of(0)
    batcher = batcher_of(None, HEADER, wait_s=3600.0)
    batcher.streams = 1
    with running(batcher, job):
        answers(job)


def test_a_bounded_wait_for_others():
    """A second stream that sends nothing delays a request, and no longer than the wait."""
    job = job_of(0)
    batcher = batcher_of(None, HEADER, wait_s=0.05)
    batcher.streams = 2
    with running(batcher, job):
        answers(job)
    assert batcher.gauge.read()["latency_ms_p50"] >= 50


def test_weights_change_between_batches_never_within():
    """Weights offered in mid-batch touch the batch after it; versions are those of the weights that labelled."""
    first, second = tiny_net(), tiny_net(seed=9)
    net = Watched(copy.deepcopy(first))
    state = {f"net.{k}": v for k, v in second.state_dict().items()}
    net.hold.clear()
    jobs = [job_of(0), job_of(1, size=(8, 8), min_version=4)]
    with running(batcher_of(net, HEADER), *jobs) as batcher:
        assert net.inside.wait(20)
        batcher.offer(state, protocol.WeightsVersion("job.0", 4, 5))
        assert batcher.newest().version == 4
        net.hold.set()
        one, two = answers(*jobs)
    assert all(before == after for before, after in net.sums)
    assert len({before for before, _ in net.sums}) == 2
    assert same(one, expected(first, 0))
    assert torch.equal(two.labels, expected(second, 1, size=(8, 8)).labels)
    assert [(j.reply.version, j.reply.updates) for j in jobs] == [(3, 3), (4, 5)]
    assert (one.version, two.version) == (3, 5)


def test_many_swaps_under_load():
    """While weights are offered all the time, no forward pass sees two of them."""
    net = Watched(tiny_net())
    with running(batcher_of(net, HEADER)) as batcher:
        start = {k: v.clone() for k, v in net.state_dict().items()}
        for n in range(60):
            batcher.offer({k: v + n for k, v in start.items()}, protocol.WeightsVersion("job.0", 4 + n, n))
            job = job_of(n, min_version=4 + n)
            batcher.put(job)
            if n % 3 == 0:
                answers(job)
        answers(job)
    assert all(before == after for before, after in net.sums)
    assert batcher.gauge.swaps > 20


@pytest.mark.parametrize(("session", "version"), [("job.0", 4), ("job.1", 0), ("other.0", 3)])
def test_older_weights_do_not_answer(session, version):
    """A request for newer weights, or another session's, is told whose weights are here and costs no labels."""
    net = Watched(tiny_net())
    job, good = job_of(0, session=session, min_version=version), job_of(1)
    with running(batcher_of(net, HEADER), job, good):
        answers(job, good)
    assert job.labels is None
    assert (job.reply.status, job.reply.session, job.reply.version) == (protocol.BEHIND, "job.0", 3)
    assert good.reply.status == protocol.OK
    assert [s[0] for s in net.sizes] == [4]


def test_a_failing_batch_fails_alone(caplog):
    """An error in the forward pass reaches the requests of that batch; the next ones are answered."""
    net = tiny_net()
    wrong, good = job_of(0), job_of(1, size=(8, 8))
    wrong.images = wrong.images[:, :2]  # two channels: the convolution refuses
    with running(batcher_of(net, HEADER), wrong, good):
        answers(wrong, good)
    assert wrong.reply.status == protocol.FAILED
    assert "channels" in wrong.reply.reason
    assert good.reply.status == protocol.OK
    assert "failed" in caplog.text


def test_nobody_waits_any_more():
    """A request whose stream has gone is not labelled."""
    net = Watched(tiny_net())
    gone, good = job_of(0), job_of(1)
    gone.gone = True
    with running(batcher_of(net, HEADER), gone, good):
        answers(good)
    assert [s[0] for s in net.sizes] == [4]


def test_the_queue_is_bounded_and_stopping_ends_the_wait():
    """A full queue makes readers wait; a stop answers what is queued and turns away who waits."""
    net = Watched(tiny_net())
    net.hold.clear()
    jobs = [job_of(n) for n in range(4)]
    batcher = batcher_of(net, HEADER, depth=2, max_batch=4)
    with running(batcher, jobs[0]):
        assert net.inside.wait(20)
        put = [threading.Thread(target=batcher.put, args=(job,)) for job in jobs[1:]]
        for n, thread in enumerate(put):
            thread.start()
            if n < 2:
                thread.join(20)
        until(lambda: batcher.waiting() == 2)
        assert put[2].is_alive()
        batcher.stopping.set()
        put[2].join(20)
        net.hold.set()
        answers(*jobs)
    assert [j.reply.status for j in jobs] == [protocol.OK, protocol.OK, protocol.OK, protocol.STOPPING]


def test_the_network_is_only_read():
    """Labelling changes neither weights nor BatchNorm's statistics."""
    net = tiny_net()
    perturb(net, 0)
    before = copy.deepcopy(net.state_dict())
    jobs = [job_of(n) for n in range(3)]
    with running(batcher_of(net, HEADER), *jobs):
        answers(*jobs)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_an_answered_request_holds_no_image():
    """Its tiles' memory is free while the answer waits to be written."""
    job = job_of(0, batch=4, size=(64, 64))
    with running(batcher_of(None, HEADER), job):
        answers(job)
    assert job.images.untyped_storage().nbytes() == 0
    assert tuple(job.images.shape[1:]) == (3, 64, 64)


def most(tiles, sizes):
    """Return a network whose forward pass fails with more tiles."""

    def check(_, given):
        sizes.append(len(given[0]))
        if len(given[0]) > tiles:
            raise RuntimeError("out of memory")

    net = tiny_net()
    net.register_forward_pre_hook(check)
    return net


def test_requests_that_do_not_fit_together_are_labelled_alone(caplog):
    """A shared batch that fails costs no request; from then on fewer tiles share one."""
    sizes = []
    jobs = [job_of(n, batch=4) for n in range(4)]
    with running(batcher_of(most(4, sizes), HEADER, max_batch=8), *jobs):
        found = answers(*jobs)
    assert [j.reply.status for j in jobs] == [protocol.OK] * 4
    assert all(same(answer, expected(tiny_net(), n)) for n, answer in enumerate(found))
    assert sizes == [8, 4, 4, 4, 4]
    assert [text.partition(" (")[0] for text in caplog.messages] == [
        "a batch of 8 tiles of 2 requests failed",
        "requests one by one were labelled; from now on at most 7 tiles share a batch",
    ]


def test_of_a_shared_batch_only_those_fail_that_fail_alone():
    """A request that fits is answered though the one beside it does not; nothing is learnt about sharing."""
    sizes = []
    jobs = [job_of(0, batch=5), job_of(1, batch=3)]
    batcher = batcher_of(most(4, sizes), HEADER, max_batch=8)
    with running(batcher, *jobs):
        answers(*jobs)
    assert [j.reply.status for j in jobs] == [protocol.FAILED, protocol.OK]
    assert sizes == [8, 5, 3]
    assert batcher.max_batch == 8

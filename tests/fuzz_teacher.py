"""Malformed messages to a teacher service, beside an honest student: python tests/fuzz_teacher.py [COUNT] [SEED].

Each message is a call of its own: random bytes on the socket, broken HTTP/2, wrong tokens, random protobufs, Arrow
messages with flipped, missing or added bytes, wrong schemas, sizes and JSON, wrong weights, streams that are left
open. Printed at the end: how many of each kind, what the service said and its memory; the exit status is 0 when it
lives, has not grown, and the honest student's answers were all there, at the first attempt and right.
"""

import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from mkd.semi.entropy import TileLimit
from mkd.teacher.local import LocalTeacher
from tests.helpers.teacher.fuzzer import TOKEN, Fuzzer
from tests.helpers.teacher.services import TeacherProcess, processes, remote, weak_views
from tests.helpers.training.nets import perturb, tiny_net

SAMPLES = 10  # times that memory is measured
GROWTH = 8  # MiB that may be gained in the second half: by then each kind of message has come often


class Honest(threading.Thread):
    """A student beside the noise: each answer must come at the first attempt and be the local teacher's.

    Noise that happens to be a valid request shares forward passes with the student's, which then round differently:
    scores may differ in the last bits, and labels where two classes tie or the confidence is that of the threshold.
    """

    def __init__(self, endpoint):
        super().__init__(daemon=True)
        self.student = tiny_net()
        self.local = LocalTeacher(self.student, 0.9, 0.4, TileLimit(absolute=1.0))
        self.said, self.errors, self.answers, self.ended = [], [], 0, threading.Event()
        # A minute's patience for each call: the noise may fill the machine, which is no error.
        self.teacher = remote(self.student, endpoint, max_age=0, token=TOKEN, timeout=60.0, said=self.said)

    def run(self):
        try:
            while not self.ended.is_set():
                n = self.answers
                self.teacher.submit(n, weak_views(n), 0.0)
                if not alike(self.teacher.collect(n), self.local.label(weak_views(n), 0.0)):
                    self.errors.append(f"answer {n} is wrong")
                perturb(self.student, n, 1e-4)
                self.teacher.follow(self.student)
                self.local.follow(self.student)
                self.answers += 1
                time.sleep(0.01)
        except Exception as error:
            self.errors.append(repr(error))

    def end(self):
        """Return the number of answers and what went wrong."""
        self.ended.set()
        self.join(60)
        self.teacher.close()
        tally = self.teacher.stats
        found = self.errors + [f"{tally.retries} requests asked again"] * bool(tally.retries)
        return self.answers, found + self.said[1:]


def alike(one, other):
    """Say whether two answers are equal but for rounding."""
    wrong = (one.labels != other.labels).float().mean()
    return bool(wrong < 0.01 and torch.allclose(one.score, other.score, atol=1e-5))


def memory(pid):
    """Return a process's resident memory in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def fuzz(count, seed=0, show=print):
    """Send ``count`` malformed messages; return a list of what is wrong."""
    with (
        tempfile.TemporaryFile("w+") as log,
        processes(TeacherProcess(token=TOKEN, stderr=log)) as (teacher,),
    ):
        honest = Honest(teacher.endpoint)
        honest.start()
        fuzzer, began, sizes = Fuzzer(teacher.endpoint, seed), time.monotonic(), []
        for n in range(1, count + 1):
            if teacher.process.poll() is not None:
                return [f"the service died (status {teacher.process.poll()}) at message {n}: {fuzzer.counts}"]
            fuzzer()
            if n % (count // SAMPLES) == 0:
                sizes.append(memory(teacher.process.pid))
        answers, wrong = honest.end()
        log.seek(0)
        lines = log.read().splitlines()
    if (grown := sizes[-1] - sizes[SAMPLES // 2 - 1]) > GROWTH:
        wrong.append(f"memory grew by {grown:.1f} MiB in the second half")
    if len(lines) > 100:
        wrong.append(f"{len(lines)} lines in the log: it must not grow with the messages")
    show(f"{count} malformed messages in {time.monotonic() - began:.0f} s, seed {seed}")
    show("kinds: " + ", ".join(f"{k} {n}" for k, n in sorted(fuzzer.counts.items())))
    show("ends: " + ", ".join(f"{k} {n}" for k, n in fuzzer.answers.most_common()))
    show(f"service: alive, {len(lines)} lines in its log, memory {', '.join(f'{m:.0f}' for m in sizes)} MiB")
    show(f"honest student: {answers} answers, {len(wrong)} complaints")
    return wrong


if __name__ == "__main__":
    given = [int(a) for a in sys.argv[1:]]
    complaints = fuzz(*(given or [100_000]))
    sys.exit("\n".join(complaints) if complaints else 0)

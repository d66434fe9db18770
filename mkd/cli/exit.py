"""How a command ends: with one sentence, and among several ranks at once, so that the others are ended too."""

import os
import signal
import socket
import subprocess
import sys
import traceback
from typing import NoReturn

# What gloo and NCCL say of a rank that is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError")

# Waits for the end of a process, of which it is given a handle, and prints a line on stderr.
_WAIT_AND_PRINT = """
import select, sys
poll = select.poll()
poll.register(int(sys.argv[1]), select.POLLIN)
poll.poll(60_000)
print(sys.argv[2], file=sys.stderr)
"""


def fail(name: str, text: str, status: int) -> NoReturn:
    """End this process with a line on stderr that names the rank where there are several.

    A rank leaves without the interpreter's usual exit, which would wait for threads and collective calls: torchrun
    then ends the others within seconds. A mistake of a person (status 2) would come again after each restart, so
    torchrun is told to end as well.

    Args:
        name: of the command.
        text: one sentence.
        status: exit status, not 0; 2 for a mistake of a person.
    """
    if _restarts_left() == 0 or status == 2:
        say_after_torchrun(f"{name} ended: {text}")
    if not several_ranks():
        print(f"{name}: {text}", file=sys.stderr)
        raise SystemExit(status) from None
    sys.stderr.write(f"{name}: rank {os.environ.get('RANK')} (node {node()}): {text}\n")
    sys.stderr.flush()
    if status == 2 and _restarts_left() > 0:
        os.kill(os.getppid(), signal.SIGTERM)
    leave(status)


def crash(name: str, error: Exception) -> NoReturn:
    """End this rank of several after a mistake of the program; a rank that lost another one says so in a line."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and any(word in text for word in LOST):
        fail(name, f"lost another rank, whose own message says why ({text[:160]})", 3)
    traceback.print_exception(error)
    fail(name, f"{type(error).__name__}: {text}", 1)


def interrupt(name: str, text: str) -> NoReturn:
    """End this process after Ctrl-C with one line, which rank 0 alone prints; torchrun then adds no traceback."""
    if first_rank():
        print(f"{name}: {text}", file=sys.stderr, flush=True)
    end_torchrun_silently()
    if several_ranks():
        leave(130)
    raise SystemExit(130) from None


def end_torchrun_silently() -> None:
    """Kill the torchrun that started this process, if one did, from the first rank of each machine.

    Ctrl-C reaches torchrun too, which waits for its ranks and then prints the traceback of the signal. Call this when
    the ranks have nothing left to do: they end with it.
    """
    if under_torchrun() and os.environ.get("LOCAL_RANK") == "0":
        sys.stdout.flush()
        sys.stderr.flush()
        os.kill(os.getppid(), signal.SIGKILL)


def say_after_torchrun(text: str) -> None:
    """Print a line once torchrun, if one started this process, has ended: below the report that it prints itself.

    A process of its own waits for that, a minute at most. It is one for all ranks of a machine: the first that fails.
    """
    if not (under_torchrun() and hasattr(os, "pidfd_open")):
        return
    torchrun, claim = os.getppid(), socket.socket(socket.AF_UNIX)
    try:
        claim.bind(
            f"\0mkd-{torchrun}-failed"
        )  # a name that lives as long as the process that is started here
        handle = os.pidfd_open(torchrun)
        command = [sys.executable, "-I", "-S", "-c", _WAIT_AND_PRINT, str(handle), text]
        # Without stdout, for whose end a reader of the job's pipe waits.
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "start_new_session": True}
        subprocess.Popen(command, pass_fds=(handle, claim.fileno()), **quiet)  # type: ignore[call-overload]
    except OSError:
        return  # another rank says it, or this is a system without such names or handles


def leave(status: int) -> NoReturn:
    """End this process at once, with everything written out that was printed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _restarts_left() -> int:
    """Return how often the torchrun that started this process would start it again."""
    most, done = (int(os.environ.get(f"TORCHELASTIC_{n}", "0")) for n in ("MAX_RESTARTS", "RESTART_COUNT"))
    return most - done if under_torchrun() else 0


def under_torchrun() -> bool:
    """Whether torchrun started this process and restarts it when it fails."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def several_ranks() -> bool:
    """Whether this process is one of several that torchrun or Slurm started together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first_rank() -> bool:
    """Whether this process speaks for all ranks."""
    return not several_ranks() or os.environ.get("RANK") == "0"


def node() -> str:
    """Return the name of this machine: Slurm's where it runs."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()

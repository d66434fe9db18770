"""A throw-away Slurm with two nodes, both this machine: its own key, ports and folders; needs root."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "munged", "setpriv", "sbatch")
NODES = ("n1", "n2")
ADDRESSES = {"n1": "127.0.0.1", "n2": "127.0.0.2"}  # node names resolve nowhere: scripts must ask Slurm
PENDING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "PREEMPTED")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
FirstJobId={job}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
MinJobAge=3600
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=12
JobRequeue=1
{nodes}
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=60 PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=n[1-2] MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""
# cred_expire: a requeued job waits until its last credential has expired, 120 s by default.


def missing():
    """Say in one sentence why there can be no Slurm here; empty when there can."""
    absent = [name for name in NEEDED if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)} here: 'make slurm' installs Slurm where it can"
    return "" if os.geteuid() == 0 else "starting the daemons of a Slurm needs root"


def _path():
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def _free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Slurm:
    """Daemons of one controller and two nodes of ``cpus`` CPUs; `start` returns when both nodes are idle.

    Args:
        cpus: that each node claims to have.

    Attributes:
        folder: all state, removed by `stop`; outside of pytest's folders, which the munge user may not enter.
        environment: of commands and jobs.
    """

    def __init__(self, cpus=8):
        self.cpus, self.folder, self.daemons = cpus, None, {}

    def start(self):
        """Write the configuration and start munged, slurmctld and two slurmd."""
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        for name in ("state", *NODES):
            (self.folder / name).mkdir()
        host, ports = os.uname().nodename, _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr={ADDRESSES[node]} Port={port} CPUs={self.cpus} "
            "RealMemory=4000"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        conf = self.folder / "slurm.conf"
        first = random.SystemRandom().randrange(
            1, 60_000
        )  # the scripts take their ports from the job's number
        conf.write_text(CONF.format(host=host, port=ports[0], job=first, folder=self.folder, nodes=nodes))
        # What an outer Slurm job has set would make every step look for that job.
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        self.environment = {**outer, "PATH": _path(), "SLURM_CONF": str(conf), "OMP_NUM_THREADS": "1"}
        self._start_munge()
        self._start("slurmctld", "slurmctld", "-D", "-c", "-i")
        for node in NODES:
            self.start_node(node)
        self.until(lambda: self.nodes() == {"n1": "idle", "n2": "idle"}, 30, "the nodes did not come up")

    def _start_munge(self):
        munge = self.folder / "munge"
        munge.mkdir()
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
        places = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        options = [f"--{option}={munge / name}" for option, name in places.items()]
        user = ("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups")  # it refuses to be root
        self._start("munged", *user, "munged", "--foreground", *options)
        self.until((munge / "socket").exists, 30, "munged did not come up")

    def start_node(self, node):
        """Start the daemon of a node, again after `kill_node`."""
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node):
        """Kill the daemon of a node with -9, as a crash would; what it has started runs on."""
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()

    def cancel_all(self):
        """Cancel all jobs and wait until nothing of them runs."""
        self.run("scancel", "--user=root")
        self.until(lambda: not self.run("squeue", "-h"), 60, "cancelled jobs did not end")

    def stop(self):
        """Cancel all jobs, end the daemons, and remove everything."""
        if self.folder is None:
            return
        try:
            self.cancel_all()
        finally:
            for name in tuple(self.daemons):
                self.kill_node(name)
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self):
        """List what runs of the jobs of this Slurm, known by their environment."""
        ours, found = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if ours in words and any(word.startswith(b"SLURM_JOB_ID=") for word in words):
                    found.append(int(path.parent.name))
        return found

    def _start(self, name, *command):
        """Start a daemon that also ends when this process is killed."""
        with open(self.folder / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                ("setpriv", "--pdeathsig=KILL", *command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def run(self, *command, check=True, cwd=None, **variables):
        """Run a Slurm command with environment variables; return what it printed, both streams."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout.strip()

    def nodes(self):
        """Map each node to its state, such as idle, mixed, down*."""
        lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t", check=False).splitlines()
        return dict(line.split(" ", 1) for line in lines if line.startswith(NODES))

    def jobs(self, job):
        """Return what Slurm knows of a job, one dict for each task of an array."""
        text = self.run("scontrol", "show", "job", "--oneliner", str(job))
        return [dict(re.findall(r"(?:^| )([A-Za-z/:]+)=(\S*)", line)) for line in text.splitlines()]

    def wait(self, *jobs, seconds=120):
        """Wait until jobs have ended; return the set of their final states, such as {"COMPLETED"}."""
        tasks = []

        def ended():
            tasks[:] = [task for job in jobs for task in self.jobs(job)]
            return all(task["JobState"] not in PENDING for task in tasks)

        self.until(ended, seconds, f"jobs {jobs} did not end")
        return {task["JobState"] for task in tasks}

    def until(self, condition, seconds, otherwise):
        """Wait for something; AssertionError after so many seconds."""
        end = time.monotonic() + seconds
        while not condition():
            late = time.monotonic() > end
            assert not late, f"{otherwise} in {seconds} s\n{self.nodes()}\n{self.run('squeue', check=False)}"
            time.sleep(0.2)

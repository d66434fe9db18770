"""Peak memory of a process."""

import pytest

from mkd.benchmarks import peak
from mkd.benchmarks.peak import resident_peak_mib


def test_the_peak_stays_when_memory_is_given_back(tmp_path, capsys):
    """It grows by what a function holds at a time, and is the last line that is printed."""
    before = resident_peak_mib()
    peak.main("numpy", "ones", f'{{"shape": {int((before + 200) * 2**20 / 8)}}}')  # float64, gone at once
    printed = float(capsys.readouterr().out.splitlines()[-1])
    assert before + 200 < printed < 2 * before + 400
    assert resident_peak_mib() >= printed


def test_a_system_that_tells_nothing_is_refused(monkeypatch, tmp_path):
    """One sentence, with what to leave out."""
    monkeypatch.setattr(peak, "Path", lambda _: tmp_path / "none")
    with pytest.raises(ValueError, match="no VmHWM here; leave memory out of parts="):
        resident_peak_mib()

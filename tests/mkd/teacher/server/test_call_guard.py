"""What is rejected is logged once and counted always."""

from mkd.teacher.server.call_guard import RejectionLog


def test_a_rejection_is_logged_once(caplog):
    """Once for each kind and peer, whatever its port; all are counted; the memory of peers is bounded."""
    rejections = RejectionLog()
    for port in range(5):
        rejections.add("token", f"ipv4:10.0.0.1:{port}", "wrong\ntoken")
        rejections.add("token", f"ipv4:10.0.0.2:{port}", "wrong")
        rejections.add("size", f"ipv4:10.0.0.1:{port}", "x" * 10_000)
    assert len(caplog.messages) == 3
    assert rejections.counts == {"token": 10, "size": 5}
    assert all("\n" not in line and len(line) < 700 for line in caplog.messages)
    for n in range(3000):
        rejections.add("token", f"ipv4:{n}:1", "wrong")
    assert len(caplog.messages) == RejectionLog.MOST

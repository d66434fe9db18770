"""A time left, in words."""


def duration(seconds: float) -> str:
    """Return seconds in the two units that fit: "40 s", "12 min", "5 h 10 min", "6 d 5 h"."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"

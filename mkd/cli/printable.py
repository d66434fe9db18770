"""Texts from elsewhere, made fit to be printed."""


def printable(text: object, longest: int | None = None) -> str:
    """Return a text on one line in which nothing acts on a terminal: control characters are escaped, as in ``\\x1b``.

    Args:
        text: of anybody; runs of white space become one space.
        longest: characters that are kept; more are cut, and dots say so.
    """
    line = " ".join(str(text).split())
    if longest is not None and len(line) > longest:
        line = line[:longest] + " ..."
    # What `isprintable` refuses: control and formatting characters, those that turn the direction of writing too.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)

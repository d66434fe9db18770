"""Texts from elsewhere, made fit to be printed."""


def escape_controls(text: str) -> str:
    """Return a text whose control characters are escaped, as in ``\\x1b``, line ends too.

    Those are what `str.isprintable` refuses: also formatting characters that turn the direction of writing.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable(text: object, longest: int | None = None) -> str:
    """Return a text on one line in which nothing acts on a terminal; see `escape_controls`.

    Args:
        text: of anybody; runs of white space become one space.
        longest: characters that are kept; more are cut, and dots say so.
    """
    line = " ".join(str(text).split())
    if longest is not None and len(line) > longest:
        line = line[:longest] + " ..."
    return escape_controls(line)

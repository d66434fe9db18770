"""What is wrong with the words of a command line, whatever the command."""

from collections.abc import Sequence


def encoding_fault(words: Sequence[str]) -> str:
    """Return "", or which word is not UTF-8: a name that no index, record or message could hold."""
    for word in words:
        if not is_utf8(word):
            return f"{ascii(word)} is not UTF-8: rename the file or folder it names"
    return ""


def name_fault(name: str) -> str:
    """Return "", or why a file's name can stand in no index, record or message."""
    if not is_utf8(name):
        return "a name that is not UTF-8"
    if any(ord(character) < 32 for character in name):
        return "a name with control characters, such as a line end or a tab"
    return ""


def is_utf8(name: str) -> bool:
    """Say whether a name can be written as UTF-8; Python holds bytes of other encodings as lone surrogates."""
    return not any(0xD800 <= ord(character) < 0xE000 for character in name)

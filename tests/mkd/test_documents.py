"""YAML and JSON of strangers: what is harmless is read as always, everything else is one short sentence."""

import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mkd.documents import MAX_DEPTH, MAX_YAML, file_name, mapping, parse_json, parse_yaml, text, whole

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(-1e9, 1e9)
    | st.text("abÄ :#-*&", max_size=9),
    lambda inside: (
        st.lists(inside, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inside, max_size=4)
    ),
    max_leaves=12,
)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

BAD_YAML = {
    "aliases": (BOMB, "alias"),
    "one alias": ("a: &x 1\nb: *x\n", r"alias \*x"),
    "a recursive alias": ("&a [*a]", "alias"),
    "deep lists": ("[" * 5000, "levels deep"),
    "deep mappings": ("{a: " * 200 + "1" + "}" * 200, "levels deep"),
    "deep blocks": ("".join(" " * n + "-\n" for n in range(100)), "levels deep"),
    "infinity": ("a: .inf", "not finite"),
    "a number that overflows": ("a: 1.0e+999", "not finite"),
    "NaN": ("a: [.nan]", "not finite"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "'a' stands twice"),
    "a list as key": ("? [a]\n: 1\n", "no key"),
    "another Python object": ("a: !!python/object/apply:os.system [ls]", "tag"),
    "a month 13": ("a: 2020-13-40", "month"),
    "huge digits": ("a: " + "9" * 9000, "digits"),
    "a zero byte": ("a: \0", r"\w"),
    "an open bracket": ("a: [", r"\w"),
    "too many bytes": ("a: b\n" + "#" * MAX_YAML, "bytes"),
    "two documents": ("a: 1\n---\nb: 2\n", r"\w"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_hostile_yaml_is_one_sentence(name):
    """Each is refused in a line that says why, at once: a bomb is never built."""
    document, reason = BAD_YAML[name]
    began = time.monotonic()
    for data in (document, document.encode()):
        with pytest.raises(ValueError, match=reason) as caught:
            parse_yaml(data)
        assert type(caught.value) is ValueError
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert time.monotonic() - began < 2


def test_bytes_that_are_no_text():
    """Another encoding than UTF-8 is said, with the byte."""
    with pytest.raises(ValueError, match="byte 3 is not UTF-8"):
        parse_yaml(b"a: \xff")


@given(PLAIN)
def test_plain_yaml_is_read_as_ever(value):
    """What `yaml.safe_dump` writes of plain values comes back, whichever parser the system has."""
    written = yaml.dump(value, Dumper=_NoAliases, allow_unicode=True)
    assert parse_yaml(written) == yaml.safe_load(written) == value


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("[" * 100_000, "deep"),
        ('{"a":' * 50_000, "deep"),
        ('{"a": Infinity}', "not finite"),
        ('{"a": [NaN]}', "not finite"),
        ('{"a": 1e999}', "not finite"),
        ("9" * 9000, "digits"),
        ("{", r"\w"),
        ("", r"\w"),
        (b"\xff\xfe\xfa", r"\w"),
    ],
)
def test_hostile_json_is_one_sentence(document, reason):
    """Deep nesting, numbers that are none, and what is no JSON."""
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(document)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)


@given(PLAIN)
def test_plain_json_is_read_as_ever(value):
    """What `json.dumps` writes comes back."""
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 11, 10**400, [], float("nan")])
def test_what_is_no_whole_number(value):
    """Booleans, floats, text and numbers out of the range are named."""
    with pytest.raises(ValueError, match=r"^tiles is .*a whole number in 0\.\.10 is needed$") as caught:
        whole(value, "tiles", 0, 10)
    assert len(str(caught.value)) < 200
    assert whole(10, "tiles", 0, 10) == 10


@pytest.mark.parametrize("value", ["../x", "/etc/passwd", "", ".", "..", "a/b", "a\0b", "a\nb", 3, "\udcff"])
def test_names_stay_in_their_folder(value):
    """A name with a folder, a control character or a byte of another encoding is no file's name."""
    with pytest.raises(ValueError, match=r"^file is "):
        file_name(value, "file")
    assert file_name("set-000000.tar", "file") == "set-000000.tar"


def test_depth_of_a_mapping():
    """A mapping of little depth passes, one beyond the limit does not, however deep it is."""

    def nested(levels):
        value = {}
        for _ in range(levels - 1):
            value = {"a": [value]} if levels < 20 else {"a": value}
        return value

    assert mapping(nested(MAX_DEPTH), "it")
    with pytest.raises(ValueError, match=f"more than {MAX_DEPTH} levels deep"):
        mapping(nested(900), "it")


@pytest.mark.parametrize("value", ["\x1b[2J", "a\tb", 1, None])
def test_text_is_one_line(value):
    """Escape sequences of terminals are no names."""
    with pytest.raises(ValueError, match="text in one line"):
        text(value, "a class")
    assert text("Straße [red] ", "a class") == "Straße [red] "

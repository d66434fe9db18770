"""What the benchmarks hand out: tables and a file."""

import json

from mkd.benchmarks.reporting import markdown, write_json


def test_a_table_has_the_keys_as_its_head():
    rows = [{"a": 1234, "b, ms": 0.123456, "c": "x"}, {"a": None, "b, ms": 12345.6, "c": ""}]
    assert markdown(rows).splitlines() == [
        "| a | b, ms | c |",
        "| --- | --- | --- |",
        "| 1,234 | 0.1235 | x |",
        "| - | 12,346 |  |",
    ]


def test_a_file_is_written_where_one_is_named(tmp_path):
    write_json(None, {"a": 1})
    write_json(str(tmp_path / "f.json"), {"a": 1})
    assert json.loads((tmp_path / "f.json").read_text()) == {"a": 1}

"""Reading and writing JSON lines."""

import math

import numpy as np
import pytest

from flashvtg_jax.errors import DataError
from flashvtg_jax.json_lines import numbered, read_json_lines, write_json_lines


def write_text(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_survive_writing_and_reading(tmp_path):
    rows = [
        {"qid": 7, "query": "café\u2028“à la carte”"},
        {"qid": "s30-d52_0", "windows": [[0, 1.5]]},
    ]
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, rows)
    assert read_json_lines(path) == rows
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('{"qid": 1}\n{"qid": 2}', [1, 2]),
        ('{"qid": 1}\r\n{"qid": 2}\r\n', [1, 2]),
        ('{"qid": 1}\n{"qid": 2}\n\n  \n', [1, 2]),
        ('\n{"qid": 1}\n \n\n{"qid": 2}\n', [2, 5]),
        ('\ufeff{"qid": 1}\n\n{"qid": 2}\n', [1, 3]),
        ('\ufeff\n{"qid": 1}\n{"qid": 2}\n', [2, 3]),
    ],
)
def test_blank_lines_are_passed_over_and_rows_know_their_lines(tmp_path, text, lines):
    path = write_text(tmp_path / "rows.jsonl", text)
    rows = read_json_lines(path)
    assert rows == [{"qid": 1}, {"qid": 2}]
    assert numbered(rows) == list(zip(lines, rows, strict=True))
    assert numbered(rows[1:]) == [(lines[1], rows[1])]


def test_rows_of_no_file_are_counted_from_one():
    assert numbered([{"qid": 5}, {"qid": 6}]) == [(1, {"qid": 5}), (2, {"qid": 6})]


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_another_encoding_is_named(tmp_path, encoding):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"qid": 1}\n'.encode(encoding))
    name = encoding[:6].upper()
    with pytest.raises(DataError, match=rf"rows\.jsonl: the text is in {name} .* iconv -f {name}"):
        read_json_lines(path)


@pytest.mark.parametrize("content", [bytes(1), bytes(3), bytes(5000), b'{"' + bytes(500)])
def test_a_file_that_was_not_written_whole_is_not_taken_for_another_encoding(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds zeros instead of text: was it written whole"):
        read_json_lines(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"qid": 1}\n{"qid": 2\n', r"rows\.jsonl:2: not JSON: .* column 10"),
        ('{"qid": 1}\n\n{"qid": 2\n', r"rows\.jsonl:3: not JSON: .* column 10"),
        ('{"qid": 1}\n[1, 2]\n', r"rows\.jsonl:2: expected a JSON object \{\.\.\.\}, got a list"),
        ("null\n", r"rows\.jsonl:1: expected .* got null"),
        ('"qid"\n', r"rows\.jsonl:1: expected .* got a string"),
        ("1.5\n", r"rows\.jsonl:1: expected .* got a number"),
        ('{"qid": 1}\n{"qid": ' + "9" * 5000 + "}\n", r"rows\.jsonl:2: not JSON: .*4300 digits"),
        ('{"qid": 1}\n{"qid": ' + "[" * 200_000 + "\n", r"rows\.jsonl:2: not JSON: "),
        ("", r"rows\.jsonl: the file is empty"),
        ("\n \n", r"rows\.jsonl: the file is empty"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_the_line(tmp_path, text, message):
    path = write_text(tmp_path / "rows.jsonl", text)
    with pytest.raises(DataError, match=message):
        read_json_lines(path)


def test_a_file_that_is_not_text_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"query": "\xff\xfe"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1: not JSON"):
        read_json_lines(path)


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"missing\.jsonl: no such file"):
        read_json_lines(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_json_lines(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, np.zeros(2), {1, 2}, "\ud800"])
def test_what_json_cannot_hold_leaves_the_old_file(tmp_path, value):
    path = write_text(tmp_path / "rows.jsonl", '{"qid": "old"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl: row 2 cannot be written as JSON"):
        write_json_lines(path, [{"qid": 1}, {"qid": value}])
    assert read_json_lines(path) == [{"qid": "old"}]
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_the_rows_are_made_is_passed_on(tmp_path):
    def rows():
        yield {"qid": 1}
        raise DataError("features of qid 2 are missing")

    with pytest.raises(DataError, match=r"^features of qid 2 are missing$"):
        write_json_lines(tmp_path / "rows.jsonl", rows())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_made_and_one_that_cannot_be_is_an_error(tmp_path):
    write_json_lines(tmp_path / "new" / "rows.jsonl", [{"qid": 1}])
    assert read_json_lines(tmp_path / "new" / "rows.jsonl") == [{"qid": 1}]
    with pytest.raises(DataError, match=r"more\.jsonl: cannot be written"):
        write_json_lines(tmp_path / "new" / "rows.jsonl" / "more.jsonl", [{"qid": 1}])

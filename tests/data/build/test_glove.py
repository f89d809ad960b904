import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest

from flashvtg_jax.data.build.dataset_builder import _query_row
from flashvtg_jax.data.build.flat_features import FlatFeatures
from flashvtg_jax.data.build.glove import GloveWords, count_unknown, read_vectors, split_words
from flashvtg_jax.data.build.inventory import Query, Stream
from flashvtg_jax.data.build.layout import FeatureFiles
from flashvtg_jax.data.feature_files import FeatureHeader
from flashvtg_jax.errors import DataError

TABLE = """\
the 0.1 -0.25 3
, 1 1 1
door -0.5 0 2.5e-3
café 7 8 9
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "glove.6B.300d.txt"
    path.write_text(TABLE)
    return path


def problem(path, words=("the", "door"), width=3):
    with pytest.raises(DataError) as info:
        read_vectors(path, set(words), width)
    return str(info.value)


def test_words_are_what_stands_between_spaces_in_lower_case():
    assert split_words(" Person  opens the\tDOOR.") == ("person", "opens", "the", "door.")


@pytest.mark.parametrize("width", [3, None])
def test_the_wanted_words_are_read_and_no_others(path, width):
    vectors = read_vectors(path, {"door", "café", "Door", "door."}, width)
    assert vectors.keys() == {"door", "café", ""}
    np.testing.assert_array_equal(vectors["door"], np.float32([-0.5, 0, 2.5e-3]))
    np.testing.assert_array_equal(vectors["café"], [7, 8, 9])
    np.testing.assert_array_equal(vectors[""], [0, 0, 0])
    assert {vector.dtype for vector in vectors.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("removed", [1, 2])
def test_a_file_cut_in_its_last_number_is_noticed_by_the_missing_end_of_the_line(path, removed):
    path.write_text(TABLE.replace("café 7 8 9", "café 7 8 9.5")[:-removed])
    assert problem(path, ("the",)).startswith(f"{path}:4: the last line has no end: cut short?")


def test_queries_are_the_vectors_of_their_words_and_zeros(tmp_path, path):
    rows = [{"query": "The door"}, {"query": "the window. THE"}, {"query": "Unknown"}]
    found = GloveWords("query", path.name, 3).find(tmp_path, rows)
    the, door, zeros = [0.1, -0.25, 3], [-0.5, 0, 2.5e-3], [0, 0, 0]
    for row, expected in zip(rows, ([the, door], [the, zeros, the], [zeros]), strict=True):
        item = found.item(row)
        assert found.missing(row) == []
        assert item.header(3) == FeatureHeader(len(expected), 3, np.dtype(np.float32))
        np.testing.assert_array_equal(item.read(3), np.float32(expected))
        assert str(item) == str(path)


def test_the_file_may_lie_in_a_folder_of_its_own(tmp_path, path):
    (tmp_path / "glove").mkdir()
    os.rename(path, tmp_path / "glove" / path.name)
    assert GloveWords("query", path.name, 3).find(tmp_path, [{"query": "the"}])


def test_a_missing_file_names_both_places(tmp_path):
    with pytest.raises(DataError, match=r"glove\.txt or .*glove/glove\.txt: no such file"):
        GloveWords("query", "glove.txt", 3).find(tmp_path, [{"query": "the"}])


@pytest.mark.parametrize("width", [3, None, 4])
def test_a_file_of_the_released_width_with_fewer_lines_was_cut_short(tmp_path, path, width):
    words = GloveWords("query", path.name, width, released=(5, 3))
    rows = [{"query": "the door"}]
    if width == 3:
        with pytest.raises(DataError, match=f"{path}: 4 lines, but 5 were released: cut short"):
            words.find(tmp_path, rows)
        (tmp_path / "synthetic.json").write_text("{}")  # as few lines as there are words
        assert words.find(tmp_path, rows)
        (tmp_path / "synthetic.json").unlink()
        path.write_text(TABLE + "last 1 2 3\n")
    elif width == 4:
        path.write_text("".join(f"{line} 1\n" for line in TABLE.splitlines()))
    assert words.find(tmp_path, rows)


def test_a_byte_order_mark_is_no_part_of_the_first_word(path):
    path.write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    np.testing.assert_array_equal(
        read_vectors(path, {"the"}, 3)["the"], np.float32([0.1, -0.25, 3])
    )


def test_unknown_words_are_counted_once_each(tmp_path, path):
    rows = [{"query": "the door. the"}, {"query": "The window opens door door."}]
    found = GloveWords("query", path.name, 3).find(tmp_path, rows)
    # the, door., window, opens, door: "door." is the one with more than letters
    assert count_unknown(found.item(row) for row in rows) == (5, 3, 2)


@pytest.mark.parametrize("words", [("the",), ("café",), ("unknown",)])
@pytest.mark.parametrize(("removed", "found"), [(3, 2), (4, 1), (5, 1), (7, 0), (9, 0)])
def test_a_file_cut_short_names_its_last_line_whatever_words_are_wanted(
    path, words, removed, found
):
    path.write_text(TABLE[:-removed])  # of "café 7 8 9" and the end of the line
    expected = f"{path}:4: expected a word and 3 numbers, found {found} numbers; cut short"
    assert problem(path, words).startswith(expected)


def test_vectors_of_another_width_are_an_error_on_the_first_line(path):
    assert problem(path, width=4).startswith(
        f"{path}:1: expected a word and 4 numbers, found 3 numbers; vectors of another kind"
    )


@pytest.mark.parametrize("content", ["", "PK\3\4 \0\1 archive\n", "4 3\nthe 1 2 3\n"])
def test_something_else_than_a_table_is_an_error(path, content):
    path.write_text(content)
    assert problem(path).startswith(f"{path}:1: expected" if content else f"{path}: empty")


@pytest.mark.parametrize("number", ["x", "-", "1e400", "nan", "inf"])
def test_something_else_than_a_finite_number_names_its_line(path, number):
    path.write_text(TABLE.replace("2.5e-3", number))
    assert problem(path).startswith(f"{path}:3: ")


def test_an_unreadable_file_is_an_error(tmp_path):
    assert "cannot be read" in problem(tmp_path)


def test_a_table_without_the_words_of_a_whole_data_set_is_an_error(path):
    words = {f"{first}{second}" for first in "abcde" for second in "abcde"}  # 25
    message = problem(path, words | {"the", "door", "it's"})
    assert "only 2 of the 27 words of the queries are in its 4 lines" in message
    lines = [f"{word} 1 2 3\n" for word in sorted(words)[:12]]
    path.write_text(TABLE + "".join(lines))
    assert len(read_vectors(path, words | {"the", "door"}, 3)) == 15  # 14 of 27 and ""


def test_few_words_prove_nothing(path):
    words = {f"{first}a" for first in "abcdefgh"}
    assert read_vectors(path, words, 3).keys() == {""}


@pytest.mark.skipif("FLASHVTG_ANNOTATIONS" not in os.environ, reason="needs the real files")
def test_the_last_word_of_every_real_sentence_has_a_full_stop_on_it():
    path = f"{os.environ['FLASHVTG_ANNOTATIONS']}/charades_sta/charades_sta_test_tvr_format.jsonl"
    with open(path, encoding="utf-8") as file:
        last = [split_words(json.loads(line)["query"])[-1] for line in file]
    assert all(re.fullmatch(r"\S+\.", word) for word in last)


def test_queries_of_unknown_words_are_not_reported_as_failed_extractions():
    words = SimpleNamespace(read=lambda width: np.zeros((2, width), np.float32))
    row = {"qid": 1, "vid": "a"}
    for files, notes in (
        (GloveWords("query", "glove.txt", 3), 0),
        (FeatureFiles("query", "query/{qid}", None, 3), 1),
    ):
        inventory = SimpleNamespace(query=Stream(files, np.dtype(np.float32)), streams=())
        flat = FlatFeatures()
        _query_row(inventory, flat, Query(row, words, 2, 0, (5,)))
        assert len(flat.notes(1, 1)) == notes

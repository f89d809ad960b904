"""Writing files so that a reader never finds half of one."""

import errno
import os
from pathlib import Path

import pytest

from flashvtg_jax.errors import DataError
from flashvtg_jax.files import write_atomically


def test_text_is_written_with_its_folders_and_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "folder" / "config.json"
    write_atomically(path, "café\r\n")
    assert path.read_bytes() == "café\r\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_there_is_replaced(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("a longer text than the next")
    write_atomically(str(path), "new")
    assert path.read_text() == "new"


def fail_after_a_part(monkeypatch, error):
    def write_bytes(self, content):
        with open(self, "wb") as file:
            file.write(content[:2])
        raise error

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("old")
    fail_after_a_part(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(DataError, match=r"config\.json: cannot be written: No space left"):
        write_atomically(path, "new text")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_part_and_is_passed_on(tmp_path, monkeypatch):
    fail_after_a_part(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "config.json", "new text")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_and_a_folder_in_the_way_of_the_file_are_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"metrics\.json: cannot be written: "):
        write_atomically(tmp_path / "file" / "metrics.json", "{}")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder: cannot be written: Is a directory"):
        write_atomically(tmp_path / "folder", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]

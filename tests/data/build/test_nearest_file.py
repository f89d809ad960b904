"""What is said to be there where a feature file is missing."""

import os
import re
import unicodedata

import pytest

from flashvtg_jax.data.build.listing import list_files, what_is_there
from flashvtg_jax.data.build.nearest_file import NearestFiles
from flashvtg_jax.data.feature_files import SUFFIXES

NFC = unicodedata.normalize("NFC", "é")
NFD = unicodedata.normalize("NFD", "é")


@pytest.mark.parametrize(
    ("missing", "there", "difference"),
    [
        ("v1.npz", "v1.NPZ", "the suffix is .NPZ, not .npz"),
        ("v1.npz", "v1.pkl", f"only {', '.join(SUFFIXES)} are read"),
        ("v1.npz", "v1", f"only {', '.join(SUFFIXES)} are read"),
        ("clip_1.mp4.npz", "clip_1.npz", "the id ends in .mp4, its name does not"),
        ("clip_1.npz", "clip_1.mp4.npy", "its name ends in .mp4, the id does not"),
        ("Dog.npz", "dog.npz", "upper and lower case differ"),
        (f"caf{NFC}.npz", f"caf{NFD}.npz", r"its accents are decomposed \(NFD\), .* \(NFC\)"),
        (f"caf{NFD}.npz", f"caf{NFC}.npz", r"its accents are composed \(NFC\), .* \(NFD\)"),
        ("v1.npz", "v1 .npz", "a blank at an end"),
        ("v1 .npz", "v1.npz", "a blank at an end"),
        ("v1.npz", "v1.npz ", "a blank at an end"),
        ("1.npz", "qid1.npz", "'qid' is in front of the id"),
        ("qid1.npz", "1.npz", "'qid' is not in front"),
        ("7.npz", "0007.npz", "zeros in front"),
        ("clip_1.mp4.npz", "Clip_1.npz", "the id ends in .mp4, .*; upper and lower case differ"),
    ],
)
def test_the_nearest_file_is_named_with_what_differs(tmp_path, missing, there, difference):
    (tmp_path / "other.npz").touch()
    (tmp_path / there).touch()
    hint = NearestFiles().hint(tmp_path / missing)
    assert hint.startswith(f" (there is {there!r}: ") and hint.endswith(")")
    assert re.search(difference, hint)


def test_a_file_one_folder_higher_is_named_with_its_folder(tmp_path):
    (tmp_path / "rgb").mkdir()
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/v2.npz").touch()
    (tmp_path / "v1.npz").touch()
    nearest = NearestFiles()
    assert nearest.hint(tmp_path / "rgb/v1.npz") == f" (there is 'v1.npz' in {tmp_path})"
    assert nearest.hint(tmp_path / "rgb/v2.npz") == ""  # the file of another stream


def test_ids_that_look_alike_are_not_taken_for_each_other(tmp_path):
    for name in ("v10.npz", "x_1.0.npz", "q.npz"):
        (tmp_path / name).touch()
    nearest = NearestFiles()
    for missing in ("v1.npz", "x_1.1.npz", "x_1.npz", "qid100.npz"):
        assert nearest.hint(tmp_path / missing) == ""


def test_a_folder_is_listed_once_however_many_files_are_missing(tmp_path, monkeypatch):
    (tmp_path / "rgb").mkdir()
    walk, calls = os.walk, []
    monkeypatch.setattr(os, "walk", lambda *args, **kw: calls.append(args) or walk(*args, **kw))
    nearest = NearestFiles()
    for number in range(100):
        nearest.hint(tmp_path / f"rgb/{number}.npz")
    assert len(calls) == 1


def test_files_are_found_in_folders_within_folders_and_links_in_a_circle_end(tmp_path):
    (tmp_path / "ab/cd").mkdir(parents=True)
    (tmp_path / ".trash").mkdir()
    for place in ("a.npz", "ab/b.npz", "ab/cd/c.npz", ".trash/d.npz"):
        (tmp_path / place).touch()
    (tmp_path / "ab/cd/circle").symlink_to(tmp_path)
    assert {name: paths for name, paths in list_files(tmp_path).items()} == {
        "a.npz": [tmp_path / "a.npz"],
        "b.npz": [tmp_path / "ab/b.npz"],
        "c.npz": [tmp_path / "ab/cd/c.npz"],
    }


def test_what_is_there_names_folders_first_and_counts_the_rest(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(7):
        (tmp_path / f"{number}.txt").touch()
    there = what_is_there(tmp_path / "video/rgb")
    assert there == f"{tmp_path} holds videos/, 0.txt, 1.txt, 2.txt, 3.txt and 3 more"
    assert what_is_there(tmp_path / "videos/x") == f"{tmp_path / 'videos'} holds nothing"


def test_a_folder_that_cannot_be_listed_does_not_hide_the_message(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    assert what_is_there(tmp_path / "a") == f"{tmp_path} cannot be listed (Permission denied)"

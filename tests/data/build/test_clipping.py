"""Annotation lines cut to their videos."""

from flashvtg_jax.data.build.clipping import CUT, QUERY_LEFT_OUT, UNRATED, clip_lines
from flashvtg_jax.json_lines import Row


def lines(*rows):
    found = []
    for number, row in enumerate(rows, start=1):
        found.append(Row({"qid": number, "duration": 9.0} | row))
        found[-1].line = number
    return found


def test_ids_and_ratings_after_the_video_are_left_out_with_its_windows_cut():
    # Of 9 s there are 5 clips of 2 s: 0 to 4.
    rated = {"relevant_windows": [[4, 12]], "relevant_clip_ids": [2, 3, 4, 5, 6]}
    rated["saliency_scores"] = [[1], [2], [3], [4], [5]]
    (row,), changes = clip_lines("f", lines(rated), 1.0, 2.0)
    assert row["relevant_windows"] == [[4, 9.0]]
    assert row["relevant_clip_ids"] == [2, 3, 4]
    assert row["saliency_scores"] == [[1], [2], [3]]
    assert [(change.kind, change.count) for change in changes] == [(CUT, 1), (UNRATED, 2)]
    assert changes[1].text == "f:1: 2 clip ids are after its video of 9.0 s"


def test_a_query_is_left_out_once_with_its_last_moment():
    given = lines(
        {"relevant_windows": [[9, 4]]},
        {"relevant_windows": []},  # without any moment from the beginning
        {"relevant_windows": [[3, 3], [10, 12]]},
        {"relevant_windows": [[1, 2]]},
    )
    kept, changes = clip_lines("f", given, 2.0, 2.0)
    assert [row["qid"] for row in kept] == [2, 4]
    assert [change.kind for change in changes] == [QUERY_LEFT_OUT] * 2
    assert changes[0].text == "f:1: query 1 is left out: window [9, 4] is reversed"


def test_other_faults_of_lines_stay_for_the_checks():
    faulty = lines(
        {"duration": "9", "relevant_windows": [[4, 12]]},
        {"relevant_windows": [[4], "5"], "relevant_clip_ids": [1, 99], "saliency_scores": [[1]]},
    )
    assert clip_lines("f", faulty, 2.0, 2.0) == (faulty, [])

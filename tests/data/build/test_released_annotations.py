"""Released annotation files of other data sets: values by hand, errors with positions."""

import json
import re
import shlex
from importlib.resources import files as package_files

import pytest

from flashvtg_jax.cli.annotations import FORMATS
from flashvtg_jax.cli.main import main, make_parser
from flashvtg_jax.config import load_config
from flashvtg_jax.data.annotations import load_annotations
from flashvtg_jax.data.build.released_annotations import convert_annotations
from flashvtg_jax.data.build.released_formats import READERS, read_durations
from flashvtg_jax.errors import ConfigError, DataError

DURATIONS = 'id,descriptions,length\nAO8RW,"reads, then ""sits""\nand reads",33.67\nY6R7T,,29.42\n'
CHARADES = """AO8RW 0.0 6.9##a person is putting a book on a shelf.
Y6R7T 20.8 29.4## person begins to play on a phone.
AO8RW 5 12.5##the ## sign\r

"""
NOISY = """AO8RW 30.0 33.7##the end is rounded.
AO8RW 20.8 35.0##the end is too late.
AO8RW 9.0 4.0##reversed.
AO8RW 34 35##outside.
AO8RW 1 2##
AO8RW 1 2##good.
"""


def activitynet(*, duration=100, timestamps=((0, 10.5), (20, 100)), sentences=(" one.", "two.")):
    times = [list(window) for window in timestamps]
    return {"v_a": {"duration": duration, "timestamps": times, "sentences": list(sentences)}}


def ego4d(*queries, start=10.1, end=490.1, uid="u"):
    annotations = [{"annotation_uid": uid, "language_queries": list(queries)}]
    clip = {"clip_uid": "c", "video_start_sec": start, "video_end_sec": end}
    return {"videos": [{"video_uid": "v", "clips": [clip | {"annotations": annotations}]}]}


def asked(query, start, end):
    times = {"clip_start_sec": start, "clip_end_sec": end, "video_start_sec": 700.0}
    return {"query": query, **times}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_bytes(text.encode())
        return name

    return write


@pytest.fixture
def durations(write):
    return [write("lengths.csv", DURATIONS)]


def problems(source, files, **options):
    with pytest.raises(DataError) as info:
        convert_annotations(source, files, "out.jsonl", **options)
    return str(info.value).splitlines()


def windows(rows):
    return {row["qid"]: row["relevant_windows"] for row in rows}


def test_every_format_of_the_command_has_a_reader():
    assert list(READERS) == list(FORMATS)


def test_charades_lines_get_their_durations_and_read_back(write, durations):
    files = [write("train.txt", "\ufeff" + CHARADES)]
    done = convert_annotations("charades_txt", files, "mine/train.jsonl", durations=durations)
    assert load_annotations("mine/train.jsonl", clip_length=1) == done.rows
    assert done.rows == [
        {
            "qid": "AO8RW_0",
            "query": "a person is putting a book on a shelf.",
            "vid": "AO8RW",
            "duration": 33.67,
            "relevant_windows": [[0.0, 6.9]],
        },
        {
            "qid": "Y6R7T_0",
            "query": "person begins to play on a phone.",
            "vid": "Y6R7T",
            "duration": 29.42,
            "relevant_windows": [[20.8, 29.4]],
        },
        {
            "qid": "AO8RW_1",
            "query": "the ## sign",
            "vid": "AO8RW",
            "duration": 33.67,
            "relevant_windows": [[5.0, 12.5]],
        },
    ]
    assert done.notes() == []
    # Videos of 33.67 and 29.42 s; moments of 6.9, 8.6 and 7.5 s.
    assert done.summary() == (
        "3 queries, 2 videos; median video 31.5 s, median moment 7.5 s (from 6.9 to 8.6 s)"
    )


def test_durations_may_be_json_and_stand_in_several_files(write):
    lengths = [write("a.json", {"AO8RW": 33.67}), write("b.json", {"Y6R7T": 29.42})]
    files = [write("train.txt", CHARADES)]
    rows = convert_annotations("charades_txt", files, "out.jsonl", durations=lengths).rows
    assert [row["duration"] for row in rows] == [33.67, 29.42, 33.67]


def test_two_annotations_of_activitynet_s_videos_have_ids_of_their_own(write):
    files = [write("val_1.json", activitynet()), write("val_2.json", activitynet())]
    rows = convert_annotations("activitynet_captions", files, "out.jsonl").rows
    assert load_annotations("out.jsonl") == rows
    assert windows(rows) == {
        "v_a_val_1_0": [[0, 10.5]],
        "v_a_val_1_1": [[20, 100]],
        "v_a_val_2_0": [[0, 10.5]],
        "v_a_val_2_1": [[20, 100]],
    }
    assert rows[0]["query"] == "one." and {row["vid"] for row in rows} == {"v_a"}


def test_ego4d_s_clip_is_the_video_and_its_times_count_from_it(write):
    files = [write("nlq.json", ego4d(asked("Where?", 240.5, 254.7), asked("Who?", 0, 3)))]
    rows = convert_annotations("ego4d_nlq", files, "out.jsonl").rows
    assert load_annotations("out.jsonl") == rows
    assert rows[0] == {
        "qid": "u_0",
        "query": "Where?",
        "vid": "c",
        "duration": 480.0,  # 490.1 - 10.1
        "relevant_windows": [[240.5, 254.7]],
    }


def test_queries_of_a_test_split_have_no_moments(write):
    files = [write("nlq.json", ego4d({"query": "Where?"}, {"query": "Who?"}))]
    done = convert_annotations("ego4d_nlq", files, "out.jsonl")
    assert load_annotations("out.jsonl") == done.rows
    assert [sorted(row) for row in done.rows] == [["duration", "qid", "query", "vid"]] * 2
    assert done.summary().endswith("no moments, as in a test split")


def test_ids_stay_unique_where_an_annotation_s_uid_comes_twice(write):
    files = [write(f"{i}.json", ego4d(asked("Where?", 1, 2))) for i in range(2)]
    done = convert_annotations("ego4d_nlq", files, "out.jsonl")
    assert [row["qid"] for row in done.rows] == ["u_0", "u_1"]
    assert "2 queries have the same video and sentence as another one" in done.notes()[0]


def test_noisy_lines_are_an_error_with_their_places(write, durations):
    found = problems("charades_txt", [write("n.txt", NOISY)], durations=durations)
    assert found == [
        "n.txt:2: moment [20.8, 35.0] reaches out of its video of 33.67 s",
        "n.txt:3: moment [9.0, 4.0] is reversed",
        "n.txt:4: moment [34.0, 35.0] is outside its video of 33.67 s",
        "n.txt:5: query ''; expected a sentence",
        "--clip_windows helps with 4 of these 4: it cuts moments to their video, leaves out what "
        "is empty, and lists both",
    ]


def test_clip_windows_cuts_and_leaves_out_and_says_so(write, durations, capsys):
    write("n.txt", NOISY)
    command = "annotations --from=charades_txt n.txt --durations=lengths.csv --output=out.jsonl"
    assert main([*command.split(), "--clip_windows"]) == 0
    rows = load_annotations("out.jsonl", clip_length=1e-3)
    # The number counts what is left out: ids do not depend on the option.
    assert windows(rows) == {
        "AO8RW_0": [[30.0, 33.67]],
        "AO8RW_1": [[20.8, 33.67]],
        "AO8RW_5": [[1.0, 2.0]],
    }
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "1 moment cut that reached up to 0.1 s over the ends of their video, as rounded times do",
        "1 query cut to the video:",
        "  n.txt:2: moment [20.8, 35.0] reaches out of its video of 33.67 s",
        "3 queries left out:",
        "  n.txt:3: moment [9.0, 4.0] is reversed",
        "  n.txt:4: moment [34.0, 35.0] is outside its video of 33.67 s",
        "  n.txt:5: query ''; expected a sentence",
    ]
    assert shown.out.startswith("wrote out.jsonl: 3 queries, 1 video; ")


def test_ego4d_s_empty_queries_and_moments_are_left_out_on_request(write):
    queries = [
        asked(None, 1, 2),
        {},
        asked("a", 3.5, 3.5),
        asked("b", None, None),
        asked("c", 1, 2),
    ]
    files = [write("nlq.json", ego4d(*queries))]
    place = "nlq.json: videos[0].clips[0].annotations[0].language_queries"
    assert problems("ego4d_nlq", files)[:-1] == [
        f"{place}[0]: query None; expected a sentence",
        f"{place}[1]: query None; expected a sentence",
        f"{place}[2]: moment [3.5, 3.5] is empty",
        f"{place}[3]: no moment, but other queries have one",
    ]
    rows = convert_annotations("ego4d_nlq", files, "out.jsonl", clip_windows=True).rows
    assert windows(rows) == {"u_4": [[1, 2]]}


@pytest.mark.parametrize(
    ("source", "content", "problem"),
    [
        ("charades_txt", "AO8RW 1 2 no sign", "f:1: 'AO8RW 1 2 no sign'; expected VID START"),
        ("charades_txt", "AO8RW 1##a", "f:1: 'AO8RW 1##a'; expected VID START END##sentence"),
        ("charades_txt", "AO8RW one 2##a", "f:1: 'AO8RW one 2##a'; expected VID START"),
        ("charades_txt", "AO8RW 1 nan##a", "f:1: moment [1.0, nan]; expected [start, end], two"),
        ("charades_txt", "\nZZ 1 2##a", "f:2: no duration of ZZ in lengths.csv"),
        ("charades_txt", "", "f: no queries to write"),
        ("activitynet_captions", "{", "f: not JSON"),
        ("activitynet_captions", "[]", "f: expected a JSON object"),
        ("activitynet_captions", {"v": {"duration": 3}}, "f: v: no list 'timestamps'"),
        (
            "activitynet_captions",
            activitynet(sentences=["one."]),
            "f: v_a: 2 timestamps, but 1 sentences",
        ),
        (
            "activitynet_captions",
            activitynet(duration=None),
            "f: v_a.timestamps[0]: duration None of v_a; expected the seconds",
        ),
        (
            "activitynet_captions",
            {"a/b": activitynet()["v_a"]},
            "f: a/b.timestamps[0]: qid 'a/b_f_0' holds '/', which file names cannot",
        ),
        ("ego4d_nlq", activitynet(), "f: no list 'videos' in it; is it the file that --from says?"),
        ("ego4d_nlq", {"videos": [{}]}, "f: videos[0]: no list 'clips'"),
        (
            "ego4d_nlq",
            ego4d(asked("a", 1, 2), start=None),
            "f: videos[0].clips[0].annotations[0].language_queries[0]: duration None of c",
        ),
        (
            "ego4d_nlq",
            ego4d(asked("a", 1, 2), uid=None),
            "f: videos[0].clips[0].annotations[0].language_queries[0]: no id of the video or",
        ),
    ],
)
def test_what_no_option_helps_with(write, durations, source, content, problem):
    options = {"durations": durations} if source == "charades_txt" else {}
    found = problems(source, [write("f", content)], clip_windows=True, **options)
    assert found[0].startswith(problem)


def test_of_many_problems_ten_are_listed(write, durations):
    found = problems("charades_txt", [write("f", "AO8RW 3 2##a\n" * 13)], durations=durations)
    assert len(found) == 12 and found[9].startswith("f:10: ")
    assert found[10] == "... and 3 more"


def test_nothing_is_written_when_something_is_wrong(write, durations):
    write("out.jsonl", "as before")
    problems("charades_txt", [write("n.txt", NOISY)], durations=durations)
    with open("out.jsonl") as file:
        assert file.read() == "as before"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("vid,seconds\nAO8RW,3\n", "l.csv: columns vid, seconds; expected id and length among"),
        ("id,length\nAO8RW,3\nY6R7T,\n", "l.csv:3: length ''; expected seconds"),
        ("id,length\nAO8RW,3\nAO8RW,4\n", "l.csv:3: AO8RW lasts 4.0 s here, but 3.0 s further up"),
        ("", "l.csv: columns none"),
    ],
)
def test_durations_that_cannot_be_used(write, content, problem):
    files, lengths = [write("train.txt", CHARADES)], [write("l.csv", content)]
    assert problems("charades_txt", files, durations=lengths)[0].startswith(problem)


@pytest.mark.parametrize(
    ("source", "lengths", "output", "message"),
    [
        ("charades_txt", [], "out.jsonl", "--durations=Charades_v1_train.csv"),
        ("ego4d_nlq", ["lengths.csv"], "out.jsonl", "files of ego4d_nlq hold durations"),
        ("charades_txt", ["lengths.csv"], "./train.txt", "is one of the files to read"),
    ],
)
def test_arguments_that_contradict_each_other(write, durations, source, lengths, output, message):
    with pytest.raises(ConfigError, match=message):
        convert_annotations(source, [write("train.txt", CHARADES)], output, durations=lengths)


def test_the_page_s_commands_are_understood():
    page = (package_files("tfds_builders") / "custom" / "other_datasets.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    text = "".join(block for language, block in blocks if not language).replace("\\\n", " ")
    commands = [line for line in text.splitlines() if "FORMAT" not in line]
    seen = set()
    for command in commands:
        options, rest = make_parser().parse_known_args(shlex.split(command)[1:])
        seen.add(getattr(options, "source", options.command))
        if options.command == "train":
            assert load_config(options.config, rest).clip_length > 0
        else:
            assert not rest
    assert seen == {*FORMATS, "build", "synthesize", "train", "evaluate"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"id,length\nAO8RW,nan\n", "lengths.csv:2: length 'nan'; expected seconds, more than 0"),
        (b"id,length\nAO8RW,-1\n", "lengths.csv:2: length '-1'; expected seconds"),
        ("id,length\nAO8RW,33\n".encode("utf-16"), "lengths.csv: the text is in UTF-16"),
        (b'id,length\n"AO8RW,33' + b"\na,1" * 50_000, "lengths.csv:1: field larger than"),
    ],
)
def test_durations_that_are_none(tmp_path, monkeypatch, content, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lengths.csv").write_bytes(content)
    with pytest.raises(DataError) as info:
        read_durations(["lengths.csv"])
    assert str(info.value).startswith(problem)

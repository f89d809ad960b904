"""Figures: what they show, that labels keep apart, that files come out alike every time."""

import itertools
import json
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import flashvtg_jax as fv
from flashvtg_jax.cli.main import main
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.figures import drawing
from flashvtg_jax.figures.files import plot_files, safe_name
from flashvtg_jax.figures.training import best_step, plot_training
from flashvtg_jax.json_lines import write_json_lines

QUERY = "A girl and her mother cook while talking on the phone."
CHINESE = "一个女孩一边和妈妈视频通话一边做饭，然后她把锅里的汤倒进碗里。" * 6  # noqa: RUF001


def make_prediction(num_clips=75, num_moments=10, query=QUERY, clip_length=2.0, **fields):
    """A row of predictions.jsonl with wandering saliency and random moments, best first."""
    random = np.random.default_rng(num_clips)
    windows = np.sort(random.uniform(0, num_clips * clip_length, (num_moments, 2)), axis=1)
    scores = np.sort(random.uniform(0.05, 1, num_moments))[::-1]
    return {
        "qid": 7,
        "query": query,
        "vid": "NUsG9BgSes0_210.0_360.0",
        "pred_relevant_windows": np.column_stack([windows, scores]).round(4).tolist(),
        "pred_saliency_scores": random.normal(size=num_clips).cumsum().round(4).tolist(),
        **fields,
    }


def from_0_to_1(scores):
    return (np.array(scores) - min(scores)) / (max(scores) - min(scores))


ANNOTATION = {
    "qid": 7,
    "duration": 150,
    "relevant_windows": [[20, 24], [100, 130]],
    "relevant_clip_ids": [10, 11],
    "saliency_scores": [[4, 2, 3], [1, 1, 1]],
}

EDGES = [[0, 0, 0.9], [149.6, 150, 0.8], [150, 150, 0.5], [0, 150, 0.4], [75, 75.1, 0.05]]

EXTREMES = {
    "usual": (make_prediction(), ANNOTATION, 2.0),
    "one clip": (make_prediction(1, 1), None, 2.0),
    "one clip of a tenth of a second": (make_prediction(1, 1, clip_length=0.1), None, 0.1),
    "one moment": (make_prediction(75, 1), ANNOTATION, 2.0),
    "three hours": (make_prediction(5400), {"duration": 10800.0}, 2.0),
    "five days": (make_prediction(2000, 10, clip_length=216.0), None, 216.0),
    "just below an hour": (make_prediction(1799), None, 2.0),
    "edges": (make_prediction(pred_relevant_windows=EDGES), ANNOTATION, 2.0),
    "fractions": (make_prediction(30, 10, clip_length=1.0), None, 1.0),
    "no moment": (make_prediction(pred_relevant_windows=[]), ANNOTATION, 2.0),
    "saliency only": (make_prediction(pred_relevant_windows=None), ANNOTATION, 2.0),
    "moments only": (make_prediction(pred_saliency_scores=None), ANNOTATION, 2.0),
    "flat saliency": (make_prediction(pred_saliency_scores=[0.0] * 75), None, 2.0),
    "great numbers": (
        make_prediction(
            pred_saliency_scores=[-123456.7, 98765.4] * 37,
            pred_relevant_windows=[[0, 10, 12345.6], [10, 20, -4321.5]],
        ),
        ANNOTATION,
        2.0,
    ),
    "long query": (make_prediction(query=f"{QUERY} " * 30, vid="v" * 300), ANNOTATION, 2.0),
    "long word": (make_prediction(query="w" * 2000), None, 2.0),
    "Chinese": (make_prediction(query=CHINESE), None, 2.0),
    "Arabic and Hindi": (make_prediction(query="لاعب كرة القدم يسجل — एक लड़की 🐶"), None, 2.0),
    "markup": (make_prediction(query="it costs $5 or $10_^{} <b>&amp;</b>\n\x00\x1b"), None, 2.0),
}


def shown_texts(figure):
    """Every text that is drawn, with its box in pixels."""
    from matplotlib.text import Text

    figure.canvas.draw()
    boxes = []
    beyond = set()  # labels of ticks outside the limits, which are not drawn
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    beyond |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible() and text not in beyond:
            boxes.append((text.get_text(), text.get_window_extent()))
    return boxes


def check_layout(figure):
    """No two texts overlap, and none leaves the figure."""
    texts = shown_texts(figure)
    for (first, box), (second, other) in itertools.combinations(texts, 2):
        across = min(box.x1, other.x1) - max(box.x0, other.x0)
        down = min(box.y1, other.y1) - max(box.y0, other.y0)
        # The line spacing of a font is more than its letters fill.
        assert across < 1 or down < 4, f"{first!r} and {second!r} overlap"
    width, height = figure.canvas.get_width_height()
    for text, box in texts:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text


def drawn(figure, prefix):
    """What is drawn under a name, by its name."""
    return [
        part
        for axes in figure.axes
        for part in axes.get_children()
        if (part.get_gid() or "").startswith(prefix)
    ]


def tick_texts(axes, which="x"):
    return [label.get_text() for label in getattr(axes, f"get_{which}ticklabels")()]


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.filterwarnings("ignore:Glyph .* missing from:UserWarning")  # checked without fonts
def test_labels_keep_apart(name, tmp_path):
    prediction, annotation, clip_length = EXTREMES[name]
    path = tmp_path / "figure.svg"
    figure = fv.plot_prediction(prediction, annotation, clip_length=clip_length, path=path)
    check_layout(figure)
    root = ElementTree.fromstring(path.read_bytes())  # whole, whatever the texts hold
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("name", ["usual", "three hours", "Chinese"])
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_files_come_out_alike_every_time(name, kind, tmp_path):
    prediction, annotation, clip_length = EXTREMES[name]
    paths = [tmp_path / f"{index}.{kind}" for index in range(2)]
    for path in paths:
        fv.plot_prediction(prediction, annotation, clip_length=clip_length, path=path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert kind in str(first[:400]).lower() and b"<dc:date>" not in first


def test_figure_shows_what_the_prediction_and_the_annotation_hold():
    prediction = make_prediction(pred_relevant_windows=[[20, 50, 0.5], [0, 150, 0.25]])
    figure = fv.plot_prediction(prediction, ANNOTATION, clip_length=2.0)
    curve, ratings, rows = figure.axes
    assert figure.texts[0].get_text() == QUERY
    assert figure.texts[1].get_text() == "02:30 · qid 7 · video NUsG9BgSes0_210.0_360.0"
    assert curve.get_ylabel() == "saliency, 0 to 1"
    assert ratings.get_ylabel() == "rating by people"
    assert rows.get_xlabel() == "time (mm:ss)"
    assert tick_texts(rows) == [f"0{s // 60}:{s % 60:02}" for s in range(0, 150, 20)]
    assert tick_texts(rows, "y") == ["truth", "1", "2"]
    assert [bar.get_bbox().intervalx.tolist() for bar in drawn(figure, "moment")] == [
        [20, 50],
        [0, 150],
    ]
    assert [bar.get_bbox().intervalx.tolist() for bar in drawn(figure, "truth")] == [
        [20, 24],
        [100, 130],
    ]
    assert [text.get_text().replace(drawing.EN_DASH, "-") for text in rows.texts] == [
        "moments, best first",
        "2 windows",
        *("00:20 - 00:50", "0.500"),
        *("00:00 - 02:30", "0.250"),
        *("start - end", "score"),
    ]
    (saliency,) = drawn(figure, "saliency")
    np.testing.assert_allclose(
        saliency.get_data().values, from_0_to_1(prediction["pred_saliency_scores"])
    )
    np.testing.assert_array_equal(saliency.get_data().edges, np.arange(76) * 2)
    (rated,) = drawn(figure, "ratings")
    np.testing.assert_array_equal(np.flatnonzero(rated.get_data().values), [10, 11])
    np.testing.assert_array_equal(rated.get_data().values[[10, 11]], [3, 1])


def test_better_moments_are_higher_and_darker():
    windows = [[0, 10, 0.2], [20, 30, 0.9], [40, 50, 0.5]]
    prediction = make_prediction(pred_relevant_windows=windows)
    bars = drawn(fv.plot_prediction(prediction, clip_length=2.0), "moment")
    assert [bar.get_x() for bar in bars] == [20, 40, 0]
    heights = [bar.get_y() for bar in bars]
    assert heights == sorted(heights)  # the axis points down
    grey = [float(np.dot(bar.get_facecolor()[:3], [0.299, 0.587, 0.114])) for bar in bars]
    assert grey[0] < grey[1] - 0.1 < grey[2] - 0.2


def test_ten_moments_at_most_and_no_suppressed_ones():
    prediction = make_prediction(75, 31)
    figure = fv.plot_prediction(prediction, clip_length=2.0)
    assert len(drawn(figure, "moment")) == 10
    assert "the 10 best of 31 moments" in [text for text, _ in shown_texts(figure)]
    for row in prediction["pred_relevant_windows"][4:]:
        row[2] = 0.0
    assert len(drawn(fv.plot_prediction(prediction, clip_length=2.0), "moment")) == 4
    for row in prediction["pred_relevant_windows"]:
        row[2] = 0.0
    figure = fv.plot_prediction(prediction, clip_length=2.0)
    assert not drawn(figure, "moment")
    assert "no moments predicted" in [text for text, _ in shown_texts(figure)]


def test_shortest_moments_are_visible_and_inside():
    prediction = make_prediction(pred_relevant_windows=EDGES)
    for bar in drawn(fv.plot_prediction(prediction, clip_length=2.0), "moment"):
        start, end = bar.get_bbox().intervalx
        assert 0 <= start < end - 0.5 and end <= 150.001


def test_long_videos_have_hours_and_a_curve_of_bounded_size():
    figure = fv.plot_prediction(*EXTREMES["three hours"][:2], clip_length=2.0)
    axes = figure.axes[-1]
    assert axes.get_xlabel() == "time (h:mm:ss)"
    assert tick_texts(axes)[0] == "0:00:00" and tick_texts(axes)[-1] == "3:00:00"
    mean, band = sorted(figure.axes[0].patches, key=lambda part: part.get_gid() or "z")[:2]
    assert mean.get_gid() == "saliency"
    saliency = from_0_to_1(EXTREMES["three hours"][0]["pred_saliency_scores"]).reshape(-1, 8)
    np.testing.assert_allclose(mean.get_data().values, saliency.mean(axis=1))
    np.testing.assert_allclose(band.get_data().values, saliency.max(axis=1))
    np.testing.assert_allclose(band.get_data().baseline, saliency.min(axis=1))


def test_labels_of_clips_tell_the_true_length_of_clips():
    """TVSum and YouTube Highlights: the clip length of the configuration is nominal."""
    prediction = make_prediction(63, pred_relevant_windows=None)
    annotation = {"qid": 7, "duration": 106.5, "label": [[1.0, 2.0]] * 63}
    figure = fv.plot_prediction(prediction, annotation, clip_length=1.0)
    (saliency,) = drawn(figure, "saliency")
    assert saliency.get_data().edges[-1] == pytest.approx(106.5)
    (ratings,) = drawn(figure, "ratings")
    np.testing.assert_array_equal(ratings.get_data().values, [1.5] * 63)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pred_saliency_scores": None, "pred_relevant_windows": None}, "neither"),
        ({"pred_saliency_scores": [1.0, float("nan")]}, "pred_saliency_scores"),
        ({"pred_saliency_scores": "high"}, "pred_saliency_scores"),
        ({"pred_saliency_scores": [[1.0], [2.0]]}, "pred_saliency_scores"),
        ({"pred_relevant_windows": [[1.0, 2.0]]}, r"\[start, end, score\]"),
        ({"pred_relevant_windows": [[1.0, 2.0, 0.5], [1.0]]}, "pred_relevant_windows"),
        ({"pred_relevant_windows": [[9.0, 2.0, 0.5]]}, "ends before it starts"),
    ],
)
def test_bad_predictions_are_named(fields, message):
    with pytest.raises(DataError, match=message) as error:
        fv.plot_prediction(make_prediction(**fields), clip_length=2.0)
    assert "qid 7" in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"duration": "long"},
        {"relevant_windows": [[5]]},
        {"saliency_scores": [[1, 2, 3]]},
        {"label": [1, 2, 3]},
    ],
)
def test_bad_annotations_are_named(fields):
    with pytest.raises(DataError, match="annotation of qid 7"):
        fv.plot_prediction(make_prediction(), {**ANNOTATION, **fields}, clip_length=2.0)


@pytest.mark.parametrize("clip_length", [0, -1, float("nan"), "2"])
def test_bad_clip_lengths_are_refused(clip_length):
    with pytest.raises(DataError, match="clip_length"):
        fv.plot_prediction(make_prediction(), clip_length=clip_length)


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"\.png or \.svg"):
        fv.plot_prediction(make_prediction(), clip_length=2.0, path=tmp_path / "figure.jpg")
    assert not list(tmp_path.iterdir())


def test_the_programs_own_style_is_neither_used_nor_changed(tmp_path):
    import matplotlib
    from matplotlib import style

    plain, styled = tmp_path / "plain.svg", tmp_path / "styled.svg"
    fv.plot_prediction(make_prediction(), ANNOTATION, clip_length=2.0, path=plain)
    with style.context(["dark_background", {"font.size": 20, "savefig.bbox": "tight"}]):
        before = dict(matplotlib.rcParams)
        fv.plot_prediction(make_prediction(), ANNOTATION, clip_length=2.0, path=styled)
        assert dict(matplotlib.rcParams) == before
    assert plain.read_bytes() == styled.read_bytes()


def test_threads_may_draw_at_once(tmp_path):
    paths = [tmp_path / f"{index}.svg" for index in range(4)]
    prediction = make_prediction(20, 2)
    threads = [
        threading.Thread(
            target=fv.plot_prediction,
            args=(prediction, None),
            kwargs={"clip_length": 2.0, "path": path},
        )
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path.read_bytes() for path in paths}) == 1


def test_matplotlib_is_imported_when_a_figure_is_drawn_and_pyplot_never():
    program = (
        "import sys, flashvtg_jax as fv, flashvtg_jax.figures.files, flashvtg_jax.figures.training;"
        "assert 'matplotlib' not in sys.modules;"
        "fv.plot_prediction({'qid': 1, 'pred_saliency_scores': [1]}, clip_length=2.0);"
        "assert 'matplotlib.pyplot' not in sys.modules; assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("seconds", "options", "text"),
    [
        (0, {}, "00:00"),
        (83.5, {}, "01:24"),
        (59.6, {}, "01:00"),  # not 00:60
        (3599.7, {"hours": True}, "1:00:00"),
        (9045, {"hours": True}, "2:30:45"),
        (83.46, {"decimals": 1}, "01:23.5"),
        (360000, {"hours": True}, "100:00:00"),
    ],
)
def test_times_are_written_as_clocks_show_them(seconds, options, text):
    assert drawing.format_time(seconds, **options) == text


@pytest.mark.parametrize(
    ("text", "width", "lines", "expected"),
    [
        ("one two three", 7, 2, ["one two", "three"]),
        ("one two three", 7, 1, ["one..."]),
        ("one two three four", 7, 2, ["one two", "thre..."]),
        ("abcdefghij kl", 4, 9, ["abcd", "efgh", "ij", "kl"]),
        ("日本語の文", 2, 9, ["日本", "語の", "文"]),
        ("short", 7, 1, ["short"]),
        ("", 7, 1, [""]),
    ],
)
def test_text_is_broken_where_it_may_be(text, width, lines, expected):
    assert drawing.wrap_text(text, width, lines, len) == expected


def test_characters_without_a_font_are_told(tmp_path, capsys):
    from matplotlib.font_manager import fontManager

    assert drawing.undrawable("plain text, déjà vu, Привет") == ""
    if any("CJK" in font.name for font in fontManager.ttflist):
        pytest.skip("this machine has a font for them")
    path = tmp_path / "predictions.jsonl"
    write_json_lines(path, [make_prediction(5, 1, query="𝌆 a 𝌆")])
    missing = drawing.undrawable("𝌆 a 𝌆")
    plot_files(path, tmp_path)
    told = capsys.readouterr().err
    assert ("--format=svg" in told) == bool(missing)


def test_svg_text_is_text(tmp_path):
    path = tmp_path / "figure.svg"
    fv.plot_prediction(make_prediction(query=CHINESE[:20]), clip_length=2.0, path=path)
    assert CHINESE[:20] in path.read_text(encoding="utf-8")


# --- the command


@pytest.fixture
def run_folder(tmp_path):
    """What `flashvtg evaluate` leaves, of a model with clips of one second."""
    config = fv.load_config("demo", ["--config.clip_length=1.0"])
    from flashvtg_jax.config import save_config

    save_config(config, tmp_path / "config.json")
    rows = [make_prediction(10, 2, clip_length=1.0, qid=qid) for qid in (1, "a/b", "a_b", 30)]
    write_json_lines(tmp_path / "predictions.jsonl", rows)
    notes = [
        {"qid": qid, "query": QUERY, "vid": "v", "duration": 10, "relevant_windows": [[2, 4]]}
        for qid in (1, 30)
    ]
    write_json_lines(tmp_path / "annotations.jsonl", notes)
    return tmp_path


def test_command_draws_a_figure_for_each_query(run_folder, capsys):
    command = ["plot", f"--predictions={run_folder}/predictions.jsonl"]
    command += [f"--annotations={run_folder}/annotations.jsonl", f"--output={run_folder}/figures"]
    assert main([*command, "--format=svg"]) == 0
    assert "4 figures" in capsys.readouterr().out
    written = {path.name: path.read_text() for path in (run_folder / "figures").iterdir()}
    assert {"1.svg", "a_b.svg", "30.svg"} < set(written) and len(written) == 4
    # The clip length is the run's: the video lasts ten seconds, not twenty.
    assert ">00:10<" in written["1.svg"] and ">00:11<" not in written["a_b.svg"]
    assert ">truth<" in written["30.svg"] and ">truth<" not in written["a_b.svg"]


def test_command_draws_the_queries_that_are_named(run_folder):
    command = ["plot", f"--predictions={run_folder}/predictions.jsonl"]
    command += [f"--output={run_folder}/figures", "--limit=1"]
    assert main([*command, "--qid=30", "--qid=1"]) == 0
    assert {path.name for path in (run_folder / "figures").iterdir()} == {"1.png", "30.png"}
    assert main(command) == 0
    assert len(list((run_folder / "figures").iterdir())) == 2


def test_the_clip_length_follows_from_scores_and_durations_as_for_score(run_folder, capsys):
    (run_folder / "config.json").unlink()
    rows = [
        {"qid": qid, "query": QUERY, "vid": "v", "duration": 10, "relevant_windows": [[2, 4]]}
        | {"relevant_clip_ids": [2, 3], "saliency_scores": [[4, 4, 4], [4, 4, 4]]}
        for qid in (1, 30)
    ]
    write_json_lines(run_folder / "annotations.jsonl", rows)
    files = run_folder / "predictions.jsonl", run_folder / "figures"
    known = {"annotations": run_folder / "annotations.jsonl", "qids": ["1"], "file_format": "svg"}
    (path,) = plot_files(*files, **known)
    assert ">00:10 · qid 1" in path.read_text(encoding="utf-8")
    assert "clips of 1 s, by the numbers of saliency scores" in capsys.readouterr().err


def test_scores_of_a_video_that_was_cut_need_max_clips():
    prediction, annotation = make_prediction(), {**ANNOTATION, "duration": 600}
    fv.plot_prediction(prediction, annotation, clip_length=2.0, max_clips=75)
    with pytest.raises(DataError, match="75 saliency scores, but its video of 600 s has 300 clips"):
        fv.plot_prediction(prediction, annotation, clip_length=2.0)


def test_explicit_clip_length_wins(run_folder):
    (path,) = plot_files(
        run_folder / "predictions.jsonl",
        run_folder,
        qids=["1"],
        clip_length=60.0,
        file_format="svg",
    )
    assert ">10:00 · qid 1" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"qids": ["2"]}, "no prediction of qid 2"),
        ({"limit": 0}, "limit is 0"),
        ({"file_format": "jpg"}, "png or svg"),
        ({"clip_length": -1.0}, "clip_length"),
        ({"clip_length": 0.0}, "clip_length is 0.0; expected seconds above 0"),
        ({"label_clip_length": 0.0}, "label_clip_length is 0.0; expected seconds above 0"),
        ({"annotations": "predictions.jsonl"}, "no field 'duration'"),
    ],
)
def test_what_cannot_be_drawn_is_told(settings, message, run_folder):
    if "annotations" in settings:
        settings = {"annotations": run_folder / settings["annotations"]}
    with pytest.raises((ConfigError, DataError), match=message):
        plot_files(run_folder / "predictions.jsonl", run_folder / "figures", **settings)


def test_bad_line_is_named(run_folder):
    path = run_folder / "bad.jsonl"
    rows = [make_prediction(3, 1), make_prediction(3, 1, qid=8, pred_saliency_scores=["x"])]
    write_json_lines(path, rows)
    with pytest.raises(DataError, match=r"bad\.jsonl:2: .*qid 8"):
        plot_files(path, run_folder / "figures")
    write_json_lines(path, [rows[0], rows[0]])
    with pytest.raises(DataError, match=r"bad\.jsonl:2: qid 7 again"):
        plot_files(path, run_folder / "figures")
    write_json_lines(path, [{"query": QUERY}])
    with pytest.raises(DataError, match=r"bad\.jsonl:1: no 'qid'"):
        plot_files(path, run_folder / "figures")


@pytest.mark.parametrize(
    "qid", ["../../etc/passwd", "a/b", ".hidden", "x" * 500, "漢" * 80, "", "...", "\0"]
)
def test_query_ids_become_names_that_stay_in_the_folder(qid):
    name = safe_name(qid)
    assert name and "/" not in name and "\0" not in name and not name.startswith(".")
    assert len(name.encode()) < 200 and name != safe_name(f"{qid}_")


def test_plain_query_ids_are_kept():
    assert safe_name("QVHighlights_val.123-4") == "QVHighlights_val.123-4"


# --- the curves of a run

TERMS = ("loss", "classification", "regression", "alignment", "saliency", "clip_aware")


def write_run(folder, steps, evaluations=(), config="demo"):
    from flashvtg_jax.config import save_config

    write_json_lines(folder / "train.jsonl", steps)
    if evaluations:
        write_json_lines(folder / "evaluations.jsonl", evaluations)
    if config:
        save_config(fv.load_config(config), folder / "config.json")


def make_steps(count, **terms):
    """Rows of train.jsonl; each term is a function of the step."""
    decay = {name: lambda step: 3.0 / step for name in (*TERMS, "gradient_norm")} | terms
    return [
        {"step": step, "epoch": 1, **{name: of(step) for name, of in decay.items()}}
        for step in range(1, count + 1)
    ]


def captured_figure(monkeypatch):
    """The figures that are saved from now on."""
    figures = []
    save = drawing.save_figure
    monkeypatch.setattr(drawing, "save_figure", lambda f, path: (figures.append(f), save(f, path)))
    return figures


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_curves_show_losses_gradient_norm_and_scores(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    numbers = [(0, 90.0), (10, 20.0), (20, 60.0), (30, 60.0), (40, 50.0)]
    evaluations = [
        {"step": step, "MR-full-mAP": value, "MR-full-R1@0.5": value + 5, "HL-min-Fair-mAP": 1.0}
        for step, value in numbers
    ]
    write_run(tmp_path, make_steps(40), evaluations)
    assert plot_training(tmp_path) == tmp_path / "curves.png"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(tmp_path / "curves.svg")
    figure = figures[0]
    check_layout(figure)
    assert {title.split(",")[0] for title in panels(figure)} == {
        "total loss",
        "scores on the validation split",
        *("classification", "regression", "alignment", "saliency", "clip-aware"),
        "gradient norm",
    }
    assert "best MR-full-mAP 60.00 at step 20" in figure.texts[1].get_text()
    lines = drawn(figure, "score-")
    assert [line.get_gid() for line in lines] == ["score-MR-full-mAP", "score-MR-full-R1@0.5"]
    np.testing.assert_array_equal(lines[0].get_xydata(), numbers)
    assert [ring.get_xydata().tolist() for ring in drawn(figure, "best score")] == [
        [[20, 60]],
        [[20, 65]],
    ]


def test_best_step_is_the_one_that_training_selects():
    rows = [
        {"step": 0, "a": 99.0, "b": 99.0},  # untrained
        {"step": 1, "a": 10.0, "b": 40.0},
        {"step": 2, "a": 30.0, "b": 20.0},  # equal: the first stays
        {"step": 3, "a": 40.0},
    ]
    assert best_step(rows, ["a", "b"]) == 1
    assert best_step(rows, ["a"]) == 3
    assert best_step(rows[:1], ["a"]) is None
    assert best_step(rows, []) is None


def test_one_step_without_evaluations_or_configuration(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    write_run(tmp_path, make_steps(1), config=None)
    assert plot_training(tmp_path) == tmp_path / "curves.png"
    check_layout(figures[0])
    assert len(figures[0].axes) == 7


def test_only_the_untrained_model_evaluated(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    write_run(tmp_path, make_steps(3), [{"step": 0, "MR-full-mAP": 3.0}])
    plot_training(tmp_path)
    check_layout(figures[0])
    assert not drawn(figures[0], "best")


def test_diverging_terms_can_be_read(tmp_path, monkeypatch):
    """TVSum's classification falls beyond -1e5; regression is off."""
    figures = captured_figure(monkeypatch)
    steps = make_steps(
        60,
        classification=lambda step: 0.7 - max(0, step - 10) ** 3.0,
        regression=lambda step: 0.0,
        gradient_norm=lambda step: 1.2**step,
        loss=lambda step: 100 - 5 * max(0, step - 10) ** 3.0,
    )
    scores = [{"step": 10 * i, "HD-mAP": 80.0 - i, "HD-mAP-DS": 80.0 - i} for i in range(1, 7)]
    write_run(tmp_path, steps, scores, config="tvsum_slowfast_clip:DS")
    plot_training(tmp_path)
    figure = figures[0]
    check_layout(figure)
    assert "tvsum_slowfast_clip DS" in figure.texts[0].get_text()
    by_title = panels(figure)
    assert by_title["classification, log scale"].get_yscale() == "symlog"
    assert by_title["gradient norm, log scale"].get_yscale() == "log"
    assert not any(title.startswith("regression") for title in by_title)
    ticks = tick_texts(by_title["classification, log scale"], "y")
    assert "0" in ticks and any(text.startswith("−1") for text in ticks)  # noqa: RUF001
    # The early steps, of size 1, are not flat beside the last ones, of size 1e5.
    axes = by_title["classification, log scale"]
    heights = axes.transAxes.inverted().transform(
        axes.transData.transform([[1, 0.7], [15, -124.0], [60, -125000.0]])
    )[:, 1]
    assert heights[0] - heights[1] > 0.2 and heights[1] - heights[2] > 0.2


def test_curves_of_long_runs_stay_small(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    random = np.random.default_rng(0)
    noisy = {name: lambda step: float(random.lognormal()) for name in (*TERMS, "gradient_norm")}
    write_run(tmp_path, make_steps(12000, **noisy))
    plot_training(tmp_path)
    assert (tmp_path / "curves.svg").stat().st_size < 500_000
    raw = drawn(figures[0], "raw")[0].get_ydata()
    steps = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert raw.max() == max(row["loss"] for row in steps)  # spikes are kept
    (smooth,) = [
        line
        for line in panels(figures[0])["total loss, weighted, log scale"].lines
        if line.get_gid() == "smooth"
    ]
    assert smooth.get_ydata().std() < 0.2


def test_values_that_were_not_finite_are_passed_over(tmp_path, monkeypatch):
    figures = captured_figure(monkeypatch)
    steps = make_steps(4)
    steps[3] |= {"loss": None, "gradient_norm": None}
    write_run(tmp_path, steps)
    plot_training(tmp_path)
    (line,) = [x for x in panels(figures[0])["total loss, weighted"].lines if x.get_gid() == "raw"]
    assert line.get_xdata().tolist() == [1, 2, 3]
    write_run(tmp_path, [{"step": 1, "epoch": 1, "loss": None}])
    assert plot_training(tmp_path)


def test_no_steps_no_figure(tmp_path):
    assert plot_training(tmp_path) is None
    (tmp_path / "train.jsonl").touch()
    assert plot_training(tmp_path) is None
    assert not list(tmp_path.glob("curves*"))


def test_curves_come_out_alike_every_time(tmp_path):
    write_run(tmp_path, make_steps(5), [{"step": 5, "MR-full-mAP": 3.0}])
    contents = []
    for _ in range(2):
        plot_training(tmp_path)
        contents.append([(tmp_path / f"curves.{kind}").read_bytes() for kind in ("png", "svg")])
    assert contents[0] == contents[1]


def test_foreign_logs_are_named(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:1: no 'step'"):
        plot_training(tmp_path)

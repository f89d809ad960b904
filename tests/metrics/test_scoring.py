"""Clips of predictions against clips that were rated; ranges of lengths; no moments predicted."""

import json

import numpy as np
import pytest

import flashvtg_jax as fv
from flashvtg_jax.config import save_config
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.json_lines import write_json_lines
from flashvtg_jax.metrics import (
    brief,
    evaluate_predictions,
    format_table,
    nested,
    parse_length_ranges,
    score_files,
    score_iou_correlation,
)
from flashvtg_jax.metrics.scoring import Scoring, likely_clip_length, mean_over_rated_clips
from flashvtg_jax.metrics.scoring_settings import (
    configured_scoring,
    scoring_arguments,
    settings_to_score,
)


def rated(qid, duration=40, clips=(0, 1), windows=((0, 10),)):
    return {
        "qid": qid,
        "duration": duration,
        "relevant_windows": [list(window) for window in windows],
        "relevant_clip_ids": list(clips),
        "saliency_scores": [[4, 4, 4]] * len(clips),
    }


def predicted(qid, scores, windows=((0, 10, 0.9),)):
    return {
        "qid": qid,
        "pred_relevant_windows": [list(window) for window in windows],
        "pred_saliency_scores": list(scores),
    }


def write_pair(folder, predictions, annotations):
    folder.mkdir(exist_ok=True)
    write_json_lines(folder / "predictions.jsonl", predictions)
    write_json_lines(folder / "annotations.jsonl", annotations)
    return folder / "predictions.jsonl", folder / "annotations.jsonl"


def score_beside(predictions, annotations, **given):
    """What `flashvtg score` does."""
    return score_files(predictions, annotations, **scoring_arguments(predictions, **given))


def write_config(folder, **values):
    config = fv.load_config("qvhighlights_slowfast_clip", {"clip_length": 1.0, **values})
    save_config(config, folder / "config.json")


# Of 40 clips of 1 s the last two are best, and rated.
LATE = predicted(7, [0.0] * 38 + [1.0, 2.0], windows=[(38, 40, 0.9)])
LATE_RATED = rated(7, clips=(38, 39), windows=[(38, 40)])
# Of 20 clips of 2 s the second is best.
EARLY = predicted(7, [0.0, 2.0] + [0.0] * 18)


@pytest.mark.parametrize(
    ("count", "clip_length", "likely"), [(40, 2.0, "1"), (75, 1.0, "2"), (300, 2.0, "0.5")]
)
def test_scores_of_clips_of_another_length_are_an_error_that_names_it(count, clip_length, likely):
    seconds = count * float(likely)
    annotations = [rated(qid, seconds) for qid in (3, 4)]
    predictions = [predicted(qid, np.arange(count)) for qid in (3, 4)]
    clips = round(seconds / clip_length)
    message = (
        rf"prediction of qid 3 .row 1.: {count} saliency scores, but its video of {seconds:g} s "
        rf"has {clips} clips of {clip_length:g} s; .*clip_length={likely} "
    )
    with pytest.raises(DataError, match=message):
        evaluate_predictions(predictions, annotations, clip_length)


@pytest.mark.parametrize(("count", "fits"), [(18, True), (22, True), (17, False), (23, False)])
def test_two_clips_more_or_fewer_are_cut_or_filled_up_as_officially(count, fits):
    predictions = [predicted(7, np.r_[1.0, np.zeros(count - 1)])]
    if fits:
        numbers = evaluate_predictions(predictions, [rated(7, clips=(0,))])
        assert numbers["HL-min-Fair-mAP"] == 100.0
    else:
        with pytest.raises(DataError, match=f"{count} saliency scores"):
            evaluate_predictions(predictions, [rated(7, clips=(0,))])


def test_a_single_query_of_another_length_is_a_warning():
    annotations = [rated(qid) for qid in range(3)]
    predictions = [predicted(qid, np.arange(12 if qid == 1 else 20)) for qid in range(3)]
    with pytest.warns(UserWarning, match="qid 1 .row 2.: 12 saliency scores.*1 of 3 queries"):
        evaluate_predictions(predictions, annotations)


def test_videos_that_were_cut_have_fewer_scores():
    annotations = [rated(1, duration=600), rated(2)]
    predictions = [predicted(1, np.r_[1.0, np.zeros(74)]), predicted(2, np.zeros(20))]
    numbers = evaluate_predictions(predictions, annotations, max_clips=75)
    assert numbers["HL-min-Fair-Hit1"] == 100.0  # of the second, the first of equal clips
    # Of 600 s clips 2 and 100 are highlights: the third of those seen, and one of 225 not seen.
    below_zero = [predicted(1, [-1.0, -2.0, -4.0, *[-5.0] * 72]), predicted(2, np.zeros(20))]
    highlights = [rated(1, 600, (2, 100)), rated(2, clips=())]
    numbers = evaluate_predictions(below_zero, highlights, max_clips=75)
    # Precision 1/3 at half of the clips, then 2/300, over two queries.
    assert numbers["HL-min-Fair-mAP"] == round(100 * (1 / 3 + 2 / 300) / 2 / 2, 2)
    with pytest.raises(DataError, match=r"75 saliency scores.* 300 clips of 2 s"):
        evaluate_predictions(predictions, annotations)
    with pytest.raises(DataError, match="of which the first 50 were used"):
        evaluate_predictions(predictions, annotations, max_clips=50)


def test_scores_of_another_number_of_clips_than_label_rates_are_an_error():
    annotation = {"qid": 1, "label": [[1], [0]] * 20}
    fits, short = (predicted(1, np.arange(count)) for count in (38, 30))
    assert "HD-mAP" in evaluate_predictions([fits], [annotation])
    with pytest.raises(DataError, match="30 saliency scores, but 'label' rates 40 clips"):
        evaluate_predictions([short], [annotation])
    assert "HD-mAP" in evaluate_predictions([short], [annotation], max_clips=30)


def test_a_rated_clip_has_the_mean_of_the_scores_in_its_time():
    scores = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    finer = mean_over_rated_clips(scores, Scoring(1.0, 2.0))  # the last is half there
    np.testing.assert_allclose(finer, [1.5, 6.0, 16.0])
    uneven = mean_over_rated_clips(scores[:4], Scoring(1.5, 2.0))
    # 0 to 2: 1.5 of the first, 0.5 of the second; 2 to 4: 1.0 and 1.0; 4 to 6: 0.5 and 1.5.
    np.testing.assert_allclose(uneven, [2.5 / 2, 6 / 2, 14 / 2])
    coarser = mean_over_rated_clips(scores[:2], Scoring(2.0, 1.0))
    np.testing.assert_allclose(coarser, [1, 1, 2, 2])
    assert mean_over_rated_clips(scores, Scoring(2.0)) is scores
    assert mean_over_rated_clips(scores, Scoring(2.0, 2.0)) is scores


def test_means_of_equal_scores_are_equal():
    scores = np.full(300, 0.1234)
    assert len(set(mean_over_rated_clips(scores, Scoring(0.5, 2.0)).tolist())) == 1


def test_metrics_do_not_depend_on_the_rate_of_the_features():
    rng = np.random.default_rng(0)
    scores = rng.permutation(20).astype(float)
    annotations = [rated(7, clips=(2, 3, 9))]
    expected = evaluate_predictions([predicted(7, scores)], annotations)
    assert 0 < expected["HL-min-Fair-mAP"] < 100
    noise = np.tile([0.25, -0.25], 20)
    for clip_length, finer in ((1.0, np.repeat(scores, 2) + noise), (0.5, np.repeat(scores, 4))):
        numbers = evaluate_predictions(
            [predicted(7, finer)], annotations, clip_length, label_clip_length=2.0
        )
        assert numbers == expected


@pytest.mark.parametrize(
    ("counts", "durations", "expected"),
    [
        ([75, 60], [150, 119.3], 2.0),
        ([40, 31], [40, 30.96], 1.0),
        ([74], [150], 2.0),  # a clip less
        ([240, 180], [40, 30], 0.167),
        ([75, 20], [600, 40], None),  # one was cut
        ([*[40, 60] * 9, 7, 75], [*[40, 60] * 9, 40, 75], 1.0),  # one of twenty is odd
        ([*[20, 30] * 9, 75, 75, 75], [*[40, 60] * 9, 600, 600, 600], None),  # three were cut
        ([73, 18], [150, 40], 2.0),  # two clips less
    ],
)
def test_the_likely_clip_length_is_the_roundest_that_fits(counts, durations, expected):
    assert likely_clip_length(counts, durations) == expected


def test_files_are_scored_by_the_configuration_beside_them(tmp_path, capsys):
    expected = evaluate_predictions([LATE], [LATE_RATED], 1.0)
    assert expected["HL-min-Fair-mAP"] == 100.0
    files = write_pair(tmp_path / "run", [LATE], [LATE_RATED])
    write_config(tmp_path / "run")
    assert score_beside(*files) == expected
    deeper = write_pair(tmp_path / "run" / "split_test", [LATE], [LATE_RATED])
    assert score_beside(*deeper) == expected
    config = tmp_path / "run" / "config.json"
    line = "clip lengths and ranges of lengths are read from {}\n"
    assert capsys.readouterr().err == line.format(config) * 2
    with pytest.raises(DataError, match=r"predictions\.jsonl:1: .* 20 clips of 2 s"):
        score_beside(*files, clip_length=2.0)


def test_files_are_scored_by_the_settings_that_predict_wrote_beside_them(tmp_path, capsys):
    long = rated(7, duration=600, clips=(0,))
    files = write_pair(tmp_path, [predicted(7, np.r_[1.0, np.zeros(99)])], [long])
    settings = {"clip_length": 3.0, "label_clip_length": 2.0, "max_clips": 100}
    path = tmp_path / "predictions.jsonl.settings.json"
    path.write_text(json.dumps({**settings, "length_ranges": ["tiny:0:5"]}))
    numbers = score_beside(*files)
    assert numbers["HL-min-Fair-Hit1"] == 100.0
    assert "MR-tiny-mAP" in numbers and "MR-short-mAP" not in numbers
    assert capsys.readouterr().err.endswith(f"are read from {path}\n")
    # Without ranges it is of an earlier version.
    path.write_text(json.dumps(settings))
    assert scoring_arguments(files[0]) == {}
    write_config(tmp_path)
    assert scoring_arguments(files[0])["clip_length"] == 1.0


def test_what_predict_writes_is_what_its_run_is_scored_with(tmp_path):
    config = fv.load_config("qvhighlights_slowfast_clip", {"evaluation.length_ranges": "a:0:inf"})
    path = tmp_path / "predictions.jsonl.settings.json"
    path.write_text(json.dumps(settings_to_score(config)))
    expected = {"clip_length": 2.0, "label_clip_length": None, "max_clips": 75}
    expected["length_ranges"] = {"a": (0, np.inf)}
    assert scoring_arguments(tmp_path / "predictions.jsonl") == expected
    assert configured_scoring(config) == expected


def test_a_foreign_file_beside_predictions_is_passed_over_and_wrong_ranges_are_not(tmp_path):
    (tmp_path / "config.json").write_text('{"model": "another program"}')
    assert scoring_arguments(tmp_path / "predictions.jsonl", clip_length=3.0) == {
        "clip_length": 3.0
    }
    write_config(tmp_path, **{"evaluation.length_ranges": "tiny:5:0"})
    with pytest.raises(ConfigError, match=r"config\.json: length_ranges: tiny is from 5 to 0 s"):
        scoring_arguments(tmp_path / "predictions.jsonl")


def test_ids_that_contradict_windows_are_an_error_without_predicted_moments_too(tmp_path):
    wrong = rated(7, duration=40, clips=(15, 16), windows=[(0, 10)])
    highlights = predicted(7, np.zeros(20))
    del highlights["pred_relevant_windows"]
    files = write_pair(tmp_path, [highlights], [wrong])
    with pytest.raises(DataError, match=r"annotations\.jsonl:1: .*contradict relevant_windows"):
        score_files(*files)


def test_ids_that_count_other_clips_in_most_lines_are_an_error_of_the_file(tmp_path):
    # Five clips of 2 s are the first half of 20 s, or all of its clips of 4 s.
    lines = [rated(qid, clips=range(5), windows=[(0, 20)]) for qid in range(3)]
    predictions = [predicted(qid, np.zeros(20)) for qid in range(3)]
    with pytest.raises(DataError, match=r"annotations\.jsonl: in 3 of 3 lines .*clips of 4 s, not"):
        score_files(*write_pair(tmp_path, predictions, lines))
    # In single lines they are clips of which not all were rated.
    assert score_files(*write_pair(tmp_path, predictions[:1], lines[:1]))


def test_without_settings_the_clip_length_follows_from_the_scores(tmp_path, capsys):
    files = write_pair(tmp_path, [LATE], [LATE_RATED])
    assert score_files(*files) == evaluate_predictions([LATE], [LATE_RATED], 1.0)
    assert "clips of 1 s, by the numbers of saliency scores" in capsys.readouterr().err
    files = write_pair(tmp_path, [EARLY], [rated(7, clips=(1,))])
    assert score_files(*files)["HL-min-Fair-mAP"] == 100.0
    assert capsys.readouterr().err == ""


def test_ranges_of_the_configuration_beside_a_file_are_used(tmp_path):
    files = write_pair(tmp_path, [LATE], [LATE_RATED])
    write_config(tmp_path, **{"evaluation.length_ranges": "tiny:0:5,rest:5:inf"})
    assert {"MR-tiny-mAP", "MR-rest-mAP"} < set(score_beside(*files))
    own = score_beside(*files, length_ranges={"two_seconds": (1, 3)})
    assert own["MR-two_seconds-mAP"] == 100.0 and "MR-tiny-mAP" not in own


def test_a_query_without_predicted_moments_is_a_miss():
    annotations = [rated(1), rated(2)]
    both = [predicted(1, np.zeros(20)), predicted(2, np.zeros(20))]
    one = [both[0], predicted(2, np.zeros(20), windows=())]
    whole, half = (evaluate_predictions(rows, annotations) for rows in (both, one))
    assert whole["MR-full-mAP"] == whole["MR-short-R1@0.7"] == whole["MR-full-mIoU"] == 100.0
    assert half["MR-full-mAP"] == half["MR-short-R1@0.7"] == half["MR-full-mIoU"] == 50.0
    none = [predicted(qid, np.zeros(20), windows=()) for qid in (1, 2)]
    numbers = evaluate_predictions(none, annotations)
    assert {value for name, value in numbers.items() if name.startswith("MR-")} == {0.0}
    assert np.isnan(score_iou_correlation(none, annotations)).all()


def test_own_ranges_of_lengths_by_hand():
    # Moments of 10, 20 and 40 s, the last two found.
    windows = ((0, 10), (10, 30), (0, 40))
    annotations = [rated(qid, windows=[window]) for qid, window in enumerate(windows)]
    found = ((20, 30), (10, 30), (0, 40))
    predictions = [predicted(q, np.zeros(20), [(*w, 0.9)]) for q, w in enumerate(found)]
    ranges = {"up-to-20": (0, 20), "over20": (20, np.inf)}
    numbers = evaluate_predictions(predictions, annotations, length_ranges=ranges)
    assert numbers["MR-up-to-20-mAP"] == 50.0 and numbers["MR-over20-R1@0.5"] == 100.0
    official = evaluate_predictions(predictions, annotations)
    assert numbers["MR-full-mAP"] == official["MR-full-mAP"] == 66.67
    assert "MR-short-mAP" not in numbers
    assert {"full", "up-to-20", "over20"} < set(nested(numbers))
    names = [name for name in brief(numbers) if name.startswith("MR")]
    assert names[-3:] == ["MR-full-mIoU", "MR-over20-mAP", "MR-up-to-20-mAP"]
    table = format_table({"score": numbers}).splitlines()
    assert [line.split()[0] for line in table[2:7]] == [
        *("MR-full-mAP", "MR-full-mAP@0.5", "MR-full-mAP@0.75"),
        *("MR-up-to-20-mAP", "MR-over20-mAP"),
    ]


def test_the_official_ranges_can_be_written_out():
    ranges = parse_length_ranges("short:0:10, middle:10:30,long:30:150")
    args = [predicted(1, np.zeros(20))], [rated(1)]
    official = evaluate_predictions(*args)
    written = evaluate_predictions(*args, length_ranges=ranges)
    assert list(written.items()) == list(official.items())
    assert parse_length_ranges(["a:0:2.5", "b:2.5:inf"]) == {"a": (0, 2.5), "b": (2.5, np.inf)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("short", "'short'; expected NAME:SECONDS:SECONDS"),
        ("short:0", "expected NAME:SECONDS:SECONDS"),
        ("short:0:ten", "expected NAME:SECONDS:SECONDS"),
        ("", "expected NAME:SECONDS:SECONDS"),
        ("a:0:1,a:1:2", "names 'a' twice"),
        ("a:2:1", "a is from 2 to 1 s"),
        ("a:nan:1", "a is from nan to 1 s"),
        (":0:1", "'' cannot be the name of a range"),
        ("full:0:1", "'full' is the range of all moments"),
        ("a b:0:1", "'a b' cannot be the name"),
        ("brief:0:1", "'brief' is the name of another section"),
        ("HL-min-Fair:0:1", "'HL-min-Fair' is the name of another section"),
        ("HD:0:1", "'HD' is the name of another section"),
    ],
)
def test_ranges_that_are_none_are_an_error(text, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_predictions([], [], length_ranges=parse_length_ranges(text))

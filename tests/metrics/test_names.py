"""The names of the numbers."""

import pytest

from flashvtg_jax.metrics import METRIC_NAMES, brief, evaluate_predictions, is_metric_name, nested


def numbers_of_everything():
    """Moments, QVHighlights' highlights and domains' highlights, of one video that has all."""
    prediction = {
        "qid": 1,
        "pred_relevant_windows": [[0, 4, 0.9]],
        "pred_saliency_scores": [0.9, 0.1],
    }
    annotation = {
        "qid": 1,
        "duration": 4,
        "relevant_windows": [[0, 4]],
        "relevant_clip_ids": [0],
        "saliency_scores": [[4, 4, 4]],
        "label": [[1], [0]],
        "domain": "BK",
    }
    return evaluate_predictions([prediction], [annotation])


def test_every_number_has_a_known_name():
    numbers = numbers_of_everything()
    assert len(numbers) == 4 * 26 + 3 * 2 + 2
    assert [name for name in numbers if not is_metric_name(name)] == []
    assert [name for name in METRIC_NAMES if name not in numbers] == []
    assert list(brief(numbers)) == list(METRIC_NAMES)


@pytest.mark.parametrize("name", ["HD-mAP", "HD-mAP-BK", "HD-mAP-own domain", "MR-full-R1@0.7"])
def test_names_that_are_known(name):
    assert is_metric_name(name)


@pytest.mark.parametrize(
    "name", ["", "HD-mAP-", "HD", "mAP", "MR-full-R1", "MR-full-mAP@0.3", "MR-all-mAP", "hd-map"]
)
def test_names_that_are_not(name):
    assert not is_metric_name(name)


def test_domains_have_a_place_of_their_own_in_the_nested_layout():
    numbers = {"HD-mAP": 50.0, "HD-mAP-BK": 40.0, "HD-mAP-VT": 60.0}
    assert nested(numbers) == {
        "brief": {"HD-mAP": 50.0},
        "HD": {"HD-mAP": 50.0, "domains": {"BK": 40.0, "VT": 60.0}},
    }
    assert nested({"HD-mAP": 50.0}) == {"brief": {"HD-mAP": 50.0}, "HD": {"HD-mAP": 50.0}}

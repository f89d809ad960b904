"""The names of the numbers: which there are, and which are quoted."""

from collections.abc import Iterable

from flashvtg_jax.metrics.highlight_detection import DOMAINS_MEAN, RATING_LEVELS
from flashvtg_jax.metrics.moment_retrieval import (
    AP_THRESHOLDS,
    LENGTH_RANGES,
    RECALL_THRESHOLDS,
)

# The selection of the official QVHighlights evaluator in its order, then TVSum's and YouTube
# Highlights' one number.
METRIC_NAMES = (
    "MR-full-R1@0.3",
    "MR-full-R1@0.5",
    "MR-full-R1@0.7",
    "MR-full-mAP",
    "MR-full-mAP@0.5",
    "MR-full-mAP@0.75",
    "MR-full-mIoU",
    "MR-long-mAP",
    "MR-middle-mAP",
    "MR-short-mAP",
    "HL-min-Fair-mAP",
    "HL-min-Fair-Hit1",
    "HL-min-Good-mAP",
    "HL-min-Good-Hit1",
    "HL-min-VeryGood-mAP",
    "HL-min-VeryGood-Hit1",
    DOMAINS_MEAN,
)

_DOMAIN = f"{DOMAINS_MEAN}-"


def is_metric_name(name: str) -> bool:
    """Whether `evaluate_predictions` can return a number of this name, for some data set.

    Every domain's number has a name, "HD-mAP-BK"; which domains there are is the data set's.
    """
    moments = {
        f"MR-{length_range}-{number}"
        for length_range in LENGTH_RANGES
        for number in (
            "mAP",
            *(f"mAP@{threshold:g}" for threshold in AP_THRESHOLDS),
            *(f"R1@{threshold:g}" for threshold in RECALL_THRESHOLDS),
            "mIoU",
        )
    }
    highlights = {
        f"HL-min-{level}-{number}" for level in RATING_LEVELS for number in ("mAP", "Hit1")
    }
    return name in moments | highlights | {DOMAINS_MEAN} or bool(domain_names([name]))


def domain_names(names: Iterable[str]) -> dict[str, str]:
    """Those names that are a domain's number -> the domain: "HD-mAP-BK" -> "BK", in their order."""
    return {
        name: name.removeprefix(_DOMAIN)
        for name in names
        if name.startswith(_DOMAIN) and name != _DOMAIN
    }

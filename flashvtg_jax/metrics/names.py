"""The names of the metrics, and which of them are usually reported."""

import re
from collections.abc import Collection, Iterable

from flashvtg_jax.metrics.highlight_detection import DOMAINS_MEAN, RATING_LEVELS
from flashvtg_jax.metrics.moment_retrieval import (
    AP_THRESHOLDS,
    FULL_RANGE,
    LENGTH_RANGES,
    RECALL_THRESHOLDS,
)

# The selection of the official QVHighlights evaluator in its order, then TVSum's and YouTube
# Highlights' single metric.
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

BRIEF, BY_DOMAIN = "brief", "HD"
# Of the layout of the official metrics files, beside those of the ranges of lengths.
SECTIONS = (BRIEF, BY_DOMAIN, *(f"HL-min-{level}" for level in RATING_LEVELS))

_DOMAIN = f"{DOMAINS_MEAN}-"
_RANGE = re.compile(r"MR-(.+)-mAP")
_LAST_OF_FULL = METRIC_NAMES.index("MR-full-mIoU")


def is_metric_name(name: str, length_ranges: Collection[str] = LENGTH_RANGES) -> bool:
    """Whether `evaluate_predictions` returns a metric of this name for some data set.

    Any domain is allowed, as in "HD-mAP-BK".

    Args:
      name: of the possible metric.
      length_ranges: names of the ranges of moments' lengths, "full" among them.
    """
    moments = {
        f"MR-{length_range}-{metric}"
        for length_range in length_ranges
        for metric in (
            "mAP",
            *(f"mAP@{threshold:g}" for threshold in AP_THRESHOLDS),
            *(f"R1@{threshold:g}" for threshold in RECALL_THRESHOLDS),
            "mIoU",
        )
    }
    highlights = {
        f"HL-min-{level}-{metric}" for level in RATING_LEVELS for metric in ("mAP", "Hit1")
    }
    return name in moments | highlights | {DOMAINS_MEAN} or bool(domain_names([name]))


def range_names(names: Iterable[str]) -> list[str]:
    """The ranges of moments' lengths in these names of metrics, in their order."""
    return [found[1] for name in names if (found := _RANGE.fullmatch(name))]


def quoted_names(names: Iterable[str]) -> list[str]:
    """METRIC_NAMES, with the ranges of lengths in `names` in place of the official ones."""
    own = [f"MR-{name}-mAP" for name in sorted(range_names(names)) if name != FULL_RANGE]
    others = [name for name in METRIC_NAMES if range_names([name]) in ([], [FULL_RANGE])]
    return [*others[: _LAST_OF_FULL + 1], *own, *others[_LAST_OF_FULL + 1 :]]


def domain_names(names: Iterable[str]) -> dict[str, str]:
    """The names of domains' metrics and the domains: {"HD-mAP-BK": "BK"}, in their order."""
    return {
        name: name.removeprefix(_DOMAIN)
        for name in names
        if name.startswith(_DOMAIN) and name != _DOMAIN
    }

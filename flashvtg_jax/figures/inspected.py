"""What `plot_inspection` draws: the intermediate results of a model for one query."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Level:
    """The points of one level of the pyramid, in order: point i covers clips from i * stride on.

    Attributes:
      stride: clips.
      logits: [L_k] of the score.
      intra_scale_logits, inter_scale_logits: [L_k]; None where the model has no such head.
    """

    stride: float
    logits: np.ndarray
    intra_scale_logits: np.ndarray | None
    inter_scale_logits: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Intermediate results of a model for one query; L clips, Q words. Times are in seconds.

    Attributes:
      qid, query, vid: of the annotation.
      split: that it is of.
      run: name of the configuration.
      step: of the checkpoint.
      duration: of the video.
      clip_length: of a clip. Where people rated each clip (`label`), the clips share the duration.
      words: what each row of the word features stands for [Q]; None if their number does not
        fit, see `prediction.inspection.name_words`.
      attention: of clips to words, the mean over layers and heads [L, Q].
      dummy_attention: of clips to all dummies together [L]; None for a model without.
      levels: of the pyramid; () for a model with moment queries.
      mix: share of the intra-scale logits in the logits; None where there is only one of the two.
      query_moments: start, end, score of each moment query [P, 3]; None for a model with a pyramid.
      saliency: [L].
      moments: start, end, score, best first [K, 3], as `flashvtg evaluate` finds them; None for a
        model that does not predict moments.
      kept_moments: those that non-maximum suppression leaves [J, 3], with their scores after it.
      origins: level and point that each of the kept moments comes from [J, 2] int; for moment
        queries 0 and the query.
      windows: of people, start and end [M, 2]; none where they are not known.
      ratings: of each clip, the mean over annotators [L']; None where they are not known.
    """

    qid: int | str
    query: str
    vid: str
    split: str
    run: str
    step: int
    duration: float
    clip_length: float
    words: tuple[str, ...] | None
    attention: np.ndarray
    dummy_attention: np.ndarray | None
    levels: tuple[Level, ...]
    mix: float | None
    query_moments: np.ndarray | None
    saliency: np.ndarray
    moments: np.ndarray | None
    kept_moments: np.ndarray | None
    origins: np.ndarray | None
    windows: np.ndarray
    ratings: np.ndarray | None

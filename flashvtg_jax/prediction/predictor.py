"""`Predictor`: from raw features to moments and highlights."""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from flashvtg_jax.checkpoints.restore import restore
from flashvtg_jax.config import apply_overrides
from flashvtg_jax.data.batch import feature_widths
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.metrics.relative_saliency import relative_saliency
from flashvtg_jax.models.flashvtg import FlashVTG, build_model
from flashvtg_jax.models.init import init_params
from flashvtg_jax.prediction.batches import Choice, PredictionBatches, Work
from flashvtg_jax.prediction.inputs import CheckedVideo, InputChecks, Video, is_number


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to a query about a video of L clips.

    Attributes:
      moments: [K, 3] float32: start and end in seconds, score from 0 to 1; best first.
      saliency: [L] float32: how much each clip is a highlight for the query. It is not bounded and
        often negative: training compares clips of one video only, so only their order has a
        meaning. `relative_saliency` maps it to 0..1.
      times: [L] float64: seconds at which each clip starts.
      has_moments: False for a model of highlights alone, whose `moments` are always [0, 3].
    """

    moments: np.ndarray
    saliency: np.ndarray
    times: np.ndarray
    has_moments: bool = True

    @property
    def relative_saliency(self) -> np.ndarray:
        """The saliency within the video: [L] float64 from 0, the least salient clip, to 1."""
        return relative_saliency(self.saliency)

    def to_dict(
        self, *, qid: int | str | None = None, query: str | None = None, vid: str | None = None
    ) -> dict[str, Any]:
        """The prediction in the QVHighlights format, as `flashvtg predict` writes it.

        Args:
          qid: id of the query; like the other two it is left out where it is None.
          query: the sentence.
          vid: id of the video.

        Returns:
          The given ones, "pred_relevant_windows" (if the model has moments) and
          "pred_saliency_scores".
        """
        about = {"qid": qid, "query": query, "vid": vid}
        row = {key: value for key, value in about.items() if value is not None}
        # The official scores rank rounded saliency where moments are predicted, else raw scores.
        decimals = 4 if self.has_moments else 8
        if self.has_moments:
            row["pred_relevant_windows"] = _rounded(self.moments, decimals)
        row["pred_saliency_scores"] = _rounded(self.saliency, decimals)
        return row


class Predictor:
    """Answers queries about videos with a trained model.

        predictor = fv.Predictor.from_checkpoint("runs/qvhighlights")
        prediction = predictor({"slowfast": slowfast, "clip": clip}, query)
        prediction.moments  # [K, 3] start, end (seconds), score

    Features are raw, as extracted: they are normalised as in training. Videos are padded to one of
    few lengths, each 1.25 times the one before (those that the configuration names are among them),
    and go through the model in batches of 1, 4, 16, ... rows. A program is compiled for each length
    and number of rows when it is first needed, or by `warm_up`. Padding changes no result. Threads
    may use one predictor together.

    Attributes:
      config: of the model.
      params: of the model, on the first device.
      step: of the checkpoint, if known.
      batch_size: queries answered at once, at most.
      streams: width of each video stream, in the model's order; of each token, if there are more.
      spatial_tokens: S, of each clip.
      query_width: width of a word's features.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        params: Any,
        *,
        batch_size: int | None = None,
        whole_videos: bool = False,
        step: int | None = None,
    ):
        """Puts the parameters on the first device.

        Args:
          config: the whole configuration, as a checkpoint holds it.
          params: of its model.
          batch_size: queries answered at once, at most (fewer where videos are long); None:
            `config.evaluation.batch_size`.
          whole_videos: read clips beyond `config.data.max_clips`, too, and find moments beyond
            `config.evaluation.window_range`: for videos longer than those of training.
          step: of the checkpoint, for the record.

        Raises:
          ConfigError: a configuration without streams or widths, parameters of another model, a
            batch size below 1.
        """
        data = config.data
        batch_size = config.evaluation.batch_size if batch_size is None else batch_size
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}; expected at least one query at a time")
        if not data.video_streams or not data.query_width:
            raise ConfigError(
                "config.data names no video streams, or no width of the words' features; the "
                "configuration that a checkpoint holds does"
            )
        _check_params(build_model(config.model), params, feature_widths(data))
        if whole_videos:
            limits = {"data.max_clips": None, "evaluation.window_range": None}
            config = apply_overrides(config, limits)
        self.config = config
        self.params = jax.device_put(params, jax.devices()[0])
        self.step = step
        self.batch_size = batch_size
        self.streams = {name: int(data.video_widths[name]) for name in data.video_streams}
        self.spatial_tokens = int(data.spatial_tokens)
        self.query_width = int(data.query_width)
        self._inputs = InputChecks(
            streams=self.streams,
            spatial_tokens=self.spatial_tokens,
            query_width=self.query_width,
            max_clips=config.data.max_clips,
            max_words=config.data.max_words,
            clip_length=config.clip_length,
            has_moments=config.loss.regression,
            resample=config.data.resample,
        )
        self._batches = PredictionBatches(config, self.params, batch_size)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        step: int | None = None,
        batch_size: int | None = None,
        whole_videos: bool = False,
    ) -> "Predictor":
        """The predictor of a work directory of `flashvtg train`, or of what `convert` wrote.

        Args:
          path: the work directory; of several runs, the folder of one of them.
          step: of the checkpoint; None: the best one, or the latest if none was scored.
          batch_size: as above.
          whole_videos: as above.

        Raises:
          CheckpointError: there is no such checkpoint, or it cannot be read.
        """
        restored = restore(path, step=step)
        return cls(
            restored.config,
            restored.params,
            batch_size=batch_size,
            whole_videos=whole_videos,
            step=restored.step,
        )

    def __call__(
        self,
        video: Video | Sequence[Video],
        query: np.ndarray | Sequence[np.ndarray],
        *,
        duration: float | Sequence[float | None] | None = None,
        nms_threshold: float | str | None = "config",
        max_moments: int | None = None,
        score_threshold: float | None = None,
    ) -> Prediction | list[Prediction]:
        """Moments and highlights for a query about a video, or for many.

        Args:
          video: features of each stream by name, {"slowfast": [L, 2304], "clip": [L, 512]}, or the
            array alone if the model has one stream; streams are cut to the shortest, videos to
            `config.data.max_clips`. If clips have S spatial tokens, a stream is [L, S, width], or
            [L, S * width] with the tokens of a clip side by side, or [L, width], one that stands
            for all. Or a list of videos; the same object given several times is projected once.
          query: features of the words [Q, Dq]; those beyond `config.data.max_words` are cut. Or a
            list of queries: one for each of the videos, or all about the one video.
          duration: seconds of the video, where its moments end; None: those of all its clips, if
            the model was not trained on resampled features (`config.data.resample`). For
            lists, one number for all predictions, or a list with one for each.
          nms_threshold: moments that overlap a better one by this intersection over union or more
            are suppressed: left out (or their score is lower, by `config.evaluation.nms_type`).
            None: none is. "config": as `config.evaluation.nms_threshold` says.
          max_moments: that are returned for a query, at most; None:
            `config.evaluation.max_moments`.
          score_threshold: moments with a lower score are left out; None: none is.

        Returns:
          A prediction; if a list was given, the list of predictions in its order. Moments are
          those of `flashvtg evaluate` without suppressed ones, which have score 0 there, and
          without those whose start and end are rounded to the same time.

        Raises:
          DataError: a stream that is missing or unknown, an array of another rank, width or type,
            without rows, with NaN or infinity; streams of one video, or video and duration, that
            differ in length by more than 10%; lists of different lengths.
          ConfigError: an invalid threshold or number of moments.
        """
        choice = self.choice(nms_threshold, max_moments, score_threshold)
        many_videos, many_queries = (isinstance(x, list | tuple) for x in (video, query))
        queries = list(query) if many_queries else [query]
        if many_videos and many_queries and len(video) != len(queries):
            raise DataError(
                f"{len(video)} videos and {len(queries)} queries; give as many of both, or a "
                "single one of either"
            )
        count = len(video) if many_videos else len(queries)
        videos = list(video) if many_videos else [video] * count
        durations = _durations(duration, count)
        if not count:
            return []
        # By identity: comparing arrays would cost too much. Resampled, the same features with
        # another duration are another video.
        places: dict[tuple[int, float | None], int] = {}
        checked, index = [], []
        for number, one in enumerate(videos):
            key = id(one), durations[number] if self.config.data.resample else None
            if key not in places:
                places[key] = len(checked)
                name = f"video {number}: " if many_videos else ""
                checked.append(self._inputs.video(one, name, durations[number]))
                if checked[-1] is not one:  # the caller of `check_video` knows
                    _warn_of_cut(checked[-1])
                    _warn_of_flat(checked[-1], name)
            index.append(places[key])
        words = [
            self._inputs.query(one, f"query {number}" if many_queries else "query")
            for number, one in enumerate(queries)
        ]
        self._warn_of_cut_queries([len(one) for one in queries])
        if not many_queries:
            words *= count
        seconds = self._seconds(durations, [checked[place] for place in index])
        predictions = self._predict(Work(checked, words, index, seconds), choice)
        return predictions if many_videos or many_queries else predictions[0]

    def check_video(self, video: Video, *, duration: float | None = None) -> CheckedVideo:
        """Checks a video and cuts it to what is used of it; a call takes the result for a video.

        Args:
          video: as in a call.
          duration: seconds to compare its length with; None: nothing is compared.

        Raises:
          DataError: as a call does.
        """
        checked = self._inputs.video(video, seconds=duration)
        self._inputs.duration(checked, duration)
        return checked

    def check_query(self, query: np.ndarray) -> np.ndarray:
        """Checks the features of a query [Q, Dq] and cuts them to what is used of them.

        Raises:
          DataError: as a call does.
        """
        return self._inputs.query(query)

    def warm_up(
        self,
        num_clips: int | Iterable[int],
        num_queries: int = 1,
        *,
        num_videos: int = 1,
        max_moments: int | None = None,
    ) -> None:
        """Compiles the programs that calls of these sizes need.

        A call's videos are taken to be of one length, and its queries to be shared evenly by them;
        for other calls, warm up for the sizes of their parts.

        Args:
          num_clips: of the videos; several lengths, if calls have different ones.
          num_queries: of a call, over all its videos.
          num_videos: of a call.
          max_moments: as in a call.

        Raises:
          ConfigError: a number below 1.
        """
        choice = self.choice("config", max_moments, None)
        lengths = [num_clips] if np.ndim(num_clips) == 0 else list(num_clips)
        if min(*lengths, num_queries, num_videos) < 1:
            raise ConfigError("warm_up: numbers of clips, queries and videos are at least 1")
        limit = self.config.data.max_clips
        for length in lengths:
            self._batches.compile(min(length, limit or length), num_videos, num_queries, choice)

    def choice(
        self,
        nms_threshold: float | str | None,
        max_moments: int | None,
        score_threshold: float | None,
    ) -> Choice:
        """The options of a call, with None and "config" resolved.

        Raises:
          ConfigError: an invalid threshold or number of moments.
        """
        settings = self.config.evaluation
        if nms_threshold == "config":
            nms_threshold = settings.nms_threshold
        if nms_threshold is not None and not (is_number(nms_threshold) and 0 < nms_threshold <= 1):
            raise ConfigError(
                f"nms_threshold={nms_threshold!r}; an intersection over union is above 0 and at "
                "most 1, and None turns suppression off"
            )
        if score_threshold is not None and not is_number(score_threshold):
            raise ConfigError(f"score_threshold={score_threshold!r}; expected a number or None")
        limit = settings.max_moments if max_moments is None else max_moments
        if not isinstance(limit, int) or limit < 1:
            raise ConfigError(f"max_moments={max_moments!r}; expected a number of at least 1")
        return Choice(nms_threshold, limit, score_threshold, max(limit, settings.max_moments))

    def _seconds(
        self, durations: Sequence[float | None], videos: Sequence[CheckedVideo]
    ) -> list[float]:
        """The duration of each prediction's video."""
        seconds = []
        for number, (video, given) in enumerate(zip(videos, durations, strict=True)):
            name = f"video of prediction {number}: " if len(videos) > 1 else ""
            self._inputs.duration(video, given, name)
            end = video.num_clips * self.config.clip_length
            # Of a video that is cut, moments end where the cut is.
            is_whole = video.num_clips == video.num_found
            seconds.append(end if given is None else float(given) if is_whole else min(given, end))
        return seconds

    def _warn_of_cut_queries(self, lengths: Sequence[int]) -> None:
        """Warns of queries of which only the first words are read."""
        limit = self.config.data.max_words
        longer = [length for length in lengths if length > limit]
        if longer:
            warnings.warn(
                f"{len(longer)} of {len(lengths)} queries have more than {limit} words, the "
                f"longest {max(longer)}, and were cut, as in training (config.data.max_words)",
                stacklevel=3,
            )

    def _predict(self, work: Work, choice: Choice) -> list[Prediction]:
        predictions: list[Prediction] = [None] * len(work.queries)
        for queries, found in self._batches.run(work, choice):
            for b, query in enumerate(queries):
                num_clips = work.videos[work.index[query]].num_clips
                best = np.zeros((0, 3), np.float32)
                if found.moments is not None:
                    best = _usable(found.moments[b], choice)
                predictions[query] = Prediction(
                    best,
                    found.saliency[b, :num_clips].copy(),
                    np.arange(num_clips) * self.config.clip_length,
                    found.moments is not None,
                )
        return predictions


def _usable(moments: np.ndarray, choice: Choice) -> np.ndarray:
    """The best moments [K, 3] of those found [N, 3]; padding is [0, 0, 0]."""
    kept = moments[:, 1] > moments[:, 0]
    if choice.nms_threshold is not None:
        kept &= moments[:, 2] > 0  # others were suppressed
    if choice.score_threshold is not None:
        kept &= moments[:, 2] >= choice.score_threshold
    return moments[kept][: choice.max_moments]


def _durations(
    duration: float | Sequence[float | None] | None, count: int
) -> Sequence[float | None]:
    """The duration given for each prediction's video."""
    if duration is None or np.ndim(duration) == 0:
        return [duration] * count
    if len(duration) != count:
        raise DataError(f"{len(duration)} durations for {count} predictions")
    return duration


def _warn_of_flat(video: CheckedVideo, name: str) -> None:
    """Warns of a video with features that are all zeros or the same in every row."""
    if video.flat:
        warnings.warn(
            f"{name}features are all zeros or the same in every row: {', '.join(video.flat)}",
            stacklevel=3,
        )


def _warn_of_cut(video: CheckedVideo) -> None:
    """Warns of a video of which only the first part is read."""
    if video.is_cut:
        warnings.warn(
            f"a video of {video.num_found} clips was cut to {video.num_clips}, as in training "
            "(config.data.max_clips); whole_videos=True reads all of it",
            stacklevel=3,
        )


def _check_params(model: FlashVTG, params: Any, widths: tuple[int, int]) -> None:
    """Raises ConfigError for parameters of another model."""
    expected = jax.eval_shape(lambda key: init_params(model, key, *widths), jax.random.key(0))

    def shapes(tree: Any) -> dict[str, list[int]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): list(np.shape(leaf)) for path, leaf in leaves}

    wanted, given = shapes(expected), shapes(params)
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise ConfigError(
                f"these parameters are not the model's: {name} should be "
                f"{wanted.get(name, 'absent')}, but is {given.get(name, 'absent')}"
            )


def _rounded(array: np.ndarray, decimals: int) -> list[Any]:
    """The rounded numbers as lists for JSON."""
    return np.round(array.astype(np.float64), decimals).tolist()

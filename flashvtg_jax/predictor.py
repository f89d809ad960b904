"""From raw features to moments and highlights: `Predictor`, for people and their programs."""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from flashvtg_jax.config import apply_overrides
from flashvtg_jax.data.annotations import num_video_clips
from flashvtg_jax.data.layout import lengths_agree
from flashvtg_jax.errors import ConfigError, DataError
from flashvtg_jax.models.flashvtg import FlashVTG, build_model
from flashvtg_jax.prediction_batches import CheckedVideo, Choice, PredictionBatches, Work
from flashvtg_jax.training.restoring import restore
from flashvtg_jax.training.state import feature_widths, init_params

Video = Mapping[str, np.ndarray] | np.ndarray | CheckedVideo


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to a query about a video of L clips.

    Attributes:
      moments: [K, 3] float32: start and end in seconds, score from 0 to 1; best first.
      saliency: [L] float32: how much each clip is a highlight for the query, not bounded.
      times: [L] float64: seconds at which each clip starts.
      has_moments: False for a model of highlights alone, whose `moments` are always [0, 3].
    """

    moments: np.ndarray
    saliency: np.ndarray
    times: np.ndarray
    has_moments: bool = True

    def to_dict(
        self, *, qid: int | str | None = None, query: str | None = None, vid: str | None = None
    ) -> dict[str, Any]:
        """The same in the format of the field, ready for JSON, as `flashvtg evaluate` writes it.

        Args:
          qid: id of the query; like the other two it is left out where it is None.
          query: the sentence.
          vid: id of the video.

        Returns:
          What was given, "pred_relevant_windows" (if the model has moments) and
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
      step: of the checkpoint; None where there is none.
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
        """Takes the parameters to the first device.

        Args:
          config: the whole configuration, as a checkpoint holds it.
          params: of its model.
          batch_size: queries answered at once, at most (fewer where videos are long); None:
            `config.evaluation.batch_size`.
          whole_videos: read clips beyond `config.data.max_clips`, too, and find moments beyond
            `config.evaluation.window_range`: for videos longer than those of training.
          step: that the parameters are of, for the record.

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
          duration: seconds of the video, where its moments end; None: those of all its clips. For
            lists, one number for all predictions, or a list with one for each.
          nms_threshold: moments that overlap a better one by this intersection over union or more
            are suppressed: their score becomes 0 (or lower, by `config.evaluation.nms_type`). None:
            none is. "config": as `config.evaluation.nms_threshold` says.
          max_moments: that are returned for a query, at most; None:
            `config.evaluation.max_moments`.
          score_threshold: moments with a lower score are left out; None: none is.

        Returns:
          A prediction; if a list was given, the list of predictions in its order.

        Raises:
          DataError: a stream that is missing or unknown, an array of another rank, width or type,
            without rows, with NaN or infinity; streams of one video, or video and duration, that
            differ in length by more than 10%; lists of different lengths.
          ConfigError: a threshold or a number of moments that cannot be.
        """
        choice = self.choice(nms_threshold, max_moments, score_threshold)
        many_videos, many_queries = (isinstance(x, list | tuple) for x in (video, query))
        videos = list(video) if many_videos else [video]
        queries = list(query) if many_queries else [query]
        if many_videos and many_queries and len(videos) != len(queries):
            raise DataError(
                f"{len(videos)} videos and {len(queries)} queries; give as many of both, or a "
                "single one of either"
            )
        places: dict[int, int] = {}  # by identity: equal arrays are not worth looking for
        checked, index = [], []
        for number, one in enumerate(videos):
            if id(one) not in places:
                places[id(one)] = len(checked)
                checked.append(self._check_video(one, f"video {number}: " if many_videos else ""))
                if checked[-1] is not one:  # what was cut by `check_video` is no surprise
                    _warn_of_cut(checked[-1])
            index.append(places[id(one)])
        words = [
            self._check_query(one, f"query {number}" if many_queries else "query")
            for number, one in enumerate(queries)
        ]
        count = len(index) if many_videos else len(words)
        if not many_videos:
            index *= count
        if not many_queries:
            words *= count
        seconds = self._seconds(duration, [checked[place] for place in index])
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
        checked = self._check_video(video, "")
        self._check_duration(checked, duration, "")
        return checked

    def check_query(self, query: np.ndarray) -> np.ndarray:
        """Checks the features of a query [Q, Dq] and cuts them to what is used of them.

        Raises:
          DataError: as a call does.
        """
        return self._check_query(query, "query")

    def warm_up(
        self,
        num_clips: int | Iterable[int],
        num_queries: int = 1,
        *,
        num_videos: int = 1,
        max_moments: int | None = None,
    ) -> None:
        """Compiles what calls of these sizes need, so that none of them waits for it.

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
        """What a call returns with these arguments, None and "config" resolved.

        Raises:
          ConfigError: a threshold or a number of moments that cannot be.
        """
        settings = self.config.evaluation
        if nms_threshold == "config":
            nms_threshold = settings.nms_threshold
        if nms_threshold is not None and not (_is_number(nms_threshold) and 0 < nms_threshold <= 1):
            raise ConfigError(
                f"nms_threshold={nms_threshold!r}; an intersection over union is above 0 and at "
                "most 1, and None turns suppression off"
            )
        if score_threshold is not None and not _is_number(score_threshold):
            raise ConfigError(f"score_threshold={score_threshold!r}; expected a number or None")
        limit = settings.max_moments if max_moments is None else max_moments
        if not isinstance(limit, int) or limit < 1:
            raise ConfigError(f"max_moments={max_moments!r}; expected a number of at least 1")
        return Choice(nms_threshold, limit, score_threshold, max(limit, settings.max_moments))

    def _check_video(self, video: Video, name: str) -> CheckedVideo:
        if isinstance(video, CheckedVideo):
            if not self._reads(video):
                raise DataError(f"{name}checked by the predictor of a model with other features")
            return video
        known = ", ".join(map(repr, self.streams))
        if not isinstance(video, Mapping):
            if len(self.streams) > 1:
                raise DataError(
                    f"{name}expected the features of each stream by name, {{NAME: array}}, of "
                    f"{known}; got {type(video).__name__}"
                )
            video = {next(iter(self.streams)): video}
        if missing := [stream for stream in self.streams if stream not in video]:
            raise DataError(
                f"{name}no stream {', '.join(map(repr, missing))}; the model reads {known}"
            )
        if unknown := [stream for stream in video if stream not in self.streams]:
            raise DataError(
                f"{name}unknown stream {', '.join(map(repr, unknown))}; the model reads {known}"
            )
        arrays = {
            stream: self._check_stream(f"{name}stream {stream!r}", video[stream], width)
            for stream, width in self.streams.items()
        }
        if self.spatial_tokens > 1 and not self._has_tokens(arrays.values()):
            raise DataError(
                f"{name}one token a clip in each stream, but the model was trained on "
                f"{self.spatial_tokens}"
            )
        lengths = {stream: len(array) for stream, array in arrays.items()}
        shortest, longest = min(lengths.values()), max(lengths.values())
        if not lengths_agree(shortest, longest, clips=1):  # as `flashvtg build` checks it
            shown = ", ".join(f"{stream!r} has {n} clips" for stream, n in lengths.items())
            raise DataError(
                f"{name}streams of one video differ in length by more than 10%: {shown}; they "
                "were extracted at different clip lengths, or one is cut short"
            )
        used = min(shortest, self.config.data.max_clips or shortest)
        # Copied where cut, so that the rest can be freed.
        cut = (array if len(array) == used else array[:used].copy() for array in arrays.values())
        return CheckedVideo(tuple(cut), shortest)

    def _check_stream(self, name: str, value: Any, width: int) -> np.ndarray:
        """A stream as data sets hold it: [L, width], or [L, S * width]. Raises DataError."""
        array, tokens = np.asarray(value), self.spatial_tokens
        if tokens == 1:
            return _checked_array(name, array, "clips", width)
        if array.ndim == 3:
            if array.shape[1:] != (tokens, width):
                raise DataError(
                    f"{name}: expected an array [clips, {tokens}, {width}], got shape "
                    f"{list(array.shape)}"
                )
            array = array.reshape(len(array), tokens * width)
        one = array.ndim == 2 and array.shape[1] == width
        return _checked_array(name, array, "clips", width if one else tokens * width)

    def _has_tokens(self, streams: Iterable[np.ndarray]) -> bool:
        pairs = zip(streams, self.streams.values(), strict=True)
        return any(stream.shape[1] == self.spatial_tokens * width for stream, width in pairs)

    def _reads(self, video: CheckedVideo) -> bool:
        """Whether a checked video has the streams that the model reads."""
        widths = self.streams.values()
        return (
            len(video.streams) == len(widths)
            and all(
                stream.shape[1] in (width, self.spatial_tokens * width)
                for stream, width in zip(video.streams, widths, strict=True)
            )
            and self._has_tokens(video.streams)
        )

    def _check_query(self, query: np.ndarray, name: str) -> np.ndarray:
        words = _checked_array(name, query, "words", self.query_width)
        return words[: self.config.data.max_words]

    def _check_duration(self, video: CheckedVideo, duration: float | None, name: str) -> None:
        if duration is None:
            return
        if not (_is_number(duration) and 0 < duration < math.inf):
            raise DataError(f"{name}duration {duration!r}; expected the seconds of the video")
        if not self.config.loss.regression:
            return  # nothing is measured in seconds; clips of these data sets count, not durations
        clip_length = self.config.clip_length
        expected = num_video_clips(float(duration), clip_length)
        if not lengths_agree(video.num_found, expected):
            raise DataError(
                f"{name}the features have {video.num_found} clips, but {duration:g} s have "
                f"{expected} of {clip_length:g} s; extracted at another clip length, or cut short?"
            )

    def _seconds(
        self, duration: float | Sequence[float | None] | None, videos: Sequence[CheckedVideo]
    ) -> list[float]:
        """The duration of each prediction's video."""
        if duration is None or np.ndim(duration) == 0:
            duration = [duration] * len(videos)
        if len(duration) != len(videos):
            raise DataError(f"{len(duration)} durations for {len(videos)} predictions")
        seconds = []
        for number, (video, given) in enumerate(zip(videos, duration, strict=True)):
            name = f"video of prediction {number}: " if len(videos) > 1 else ""
            self._check_duration(video, given, name)
            whole = video.num_found * self.config.clip_length
            seconds.append(whole if given is None else float(given))
        return seconds

    def _predict(self, work: Work, choice: Choice) -> list[Prediction]:
        predictions: list[Prediction] = [None] * len(work.queries)
        for queries, found in self._batches.run(work, choice):
            for b, query in enumerate(queries):
                num_clips = work.videos[work.index[query]].num_clips
                best = np.zeros((0, 3), np.float32)
                if found.moments is not None:
                    # Suppressed ones score 0 as padding does, but padding sorts behind them.
                    best = found.moments[b, : min(int(found.num_moments[b]), choice.max_moments)]
                if choice.score_threshold is not None:
                    best = best[best[:, 2] >= choice.score_threshold]
                predictions[query] = Prediction(
                    best.copy(),  # or each prediction would keep its batch
                    found.saliency[b, :num_clips].copy(),
                    np.arange(num_clips) * self.config.clip_length,
                    found.moments is not None,
                )
        return predictions


def _checked_array(name: str, value: Any, rows: str, width: int) -> np.ndarray:
    """An array [rows, width] of finite numbers. Raises DataError if it is none."""
    array = np.asarray(value)
    if array.dtype == jnp.bfloat16:  # to numpy that is no float
        array = array.astype(np.float32)
    if array.ndim != 2:
        shape = list(array.shape)
        raise DataError(f"{name}: expected an array [{rows}, {width}], got shape {shape}")
    if array.dtype.kind != "f":
        raise DataError(f"{name}: expected floating-point numbers, got {array.dtype}")
    if array.shape[1] != width:
        raise DataError(
            f"{name}: expected width {width}, got {array.shape[1]}: features of another backbone?"
        )
    if not len(array):
        raise DataError(f"{name}: no {rows}, shape {list(array.shape)}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32))  # the model computes in it
    if not finite.all():
        bad = np.flatnonzero(~finite.all(axis=1))
        raise DataError(
            f"{name}: NaN or infinity in {bad.size} of {len(array)} {rows} (first: {bad[0]})"
        )
    return array


def _warn_of_cut(video: CheckedVideo) -> None:
    """Warns of a video that is much longer than what is read of it."""
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


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating)
    try:
        return number and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def _rounded(array: np.ndarray, decimals: int) -> list[Any]:
    """Numbers as JSON will show them."""
    return np.round(array.astype(np.float64), decimals).tolist()

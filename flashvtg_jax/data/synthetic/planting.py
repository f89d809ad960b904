"""Makes random features with moments planted in them.

Every query has a topic, a direction in a space of 16 dimensions. A fixed random map adds the topic
to the query's words, and another map for each stream adds it to the clips of the query's moments,
scaled by their ratings. All clips also contain a direction of their video, one of their scene, and
noise. Half of the other scenes have topics of their own, so that the query is needed to find the
right scene. The maps, which are what can be learned, are the same for all queries.

In data sets with domains, all clips of a video contain the topic of its query. Its highlights also
contain a topic that all videos of the domain share and that the words do not have: four videos are
enough to learn the highlights of a domain, and which query is about which video.

If clips have several spatial tokens, all of them contain the directions of video and scene. The
topic of a clip is in one token, which changes from clip to clip and is the same in all streams.
"""

import dataclasses
import functools
import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashvtg_jax.clips import num_video_clips
from flashvtg_jax.data.build.glove import split_words

_TOPIC_DIMENSIONS = 16
_ROW_NORM = 10.0  # released features carry norms around 10
_MAX_WORDS = 77  # of CLIP's text encoder, with the tokens of start and end

# Sizes relative to the noise, which has norm 1.
_VIDEO_SIZE = 0.7
_SCENE_SIZE = 0.5
_COMMON_WORD_SIZE = 0.5

_MEAN_SCENE_CLIPS = 8
_SHARE_OF_SCENES_WITH_TOPIC = 0.5
_RELEVANCE_OF_UNRATED = 0.8
_LOWEST_RELEVANCE = 0.4  # of a clip of a moment that is rated 0

# Words that occur in any sentence have little of its topic.
_COMMON_WORDS = (
    "a an and are as at be by for from he her his in into is it its of off on onto out over person "
    "she some somebody someone that the their them then there they this to up while with"
)
_SHARE_OF_COMMON_WORDS = 0.1


@dataclasses.dataclass(frozen=True)
class Planting:
    """The fixed maps of one synthetic data set.

    Attributes:
      seed: of the maps and of everything else that is random.
      strength: size of the topics relative to the noise; 0 plants nothing.
      clip_length: seconds.
      topics: what determines the topic of a query, if there are no domains. "query": the query
        itself; no two have the same. "windows": the video and the windows, for data sets that
        describe each moment many times (TACoS). "words": the topic is the mean of those of its
        words, for word vectors, which do not depend on the sentence.
    """

    seed: int
    strength: float
    clip_length: float
    topics: str = "query"

    def num_clips(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Returns the number of clips, L, of the video of these annotation lines."""
        return max(
            len(row["label"])
            if row.get("label")
            else num_video_clips(row["duration"], self.clip_length)
            for row in rows
        )

    def words(self, row: Mapping[str, Any], width: int) -> np.ndarray:
        """Returns the features of a query's words, with start and end, [Q, width] float16."""
        rng = self._rng("words", row["qid"], row["query"])
        num_words = min(len(row["query"].split()) + 2, _MAX_WORDS)
        share = rng.uniform(0.5, 1.5, num_words)
        share[0] = 0.0  # the start precedes all words, so it has no topic
        features = self._noise(rng, num_words, width)
        features += _COMMON_WORD_SIZE * self._direction("common word", "", width)
        topics = (self.strength * share[:, None] * self._topic(row)).astype(np.float32)
        features += topics @ self._map("query", width)
        return _scaled(features, 1.0 + _COMMON_WORD_SIZE**2)

    def word(self, word: str, width: int) -> np.ndarray:
        """Returns the vector of a word [width] float16, which is the same in all queries."""
        features = self._noise(self._rng("word", word), 1, width)
        features += _COMMON_WORD_SIZE * self._direction("common word", "", width)
        topic = (self.strength * self._word_topic(word)).astype(np.float32)
        features += topic @ self._map("query", width)
        return _scaled(features, 1.0 + _COMMON_WORD_SIZE**2)[0]

    def clips(
        self,
        rows: Sequence[Mapping[str, Any]],
        widths: Mapping[str, int],
        spatial_tokens: int = 1,
    ) -> dict[str, np.ndarray]:
        """Returns the clip features of a video, float16 for each stream.

        Args:
          rows: all annotation lines about the video.
          widths: features a clip, or a token, by name of the stream.
          spatial_tokens: S, of each clip.

        Returns:
          [L, width] for each stream; [L, S, width] if S is above 1.
        """
        vid = rows[0]["vid"]
        topics, scene_of = self._storyline(rows)
        places = self.places(rows, spatial_tokens)
        streams = {}
        for stream, width in widths.items():
            scenes = self._noise(self._rng("scenes", vid, stream), scene_of[-1] + 1, width)
            rng = self._rng("clips", vid, stream)
            features = self._noise(rng, len(scene_of) * spatial_tokens, width)
            features += _VIDEO_SIZE * self._direction("video", f"{vid} {stream}", width)
            features = features.reshape(len(scene_of), spatial_tokens, width)
            features += (_SCENE_SIZE * scenes[scene_of])[:, None]
            features[np.arange(len(scene_of)), places] += topics @ self._map(stream, width)
            features = _scaled(features, 1.0 + _VIDEO_SIZE**2 + _SCENE_SIZE**2)
            streams[stream] = features[:, 0] if spatial_tokens == 1 else features
        return streams

    def places(self, rows: Sequence[Mapping[str, Any]], spatial_tokens: int) -> np.ndarray:
        """Returns, for each clip of a video, the index of the token with its topic [L]."""
        rng = self._rng("places", rows[0]["vid"], spatial_tokens)
        return rng.integers(spatial_tokens, size=self.num_clips(rows))

    def _storyline(self, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns topic times strength of each clip [L, T], and the scene of each clip [L]."""
        num_clips = self.num_clips(rows)
        relevance = np.stack([relevance_of(row, num_clips, self.clip_length) for row in rows])
        rng = self._rng("storyline", rows[0]["vid"])
        cuts = rng.random(num_clips) < 1.0 / _MEAN_SCENE_CLIPS
        shown = relevance > 0
        cuts[1:] |= (shown[:, 1:] != shown[:, :-1]).any(axis=0)
        cuts[0] = False
        scene_of = np.cumsum(cuts)
        topics = relevance.T @ np.stack([self._shown_topic(row) for row in rows])
        other = _unit(rng.standard_normal((scene_of[-1] + 1, _TOPIC_DIMENSIONS)))
        other *= rng.uniform(_LOWEST_RELEVANCE, 1.0, (len(other), 1))
        other *= rng.random((len(other), 1)) < _SHARE_OF_SCENES_WITH_TOPIC
        if rows[0].get("domain"):
            topics += np.mean([self._topic(row) for row in rows], axis=0)
        else:
            topics += other[scene_of] * ~shown.any(axis=0)[:, None]
        return (self.strength * topics).astype(np.float32), scene_of

    def topic_name(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns a name for the topic of a query; queries with the same name share it."""
        if row.get("domain"):
            return ("domain", row["domain"], row["query"])  # YouTube Highlights: "dog" for all
        if self.topics == "words":
            return ("words", *split_words(row["query"]))
        if self.topics == "windows" and row.get("relevant_windows"):
            return ("windows", row["vid"], json.dumps(row["relevant_windows"]))
        return (str(row["qid"]), row["query"])

    def _shown_topic(self, row: Mapping[str, Any]) -> np.ndarray:
        """Returns the direction [T] that relevant clips have and others do not."""
        if row.get("domain"):
            return self._random_topic("highlights", row["domain"])
        return self._topic(row)

    def _topic(self, row: Mapping[str, Any]) -> np.ndarray:
        """Returns the topic of a query [T]."""
        if self.topics == "words" and not row.get("domain"):
            words = split_words(row["query"])
            return _unit(np.sum([self._word_topic(word) for word in words], axis=0))
        return self._random_topic(*self.topic_name(row))

    def _word_topic(self, word: str) -> np.ndarray:
        """Returns the contribution of a word to the topic of its query [T]."""
        bare = word.strip(string.punctuation) or word  # the last word has a full stop
        share = _SHARE_OF_COMMON_WORDS if bare in _COMMON_WORDS.split() else 1.0
        return share * self._random_topic("word", bare)

    def _random_topic(self, *name: str) -> np.ndarray:
        return _unit(self._rng("topic", *name).standard_normal(_TOPIC_DIMENSIONS))

    @functools.lru_cache(maxsize=16)  # noqa: B019 (a planting lives as long as its run)
    def _map(self, name: str, width: int) -> np.ndarray:
        """Returns the map of topics into features [T, width]; it preserves norms on average."""
        rng = self._rng("map", name, width)
        matrix = rng.standard_normal((_TOPIC_DIMENSIONS, width), np.float32)
        return matrix / np.float32(np.sqrt(width))

    def _direction(self, kind: str, name: str, width: int) -> np.ndarray:
        return _unit(self._rng(kind, name).standard_normal(width, np.float32))

    @staticmethod
    def _noise(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
        return rng.standard_normal((rows, width), np.float32) / np.float32(np.sqrt(width))

    def _rng(self, *names: object) -> np.random.Generator:
        """Returns the generator for a name."""
        text = "\0".join(map(str, (self.seed, *names)))
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))


def relevance_of(row: Mapping[str, Any], num_clips: int, clip_length: float) -> np.ndarray:
    """Returns the relevance of each clip for a query [L], from 0 to 1.

    It is the share of the clip inside the windows, times 0.4 to 1 by its ratings if there are any;
    with `label`, the mean rating scaled to 0 to 1.

    Args:
      row: annotation line.
      num_clips: L.
      clip_length: seconds.
    """
    if row.get("label"):
        ratings = np.asarray(row["label"], float).mean(axis=1)
        # Ratings go from 1 to 5, or are 0 and 1.
        levels = (ratings - 1.0) / 4.0 if np.max(row["label"]) > 1 else ratings
        return np.pad(levels, (0, num_clips - len(levels)))
    start = np.arange(num_clips) * clip_length
    inside = np.zeros(num_clips)
    for low, high in row.get("relevant_windows") or ():
        inside += np.clip(np.minimum(high, start + clip_length) - np.maximum(low, start), 0, None)
    level = np.full(num_clips, _RELEVANCE_OF_UNRATED)
    clip_ids = np.asarray(row.get("relevant_clip_ids") or (), int)
    if clip_ids.size:
        rated = np.minimum(clip_ids, num_clips - 1)
        ratings = np.asarray(row["saliency_scores"], float).mean(axis=1)
        level[rated] = _LOWEST_RELEVANCE + (1.0 - _LOWEST_RELEVANCE) * np.minimum(
            ratings / 4.0, 1.0
        )
    return np.minimum(inside / clip_length, 1.0) * level


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _scaled(features: np.ndarray, mean_square: float) -> np.ndarray:
    return (features * (_ROW_NORM / np.sqrt(mean_square))).astype(np.float16)

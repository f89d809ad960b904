"""FlashVTG: from features of a video and a query to scored moments and highlights."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.model_checks import check_model
from flashvtg_jax.models.boundary import BoundaryHead
from flashvtg_jax.models.fusion import AdaptiveCrossAttention, ClipEncoder, DummyEncoder
from flashvtg_jax.models.layers import (
    AttentionPooling,
    Dtype,
    InputProjection,
    sine_positions,
    temporal_endpoints,
)
from flashvtg_jax.models.moment_queries import MomentQueries
from flashvtg_jax.models.negatives import negative_rows, stack_rows, take_rows, unstack_rows
from flashvtg_jax.models.output import FlashVTGOutput
from flashvtg_jax.models.pyramid import TemporalFeatureLayering, make_point_mask, make_points
from flashvtg_jax.models.saliency import SaliencyHead
from flashvtg_jax.models.score_refinement import AdaptiveScoreRefinement
from flashvtg_jax.models.spatial_pooling import SpatialPooling

MOMENT_HEADS = ("pyramid", "queries")


class FlashVTG(nn.Module):
    """Moment retrieval and highlight detection in one pass (FlashVTG, WACV 2025).

    Results of a sample never depend on padding: not on the batch, nor on the padded length. Masks
    are True for a prefix of valid positions. Raises AssertionError for arrays of other ranks or
    lengths that disagree.
    """

    hidden_dim: int = 256  # D
    num_heads: int = 8
    ffn_dim: int = 1024
    n_input_proj: int = 2  # blocks of the input projections
    t2v_layers: int = 6  # of adaptive cross attention
    enc_layers: int = 3  # of the clip encoder
    dummy_layers: int = 2
    num_dummies: int = 40  # 0: none
    strides: Sequence[float] = (1, 2, 4, 8)  # of the pyramid, in clips
    kernel_size: int = 5  # of the score heads
    num_conv_layers: int = 1
    num_mlp_layers: int = 5
    score_refinement: str = "learned"  # mix of the score heads; or "fixed", "intra", "inter"
    moment_head: str = "pyramid"  # what proposes moments; or "queries": see `MomentQueries`
    num_moment_queries: int = 10
    decoder_layers: int = 2
    spatial_tokens: int = 1  # S, of each clip
    input_dropout: float = 0.5
    dropout: float = 0.1  # of attention and feed-forward layers
    drop_path: float = 0.1  # stochastic depth, per sample
    dummy_dropout: float = 0.1  # the same two, of the dummy encoder
    dummy_drop_path: float = 0.1
    dtype: Dtype = "float32"  # of matrix products; "bfloat16" for speed
    attention_window: int | None = None  # clips to either side that a clip attends to; None: all
    attention_kernel: str = "xla"  # of the attention among clips; "cudnn": see configs/common.py

    def setup(self) -> None:
        if self.moment_head not in MOMENT_HEADS:
            known = ", ".join(MOMENT_HEADS)
            raise ValueError(f"moment_head={self.moment_head!r} is not one of {known}")
        projection = (self.hidden_dim, self.n_input_proj, self.input_dropout, self.dtype)
        self.video_projection = InputProjection(*projection)
        self.query_projection = InputProjection(*projection)
        init = nn.initializers.normal(0.02)
        self.token_types = self.param("token_types", init, (2, self.hidden_dim), jnp.float32)
        block = (self.num_heads, self.ffn_dim)
        self.dummy_encoder = DummyEncoder(
            self.num_dummies,
            self.dummy_layers,
            *block,
            self.dummy_dropout,
            self.dummy_drop_path,
            self.dtype,
        )
        rates = (self.dropout, self.drop_path, self.dtype)
        self.cross_attention = AdaptiveCrossAttention(self.t2v_layers, *block, *rates)
        attention = (self.attention_window, self.attention_kernel)
        self.clip_encoder = ClipEncoder(self.enc_layers, *block, *rates, *attention)
        self.saliency_head = SaliencyHead(self.dtype)
        self.query_pooling = AttentionPooling()
        if self.spatial_tokens > 1:
            self.spatial_pooling = SpatialPooling(self.dtype)
        if self.moment_head == "queries":
            self.moment_queries = MomentQueries(
                self.num_moment_queries, self.decoder_layers, *block, *rates
            )
        else:
            self.pyramid = TemporalFeatureLayering(self.strides, self.dtype)
            self.refinement = AdaptiveScoreRefinement(
                self.kernel_size,
                self.num_conv_layers,
                self.num_mlp_layers,
                self.dtype,
                self.score_refinement,
                name="score_refinement",
            )
            self.boundary_head = BoundaryHead(len(self.strides), self.dtype)

    def project_video(
        self, video: chex.Array, video_mask: chex.Array, *, train: bool = False
    ) -> chex.Array:
        """Features [B, L, Dv] -> clips [B, L, D]: the part that no query changes.

        Of S > 1 spatial tokens: [B, L, S, Dv] -> [B, L, S, D], for `fuse` to make clips of.
        """
        endpoints = temporal_endpoints(video_mask).astype(video.dtype)
        if self.spatial_tokens > 1:
            shape = (*video.shape[:3], endpoints.shape[-1])
            endpoints = jnp.broadcast_to(endpoints[:, :, None], shape)
        clips = self.video_projection(jnp.concatenate([video, endpoints], -1), train=train)
        return clips + self.token_types[1].astype(clips.dtype)

    def project_query(
        self, query: chex.Array, query_mask: chex.Array, *, train: bool = False
    ) -> tuple[chex.Array, chex.Array]:
        """Word features [B, Q, Dq] -> words [B, Q, D] and dummy keys [B, N, D]: no video needed."""
        words = self.query_projection(query, train=train)
        words = words + self.token_types[0].astype(words.dtype)
        if not self.num_dummies:
            return words, jnp.zeros((words.shape[0], 0, self.hidden_dim), words.dtype)
        return words, self.dummy_encoder(words, query_mask, train=train)

    def fuse(
        self,
        clips: chex.Array,
        video_mask: chex.Array,
        words: chex.Array,
        query_mask: chex.Array,
        dummy_keys: chex.Array,
        *,
        train: bool = False,
    ) -> tuple[chex.Array, chex.Array, chex.Array]:
        """Clips read the query.

        Args:
          clips: [B, L, D], or [B, L, S, D] of S > 1 spatial tokens, and
          video_mask: [B, L] bool, from `project_video`.
          words: [B, Q, D],
          query_mask: [B, Q] bool, and
          dummy_keys: [B, N, D], from `project_query`.
          train: whether layers drop what they do in training.

        Returns:
          memory [B, L, D], saliency [B, L] and query_attention [B, L].
        """
        if self.spatial_tokens > 1:
            clips = self.spatial_pooling(clips, self.query_pooling(words, query_mask))
        positions = sine_positions(video_mask, self.hidden_dim).astype(clips.dtype)
        clips, query_attention = self.cross_attention(
            clips, positions, words, query_mask, dummy_keys, train=train
        )
        clips = self.clip_encoder(clips, positions, video_mask, train=train)
        saliency = self.saliency_head(clips, video_mask)
        return nn.relu(clips), saliency, jnp.where(video_mask, query_attention, 0)

    def __call__(
        self,
        video: chex.Array,
        video_mask: chex.Array,
        query: chex.Array,
        query_mask: chex.Array,
        *,
        train: bool = False,
        with_negatives: bool = False,
    ) -> FlashVTGOutput:
        """Score moments and clips of each video for its query.

        Args:
          video: [B, L, Dv] normalised features, without temporal endpoints (added here); or
            [B, L, S, Dv] with the S = `spatial_tokens` places of each clip.
          video_mask: [B, L] bool.
          query: [B, Q, Dq] word features.
          query_mask: [B, Q] bool.
          train: dropout and stochastic depth act; needs `rngs={"dropout": key}`.
          with_negatives: also score each video against another query of the batch.
        """
        spatial = self.spatial_tokens > 1
        chex.assert_rank(
            [video, video_mask, query, query_mask], [4 if spatial else {3, 4}, 2, 3, 2]
        )
        if video.ndim == 4:
            chex.assert_axis_dimension(video, 2, self.spatial_tokens)
            video = video if spatial else video[:, :, 0]
        chex.assert_equal_shape_prefix([video, video_mask], 2)
        chex.assert_equal_shape_prefix([query, query_mask], 2)
        chex.assert_equal_shape_prefix([video, query], 1)
        chex.assert_type([video_mask, query_mask], bool)
        video_mask, query_mask = jnp.asarray(video_mask), jnp.asarray(query_mask)  # numpy is fine

        clips = self.project_video(video, video_mask, train=train)
        words, dummy_keys = self.project_query(query, query_mask, train=train)

        fused = (clips, video_mask, words, query_mask, dummy_keys)
        negatives = {}
        if with_negatives:
            row_mask = video_mask.any(-1)
            index = negative_rows(row_mask)
            negative_query = take_rows((words, query_mask, dummy_keys), index, row_mask)
            other = (clips, video_mask, *negative_query)
            fused = [stack_rows(*pair) for pair in zip(fused, other, strict=True)]
        memory, saliency, query_attention = self.fuse(*fused, train=train)
        if with_negatives:
            memory, _ = unstack_rows(memory)
            saliency, negative_saliency = unstack_rows(saliency)
            query_attention, negative_query_attention = unstack_rows(query_attention)
            negatives = {
                "negative_saliency": negative_saliency,
                "negative_query_attention": negative_query_attention,
                "negative_index": index,
            }

        if self.moment_head == "queries":
            proposals = self._query_moments(memory, video_mask, train=train)
        else:
            proposals = self._score_points(memory, video_mask)
        return FlashVTGOutput(
            memory=memory,
            query_embedding=self.query_pooling(words, query_mask),
            saliency=saliency,
            query_attention=query_attention,
            video_mask=video_mask,
            **proposals,
            **negatives,
        )

    def _score_points(self, memory: chex.Array, video_mask: chex.Array) -> dict[str, chex.Array]:
        """The points of the pyramid: the fields of the output that are about moments."""
        levels = self.pyramid(memory)
        masks = make_point_mask(video_mask, self.strides)
        logits, intra, inter = self.refinement(levels, masks)
        return {
            "intra_scale_logits": intra,
            "inter_scale_logits": inter,
            "logits": logits,
            "offsets": self.boundary_head(levels, masks),
            "points": make_points(memory.shape[1], self.strides),
            "point_mask": jnp.concatenate(masks, axis=1),
        }

    def _query_moments(
        self, memory: chex.Array, video_mask: chex.Array, *, train: bool
    ) -> dict[str, chex.Array]:
        """The moments of the queries, as points that all lie at clip 0: the same fields."""
        positions = sine_positions(video_mask, self.hidden_dim)
        logits, windows = self.moment_queries(memory, positions, video_mask, train=train)
        offsets = windows * jnp.array([-1.0, 1.0])
        point = jnp.array([0.0, 0.0, math.inf, 1.0], jnp.float32)
        valid = video_mask.any(-1, keepdims=True)
        return {
            "intra_scale_logits": None,
            "inter_scale_logits": None,
            "logits": logits[:, -1],
            "offsets": offsets[:, -1],
            "points": jnp.broadcast_to(point, (self.num_moment_queries, 4)),
            "point_mask": jnp.broadcast_to(valid, (valid.shape[0], self.num_moment_queries)),
            "auxiliary_logits": logits[:, :-1],
            "auxiliary_offsets": offsets[:, :-1],
        }


def build_model(config: Mapping[str, Any]) -> FlashVTG:
    """The model of a configuration's `model` section.

    Raises ConfigError for a field that the model does not have, or values that do not fit together.
    """
    fields = {field.name for field in dataclasses.fields(FlashVTG)} - {"parent", "name"}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in dict(config).items()}
    unknown = sorted(values.keys() - fields)
    if unknown:
        raise ConfigError(
            f"config.model has no field {', '.join(unknown)}; it has {sorted(fields)}"
        )
    model = FlashVTG(**values)
    check_model({name: getattr(model, name) for name in fields})
    return model

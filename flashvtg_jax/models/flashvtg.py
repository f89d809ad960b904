"""FlashVTG: from features of a video and a query to scored moments and highlights."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
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
from flashvtg_jax.typing import Array, Bool, Float


class FlashVTG(nn.Module, kw_only=True):
    """Moment retrieval and highlight detection in one pass (FlashVTG, WACV 2025).

    Results of a sample never depend on padding: not on the batch, nor on the padded length. Masks
    are True for a prefix of valid positions. Raises AssertionError for arrays of other ranks or
    lengths that disagree.
    """

    hidden_dim: int  # D
    num_heads: int
    ffn_dim: int
    n_input_proj: int  # blocks of the input projections
    t2v_layers: int  # of adaptive cross attention
    enc_layers: int  # of the clip encoder
    dummy_layers: int
    num_dummies: int  # 0: none
    strides: Sequence[float]  # of the pyramid, in clips
    kernel_size: int  # of the score heads
    num_conv_layers: int
    num_mlp_layers: int
    score_refinement: str  # mix of the score heads; or "fixed", "intra", "inter"
    moment_head: str  # what proposes moments; or "queries": see `MomentQueries`
    num_moment_queries: int
    decoder_layers: int
    spatial_tokens: int  # S, of each clip
    input_dropout: float
    dropout: float  # of attention and feed-forward layers
    drop_path: float  # stochastic depth, per sample
    dummy_dropout: float  # the same two, of the dummy encoder
    dummy_drop_path: float
    dtype: Dtype  # of matrix products; "bfloat16" for speed
    attention_window: int | None  # clips to either side that a clip attends to; None: all
    attention_kernel: str  # of the attention among clips: "xla", or "cudnn"

    def setup(self) -> None:
        projection = partial(
            InputProjection,
            hidden_dim=self.hidden_dim,
            num_layers=self.n_input_proj,
            input_dropout=self.input_dropout,
            dtype=self.dtype,
        )
        block = {"num_heads": self.num_heads, "ffn_dim": self.ffn_dim, "dtype": self.dtype}
        rates = {"dropout": self.dropout, "drop_path": self.drop_path}
        self.video_projection = projection()
        self.query_projection = projection()
        init = nn.initializers.normal(0.02)
        self.token_types = self.param("token_types", init, (2, self.hidden_dim), jnp.float32)
        self.dummy_encoder = DummyEncoder(
            num_dummies=self.num_dummies,
            num_layers=self.dummy_layers,
            dropout=self.dummy_dropout,
            drop_path=self.dummy_drop_path,
            **block,
        )
        self.cross_attention = AdaptiveCrossAttention(num_layers=self.t2v_layers, **block, **rates)
        self.clip_encoder = ClipEncoder(
            num_layers=self.enc_layers,
            attention_window=self.attention_window,
            attention_kernel=self.attention_kernel,
            **block,
            **rates,
        )
        self.saliency_head = SaliencyHead(dtype=self.dtype)
        self.query_pooling = AttentionPooling()
        if self.spatial_tokens > 1:
            self.spatial_pooling = SpatialPooling(dtype=self.dtype)
        if self.moment_head == "queries":
            self.moment_queries = MomentQueries(
                num_queries=self.num_moment_queries,
                num_layers=self.decoder_layers,
                **block,
                **rates,
            )
        else:
            self.pyramid = TemporalFeatureLayering(strides=self.strides, dtype=self.dtype)
            self.refinement = AdaptiveScoreRefinement(
                kernel_size=self.kernel_size,
                num_conv_layers=self.num_conv_layers,
                num_mlp_layers=self.num_mlp_layers,
                mix=self.score_refinement,
                dtype=self.dtype,
                name="score_refinement",
            )
            self.boundary_head = BoundaryHead(num_levels=len(self.strides), dtype=self.dtype)

    def project_video(
        self,
        video: Float[Array, "B L *S Dv"],
        video_mask: Bool[Array, "B L"],
        *,
        train: bool = False,
    ) -> Float[Array, "B L *S D"]:
        """Features [B, L, Dv] -> clips [B, L, D], independent of the query.

        With S > 1 spatial tokens [B, L, S, Dv] -> [B, L, S, D], which `fuse` pools.
        """
        endpoints = temporal_endpoints(video_mask).astype(video.dtype)
        if self.spatial_tokens > 1:
            shape = (*video.shape[:3], endpoints.shape[-1])
            endpoints = jnp.broadcast_to(endpoints[:, :, None], shape)
        clips = self.video_projection(jnp.concatenate([video, endpoints], -1), train=train)
        return clips + self.token_types[1].astype(clips.dtype)

    def project_query(
        self, query: Float[Array, "B Q Dq"], query_mask: Bool[Array, "B Q"], *, train: bool = False
    ) -> tuple[Float[Array, "B Q D"], Float[Array, "B N D"]]:
        """Word features -> words [B, Q, D] and dummy keys [B, N, D], independent of the video."""
        words = self.query_projection(query, train=train)
        words = words + self.token_types[0].astype(words.dtype)
        if not self.num_dummies:
            return words, jnp.zeros((words.shape[0], 0, self.hidden_dim), words.dtype)
        return words, self.dummy_encoder(words, query_mask, train=train)

    def fuse(
        self,
        clips: Float[Array, "B L *S D"],
        video_mask: Bool[Array, "B L"],
        words: Float[Array, "B Q D"],
        query_mask: Bool[Array, "B Q"],
        dummy_keys: Float[Array, "B N D"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L"], Float[Array, "B L"]]:
        """Clips read the query.

        Args:
          clips: [B, L, D], or [B, L, S, D] of S > 1 spatial tokens, and
          video_mask: [B, L] bool, from `project_video`.
          words: [B, Q, D],
          query_mask: [B, Q] bool, and
          dummy_keys: [B, N, D], from `project_query`.
          train: whether dropout and stochastic depth act.

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
        video: Float[Array, "B L *S Dv"],
        video_mask: Bool[Array, "B L"],
        query: Float[Array, "B Q Dq"],
        query_mask: Bool[Array, "B Q"],
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

    def _score_points(
        self, memory: Float[Array, "B L D"], video_mask: Bool[Array, "B L"]
    ) -> dict[str, Array | None]:
        """The output's fields about moments, from the points of the pyramid."""
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
        self, memory: Float[Array, "B L D"], video_mask: Bool[Array, "B L"], *, train: bool
    ) -> dict[str, Array | None]:
        """The same fields from the moment queries, as points that are all at clip 0."""
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


def build_model(config: Any) -> FlashVTG:
    """The model of a configuration's `model` section, a ConfigDict or a dict.

    Raises ConfigError for a field that is missing or that the model does not have, and for values
    that do not fit together.
    """
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in dict(config).items()}
    fields = {field.name for field in dataclasses.fields(FlashVTG)} - {"parent", "name"}
    if unknown := sorted(values.keys() - fields):
        raise ConfigError(
            f"config.model has no field {', '.join(unknown)}; it has {sorted(fields)}"
        )
    if missing := sorted(fields - values.keys()):
        raise ConfigError(f"config.model lacks {', '.join(missing)}; see configs/common.py")
    check_model(values)
    return FlashVTG(**values)

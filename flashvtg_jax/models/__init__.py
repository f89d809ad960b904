"""The paper's components, one file each; plain linen modules that can be used alone."""

from flashvtg_jax.models.boundary import BoundaryHead as BoundaryHead
from flashvtg_jax.models.flashvtg import FlashVTG as FlashVTG
from flashvtg_jax.models.flashvtg import build_model as build_model
from flashvtg_jax.models.fusion import AdaptiveCrossAttention as AdaptiveCrossAttention
from flashvtg_jax.models.fusion import ClipEncoder as ClipEncoder
from flashvtg_jax.models.fusion import DummyEncoder as DummyEncoder
from flashvtg_jax.models.init import init_params as init_params
from flashvtg_jax.models.moment_queries import MomentQueries as MomentQueries
from flashvtg_jax.models.output import FlashVTGOutput as FlashVTGOutput
from flashvtg_jax.models.pyramid import TemporalFeatureLayering as TemporalFeatureLayering
from flashvtg_jax.models.pyramid import make_point_mask as make_point_mask
from flashvtg_jax.models.pyramid import make_points as make_points
from flashvtg_jax.models.saliency import SaliencyHead as SaliencyHead
from flashvtg_jax.models.score_refinement import (
    AdaptiveScoreRefinement as AdaptiveScoreRefinement,
)
from flashvtg_jax.models.spatial_pooling import SpatialPooling as SpatialPooling

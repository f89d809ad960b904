"""The training objective: pure functions from the model's output and the targets to scalars."""

from flashvtg_jax.losses.alignment import alignment_loss as alignment_loss
from flashvtg_jax.losses.assignment import assign_points as assign_points
from flashvtg_jax.losses.clip_aware import clip_aware_loss as clip_aware_loss
from flashvtg_jax.losses.matching import match_queries as match_queries
from flashvtg_jax.losses.matching import matched_losses as matched_losses
from flashvtg_jax.losses.moment import boundary_regression as boundary_regression
from flashvtg_jax.losses.moment import focal_classification as focal_classification
from flashvtg_jax.losses.moment import rating_classification as rating_classification
from flashvtg_jax.losses.objective import objective as objective
from flashvtg_jax.losses.saliency import margin_loss as margin_loss
from flashvtg_jax.losses.saliency import rank_loss as rank_loss
from flashvtg_jax.losses.saliency import saliency_loss as saliency_loss
from flashvtg_jax.losses.targets import Targets as Targets

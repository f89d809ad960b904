"""Saliency as people read it: only the order of a video's clips has a meaning."""

import numpy as np
from jaxtyping import Float, Num


def relative_saliency(saliency: Num[np.ndarray, " L"]) -> Float[np.ndarray, " L"]:
    """Saliency [L] from 0, the least salient clip, to 1, the most salient; equal ones are all 0."""
    saliency = np.asarray(saliency, np.float64)
    low, high = saliency.min(), saliency.max()
    return (saliency - low) / (high - low or 1.0)

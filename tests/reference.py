"""The authors' numbers in `tests/golden`, and the weights and inputs they belong to."""

import functools
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from flashvtg_jax.config import load_config
from flashvtg_jax.interop.pytorch import model_from_shapes, params_from_torch
from flashvtg_jax.models import FlashVTG

GOLDEN = Path(__file__).parent / "golden"
NO_DROPOUT = dict.fromkeys(
    ("input_dropout", "dropout", "drop_path", "dummy_dropout", "dummy_drop_path"), 0.0
)
CLIP_LENGTH = {
    "qvhighlights_slowfast_clip": 2.0,
    "qvhighlights_internvideo2": 2.0,
    "charades_sta_vgg": 0.166666,
    "tacos_slowfast_clip": 2.0,
    "tvsum_slowfast_clip": 2.0,
}


def make_model(**fields: Any) -> FlashVTG:
    """The model of the QVHighlights configuration with some fields changed."""
    return FlashVTG(**{**load_config("qvhighlights_slowfast_clip").model, **fields})


def golden_files(kind: str) -> list[str]:
    """Names of the files of a kind, "forward" or "train"."""
    return sorted(path.stem for path in GOLDEN.glob(f"*.{kind}.*.npz"))


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as data:
        return dict(data)


def describe(name: str) -> tuple[str, int, int, int]:
    """Configuration, seed, clips and words of a file."""
    seed, clips, words = map(int, re.search(r"s(\d+)\.l(\d+)\.q(\d+)", name).groups())
    return name.split(".")[0], seed, clips, words


@functools.cache
def torch_shapes(config: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of the PyTorch model."""
    shapes = json.loads((GOLDEN / "state_dict_shapes.json").read_text())[config]
    return {name: tuple(shape) for name, shape in shapes.items()}


def state_dict(config: str) -> dict[str, np.ndarray]:
    """The PyTorch parameters that the golden values were computed with."""
    return {name: _weight(name, shape) for name, shape in torch_shapes(config).items()}


def model_and_params(config: str) -> tuple[FlashVTG, Any]:
    """Our model and its parameters, every dropout 0."""
    weights = state_dict(config)
    model = model_from_shapes(torch_shapes(config)).clone(**NO_DROPOUT)
    return model, params_from_torch(weights)


def feature_widths(config: str) -> tuple[int, int]:
    """Widths of a clip's (without temporal endpoints) and of a word's features."""
    shapes = torch_shapes(config)
    video, query = (shapes[f"input_{m}_proj.0.LayerNorm.weight"][0] for m in ("vid", "txt"))
    return video - 2, query


def sample(config: str, seed: int, clips: int, words: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of one sample: video [clips, Dv] and query [words, Dq], rows of norm 1."""
    video_dim, query_dim = feature_widths(config)
    return _unit_rows([seed, 1], clips, video_dim), _unit_rows([seed, 2], words, query_dim)


def pad_batch(
    samples: list[tuple[np.ndarray, np.ndarray]], clips: int, words: int, filler: float = 0.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """video, video_mask, query, query_mask; what is padded holds `filler`, not zero."""
    count = len(samples)
    video = np.full((count, clips, samples[0][0].shape[1]), filler, np.float32)
    query = np.full((count, words, samples[0][1].shape[1]), filler, np.float32)
    video_mask, query_mask = np.zeros((count, clips), bool), np.zeros((count, words), bool)
    for b, (v, q) in enumerate(samples):
        video[b, : len(v)], video_mask[b, : len(v)] = v, True
        query[b, : len(q)], query_mask[b, : len(q)] = q, True
    return video, video_mask, query, query_mask


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng([0, zlib.crc32(name.encode())]).standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if len(shape) >= 2:
        value = noise / np.sqrt(np.prod(shape[1:]))
    elif last == "weight":
        value = 0.25 + 0.05 * noise if shape == (1,) else 1 + 0.1 * noise
    elif last == "coef":
        value = 1 + 0.1 * noise
    elif shape == ():
        value = 0.5 + 0.1 * noise
    else:
        value = 0.1 * noise
    return np.asarray(value, np.float32)


def _unit_rows(seed: list[int], rows: int, width: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

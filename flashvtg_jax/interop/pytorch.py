"""Parameters of the authors' PyTorch model as our params tree, and back: arrays alone, no torch.

Everything follows from one table, `torch_names`: for a given model, each PyTorch name, its path in
our tree and the order of its axes there.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flashvtg_jax.config import load_config
from flashvtg_jax.errors import CheckpointError, ConfigError
from flashvtg_jax.models.flashvtg import FlashVTG

Path = tuple[str, ...]
Params = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]  # by name

# In released checkpoints, but not read by any official configuration.
IGNORED_NAMES = re.compile(r"txt_position_embed\.|empty_weight$|(.*\.)?SRM\.|(.*\.)?span_embed\.")

_ENDPOINTS = 2  # temporal endpoints beside the features of a clip

# Axes in PyTorch; ours are dense [in, out], convolutions [kernel, in, out], scalars ().
_AXES_TO_OURS = {
    "same": lambda a: a,
    "dense": lambda a: a.T,
    "scalar": lambda a: a.reshape(()),
    "conv1d": lambda a: a.transpose(2, 1, 0),  # [out, in, kernel]
    "conv1d_transposed": lambda a: a.transpose(2, 0, 1),  # [in, out, kernel]
    "conv2d": lambda a: a[:, :, 0].transpose(2, 1, 0),  # [out, in, 1, kernel]: height 1
}
_AXES_TO_TORCH = {
    "same": lambda a: a,
    "dense": lambda a: a.T,
    "scalar": lambda a: a.reshape((1,)),
    "conv1d": lambda a: a.transpose(2, 1, 0),
    "conv1d_transposed": lambda a: a.transpose(1, 2, 0),
    "conv2d": lambda a: a.transpose(2, 1, 0)[:, :, None],
}
_SHAPE_IN_TORCH = {
    "same": lambda s: s,
    "dense": lambda s: s[::-1],
    "scalar": lambda s: (1,),
    "conv1d": lambda s: s[::-1],
    "conv1d_transposed": lambda s: (s[1], s[2], s[0]),
    "conv2d": lambda s: (s[2], s[1], 1, s[0]),
}


def _weight_and_bias(name: str, path: Path, axes: str) -> Iterable[tuple[str, Path, str]]:
    yield f"{name}.weight", (*path, "kernel"), axes
    yield f"{name}.bias", (*path, "bias"), "same"


def _norm(name: str, path: Path) -> Iterable[tuple[str, Path, str]]:
    yield f"{name}.weight", (*path, "scale"), "same"
    yield f"{name}.bias", (*path, "bias"), "same"


def _layers(name: str, module: str, count: int, crossing: bool) -> Iterable[tuple[str, Path, str]]:
    for i in range(count):
        layer, path = f"{name}.layers.{i}", (module, f"layer_{i}")
        attention = path if crossing else (*path, "attention")
        if not crossing:
            yield f"{layer}.self_attn.in_proj_weight", (*attention, "in_kernel"), "dense"
            yield f"{layer}.self_attn.in_proj_bias", (*attention, "in_bias"), "same"
        yield from _weight_and_bias(f"{layer}.self_attn.out_proj", (*attention, "out"), "dense")
        yield from _weight_and_bias(f"{layer}.linear1", (*path, "ffn", "dense_0"), "dense")
        yield from _weight_and_bias(f"{layer}.linear2", (*path, "ffn", "dense_1"), "dense")
        yield f"{layer}.activation.weight", (*path, "ffn", "slope"), "scalar"
        yield from _norm(f"{layer}.norm1", (*path, "norm_1"))
        yield from _norm(f"{layer}.norm2", (*path, "norm_2"))


def _entries(model: FlashVTG) -> Iterable[tuple[str, Path, str]]:
    yield "dummy_rep_token", ("dummy_encoder", "tokens"), "same"
    yield "dummy_rep_pos", ("dummy_encoder", "positions"), "same"
    yield "coef", ("boundary_head", "level_factor"), "same"
    yield "x", ("score_refinement", "mix"), "same"
    yield "token_type_embeddings.weight", ("token_types",), "same"
    yield "pooling.att.weight", ("query_pooling", "score", "kernel"), "dense"
    yield from _weight_and_bias("saliency_proj1", ("saliency_head", "clip"), "dense")
    yield from _weight_and_bias("saliency_proj2", ("saliency_head", "video"), "dense")
    for name, module in (("input_txt_proj", "query"), ("input_vid_proj", "video")):
        for i in range(model.n_input_proj):
            path = f"{module}_projection"
            yield from _norm(f"{name}.{i}.LayerNorm", (path, f"norm_{i}"))
            yield from _weight_and_bias(f"{name}.{i}.net.1", (path, f"dense_{i}"), "dense")
    yield from _layers("transformer.t2v_encoder", "cross_attention", model.t2v_layers, True)
    yield from _layers("transformer.encoder", "clip_encoder", model.enc_layers, False)
    yield from _layers("txtproj_encoder", "dummy_encoder", model.dummy_layers, False)
    for k, stride in enumerate(model.strides):
        axes = "conv1d" if stride > 1 else "conv1d_transposed"
        for i in range(abs(round(np.log2(stride)))):
            # A block is permute, convolution, permute, norm, ReLU: places 5i + 1 and 5i + 3.
            name, path = f"pyramid.blocks.{k}", f"level_{k}_{i}"
            yield from _weight_and_bias(f"{name}.{5 * i + 1}", ("pyramid", f"{path}_conv"), axes)
            yield from _norm(f"{name}.{5 * i + 3}", ("pyramid", f"{path}_norm"))
    for name, module in (("class_head", "intra_scale"), ("conf_head", "inter_scale")):
        head = ("score_refinement", module)
        for i in range(model.num_conv_layers):
            yield from _weight_and_bias(f"{name}.convs.{i}", (*head, f"conv_{i}"), "conv2d")
        for i in range(model.num_mlp_layers):
            yield from _weight_and_bias(f"{name}.fc.layers.{i}", (*head, f"dense_{i}"), "dense")
    yield from _weight_and_bias("coord_head.module.1", ("boundary_head", "conv_0"), "conv1d")
    yield from _weight_and_bias("coord_head.module.3", ("boundary_head", "conv_1"), "conv1d")


def torch_names(model: FlashVTG) -> dict[str, tuple[Path, str]]:
    """Every PyTorch parameter name of `model`: its path in our params tree and its axes' order.

    Raises ConfigError for a variant that the authors' program does not have.
    """
    _check_has_counterpart(model)
    return {name: (path, axes) for name, path, axes in _entries(model)}


def param_shapes(model: FlashVTG, video_dim: int, query_dim: int) -> dict[Path, tuple[int, ...]]:
    """Shapes of the params tree, flat, without computing anything (widths without endpoints)."""
    variables = jax.eval_shape(
        model.init,
        jax.random.key(0),
        jnp.zeros((1, 8, video_dim)),
        jnp.ones((1, 8), bool),
        jnp.zeros((1, 4, query_dim)),
        jnp.ones((1, 4), bool),
    )
    return {
        path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables["params"]).items()
    }


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the highest number that `pattern` captures in the names; 0 if none matches."""
    found = [int(m[1]) for name in names if (m := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _most_common(shapes: Shapes, pattern: str, axis: int) -> int | None:
    """The size of `axis` that most parameters matching `pattern` have; None if none matches."""
    sizes = Counter(
        shape[axis]
        for name, shape in shapes.items()
        if re.fullmatch(pattern, name) and len(shape) > (axis if axis >= 0 else -axis - 1)
    )
    return sizes.most_common(1)[0][0] if sizes else None


def infer_model_fields(shapes: Shapes) -> dict[str, Any]:
    """The fields of `FlashVTG` that follow from the shapes of a PyTorch state dict.

    Heads, dropout and dtype do not, nor whether a level up- or downsamples (assumed to be down, as
    in all official configurations). A field whose parameters are missing is left out.
    """
    convs = Counter(m[1] for n in shapes if (m := re.match(r"pyramid\.blocks\.(\d+)\.\d+\.", n)))
    levels = max(
        _most_common(shapes, r"coef", 0) or 0, _count(shapes, r"pyramid\.blocks\.(\d+)\."), 1
    )
    fields = {
        "hidden_dim": _most_common(shapes, r".*\.norm1\.(weight|bias)", 0),
        "ffn_dim": _most_common(shapes, r".*\.linear1\.(weight|bias)", 0),
        "n_input_proj": _count(shapes, r"input_(?:vid|txt)_proj\.(\d+)\."),
        "t2v_layers": _count(shapes, r"transformer\.t2v_encoder\.layers\.(\d+)\."),
        "enc_layers": _count(shapes, r"transformer\.encoder\.layers\.(\d+)\."),
        "dummy_layers": _count(shapes, r"txtproj_encoder\.layers\.(\d+)\."),
        "num_dummies": _most_common(shapes, r"dummy_rep_(token|pos)", 0),
        # A block has four parameters: weight and bias of a convolution and of a norm.
        "strides": tuple(2 ** -(-convs[str(k)] // 4) for k in range(levels)),
        "kernel_size": _most_common(shapes, r"(class|conf)_head\.convs\.\d+\.weight", -1),
        "num_conv_layers": _count(shapes, r"(?:class|conf)_head\.convs\.(\d+)\."),
        "num_mlp_layers": _count(shapes, r"(?:class|conf)_head\.fc\.layers\.(\d+)\."),
    }
    return {name: value for name, value in fields.items() if value is not None}


def model_from_shapes(shapes: Shapes) -> FlashVTG:
    """The model that the shapes of a PyTorch state dict describe.

    Fields that do not follow from shapes are those of the authors' training on QVHighlights.
    """
    known = load_config("qvhighlights_slowfast_clip").model
    return FlashVTG(**{**known, **infer_model_fields(shapes)})


def without_prefix(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict without the `module.` that DataParallel puts before every name."""
    if state_dict and all(name.startswith("module.") for name in state_dict):
        return {name.removeprefix("module."): value for name, value in state_dict.items()}
    return dict(state_dict)


def torch_feature_widths(shapes: Shapes) -> tuple[int, int]:
    """Widths of a clip's (without temporal endpoints) and a word's features, by the shapes."""
    vectors = r"input_{}_proj\.0\.LayerNorm\.(weight|bias)"
    # Without these parameters any width serves: the error lists them as missing.
    video = _most_common(shapes, vectors.format("vid"), 0) or _ENDPOINTS + 1
    return video - _ENDPOINTS, _most_common(shapes, vectors.format("txt"), 0) or 1


def check_is_flashvtg(names: Collection[str]) -> None:
    """Raises CheckpointError if no parameter is called as those of FlashVTG are."""
    if not any(name.startswith("transformer.") for name in names):
        raise CheckpointError(
            f"these {len(names)} arrays are not the parameters of a FlashVTG model: names of its "
            "PyTorch original begin with transformer., txtproj_encoder., pyramid. and the like"
        )


def params_from_torch(state_dict: Mapping[str, Any], model: FlashVTG | None = None) -> Params:
    """The params tree with the values of the authors' PyTorch model.

    Args:
      state_dict: {name: array} of the PyTorch model (what a checkpoint holds under "model"), in any
        floating type; a `module.` prefix on every name (DataParallel) is removed.
      model: the model the parameters are for; None: whatever model their shapes describe.

    Raises CheckpointError with a list of every unknown, missing and misshaped name, ConfigError for
    a model that the authors' program does not have.
    """
    arrays = {
        name: np.asarray(value)
        for name, value in without_prefix(state_dict).items()
        if not IGNORED_NAMES.match(name)
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    check_is_flashvtg(arrays)
    if model is None:
        model = model_from_shapes(shapes)

    table = torch_names(model)
    ours = param_shapes(model, *torch_feature_widths(shapes))
    expected = {name: _SHAPE_IN_TORCH[axes](ours[path]) for name, (path, axes) in table.items()}
    problems = [f"unknown: {name} {shapes[name]}" for name in arrays if name not in table]
    problems += [f"missing: {name} {expected[name]}" for name in table if name not in arrays]
    problems += [
        f"misshaped: {name} is {shapes[name]}, expected {expected[name]}"
        for name in table
        if name in arrays and shapes[name] != expected[name]
    ]
    if problems:
        listing = "\n  ".join(problems)
        raise CheckpointError(
            "these are not the parameters of the FlashVTG model; "
            f"{len(problems)} names do not fit:\n  {listing}"
        )
    flat = {
        path: np.array(_AXES_TO_OURS[axes](arrays[name]), np.float32, order="C")
        for name, (path, axes) in table.items()
    }
    return traverse_util.unflatten_dict(flat)


def _check_has_counterpart(model: FlashVTG) -> None:
    """Raises ConfigError for a variant that the authors' PyTorch program does not have."""
    known = {"moment_head": "pyramid", "score_refinement": "learned", "spatial_tokens": 1}
    for name, value in known.items():
        if getattr(model, name) != value:
            raise ConfigError(
                f"the authors' program has no model of config.model.{name}="
                f"{getattr(model, name)!r}, only of {value!r}"
            )
    if not model.num_dummies:
        raise ConfigError("the authors' program has no model of config.model.num_dummies=0")


def params_to_torch(params: Mapping[str, Any], model: FlashVTG) -> dict[str, np.ndarray]:
    """The parameters under the names, and with the shapes, of the authors' PyTorch model.

    What `params_from_torch` made comes back bit for bit. Entries of that model which nothing reads
    (`unread_entries`) are not included.

    Args:
      params: the params tree of `model`.
      model: whose fields determine the names.

    Raises CheckpointError with a list of what does not fit the model; ConfigError for a variant
    that the authors' program does not have.
    """
    table = torch_names(model)
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(params).items()}
    paths = {path for path, _ in table.values()}
    problems = [f"unknown: {'/'.join(path)}" for path in sorted(flat.keys() - paths)]
    problems += [f"missing: {'/'.join(path)}" for path in sorted(paths - flat.keys())]
    if not problems:
        widths = [
            flat[f"{name}_projection", "norm_0", "scale"].shape[0] for name in ("video", "query")
        ]
        expected = param_shapes(model, widths[0] - _ENDPOINTS, widths[1])
        problems = [
            f"misshaped: {'/'.join(path)} is {flat[path].shape}, expected {shape}"
            for path, shape in expected.items()
            if flat[path].shape != shape
        ]
    if problems:
        listing = "\n  ".join(problems)
        raise CheckpointError(
            f"these are not the parameters of the model; {len(problems)} do not fit:\n  {listing}"
        )
    return {
        name: np.array(_AXES_TO_TORCH[axes](flat[path]), order="C")
        for name, (path, axes) in table.items()
    }


def unread_entries(hidden_dim: int, max_words: int) -> dict[str, np.ndarray]:
    """Entries that the authors' model has and does not read, for its strict loading."""
    name = "txt_position_embed"
    return {
        f"{name}.position_embeddings.weight": np.zeros((max_words, hidden_dim), np.float32),
        f"{name}.LayerNorm.weight": np.ones(hidden_dim, np.float32),
        f"{name}.LayerNorm.bias": np.zeros(hidden_dim, np.float32),
    }

"""`flashvtg export`: the whole predictor as StableHLO, from raw features to decoded moments."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import traverse_util
from jax import export

from flashvtg_jax.checkpoints.restore import restore
from flashvtg_jax.config import config_to_json
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.data.normalization import normalize_on_device
from flashvtg_jax.errors import CheckpointError, ConfigError, DataError
from flashvtg_jax.evaluation.evaluator import apply_and_decode
from flashvtg_jax.interop.stablehlo import (
    FORMAT,
    MANIFEST,
    PARAMS,
    check_flatbuffers,
    read_program,
    sha256,
)
from flashvtg_jax.models.flashvtg import FlashVTG
from flashvtg_jax.models.init import clip_shape
from flashvtg_jax.training.state import param_count
from flashvtg_jax.version import __version__

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # that jax.export lowers for
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")


def export_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    step: int | None = None,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
    buckets: Sequence[int] = (),
    batch_sizes: Sequence[int] = (),
) -> dict[str, Any]:
    """Export the model of a work directory; the other arguments are those of `export_predictor`.

    Args:
      checkpoint: work directory of a run, or what `flashvtg convert` wrote.
      output: folder to write.
      step: of the checkpoint; None: the best one, or the latest if none was scored.

    Raises CheckpointError if there is no such checkpoint, and what `export_predictor` raises.
    """
    restored = restore(checkpoint, step=step)
    return export_predictor(
        restored.model,
        restored.config,
        restored.params,
        output,
        platforms=platforms,
        buckets=buckets,
        batch_sizes=batch_sizes,
        step=restored.step,
    )


def export_predictor(
    model: FlashVTG,
    config: ml_collections.ConfigDict,
    params: Any,
    output: str | Path,
    *,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
    buckets: Sequence[int] = (),
    batch_sizes: Sequence[int] = (),
    step: int | None = None,
) -> dict[str, Any]:
    """Write a predictor that needs jax alone: programs, parameters and a manifest.

    Without buckets and batch sizes there is one program for any number of rows, clips and words.
    It is written under another name and renamed when complete; an earlier export is replaced.

    Args:
      model: of the parameters.
      config: the whole configuration that it was trained with.
      params: its parameters.
      output: folder to write: new, empty, or an earlier export.
      platforms: of "cpu", "cuda", "rocm", "tpu"; every program is for all of them.
      buckets: clips that programs are fixed to, one for each; words are then fixed to
        `config.data.max_words`. (): any.
      batch_sizes: rows that programs are fixed to, one for each. (): any.
      step: of the checkpoint, for the manifest.

    Returns the manifest.
    Raises ConfigError for an unknown platform, an invalid size, or a model of resampled features;
    DataError for a folder with other content, FlashVTGError if flatbuffers is not installed,
    OSError if it cannot be written or read back.
    """
    check_flatbuffers()
    _check_options(platforms, buckets, batch_sizes)
    if config.data.resample:
        raise ConfigError(
            "config.data.resample: the model reads features interpolated at clips, which an export "
            "cannot do, and features as extracted would be taken for clips. Use flashvtg predict, "
            "or Predictor, which interpolate them"
        )
    output = _check_output(output)
    flat = {
        name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }
    partial = output.with_name(f".{output.name}.partial.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        np.savez(partial / PARAMS, **flat)
        with np.load(partial / PARAMS) as saved:
            if any(saved[name].tobytes() != array.tobytes() for name, array in flat.items()):
                raise OSError(f"{output}: the parameters could not be read back as written")
        programs = []
        for batch, clips in itertools.product(batch_sizes or (None,), buckets or (None,)):
            words = None if clips is None else config.data.max_words
            sizes = {"batch": batch, "clips": clips, "words": words}
            exported = export_program(model, config, flat, platforms, **sizes)
            path = partial / _file_name(batch, clips)
            path.write_bytes(exported.serialize())
            try:
                read_program(path)  # before an earlier export is replaced
            except CheckpointError as error:
                raise OSError(
                    f"{output}: {path.name} could not be read back as written ({error.__cause__})"
                ) from error
            shown = {
                name: size or symbol
                for (name, size), symbol in zip(sizes.items(), "blq", strict=True)
            }
            programs.append({**_describe_file(path), **shown})
        manifest = {
            "format": FORMAT,
            "model": config.name,
            "step": step,
            "versions": {"flashvtg_jax": __version__, "jax": jax.__version__},
            "calling_convention_version": exported.calling_convention_version,
            "platforms": list(platforms),
            "programs": programs,
            "params": {
                **_describe_file(partial / PARAMS),
                "arrays": len(flat),
                "numbers": param_count(flat),
            },
            "streams": list(config.data.video_streams),
            "clip_length": config.clip_length,
            "max_clips": config.data.max_clips,
            "max_words": config.data.max_words,
            "query_is_normalised": config.data.normalize_query,
            "symbols": {
                "b": "rows: queries, each with its video; at least 1",
                "l": "clips that videos are padded to; at least 1",
                "q": "words that queries are padded to; at least 1",
            },
            "arguments": "the parameters (a dictionary of all arrays in params.npz), then the "
            "inputs in this order",
            "inputs": describe_inputs(config),
            "outputs": describe_outputs(config),
            "config": json.loads(config_to_json(config)),
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _move(partial, output)
    except BaseException:  # Ctrl-C as well
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def export_program(
    model: FlashVTG,
    config: ml_collections.ConfigDict,
    flat_params: Mapping[str, chex.Array],
    platforms: Sequence[str],
    *,
    batch: int | None = None,
    clips: int | None = None,
    words: int | None = None,
) -> export.Exported:
    """One program; a size that is None is left open, as the symbol b, l or q."""
    sizes = {"b": batch, "l": clips, "q": words}
    names = [symbol for symbol, size in sizes.items() if size is None]
    if names:
        sizes.update(zip(names, export.symbolic_shape(", ".join(names)), strict=True))

    def shape(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(array), array.dtype)

    inputs = [
        jax.ShapeDtypeStruct([sizes.get(size, size) for size in about["shape"]], about["dtype"])
        for about in describe_inputs(config)
    ]
    # cuDNN's attention is for one platform, and no stable part of StableHLO.
    program = jax.jit(make_program(model.clone(attention_kernel="xla"), config))
    params = {name: shape(array) for name, array in flat_params.items()}
    return export.export(program, platforms=tuple(platforms))(params, *inputs)


def make_program(model: FlashVTG, config: ml_collections.ConfigDict) -> Callable[..., Any]:
    """(parameters by name, inputs...) -> outputs: those that the two functions below describe."""
    names = [about["name"] for about in describe_inputs(config)]
    # The levels of the pyramid are whole fractions of a padded length that all strides divide: that
    # makes their lengths comparable while the length itself is a symbol.
    multiple = max(1, *(int(stride) for stride in model.strides))

    def program(flat_params: Mapping[str, chex.Array], *arrays: chex.Array) -> Any:
        inputs = dict(zip(names, arrays, strict=True))
        streams = [inputs[f"video_{name}"] for name in config.data.video_streams]
        clips = streams[0].shape[1]
        padded = (clips + multiple - 1) // multiple * multiple
        streams = [
            jnp.pad(stream, [(0, multiple - 1 if axis == 1 else 0) for axis in range(stream.ndim)])
            for stream in streams
        ]
        streams = [stream[:, :padded] for stream in streams]
        video_mask = jnp.arange(padded) < inputs["num_clips"][:, None]
        query = inputs["query"]
        query_mask = jnp.arange(query.shape[1]) < inputs["num_words"][:, None]
        # Padding is not read, whatever it holds, also NaN.
        mask = video_mask.reshape(*video_mask.shape, *[1] * (streams[0].ndim - 2))
        streams = [jnp.where(mask, stream, 0) for stream in streams]
        query = jnp.where(query_mask[..., None], query, 0)
        batch = Batch(
            video=jnp.concatenate([normalize_on_device(stream) for stream in streams], axis=-1),
            video_mask=video_mask,
            query=normalize_on_device(query) if config.data.normalize_query else query,
            query_mask=query_mask,
            duration=inputs.get("duration"),
            example=None,
            targets=None,
        )
        params = traverse_util.unflatten_dict(flat_params, sep="/")
        decoded = apply_and_decode(model, config, params, batch)
        found = {"saliency": decoded.saliency[:, :clips]}
        if decoded.moments is not None:
            found["moments"] = decoded.moments
            found["moments_nms"] = decoded.suppressed
            found["num_moments"] = decoded.num_moments
        return found

    return program


def describe_inputs(config: ml_collections.ConfigDict) -> list[dict[str, Any]]:
    """The arguments of a program after the parameters, in their order, for the manifest."""
    data = config.data

    def row(name: str, dtype: str, shape: Sequence[int | str], meaning: str) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": list(shape), "meaning": meaning}

    tokens = data.spatial_tokens
    what = "each clip"
    if tokens > 1:
        what = f"each of {tokens} spatial tokens of each clip (repeat one that stands for all)"
    features = "as extracted, normalised inside; what stands after num_clips is not read"
    rows = [
        row(
            f"video_{name}",
            "float32",
            ("b", "l", *clip_shape(tokens, data.video_widths[name])),
            f"features of {what} from {name}, {features}",
        )
        for name in data.video_streams
    ]
    rows.append(row("num_clips", "int32", ("b",), "clips of each video, of all streams"))
    inside = "normalised inside" if data.normalize_query else "used as they are"
    rows.append(
        row(
            "query",
            "float32",
            ("b", "q", data.query_width),
            f"features of each word, as extracted, {inside}; what stands after num_words is not "
            "read",
        )
    )
    rows.append(row("num_words", "int32", ("b",), "words of each query"))
    if config.loss.regression:
        rows.append(row("duration", "float32", ("b",), "of each video, seconds"))
    return rows


def describe_outputs(config: ml_collections.ConfigDict) -> list[dict[str, Any]]:
    """What a program returns: a dictionary; in StableHLO, its values in this order."""
    settings = config.evaluation
    rows = []
    if config.loss.regression:
        count = settings.max_moments
        meaning = "start and end in seconds, score from 0 to 1; best first"
        nms = f"after non-maximum suppression ({settings.nms_type}, IoU {settings.nms_threshold:g})"
        rows += [
            {
                "name": "moments",
                "dtype": "float32",
                "shape": ["b", count, 3],
                "meaning": f"{meaning}; rows from num_moments on are zeros",
            },
            {
                "name": "moments_nms",
                "dtype": "float32",
                "shape": ["b", count, 3],
                "meaning": f"the same {nms}: as many rows are real",
            },
            {
                "name": "num_moments",
                "dtype": "int32",
                "shape": ["b"],
                "meaning": "moments of each row that are real",
            },
        ]
    rows.append(
        {
            "name": "saliency",
            "dtype": "float32",
            "shape": ["b", "l"],
            "meaning": "highlight score of each clip, not bounded; 0 after num_clips",
        }
    )
    return rows


def _file_name(batch: int | None, clips: int | None) -> str:
    sizes = [f"{name}{n}" for name, n in (("batch", batch), ("clips", clips)) if n is not None]
    return ".".join(["predictor", *sizes, "jax_export"])


def _describe_file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _check_options(
    platforms: Sequence[str], buckets: Sequence[int], batch_sizes: Sequence[int]
) -> None:
    """Raises ConfigError for an unknown platform or an invalid size."""
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise ConfigError(
            f"platforms={','.join(platforms)}: no platform {', '.join(unknown) or 'named'}; there "
            f"are {', '.join(PLATFORMS)}"
        )
    for name, sizes in (("buckets", buckets), ("batch_sizes", batch_sizes)):
        if any(size < 1 for size in sizes) or len(set(sizes)) < len(sizes):
            shown = ",".join(map(str, sizes))
            raise ConfigError(f"{name}={shown}; they are 1 or more, each named once")
    if len(set(platforms)) < len(platforms):
        raise ConfigError(f"platforms={','.join(platforms)}; each is named once")


def _check_output(output: str | Path) -> Path:
    """The folder as an absolute path. Raises DataError if it holds anything but an export."""
    output = Path(output).expanduser().absolute()
    if output.is_dir():
        if any(output.iterdir()) and not (output / MANIFEST).exists():
            raise DataError(f"{output}: holds something else than an export; name another folder")
    elif output.exists():
        raise DataError(f"{output}: a file, not a folder; name another one")
    return output


def _move(partial: Path, output: Path) -> None:
    """Put a whole folder in its place; an earlier one stays until then."""
    replaced = output.with_name(f".{output.name}.replaced.{os.getpid()}")
    shutil.rmtree(replaced, ignore_errors=True)
    if output.exists():
        os.rename(output, replaced)
    try:
        os.rename(partial, output)
    except OSError:
        if replaced.exists():
            os.rename(replaced, output)
        raise
    shutil.rmtree(replaced, ignore_errors=True)

"""Reads an exported predictor: features in, moments and saliency out.

`flashvtg export` (interop/exporting.py) writes a folder of

- `manifest.json`: inputs and outputs in their order, versions, platforms, checksums;
- `predictor.jax_export`, or several `predictor.batch4.clips75.jax_export`: StableHLO, serialized by
  `jax.export`;
- `params.npz`: the parameters by name, the first argument of every program.

This module reads it with all checks; the README shows how to do so with jax alone.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from flashvtg_jax.errors import CheckpointError, DataError, FlashVTGError

FORMAT = 1  # of the folder
MANIFEST = "manifest.json"
PARAMS = "params.npz"
_SYMBOLS = {"batch": "b", "clips": "l", "words": "q"}  # sizes that a program may leave open


class ExportedPredictor:
    """A predictor from a folder that `flashvtg export` wrote.

        predictor = load_exported("exported/qvhighlights")
        found = predictor(
            video_slowfast=slowfast,  # [B, L, 2304] raw features, as extracted
            video_clip=clip,  # [B, L, 512]; [B, L, S, 512] if clips have S > 1 spatial tokens
            num_clips=[75, 60],  # [B] clips that are not padding
            query=query,  # [B, Q, 512] raw features of the words
            num_words=[12, 7],  # [B] words that are not padding
            duration=[150.0, 120.0],  # [B] seconds
        )
        found["moments_nms"]  # [B, K, 3] start, end (seconds), score; best first

    A program is compiled for each shape when it is first called with it, so pad clips and words to
    few lengths: neither the amount nor the content of padding changes a result.

    Attributes:
      manifest: the content of `manifest.json`.
      platform: "cpu", "cuda", "rocm" or "tpu".
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], params: Any, platform: str):
        self.manifest = manifest
        self.platform = platform
        self._params = params
        self._programs = []
        for about in manifest["programs"]:
            sizes = {name: about[name] for name in _SYMBOLS}
            self._programs.append((sizes, jax.jit(read_program(folder / about["file"]).call)))

    def __call__(self, **arrays: Any) -> dict[str, np.ndarray]:
        """Runs the predictor; arguments and results are those that the manifest names.

        Raises:
          DataError: an array that is missing, unknown, of another rank, width or type, lengths
            that disagree or are too long for every program, NaN or infinity in a feature.
        """
        inputs = self._checked(arrays)
        batch, clips = inputs["num_clips"].shape[0], inputs[self._streams[0]].shape[1]
        words = inputs["query"].shape[1]
        sizes, program = self._choose(batch, clips, words)
        rows = batch if sizes["batch"] == "b" else sizes["batch"]
        parts = []
        for start in range(0, batch, rows):
            part = [_pad(inputs[about["name"]], about, start, rows, sizes) for about in self._about]
            parts.append(jax.device_get(program(self._params, *part)))
        found = {name: np.concatenate([part[name] for part in parts])[:batch] for name in parts[0]}
        found["saliency"] = found["saliency"][:, :clips]
        return found

    @property
    def _about(self) -> list[dict[str, Any]]:
        return self.manifest["inputs"]

    @property
    def _streams(self) -> list[str]:
        return [f"video_{name}" for name in self.manifest["streams"]]

    def _choose(self, batch: int, clips: int, words: int) -> tuple[dict[str, Any], Any]:
        """The smallest program for these sizes, or for as much of the batch as possible."""

        def size(program: tuple[dict[str, Any], Any], name: str, given: int) -> int:
            found = program[0][name]
            return given if found == _SYMBOLS[name] else found

        fitting = [
            program
            for program in self._programs
            if size(program, "clips", clips) >= clips and size(program, "words", words) >= words
        ]
        if not fitting:
            most = {n: max(size(p, n, 0) for p in self._programs) for n in ("clips", "words")}
            raise DataError(
                f"{clips} clips and {words} words; this export was made for at most "
                f"{most['clips']} clips and {most['words']} words: flashvtg export with other "
                "--buckets, or without, for any length"
            )
        shortest = min(size(program, "clips", clips) for program in fitting)
        fitting = [program for program in fitting if size(program, "clips", clips) == shortest]
        fitting.sort(key=lambda program: size(program, "batch", batch))
        holding = [program for program in fitting if size(program, "batch", batch) >= batch]
        return holding[0] if holding else fitting[-1]

    def _checked(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The inputs as numpy arrays of their types and shapes, or DataError."""
        names = [about["name"] for about in self._about]
        if wrong := sorted(set(names) ^ set(arrays)):
            raise DataError(f"{', '.join(wrong)}: missing or unknown; expected {', '.join(names)}")
        inputs, sizes = {}, {}
        for about in self._about:
            name, shape, dtype = about["name"], about["shape"], np.dtype(about["dtype"])
            array = np.asarray(arrays[name])
            if array.ndim != len(shape):
                raise DataError(f"{name}: expected shape {_show(shape)}, got {array.shape}")
            for given, expected in zip(array.shape, shape, strict=True):
                if given == 0 or given != sizes.setdefault(expected, _known(expected, given)):
                    raise DataError(
                        f"{name}: expected shape {_show(shape)} "
                        f"with {_show_sizes(sizes)}, got {array.shape}"
                    )
            if dtype.kind == "i" and array.dtype.kind not in "iu":
                raise DataError(f"{name}: expected whole numbers, got {array.dtype}")
            inputs[name] = array.astype(dtype)
        for count, features in (("num_clips", self._streams), ("num_words", ["query"])):
            length = inputs[features[0]].shape[1]
            if not ((inputs[count] >= 1) & (inputs[count] <= length)).all():
                raise DataError(f"{count}: from 1 to {length}, got {inputs[count].tolist()}")
            valid = np.arange(length) < inputs[count][:, None]
            for name in features:
                axes = tuple(range(2, inputs[name].ndim))  # clips may have several tokens
                finite = np.isfinite(inputs[name]).all(axis=axes) | ~valid
                if not finite.all():
                    raise DataError(f"{name}: NaN or infinity in row {finite.all(1).argmin()}")
        if "duration" in inputs and not (np.isfinite(inputs["duration"]).all()):
            raise DataError(f"duration: NaN or infinity in {inputs['duration'].tolist()}")
        return inputs


def load_exported(folder: str | Path, *, platform: str | None = None) -> ExportedPredictor:
    """Read a predictor that `flashvtg export` wrote, after checking it.

    Args:
      folder: that was written.
      platform: "cpu", "cuda", "rocm" or "tpu"; None: of jax's first device.

    Raises:
      CheckpointError: no export, one of a newer version, for other platforms, or damaged.
      FlashVTGError: flatbuffers is not installed.
    """
    check_flatbuffers()
    folder = Path(folder).expanduser()
    manifest = _read_manifest(folder)
    platform = platform or export.default_export_platform()
    if platform not in manifest["platforms"]:
        raise CheckpointError(
            f"{folder}: an export for another platform: {', '.join(manifest['platforms'])}, not "
            f"{platform}; export again with --platforms={platform}"
        )
    for about in (manifest["params"], *manifest["programs"]):
        _check_file(folder / about["file"], about["sha256"])
    with np.load(folder / manifest["params"]["file"], allow_pickle=False) as archive:
        params = jax.device_put(dict(archive), _device(platform))
    return ExportedPredictor(folder, manifest, params, platform)


def check_flatbuffers() -> None:
    """Raises FlashVTGError if what jax.export serializes with is missing."""
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise FlashVTGError(
            "jax.export needs the package flatbuffers: pip install 'flashvtg-jax[export]'"
        ) from error


def sha256(path: Path) -> str:
    """The checksum of a file. Raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        number, convention = manifest["format"], manifest["calling_convention_version"]
        if number == FORMAT:
            _ = manifest["programs"][0], manifest["params"], manifest["inputs"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; flashvtg export --checkpoint=DIR "
            f"--output={shlex.quote(str(folder))} writes it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path}: not the manifest of an export ({error!r})") from error
    if number != FORMAT:
        raise CheckpointError(
            f"{folder}: exported by another version of flashvtg-jax (format {number}, this one "
            f"reads {FORMAT}; it was {manifest['versions']['flashvtg_jax']}); export again"
        )
    low = export.minimum_supported_calling_convention_version
    high = export.maximum_supported_calling_convention_version
    if not low <= convention <= high:
        raise CheckpointError(
            f"{folder}: exported by jax {manifest['versions']['jax']} with calling convention "
            f"{convention}; jax {jax.__version__} reads {low} to {high}: export again with it, or "
            "use another jax"
        )
    return manifest


def _check_file(path: Path, expected: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; export again") from error
    if found != expected:
        raise CheckpointError(
            f"{path}: its checksum is not the manifest's; damaged or replaced: export again"
        )


def read_program(path: Path) -> export.Exported:
    """A program from its file. Raises CheckpointError if this jax cannot read it."""
    try:
        return export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # jax raises many kinds
        raise CheckpointError(f"{path}: jax {jax.__version__} cannot read it ({error})") from error


def _device(platform: str) -> jax.Device:
    return jax.devices(platform)[0]


def _pad(
    array: np.ndarray, about: Mapping[str, Any], start: int, rows: int, sizes: Mapping[str, Any]
) -> np.ndarray:
    """Rows from `start`, padded to the program's sizes. Padding rows have one clip and one word."""
    part = array[start : start + rows]
    fill = 1 if array.dtype.kind == "i" else 0
    missing = [(0, rows - len(part))]
    for given, symbol in zip(part.shape[1:], about["shape"][1:], strict=True):
        name = next((name for name, s in _SYMBOLS.items() if s == symbol), None)
        fixed = name is not None and sizes[name] != symbol
        missing.append((0, sizes[name] - given if fixed else 0))
    return np.pad(part, missing, constant_values=fill)


def _known(expected: int | str, given: int) -> int:
    return given if isinstance(expected, str) else expected


def _show(shape: list[int | str]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _show_sizes(sizes: Mapping[int | str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items() if isinstance(name, str))

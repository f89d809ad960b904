"""Configurations: loaded by name, overridden by dotted keys, saved as JSON, compared.

A configuration is an `ml_collections.ConfigDict` of bool, int, float, str, tuples of one of these,
and sections of the same. A field that may be None is a `FieldReference` that is not required: a
`placeholder(int)`, for example. One `FieldReference` in several places is one value with several
names (`configs/common.py`).
"""

import contextlib
import copy
import dataclasses
import difflib
import importlib
import importlib.util
import json
import math
import os
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, RequiredValueError

from flashvtg_jax.errors import ConfigError
from flashvtg_jax.files import write_atomically

_PACKAGE = "flashvtg_jax.configs"
_FORMAT = 1  # of the JSON that `config_to_json` writes
# Fields that saved configurations of earlier versions have; they never changed a result.
_REMOVED = ("train.runs_together",)
_SCALARS = {kind.__name__: kind for kind in (bool, int, float, str)}
_KINDS = {**_SCALARS, "tuple": tuple}

Overrides = Mapping[str, Any] | Iterable[str]


def config_names() -> list[str]:
    """Names that `load_config` knows, sorted."""
    modules = pkgutil.iter_modules(_configs_package().__path__)
    return sorted(module.name for module in modules if module.name != "common")


def load_config(name: str | os.PathLike[str], overrides: Overrides | None = None) -> ConfigDict:
    """A configuration by its name or its file's path, each with an optional ":argument"; locked.

    Args:
      name: "qvhighlights_slowfast_clip", "my/experiment.py" or "my/experiment.py:argument". A file
        defines `get_config(argument=None)`.
      overrides: as `apply_overrides` takes them.

    Raises:
      ConfigError: for an unknown name or key, or a value of the wrong type.
    """
    name, argument = _split_argument(os.fspath(name))
    is_path = name.endswith(".py") or "/" in name or os.sep in name
    module = _load_file(Path(name)) if is_path else _load_named(name)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{name}: a configuration file defines get_config(argument=None)")
    config = module.get_config() if argument is None else module.get_config(argument)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{name}: get_config returns a ConfigDict, not {type(config).__name__}")
    return apply_overrides(config, overrides or {})


def apply_overrides(config: ConfigDict, overrides: Overrides) -> ConfigDict:
    """A locked copy of a configuration with other values, of the same types.

    Args:
      config: left as it is.
      overrides: {"optimizer.learning_rate": 1e-4} or ["--config.optimizer.learning_rate=1e-4"].
        Text is parsed: tuples are "(1,2,4)" or "1,2,4"; "None" is for fields that may be None.

    Raises:
      ConfigError: for an unknown key, naming the nearest one, or a value of the wrong type.
    """
    if not isinstance(overrides, Mapping):
        overrides = dict(_split_override(text) for text in overrides)
    config = copy.deepcopy(config).lock()
    fields = _fields(config)
    for key, value in overrides.items():
        if key not in fields:
            raise ConfigError(_describe_unknown(key, list(fields)))
        # One by one: of several names of one value the last one given counts.
        config.update_from_flattened_dict({key: fields[key].convert(value)})
    return config


def config_to_json(config: ConfigDict) -> str:
    """The configuration as JSON text, read back by `config_from_json`.

    Besides the values it has the types of fields that may be None and the keys that share a value.
    Raises ConfigError for a value that a configuration cannot hold.
    """
    fields = _fields(config)
    references: dict[int, list[str]] = {}
    for key, field in fields.items():
        if field.reference is not None:
            references.setdefault(id(field.reference), []).append(key)
    document = {
        "format": _FORMAT,
        "config": config.to_dict(),
        "optional": {k: field.kind.__name__ for k, field in fields.items() if field.optional},
        "shared": [keys for keys in references.values() if len(keys) > 1],
    }
    return json.dumps(document, indent=2) + "\n"


def config_from_json(text: str) -> ConfigDict:
    """The configuration that `config_to_json` wrote, locked.

    Fields that this version has removed are left out. Raises ConfigError for any other text.
    """
    try:
        document = json.loads(text, object_hook=_with_tuples)
        if document["format"] != _FORMAT:
            raise ConfigError(f"a configuration of format {document['format']}, not {_FORMAT}")
        config = ConfigDict(document["config"])
        optional = {key: _KINDS[kind] for key, kind in document["optional"].items()}
        shared = document["shared"]
        alone = optional.keys() - {key for keys in shared for key in keys}
        for keys in [*shared, *([key] for key in alone)]:
            kind = optional.get(keys[0])
            reference = FieldReference(config[keys[0]], field_type=kind, required=kind is None)
            config.update_from_flattened_dict(dict.fromkeys(keys, reference))
        for key in _REMOVED:
            with contextlib.suppress(KeyError):
                del config[key]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"not a configuration as flashvtg-jax writes it: {error!r}") from error
    return config.lock()


def save_config(config: ConfigDict, path: str | os.PathLike[str]) -> None:
    """Write a configuration to a file as JSON, atomically. Raises DataError if that fails."""
    write_atomically(path, config_to_json(config))


def read_config(path: str | os.PathLike[str]) -> ConfigDict:
    """The configuration that `save_config` wrote. Raises ConfigError naming the file."""
    try:
        return config_from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def add_new_fields(config: ConfigDict) -> ConfigDict:
    """A copy with the fields that it lacks because it was saved before they existed.

    They get the values of `configs/common.py`, which mean what was done before. Raises ConfigError
    for a field that this version does not know: it may come from a newer one.
    """
    common = importlib.import_module(f"{_configs_package().__name__}.common").get_common()
    config = copy.deepcopy(config)
    with config.unlocked():
        for name, value in common.items(preserve_field_references=True):
            if name not in config:
                config[name] = value
            elif isinstance(value, ConfigDict):
                if unknown := sorted(set(config[name]) - set(value)):
                    raise ConfigError(f"config.{name} has no field {', '.join(unknown)}")
                for field, default in value.items(preserve_field_references=True):
                    if field not in config[name]:
                        config[name][field] = default
    return config


def diff_configs(first: ConfigDict, second: ConfigDict, ignore: Iterable[str] = ()) -> list[str]:
    """A line for each key that differs: "seed: 1 in the first, 2 in the second".

    ignore: dotted keys, or whole sections, that may differ.
    """
    ignored = tuple(f"{key}." for key in ignore)
    sides = [{key: repr(f.value) for key, f in _fields(c).items()} for c in (first, second)]
    lines = []
    for key in sorted({*sides[0], *sides[1]}):
        one, other = (side.get(key, "absent") for side in sides)
        if one != other and not f"{key}.".startswith(ignored):
            lines.append(f"{key}: {one} in the first, {other} in the second")
    return lines


@dataclasses.dataclass(frozen=True)
class _Field:
    """A leaf of a configuration: its value, and the type of values that may replace it."""

    key: str  # dotted
    value: Any
    kind: type  # bool, int, float, str or tuple
    item_kind: type | None  # of a tuple's items; None where it has none yet
    optional: bool  # may be None
    reference: FieldReference | None

    def convert(self, value: Any) -> Any:
        """A new value for this field, parsed if it is text. Raises ConfigError for other types."""
        is_none = value is None or (isinstance(value, str) and value.lower() == "none")
        if is_none and self.optional:
            return None
        try:
            if self.kind is not tuple:
                return _convert_scalar(value, self.kind)
            items = _split_items(value) if isinstance(value, str) else value
            if not isinstance(items, Sequence):
                raise ValueError(f"not a tuple: {value!r}")
            return tuple(_convert_scalar(item, self.item_kind) for item in items)
        except ValueError:
            raise ConfigError(
                f"config.{self.key}: {value!r} does not fit, {self._describe()}"
            ) from None

    def _describe(self) -> str:
        kind = self.kind.__name__
        if self.item_kind:
            kind = f"tuple of {self.item_kind.__name__}"
        return f"it is of type {kind}{' or None' if self.optional else ''} (now {self.value!r})"


def _fields(config: ConfigDict, prefix: str = "") -> dict[str, _Field]:
    """All leaves by dotted key. Raises ConfigError for a value that a configuration cannot hold."""
    fields = {}
    for name, stored in config.items(preserve_field_references=True):
        key = f"{prefix}{name}"
        reference = stored if isinstance(stored, FieldReference) else None
        value = stored if reference is None else stored.get()
        if isinstance(value, ConfigDict):
            fields.update(_fields(value, f"{key}."))
            continue
        if value is None and reference is None:
            raise ConfigError(f"config.{key}: None has no type; use placeholder(int), for example")
        kind = config.get_type(name)
        if kind not in _KINDS.values():
            raise ConfigError(
                f"config.{key}: {value!r} is of {kind}; there are {', '.join(_KINDS)}"
            )
        item_kind = _item_kind(key, value) if isinstance(value, tuple) else None
        optional = reference is not None and _may_be_none(reference)
        fields[key] = _Field(key, value, kind, item_kind, optional, reference)
    return fields


def _item_kind(key: str, items: tuple) -> type | None:
    kinds = {type(item) for item in items}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) > 1 or not kinds <= set(_SCALARS.values()):
        raise ConfigError(f"config.{key}: the items of {items!r} are not of one type")
    return kinds.pop() if kinds else None


def _may_be_none(reference: FieldReference) -> bool:
    empty = copy.copy(reference)
    empty.set(None)
    try:
        empty.get()
    except RequiredValueError:
        return False
    return True


def _convert_scalar(value: Any, kind: type | None) -> Any:
    """`value` as `kind`: text is parsed, an int serves as a float. Raises ValueError otherwise."""
    if kind is None:  # an item of a tuple that was empty or None: the first type that fits
        for kind in (int, float, str):
            try:
                return _convert_scalar(value, kind)
            except ValueError:
                continue
    elif isinstance(value, str) and kind is bool:
        value = {"true": True, "false": False}.get(value.lower())
    elif isinstance(value, str) or (type(value) is int and kind is float):
        value = kind(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"not of type {kind.__name__}: {value!r}")
    return value


def _split_items(text: str) -> list[str]:
    """ "(1, 2,)", "[1,2]" and "1,2" -> ["1", "2"]; quotes around an item are removed."""
    text = text.strip()
    if text[:1] + text[-1:] in ("()", "[]"):
        text = text[1:-1].strip()
    items = text.removesuffix(",").split(",")
    return [item.strip().strip("\"'") for item in items] if text else []


def _split_override(text: str) -> tuple[str, str]:
    """ "--config.optimizer.learning_rate=1e-4" -> "optimizer.learning_rate", "1e-4"."""
    key, equals, value = text.removeprefix("--").removeprefix("config.").partition("=")
    if not equals or not key:
        raise ConfigError(f'"{text}": a value is given as --config.KEY=VALUE')
    return key, value


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has only arrays, a configuration only tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def _describe_unknown(key: str, known: list[str]) -> str:
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        return f"config.{key}: a section; give one of its fields: {', '.join(inside)}"

    def likeness(name: str) -> float:
        # Of the whole keys and of their last parts, for the section may be another one.
        pairs = (key, name), (key.rpartition(".")[2], name.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return f"config.{key}: no such key; the nearest is config.{max(known, key=likeness)}"


def _split_argument(name: str) -> tuple[str, str | None]:
    """name:argument -> "name", "argument"; colons before ".py" belong to the path."""
    known, colon, argument = name.partition(":")
    if colon and known in config_names():  # the argument may be a path as well
        return known, argument
    head, extension, tail = name.rpartition(".py:")
    if extension:
        return f"{head}.py", tail
    if name.endswith(".py"):
        return name, None
    head, colon, tail = name.partition(":")
    return head, tail if colon else None


def _configs_package() -> ModuleType:
    """`flashvtg_jax.configs`: inside an installed package; in a checkout, the folder beside it."""
    try:
        return importlib.import_module(_PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise
    folder = Path(__file__).resolve().parent.parent / "configs"
    if not (folder / "common.py").is_file():
        raise ConfigError(
            f"there is no {folder}: this copy of flashvtg-jax is incomplete, reinstall it"
        )
    return _import_file(_PACKAGE, folder / "__init__.py", [str(folder)])


def _load_named(name: str) -> ModuleType:
    names = config_names()
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
        raise ConfigError(
            f'no configuration is called "{name}"; the nearest is "{nearest}". There are '
            f"{', '.join(names)}; a file is given by a path that ends in .py"
        )
    return importlib.import_module(f"{_PACKAGE}.{name}")


def _load_file(path: Path) -> ModuleType:
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"{path}: no such configuration file (the path ends in .py)")
    _configs_package()  # what the file may import from
    return _import_file(f"flashvtg_config_{path.stem}", path)


def _import_file(name: str, path: Path, folders: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    module = importlib.util.module_from_spec(spec)
    if folders:  # a package, whose modules are found through it
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

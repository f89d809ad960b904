"""Configurations: found by name, overridden by dotted keys, kept as JSON, compared.

A configuration is an `ml_collections.ConfigDict` that holds bool, int, float, str, tuples of one of
these, and sections of the same. A field that may be None is a `FieldReference`, which knows its
type; one `FieldReference` in several places is one value with several names (`configs/common.py`).
"""

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
    """A locked copy of a configuration with other values, which take the types of the present ones.

    Args:
      config: left as it is.
      overrides: {"optimizer.learning_rate": 1e-4} or ["--config.optimizer.learning_rate=1e-4"].
        Text is parsed: tuples are "(1,2,4)" or "1,2,4", and "None" suits a field that may be None.

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
        section, leaf = _parent(config, key)
        section[leaf] = fields[key].convert(value)
    return config


def config_to_json(config: ConfigDict) -> str:
    """The configuration as JSON text, read back by `config_from_json`.

    Beside the values it has the types of fields that may be None and the keys that share one value.
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
    """The configuration that `config_to_json` wrote: equal to it and locked.

    Raises ConfigError for text that is anything else.
    """
    try:
        document = json.loads(text)
        if document["format"] != _FORMAT:
            raise ConfigError(f"a configuration of format {document['format']}, not {_FORMAT}")
        config = _from_plain(document["config"])
        optional = {key: _KINDS[kind] for key, kind in document["optional"].items()}
        for keys in [*([key] for key in optional), *document["shared"]]:
            value, kind = config[keys[0]], optional.get(keys[0])
            reference = FieldReference(value, field_type=kind, required=kind is None)
            for key in keys:
                section, leaf = _parent(config, key)
                del section[leaf]  # or the reference itself would be taken for a new value
                section[leaf] = reference
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"not a configuration as flashvtg-jax writes it: {error!r}") from error
    return config.lock()


def save_config(config: ConfigDict, path: str | os.PathLike[str]) -> None:
    """Write a configuration to a file as JSON, whole or not at all; DataError if it cannot be."""
    write_atomically(path, config_to_json(config))


def read_config(path: str | os.PathLike[str]) -> ConfigDict:
    """The configuration that `save_config` wrote. Raises ConfigError naming the file."""
    try:
        return config_from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def add_new_fields(config: ConfigDict) -> ConfigDict:
    """The configuration with the fields that it lacks, for it was saved before they existed.

    They get the values of `configs/common.py`, which mean what was done before. Raises ConfigError
    for a field that no configuration of this version has: a newer one may mean something by it.
    """
    common = importlib.import_module(f"{_configs_package().__name__}.common").get_common()
    config = copy.deepcopy(config)
    with config.unlocked():
        for name, value in common.items(preserve_field_references=True):
            if isinstance(value, ConfigDict) and name in config:
                if unknown := sorted(set(config[name]) - set(value)):
                    raise ConfigError(f"config.{name} has no field {', '.join(unknown)}")
                for field, default in value.items(preserve_field_references=True):
                    if field not in config[name]:
                        config[name][field] = default
            elif name not in config:
                config[name] = value
    return config


def diff_configs(first: ConfigDict, second: ConfigDict, ignore: Iterable[str] = ()) -> list[str]:
    """What differs, a line a key: "seed: 1 in the first, 2 in the second"; empty if nothing does.

    ignore: dotted keys, or sections with all they hold, that may differ.
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
    """A leaf of a configuration: its value, and which values may take its place."""

    key: str  # dotted
    value: Any
    kind: type  # bool, int, float, str or tuple
    item_kind: type | None  # of a tuple's items; None where it has none yet
    optional: bool  # may be None
    reference: FieldReference | None

    def convert(self, value: Any) -> Any:
        """A new value for this field, parsed if it is text. Raises ConfigError if it is none."""
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
        kind = type(value) if reference is None else reference.get_type()
        if value is None and reference is None:
            raise ConfigError(
                f"config.{key}: None has no type; use common.optional(int), for example"
            )
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
    trial = copy.copy(reference)
    trial.set(None)
    try:
        return trial.get() is None
    except RequiredValueError:
        return False


def _convert_scalar(value: Any, kind: type | None) -> Any:
    """`value` as `kind`: text is parsed, an int serves as a float. Raises ValueError otherwise."""
    if kind is None:  # an item of a tuple that was empty or None: the first kind that it fits
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
    """ "(1, 2,)", "[1,2]" and "1,2" -> ["1", "2"]; quotes around an item are taken off."""
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


def _parent(config: ConfigDict, key: str) -> tuple[ConfigDict, str]:
    """The section that holds a dotted key, and the key's name in it."""
    section, _, leaf = key.rpartition(".")
    return (config[section] if section else config), leaf


def _from_plain(values: dict[str, Any]) -> ConfigDict:
    """A ConfigDict of what JSON holds: its arrays are tuples, for a configuration has no lists."""
    config = ConfigDict()
    for name, value in values.items():
        if isinstance(value, dict):
            value = _from_plain(value)
        config[name] = tuple(value) if isinstance(value, list) else value
    return config


def _describe_unknown(key: str, known: list[str]) -> str:
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        return f"config.{key}: a section; give one of its fields: {', '.join(inside)}"

    def likeness(
        name: str,
    ) -> float:  # of the whole key, and of its last part: sections get mixed up
        pairs = (key, name), (key.rpartition(".")[2], name.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return f"config.{key}: no such key; the nearest is config.{max(known, key=likeness)}"


def _split_argument(name: str) -> tuple[str, str | None]:
    """name:argument -> "name", "argument"; the colons of a path before its ".py" belong to it."""
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
            f"there is no {folder}: this copy of flashvtg-jax is not whole, reinstall it"
        )
    return _import_file(_PACKAGE, folder / "__init__.py", [str(folder)])


def _load_named(name: str) -> ModuleType:
    names = config_names()
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
        raise ConfigError(
            f'no configuration is called "{name}"; the nearest is "{nearest}". There are '
            f"{', '.join(names)}, and files, given by a path that ends in .py"
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

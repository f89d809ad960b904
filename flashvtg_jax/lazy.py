"""Public names that load when they are first used."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package.

    Args:
      package: its `__name__`.
      homes: the module that defines each public name, without "flashvtg_jax.".
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"flashvtg_jax.{homes[name]}"), name)

    return get, lambda: sorted(homes), list(homes)

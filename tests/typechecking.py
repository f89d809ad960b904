"""The type checker of the tests: beartype for all functions of a module, an int being a float."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def typechecker(function: Callable) -> Callable:
    """A function with checks; constructors have none, for pytrees may hold shapes or shardings."""
    return function if function.__name__ == "__init__" else _check(function)

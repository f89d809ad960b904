"""The folders of the package import downward only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flashvtg_jax"

# A room imports from itself and from rooms below it.
ROOMS = [
    "cli",
    "studies",
    "experiments",
    "prediction",
    "interop",
    "training",
    "evaluation",
    "checkpoints",
    "figures",
    "distributed",
    "config_checks",
    "data.preparation",
    "data.synthetic",
    "data.build",
    "data",
    "metrics",
    "decoding",
    "losses",
    "models",
    "model_checks",
    "config",
    "clips",
    "video_ids",
    "typing",
    "lazy",
    "json_lines",
    "system",
    "files",
    "errors",
    "version",
]


def room_of(module: str) -> str:
    """The longest room that a module, such as "data.build.layout", lies in."""
    fitting = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    assert fitting, f"flashvtg_jax.{module} lies in no room: add its room to ROOMS, in its place"
    return max(fitting, key=len)


def imports(path: Path) -> set[tuple[int, str]]:
    """Line and module, without the package's name, of each import from the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the whole name"
            # `from flashvtg_jax.data import hdf5` imports a module, if there is one of that name.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, module = name.partition(".")
            if package == PACKAGE.name and module:
                found.add((node.lineno, module))
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_those_below_it(room):
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if module in ("__init__", "__main__") or room_of(module.removesuffix(".__init__")) != room:
            continue
        upward += [
            f"{path.relative_to(PACKAGE)}:{line}: {imported}"
            for line, imported in imports(path)
            if ROOMS.index(room_of(imported)) < ROOMS.index(room)
        ]
    assert not upward


def modules() -> dict[str, set[str]]:
    """Each module, and the modules of the package that it imports."""
    names = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }

    def module(imported: str) -> str:
        return imported if imported in names else imported.rpartition(".")[0]

    return {name: {module(m) for _, m in imports(path)} for name, path in names.items()}


def test_no_module_imports_itself_by_way_of_others():
    graph, done = modules(), set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for imported in sorted(graph.get(name, ())):
                visit(imported, (*path, name))
            done.add(name)

    for name in sorted(graph):
        if name not in ("__init__", "__main__"):
            visit(name, ())

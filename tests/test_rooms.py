"""The order of the rooms: a module imports from its own room and from those below it, never from above."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom to the top; docs/architecture.md says what each room holds.
ROOMS = (
    "core",
    "portraits",
    "metrics",
    "generators",
    "baselines",
    "shards",
    "datamodules",
    "lightning_modules",
    "callbacks",
    "benchmarks",
    "app",
)
# Inside lightning_modules: sampling may import networks, evaluation both, and the stages all.
LAYERS = ("networks", "sampling", "evaluation")
MODULES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The dotted names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_package_is_a_room():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "diffportrait3d"}
    assert packages == set(ROOMS)


def test_contributing_names_the_rooms_in_this_order():
    assert " > ".join(reversed(ROOMS)) in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_import_goes_upwards(path: Path):
    own = ROOMS.index(path.parts[0])
    upwards = [
        name for name in imports(path) if name.split(".")[0] in (*ROOMS[own + 1 :], "tests", "diffportrait3d")
    ]
    assert not upwards


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.parts[0] == "lightning_modules" and len(path.parts) > 2],
    ids=str,
)
def test_layers_of_lightning_modules_do_not_import_upwards(path: Path):
    layer = path.parts[1]
    allowed = LAYERS[: LAYERS.index(layer) + 1] if layer in LAYERS else (*LAYERS, layer)
    own = [name.split(".") for name in imports(path) if name.startswith("lightning_modules.")]
    assert [".".join(name) for name in own if name[1] not in allowed] == []


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if "networks" in path.parts or path.parts[0] == "metrics"],
    ids=str,
)
def test_networks_and_metrics_do_not_import_lightning(path: Path):
    assert not [name for name in imports(path) if name.split(".")[0] in ("pytorch_lightning", "lightning")]


def test_names_are_imported_from_the_module_that_defines_them():
    trees = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in MODULES}
    imported = {
        ".".join(path.with_suffix("").parts): {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for path, tree in trees.items()
        if path.name != "__init__.py"
    }
    indirect = [
        f"{path}: {alias.name} of {node.module}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in imported.get(node.module or "", ())
    ]
    assert indirect == []

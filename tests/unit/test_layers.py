# SPDX-License-Identifier: MIT
"""Imports go down only (dev/layers.toml); hot functions touch no Python object."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pooler"
TABLE = tomllib.loads((ROOT / "dev" / "layers.toml").read_text())
LAYERS = {layer["name"]: layer for layer in TABLE["layer"]}
CLEAN = {entry["module"]: entry["not_at_import"] for entry in TABLE["clean"]}
HOT = [
    line
    for line in (ROOT / "dev" / "hot.txt").read_text().splitlines()
    if line and not line.startswith("#")
]

CYTHON_FROM = re.compile(r"\s*from\s+(pooler[\w.]*|\.[\w.]*)\s+c?import\s+(.+)")
CYTHON_IMPORT = re.compile(r"\s*c?import\s+(.+)")


class Edge(NamedTuple):
    source: str
    target: str
    at_import: bool  # not inside a function


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")


SOURCES = sorted(
    path
    for pattern in ("*.py", "*.pyx", "*.pxd")
    for path in PACKAGE.rglob(pattern)
    if "__pycache__" not in path.parts
)
PACKAGES = {
    module_of(path).removesuffix(".__init__")
    for path in SOURCES
    if path.name == "__init__.py" and path.parent != PACKAGE
}
MODULES = {module_of(path) for path in SOURCES if path.name != "__init__.py"} | {
    "__init__"
}
# The page of accounts sees no byte of any connection: the master corrects it.
BOARD = {"board.latency", "board.page"}
EXTENSIONS = {module_of(path) for path in SOURCES if path.suffix == ".pyx"} - BOARD


def targets(module: str, names: list[str]) -> set[str]:
    """The modules of ours that ``from module import names`` needs."""
    if module == "pooler":
        return {name if name in MODULES else "__init__" for name in names}
    if not module.startswith("pooler."):
        return set()
    inner = module.removeprefix("pooler.")
    if inner in PACKAGES:
        return {f"{inner}.{name}" for name in names}
    return {inner}


def python_edges(path: Path) -> set[Edge]:
    source = module_of(path).removesuffix(".__init__")
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    edges = set()
    for node in ast.walk(tree):
        found: set[str] = set()
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found = targets(node.module or "", [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "pooler":
                    found |= targets(alias.name, [])
        edges |= {Edge(source, target, id(node) not in inside) for target in found}
    return edges


def cython_edges(path: Path) -> set[Edge]:
    source = module_of(path)
    text = re.sub(r"#.*", "", path.read_text())
    text = re.sub(r"\(([^()]*)\)", lambda m: m.group().replace("\n", " "), text)
    edges = set()
    for line in text.splitlines():
        found: set[str] = set()
        if match := CYTHON_FROM.match(line):
            module, names = match.groups()
            assert not module.startswith("."), f"{path}: relative import"
            found = targets(module, re.findall(r"[\w*]+", names))
        elif match := CYTHON_IMPORT.match(line):
            for name in re.findall(r"[\w.]+", match.group(1)):
                if name.startswith("pooler."):
                    found |= targets(name, [])
        edges |= {Edge(source, target, True) for target in found}
    return edges


EDGES = sorted(
    {
        edge
        for path in SOURCES
        for edge in (python_edges if path.suffix == ".py" else cython_edges)(path)
        if edge.source != edge.target
    }
)


def layer_of(module: str) -> str | None:
    for name, layer in LAYERS.items():
        if module in layer.get("modules", ()):
            return str(name)
    package = module.partition(".")[0]
    if package in LAYERS and package in PACKAGES and "modules" not in LAYERS[package]:
        return package
    return None


def test_the_imports_are_found() -> None:
    """The parsers must not go blind: edges that are surely there."""
    known = {
        Edge("master.process", "worker.process", False),
        Edge("master.process", "ipc.worker_start", True),
        Edge("relay.from_client", "session.pool", True),
        Edge("_wire", "wire.messages", True),
        Edge("session.records", "errors", True),
        Edge("wire.buffers", "wire.debug", True),
        Edge("login.client", "login.scram", True),
        Edge("__main__", "cli", False),
    }
    assert known <= set(EDGES)


def test_every_module_is_in_exactly_one_layer() -> None:
    listed = [m for layer in LAYERS.values() for m in layer.get("modules", ())]
    assert sorted(set(listed)) == sorted(listed)
    assert [module for module in sorted(MODULES) if layer_of(module) is None] == []


def test_every_listed_module_exists() -> None:
    for name, layer in LAYERS.items():
        assert set(layer.get("modules", ())) <= MODULES
        assert "modules" in layer or name in PACKAGES


def test_a_layer_is_a_package_or_lies_at_the_top() -> None:
    for name, layer in LAYERS.items():
        for module in layer.get("modules", ()):
            package, dot, _ = module.partition(".")
            assert not dot or package == name


def test_the_package_list_is_complete() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = listed["tool"]["setuptools"]["packages"]
    assert packages == ["pooler", *(f"pooler.{name}" for name in sorted(PACKAGES))]


def test_layers_may_import_lower_layers_only() -> None:
    below: list[str] = []
    for name, layer in LAYERS.items():
        assert set(layer["may_import"]) <= set(below)
        below.append(name)


def test_every_import_goes_down() -> None:
    wrong = [
        f"{edge.source} -> {edge.target}"
        for edge in EDGES
        if (here := layer_of(edge.source)) != (there := layer_of(edge.target))
        and (here is None or there not in LAYERS[here]["may_import"])
    ]
    assert wrong == []


def test_modules_import_what_is_listed_before() -> None:
    for name, layer in LAYERS.items():
        if order := layer.get("modules"):
            wrong = [
                f"{edge.source} -> {edge.target}"
                for edge in EDGES
                if layer_of(edge.source) == layer_of(edge.target) == name
                and order.index(edge.target) > order.index(edge.source)
            ]
            assert wrong == []


@pytest.mark.parametrize("name", list(LAYERS))
def test_no_cycle_inside_a_layer(name: str) -> None:
    graph: dict[str, set[str]] = {}
    for edge in EDGES:
        if layer_of(edge.source) == layer_of(edge.target) == name:
            graph.setdefault(edge.source, set()).add(edge.target)
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", list(CLEAN))
def test_a_clean_module_imports_no_extension(module: str) -> None:
    assert [
        edge.target
        for edge in EDGES
        if edge.source == module
        and (
            edge.target in EXTENSIONS
            or (edge.target in CLEAN[module] and edge.at_import)
        )
    ] == []


@pytest.mark.parametrize("module", list(CLEAN))
def test_loading_a_clean_module_loads_no_extension(module: str) -> None:
    code = (
        f"import sys, pooler.{module}\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    file = getattr(module, '__file__', None) or ''\n"
        "    if name.startswith('pooler') and not file.endswith('.py'):\n"
        "        print(name) if name.split('.')[1] != 'board' else None\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


# --------------------------------------------------------------- hot functions


def declarations(module: str, function: str) -> list[str]:
    """Each ``cdef`` of the function, up to the end of its signature."""
    start = re.compile(rf"^cdef\s[^\n(]*?[\s*]{function}\(", re.MULTILINE)
    found = []
    for suffix in (".pxd", ".pyx"):
        path = PACKAGE / f"{module.replace('.', '/')}{suffix}"
        text = path.read_text() if path.exists() else ""
        for match in start.finditer(text):
            end = text.index(")", match.end())
            found.append(" ".join(text[match.start() : text.index("\n", end)].split()))
    return found


def test_hot_functions_are_listed_once() -> None:
    assert sorted(set(HOT)) == sorted(HOT)
    assert len(HOT) > 50


@pytest.mark.parametrize("name", HOT)
def test_hot_function_is_noexcept_nogil(name: str) -> None:
    found = declarations(*name.rsplit(".", 1))
    assert found, f"{name} is in dev/hot.txt and not in the source"
    for declaration in found:
        assert re.search(r"\) noexcept nogil:?$", declaration), declaration

"""The package's imports, those inside functions too: no circle among them."""

import ast
import graphlib
import pathlib

from tests.helpers import ROOT

PACKAGE = ROOT / "s2mlp_jax"


def modules() -> dict[str, pathlib.Path]:
    """Returns every module of the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: pathlib.Path, known: dict[str, pathlib.Path]) -> set[str]:
    """Returns the modules of the package that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from s2mlp_jax import optim` needs optim; the package's own names are lazy.
            names |= {name if name in known else node.module for name in below}
    return names & known.keys()


def test_there_is_no_circle() -> None:
    known = modules()
    graph = {name: imported(path, known) for name, path in known.items()}
    assert sum(map(len, graph.values())) > 100
    # Its names are imported when they are asked for, so that every module may import it.
    graph["s2mlp_jax"] = set()
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


def test_a_circle_is_found(tmp_path: pathlib.Path) -> None:
    known = {"a": tmp_path / "a.py", "b": tmp_path / "b.py"}
    known["a"].write_text("import b\n")
    known["b"].write_text("def f():\n    from a import x\n")
    graph = {name: imported(path, known) for name, path in known.items()}
    assert graph == {"a": {"b"}, "b": {"a"}}

"""The package's imports, those inside functions too: no circle, and one direction."""

import ast
import graphlib
import pathlib
from collections.abc import Iterator

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "s2mlp_jax"

# What each room, a folder or a file of the package, may import besides itself. Whoever makes a new
# one says here where it belongs.
GROUND = {"checks", "cli", "escape", "lock", "progress", "rng"}
CONFIG = GROUND | {"models", "data", "options"}
SAVED = CONFIG | {"config"}
USE = SAVED | {"saved"}
ROOMS = {
    **{room: {"escape"} for room in GROUND},
    "models": GROUND,
    "data": GROUND | {"models"},
    "options": GROUND | {"models", "data"},
    "config": CONFIG,
    "saved": SAVED,
    "train": SAVED | {"saved"},
    **dict.fromkeys(("export", "predict", "probe"), USE),
    **dict.fromkeys(("sweep", "visualize"), USE | {"train"}),
    "report": {"cli", "escape", "progress", "saved.files", "saved.metrics", "data.split"},
}
# The one command of the report that computes with models.
EXCEPTIONS = {("report.__main__", "models.relations")}


def modules(root: pathlib.Path = ROOT) -> dict[str, pathlib.Path]:
    """Returns every module of the package by its dotted name."""
    found = {}
    for path in (root / "s2mlp_jax").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(node: ast.AST, in_functions: bool) -> Iterator[ast.AST]:
    """Yields what is in a node; without the bodies of functions, what runs at the import."""
    for child in ast.iter_child_nodes(node):
        if in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from statements(child, in_functions)


def imported(
    path: pathlib.Path, known: dict[str, pathlib.Path], in_functions: bool = True
) -> set[str]:
    """Returns the modules that a file imports; of other packages, the package."""
    names: set[str] = set()
    for node in statements(ast.parse(path.read_text()), in_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from s2mlp_jax import optim` needs optim; the package's own names are lazy.
            names |= {name if name in known else node.module for name in below}
    return {name if name in known else name.split(".")[0] for name in names}


def wrong_directions(known: dict[str, pathlib.Path]) -> list[str]:
    """Lists the imports against the direction."""
    wrong = []
    for name, path in known.items():
        if name == "s2mlp_jax":  # its names are lazy
            continue
        here = name.removeprefix("s2mlp_jax.")
        room = here.split(".")[0]
        assert room in ROOMS, f"ROOMS says of no direction for {room}"
        for target in imported(path, known) & (known.keys() - {"s2mlp_jax"}):
            there = target.removeprefix("s2mlp_jax.")
            allowed = {there, there.split(".")[0]} & (ROOMS[room] | {room})
            if not allowed and (here, there) not in EXCEPTIONS:
                wrong.append(f"{here} imports {there}")
    return wrong


def at_import(names: set[str], known: dict[str, pathlib.Path]) -> set[str]:
    """Returns all that is imported with some modules, by each other, at once."""
    found, new = set[str](), names
    while new:
        found |= new
        new = {x for name in new & known.keys() for x in imported(known[name], known, False)}
        new -= found
    return found


def test_there_is_no_circle() -> None:
    known = modules()
    graph = {name: imported(path, known) & known.keys() for name, path in known.items()}
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


def test_imports_run_one_way() -> None:
    assert wrong_directions(modules()) == []


@pytest.mark.parametrize(
    ("file", "line", "wrong"),
    [
        ("saved/x.py", "from s2mlp_jax.train import y", "saved.x imports train.y"),
        ("export/x.py", "def f():\n    import s2mlp_jax.train.y", "export.x imports train.y"),
        ("report/x.py", "from s2mlp_jax.saved import z", "report.x imports saved.z"),
        ("models/x.py", "from s2mlp_jax.saved.z import f", "models.x imports saved.z"),
        ("cli.py", "from s2mlp_jax.saved import z", "cli imports saved.z"),
        ("train/x.py", "from s2mlp_jax.saved import z", ""),
        ("report/x.py", "from s2mlp_jax.saved.metrics import f", ""),
    ],
)
def test_a_wrong_direction_is_found(
    file: str, line: str, wrong: str, tmp_path: pathlib.Path
) -> None:
    for name in ("train/y.py", "saved/z.py", "saved/metrics.py", file):
        (tmp_path / "s2mlp_jax" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s2mlp_jax" / name).touch()
    (tmp_path / "s2mlp_jax" / file).write_text(f"{line}\n")
    assert wrong_directions(modules(tmp_path)) == ([wrong] if wrong else [])


def test_some_rooms_need_no_jax() -> None:
    """What a report, the preparation of data and --help import at once, directly or not."""
    known = modules()
    for room in ("cli", "progress", "report", "data.prepare"):
        names = {name for name in known if name.startswith(f"s2mlp_jax.{room}")}
        assert not at_import(names, known) & {"jax", "flax", "optax", "orbax"}
    assert "jax" in at_import({"s2mlp_jax.saved.pretrained"}, known)  # found where it is

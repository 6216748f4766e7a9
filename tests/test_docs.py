"""The documents: links, names, commands and snippets are right, and the site builds."""

import importlib.util
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import typing

import numpy as np
import pytest
import yaml

from tests.helpers import ROOT

TEXTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
RESULTS = sorted((ROOT / "results").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def commands() -> list[tuple[str, list[str]]]:
    """Returns all `python -m s2mlp_jax...` of the indented blocks: (module, arguments)."""
    found = []
    for path in TEXTS:
        text = path.read_text().replace("\\\n", " ")
        for line in re.findall(r"^    (python -m s2mlp_jax\..*)$", text, re.M):
            _, _, module, *arguments = shlex.split(line, comments=True)
            found.append((module, arguments))
    return found


def test_every_link_leads_somewhere() -> None:
    """Linked or shown files exist, in the texts, the results and the notebooks."""
    links = 0
    for path in [*TEXTS, *(ROOT / "results").rglob("*.md"), *NOTEBOOKS]:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            if re.match(r"https?:|data:|#", target):
                continue
            links += 1
            assert (path.parent / target.partition("#")[0]).exists(), (path.name, target)
    assert links > 40


def test_no_link_to_a_repository_that_is_not_there() -> None:
    for path in [*TEXTS, *RESULTS, *NOTEBOOKS]:
        text = path.read_text()
        assert not re.search(r"github\.com/[\w-]+/s2mlp|colab\.research\.google", text), path.name


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    for path in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{path.name})" in text, path.name


def test_docs_name_only_what_is_there() -> None:
    """Every file, flag and config field that the texts name exists."""
    from s2mlp_jax.config import flatten, load_config

    fields = flatten(load_config(str(ROOT / "configs/s2mlp_wide.py")).to_dict())
    flags = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', (ROOT / "main.py").read_text()))
    for path in TEXTS:
        text = path.read_text()
        for field in re.findall(r"--config\.([\w.]+)=", text):
            assert field in fields, (path.name, field)
        for command in re.findall(r"python main\.py .*(?:\\\n.*)*", text):
            for flag in re.findall(r"--(\w+)=", command):
                assert flag in flags, (path.name, flag)
        for file in re.findall(
            r"\b(?:configs|s2mlp_jax|benchmarks|results|docs|tests)/[\w/]+\.\w+", text
        ):
            assert (ROOT / file).exists(), (path.name, file)


@pytest.mark.parametrize("module", sorted({module for module, _ in commands()}))
def test_commands_of_the_docs_have_the_options_that_are_written(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--help of the command, and of its subcommand, lists each option but the config's fields."""
    helps: dict[str, str] = {}
    for name, arguments in commands():
        options = [a.partition("=")[0] for a in arguments if a.startswith("--")]
        options = [option for option in options if not option.startswith("--config.")]
        if name != module or not options:
            continue
        subcommand = arguments[0] if module == "s2mlp_jax.visualize" else ""
        if subcommand not in helps:
            monkeypatch.setattr(sys, "argv", [module, *filter(None, [subcommand]), "--help"])
            for imported in (module, f"{module}.__main__"):  # by another test; it is run anew
                monkeypatch.delitem(sys.modules, imported, raising=False)
            with pytest.raises(SystemExit) as ended:
                runpy.run_module(module, run_name="__main__")
            assert not ended.value.code
            helps[subcommand] = capsys.readouterr().out
        for option in options:
            assert re.search(rf"{option}\b", helps[subcommand]), (module, option)


@pytest.mark.slow
def test_the_readme_s_snippet_runs() -> None:
    """In a process of its own; the last expression's value is the comment under it."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    *lines, last, comment = snippet.strip().splitlines()
    assert comment.startswith("# ")
    code = "\n".join([*lines, "assert logits.shape == (1, 1000)", f"print(({last}))"])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == comment.removeprefix("# ")


def test_the_sweep_of_the_docs_is_one(tmp_path: pathlib.Path) -> None:
    from s2mlp_jax.sweep.settings import open_sweep

    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/sweeps.md").read_text(), re.S)
    (tmp_path / "mine.py").write_text(snippet)
    sweep = open_sweep(str(tmp_path / "mine.py"), {})
    assert len(sweep.runs) == 2


def test_the_bridge_of_the_docs_gives_the_same_logits_and_trains() -> None:
    import jax

    import s2mlp_jax

    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs/use.md").read_text(), re.S)
    (snippet,) = (text for text in snippets if "ToNNX" in text)
    model = s2mlp_jax.create_model("s2mlp_wide", num_classes=3, depth=2, dim=8, drop_path=0.5)
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    variables = s2mlp_jax.init(model, jax.random.key(2), image_size=32)
    found: dict[str, typing.Any] = {"model": model, "variables": variables, "images": images}
    exec(snippet, found)
    expected = model.apply(variables, images, train=False)
    np.testing.assert_array_equal(found["logits"], expected)
    labels = np.array([0, 1, 2, 0])
    losses = [
        found["train_step"](found["module"], found["optimizer"], images, labels) for _ in range(2)
    ]
    assert np.isfinite(losses).all()
    assert np.abs(found["module"](images, train=False) - expected).max() > 1e-3


def test_every_page_is_in_the_site_s_navigation() -> None:
    """Every page of docs/, every notebook and result, and every room of the package.

    Files that the accelerator benchmark writes, one per device, may be left out.
    """

    def pages(nav: object) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        parts = nav.values() if isinstance(nav, dict) else nav
        return [page for part in parts for page in pages(part)]  # type: ignore[union-attr]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(listed) == len(set(listed))
    rooms = {path.parent.name for path in (ROOT / "s2mlp_jax").glob("*/__init__.py")}
    measured = {page for page in listed if page.startswith("results/accelerator_")}
    assert set(listed) - measured == {
        *(
            path.relative_to(ROOT).as_posix()
            for path in [*TEXTS, *RESULTS]
            if not path.name.startswith("accelerator_")
        ),
        *(f"notebooks/{path.stem}.md" for path in NOTEBOOKS),
        *(f"api/{room}.md" for room in rooms | {"top"}),
    }


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("mkdocstrings"), reason="needs requirements-docs.txt"
)
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]+src=\"?(http[^\s\">]+)"
            r"|<link[^>]+rel=\"?stylesheet[^>]+href=\"?(http[^\s\">]+)",
            page.read_text(),
        )
        assert not loaded, (page.name, loaded)

"""Chooses the pages of the documentation site; mkdocs.yml names this file as a hook.

The site has the layout of the repository, so that a relative link is right in both. README.md is
the home page. A notebook becomes a page of its text and code; each room of the package becomes a
page under api/, made from the docstrings of its modules.
"""

import json
import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[1]
PATTERNS = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff"),
    *("docs/*.md", "docs/*.png", "docs/*.css"),
    *("results/**/*.md", "results/**/*.png"),
]


def notebook(path: pathlib.Path) -> str:
    """Returns a notebook as Markdown: its text, and its code in fences, without outputs."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts)


def rooms() -> dict[str, list[str]]:
    """Returns the modules of each room by the room's name; "top" has those beside the rooms."""
    found: dict[str, list[str]] = {}
    package = ROOT / "s2mlp_jax"
    for path in sorted(package.rglob("*.py")):
        folder, name = path.parent.relative_to(package), path.stem
        if name == "__main__":
            continue
        parts = (
            ("s2mlp_jax", *folder.parts)
            if name == "__init__"
            else ("s2mlp_jax", *folder.parts, name)
        )
        found.setdefault(folder.parts[0] if folder.parts else "top", []).append(".".join(parts))
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of docs/ by the pages of the site; the theme's files stay."""
    pages = [file for file in files if file.src_dir != config.docs_dir]
    pages += [
        File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        for pattern in PATTERNS
        for path in sorted(ROOT.glob(pattern))
    ]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pages.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    for room, modules in rooms().items():
        title = "API: top level" if room == "top" else f"API: {room}"
        text = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
        pages.append(File.generated(config, f"api/{room}.md", content=text))
    return Files(pages)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links to notebooks at their pages."""
    del page, config, files
    return re.sub(r"\]\(([\w./-]+)\.ipynb\)", r"](\1.md)", markdown)

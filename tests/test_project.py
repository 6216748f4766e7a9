"""The files about the project agree with the package: citation, continuous integration."""

import os
import re
import tomllib

import yaml

import s2mlp_jax
from tests.helpers import ROOT


def test_the_citation_is_of_this_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    title = (ROOT / "README.md").read_text().splitlines()[0].removeprefix("# ")
    assert citation["title"] == f"{project['name']}: {title}"
    assert citation["version"] == s2mlp_jax.__version__
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert paper["url"] in (ROOT / "README.md").read_text()
    assert project["description"].startswith(paper["title"])


def test_continuous_integration_runs_what_is_here() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [".ci/run", "make dist"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert re.search("^dist:", (ROOT / "Makefile").read_text(), re.M)
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    versions = job["strategy"]["matrix"]["python"]
    assert len(versions) == 2
    assert f">={versions[0]}" == least

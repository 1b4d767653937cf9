"""Versions are named once: pyproject.toml, constraints.txt and envs/ agree."""

import re
import tomllib

import pytest
import yaml


def pins(lines):
    found = (re.fullmatch(r"([\w.-]+)==([\w.]+)(?:; sys_platform == '\w+')?", line.strip()) for line in lines)
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


@pytest.fixture
def constraints(project):
    return pins((project / "constraints.txt").read_text().splitlines())


def test_every_requirement_is_pinned_alike(project, constraints):
    content = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    required = [*content["dependencies"], *content["optional-dependencies"]["test"]]
    pinned = pins(required)
    assert len(pinned) == len(required)
    assert pinned.items() <= constraints.items()


def test_environments_agree(project, constraints):
    for path in (project / "envs").glob("*.yaml"):
        *_, last = yaml.safe_load(path.read_text())["dependencies"]
        assert pins(last["pip"]).items() <= constraints.items() and len(pins(last["pip"])) == len(last["pip"]), path


def test_every_rule_names_an_environment_that_exists(project):
    for path in (project / "rules").glob("*.smk"):
        text = path.read_text()
        named = re.findall(r'"\.\./envs/(\w+\.yaml)"', text)
        assert len(named) == len(re.findall(r"^(?:rule|checkpoint) ", text, re.MULTILINE)), path
        assert all((project / "envs" / name).is_file() for name in named)


def test_no_registry_is_named(project):
    files = [project / name for name in ("constraints.txt", "pyproject.toml", "Makefile", "README.md")]
    for path in files + list((project / "envs").glob("*.yaml")):
        assert not re.search(r"https?://|index-url|find-links", path.read_text()), path

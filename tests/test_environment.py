"""Versions are named once: the ranges of pyproject.toml begin at the pins of constraints.txt, and envs/ has these."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def pins(lines):
    found = (re.fullmatch(r"([\w.-]+)==([\w.]+)", line.strip()) for line in lines)
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


@pytest.fixture
def constraints(project):
    return pins((project / "constraints.txt").read_text().splitlines())


@pytest.fixture
def metadata(project):
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]


def requirements(metadata):
    """Every requirement of the project and of its extras."""
    extras = metadata["optional-dependencies"].values()
    return [Requirement(text) for text in (*metadata["dependencies"], *(text for extra in extras for text in extra))]


def test_every_requirement_is_a_range_from_the_pinned_version_to_the_next_major(metadata, constraints):
    for requirement in requirements(metadata):
        pinned = constraints[canonicalize_name(requirement.name)]
        bounds = {specifier.operator: specifier.version for specifier in requirement.specifier}
        assert bounds == {">=": pinned, "<": str(Version(pinned).major + 1)}, requirement


def test_constraints_pin_each_package_once(project):
    lines = [line for line in (project / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    names = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert len(pins(lines)) == len(lines) == len(set(names))


def test_environments_agree(project, constraints):
    for path in (project / "envs").glob("*.yaml"):
        *_, last = yaml.safe_load(path.read_text())["dependencies"]
        assert pins(last["pip"]).items() <= constraints.items() and len(pins(last["pip"])) == len(last["pip"]), path


def test_conda_environments_take_nothing_from_elsewhere(project, metadata):
    required = {canonicalize_name(Requirement(text).name) for text in metadata["dependencies"]}
    for path in (project / "envs").glob("*.yaml"):
        environment = yaml.safe_load(path.read_text())
        assert environment["channels"] == ["conda-forge", "nodefaults"], path
        python, _, last = environment["dependencies"]
        assert metadata["requires-python"].removeprefix(">=") == python.removeprefix("python =")
        # What is asked for by name is what the project itself asks for.
        assert pins(last["pip"]).keys() <= required, path


def test_the_image_is_made_of_the_same_pins(project, metadata):
    text = (project / "envs" / "altq.def").read_text()
    assert f"From: python:{metadata['requires-python'].removeprefix('>=')}-" in text
    files = dict(
        re.findall(r"^    (\S+) (/opt/altq/\S+)$", text.partition("%files")[2].partition("%post")[0], re.MULTILINE)
    )
    assert {
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "Snakefile",
        "altq",
        "kernels",
        "rules",
        "envs",
    } <= files.keys()
    for name, place in files.items():
        assert (project / name).exists() and place == f"/opt/altq/{name}"
    (install,) = re.findall(r"^    pip install (.*)$", text, re.MULTILINE)
    assert "--constraint /opt/altq/constraints.txt" in install
    (extra,) = re.findall(r"'/opt/altq\[(\w+)\]'", install)
    assert extra in metadata["optional-dependencies"] and "==" not in text


def test_the_profiles_of_slurm_differ_in_accounting_alone(project):
    with_, without = (
        yaml.safe_load((project / "profiles" / name / "config.yaml").read_text())
        for name in ("slurm", "slurm-no-accounting")
    )
    assert (with_.pop("slurm-status-command"), without.pop("slurm-status-command")) == ("sacct", "squeue")
    assert with_ == without and with_["executor"] == "slurm"


def test_every_rule_names_an_environment_that_exists(project):
    common = (project / "rules" / "common.smk").read_text()
    environments = dict(re.findall(r'^(\w+) = f"\{ENVS\}/(\w+\.yaml)"$', common, re.MULTILINE))
    assert environments and all((project / "envs" / name).is_file() for name in environments.values())
    for path in (project / "rules").glob("*.smk"):
        text = path.read_text()
        rules = re.split(r"^(?:rule|checkpoint|use rule) ", text, flags=re.MULTILINE)[1:]
        for rule in rules:
            named = re.findall(r"^    conda:\n        (\w+)$", rule, re.MULTILINE)
            inherits = re.match(r"\w+ as ", rule)
            assert set(named) <= environments.keys() and (len(named) == 1 or inherits), f"{path.name}: {rule[:40]}"


def test_no_registry_is_named(project):
    files = [project / name for name in ("constraints.txt", "pyproject.toml", "Makefile", "README.md")]
    for path in files + list((project / "envs").glob("*.yaml")):
        assert not re.search(r"https?://|index-url|find-links", path.read_text()), path

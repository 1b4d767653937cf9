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


def locked(project, *names):
    """Versions and hashes of lock files, whose every line is one or the other."""
    text = "".join((project / "envs" / name).read_text() for name in names)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    entry = r"([\w.-]+)==([\w.+]+)(?: ; [^\\]+?)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
    found = re.findall(entry, "\n".join(lines) + "\n")
    assert len(lines) == len(found) + sum(hashes.count("sha256:") for *_, hashes in found)
    return {name.lower(): (version, set(re.findall("sha256:(.*?)(?: |\n)", hashes))) for name, version, hashes in found}


LOCKS = ("lock-build.txt", "lock.txt", "lock-cuda.txt")


def test_what_is_locked_is_what_is_pinned(project, constraints):
    versions = {name.replace("_", "-"): version for name, (version, _) in locked(project, *LOCKS).items()}
    assert versions == constraints, "run `make lock`"


def test_either_torch_can_be_installed(project):
    """The registry's has many files, for each platform and Python, and brings CUDA; the CPU build has one and does not."""
    registry, cpu = (locked(project, name) for name in ("lock-cuda.txt", "lock-cpu.txt"))
    assert cpu.keys() == {"torch"} and len(cpu["torch"][1]) == 1 and cpu["torch"][0] == f"{registry['torch'][0]}+cpu"
    assert not cpu["torch"][1] & registry["torch"][1] and len(registry["torch"][1]) > 10
    assert all(name == "torch" or name.startswith(("cuda-", "nvidia-")) for name in registry)
    text = (project / "envs" / "lock-cuda.txt").read_text()
    assert text.count(' ; sys_platform == "linux"') == len(registry) - 1


def test_make_installs_nothing_without_a_hash(project):
    lines = re.sub(r"\\\n\s*", " ", (project / "Makefile").read_text()).splitlines()
    variables = dict(re.findall(r"^(\w+) :?= (.*)$", "\n".join(lines), re.MULTILINE))
    for name in ("LOCKED", "PIP", "BIN"):
        lines = [line.replace(f"$({name})", variables[name]) for line in lines]
    installs = [line for line in lines if line.startswith("\t") and "pip install" in line and ".venv/lock/" not in line]
    assert len(installs) == 4
    for line in installs:
        assert "--no-deps" in line and ("--require-hashes --requirement envs/lock" in line or "--editable ." in line), (
            line
        )


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
    # The CUDA of the image is that of torch's pins; Ubuntu 24.04 has Python 3.12.
    (cuda,) = re.findall(r"^From: nvidia/cuda:(\d+\.\d+)\.\d+-base-ubuntu24\.04$", text, re.MULTILINE)
    assert f"cuda-toolkit=={cuda}." in (project / "constraints.txt").read_text()
    assert metadata["requires-python"] in (">=3.11", ">=3.12")
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
    (install,) = re.findall(r"^    /opt/venv/bin/pip install (.*)$", text, re.MULTILINE)
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
    environments = dict(re.findall(r'^(\w+) = f"\{CHECKOUT\}/envs/(\w+\.yaml)"$', common, re.MULTILINE))
    assert environments and all((project / "envs" / name).is_file() for name in environments.values())
    for path in (project / "rules").glob("*.smk"):
        text = path.read_text()
        rules = re.split(r"^(?:rule|checkpoint|use rule) ", text, flags=re.MULTILINE)[1:]
        for rule in rules:
            named = re.findall(r"^    conda:\n        (\w+)$", rule, re.MULTILINE)
            inherits = re.match(r"\w+ as ", rule)
            assert set(named) <= environments.keys() and (len(named) == 1 or inherits), f"{path.name}: {rule[:40]}"


def test_no_registry_is_named(project):
    files = [
        project / name for name in ("constraints.txt", "pyproject.toml", "Makefile", "README.md", "docs/security.md")
    ]
    for path in [*files, *(project / "envs").glob("*.yaml"), *(project / "envs").glob("*.txt")]:
        assert not re.search(r"https?://|index-url|find-links", path.read_text()), path

"""What the documents name is there: files, links, functions of the equations, and a page for each package."""

import ast
import re

import pytest

PATH = re.compile(r"`((?:altq|kernels|rules|tests|docs|configs|profiles|envs|benchmarks)/[\w./-]*\w/?)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[\w-]+)?\)")
OF_THE_TRIAL = {
    "altq/transforms/householder.py",
    "altq/selection/weight_error.py",
    "tests/selection/test_weight_error.py",
}
"""What docs/extending.md has its reader write."""


def documents(project):
    return [*(project / name for name in ("README.md", "CONTRIBUTING.md")), *(project / "docs").glob("*.md")]


def test_every_file_that_a_document_names_exists(project):
    named = {(path.name, name) for path in documents(project) for name in PATH.findall(path.read_text())}
    assert len(named) > 100
    missing = {(page, name) for page, name in named if not (project / name).exists() and name not in OF_THE_TRIAL}
    assert not missing


def test_every_link_leads_somewhere(project):
    for path in documents(project):
        for link in LINK.findall(path.read_text()):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_every_function_of_an_equation_is_where_the_method_says(project):
    table = (project / "docs" / "method.md").read_text().partition("## From equation to function")[2]
    rows = [line for line in table.partition("\n## ")[0].splitlines() if line.startswith(("| Eq.", "| §"))]
    numbers = {int(n) for row in rows for n in re.findall(r"\d+", row.split("|")[1]) if row.startswith("| Eq.")}
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15} <= numbers
    for file, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", "\n".join(rows)):
        defined = {getattr(node, "name", None) for node in ast.parse((project / file).read_text()).body}
        assert set(re.findall(r"\w+", names)) <= defined, file


@pytest.mark.parametrize("limit", [6_000])
def test_the_readme_is_short(project, limit):
    assert len((project / "README.md").read_bytes()) <= limit


def test_the_documentation_has_every_package_and_every_page(project):
    site = (project / "mkdocs.yml").read_text()
    packages = {path.parent.name for path in (project / "altq").glob("*/__init__.py")} - {"commands"}
    assert {path.stem for path in (project / "docs" / "api").glob("*.md")} == packages | {"kernels"}
    for page in (project / "docs").rglob("*.md"):
        assert f": {page.relative_to(project / 'docs').as_posix()}\n" in site, page


def test_the_architecture_s_floors_are_those_that_are_asserted(project):
    from test_structure import FLOORS

    text = (project / "docs" / "architecture.md").read_text().partition("## The floors of the house")[2]
    floor, floors = None, {}
    for number, package in re.findall(r"^\| (\d|) ?\| `altq/(\w+)`", text.partition("\n## ")[0], re.MULTILINE):
        floor = number or floor
        floors.setdefault(floor, set()).add(package)
    floors.pop("7")
    assert [floors[number] for number in sorted(floors)] == list(FLOORS)
